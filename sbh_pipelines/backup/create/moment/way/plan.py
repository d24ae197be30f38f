"""Which backup a moment is put together from, and what is laid over it: decided, nothing written."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from sbh_pipelines.backup.create.moment.way.base import Base, bases, opened
from sbh_pipelines.backup.create.moment.way.chain import Chain, SegmentLost
from sbh_pipelines.backup.create.moment.way.choice import MomentChoice, Selection
from sbh_pipelines.backup.create.moment.way.lay import BaseUnusable, Laid, Unreached, lay
from sbh_pipelines.backup.create.moment.way.reach import out_of_reach, unreached
from sbh_pipelines.backup.create.moment.way.stop import BaseTooLate
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.journal.fold import Merge
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import InvalidId, SbhError
from sbh_pipelines.model import HousedTenant, Tenant
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.journal.journal import Listing
from sbh_pipelines.repository.journal.segments.names import Incarnation, SegmentName
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import Sealer

Drain = Callable[[], object]
"""Reads the server's log up to now into the journal. Raises SbhError where the server is not there."""

_DRAINS = (
    2  # the first brings the log up to now; the second proves what the base shows, if that is younger than the first
)
_EPOCH_BITS = 32
_AHEAD = 1 << 20  # transactions that may have got their ids after the last fence, and ended before it


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to be put together.

    Attributes:
        base: The backup that it starts from.
        chain: The journal's incarnation.
        laid: What was laid over it.
        merge: The changes, by key.
        selection: Which tables are in it.
    """

    base: Base
    chain: Chain
    laid: Laid
    merge: Merge
    selection: Selection


@contextmanager
def planned(
    site: Site, repository: Repository, tenant: Tenant, choice: MomentChoice, drain: Drain | None
) -> Iterator[Plan]:
    """The plan; its merge lives as long as the context. The repository's index must be loaded.

    Raises MomentOutOfReach, NotJournaled, RequestError.
    """
    keys = _Keys(site, tenant, repository)
    record: TenantRecord | None = None
    with suppress(SbhError):  # a catalog that cannot be read makes a way longer, or too long, and no other one
        record = site.records(tenant.region, [tenant]).get(tenant.id)
    merge: Merge | None = None
    try:
        for attempt in range(_DRAINS + 1):
            trouble: SbhError | None = None
            try:
                plan = _Search(site, repository, tenant, choice, keys, record).run()
                merge = plan.merge
                break
            except Unreached as short:
                if short.over or drain is None or attempt == _DRAINS:
                    raise unreached(tenant, choice.target, short, site.copy_name) from None
                try:
                    drain()
                except SbhError as error:
                    trouble = error
                if trouble is not None:
                    raise unreached(tenant, choice.target, short, site.copy_name, trouble) from trouble
        yield plan
    finally:
        if merge is not None:
            merge.close()
        keys.close()


class _Keys:
    """The sealers of the tenant's repositories, by home: a slug that changed hands has had several."""

    def __init__(self, site: Site, tenant: Tenant, repository: Repository) -> None:
        self._site, self._tenant, self._own = site, tenant, repository
        self._others: dict[str, Repository] = {}

    def sealer(self, home: str) -> Sealer:
        """Raises UnknownBackup, KeyServiceError."""
        if home == self._site.owners.home_of(self._tenant):
            return self._own.sealer
        if home not in self._others:
            tenant = self._tenant
            housed = HousedTenant(tenant.id, tenant.key, tenant.region, tenant.tier, home)
            self._others[home] = self._site.opened(housed, home)
        return self._others[home].sealer

    def close(self) -> None:
        for one in self._others.values():
            one.close()


class _Search:
    """Goes through the bases, the newest first, until one leads to the moment."""

    def __init__(
        self,
        site: Site,
        repository: Repository,
        tenant: Tenant,
        choice: MomentChoice,
        keys: _Keys,
        record: TenantRecord | None,
    ) -> None:
        journal = site.journal(tenant.region)
        self._journal, self._repository, self._tenant, self._copy = journal, repository, tenant, site.copy_name
        self._choice, self._keys, self._record = choice, keys, record
        self._listing: Listing = journal.listing()
        # What ends a whole chain is seen by where its segments end.
        self._gaps = [gap for gap in journal.gaps() if gap.table is not None or gap.tenant is not None]
        self._lost: set[SegmentName] = set()
        self._chains: dict[str, Chain] = {}

    def run(self) -> Plan:
        """Raises Unreached, MomentOutOfReach, NotJournaled."""
        newest = None
        for base in bases(self._repository, self._tenant.key, self._choice.target, self._record):
            newest = newest or base
            incarnations = self._incarnations(base)
            for incarnation in incarnations:
                while True:
                    try:
                        found = self._from(base, incarnation)
                    except SegmentLost as lost:
                        self._lost.add(lost.segment)
                        self._chains.pop(incarnation.text, None)
                        continue
                    break
                if found is not None:
                    return found
            if incarnations and self._is_before(base, self._chain(incarnations[-1])):
                break  # and so are those before it
        raise out_of_reach(self._tenant, self._choice.target, newest, self._copy)

    @staticmethod
    def _is_before(base: Base, chain: Chain) -> bool:
        return chain.first_fence is None or base.snapshot.xmin <= chain.first_fence.xid

    def _incarnations(self, base: Base) -> list[Incarnation]:
        """Those of the base's server, the latest first."""
        parsed = map(Incarnation.parse, reversed(self._listing.incarnations))
        return [one for one in parsed if one is not None and base.is_of(one)]

    def _chain(self, incarnation: Incarnation) -> Chain:
        if incarnation.text not in self._chains:
            segments: Sequence[SegmentName] = self._listing.of(incarnation.text)
            last = incarnation.text == self._listing.incarnations[-1]
            self._chains[incarnation.text] = Chain(self._journal, segments, incarnation, self._lost, goes_on=last)
        return self._chains[incarnation.text]

    def _from(self, base: Base, incarnation: Incarnation) -> Plan | None:
        """The plan with this base; None where it is too late, too old, or of another life of the server."""
        chain = self._chain(incarnation)
        beginning = chain.begin(base.snapshot.xmin, base.lsn) if chain.stretches else None
        if beginning is None:
            return None
        target = _in_full(self._choice.target, chain)
        if target.before is not None and base.snapshot.shows(target.before):
            return None
        if target.lsn is not None and max(beginning.position, base.lsn) > target.lsn:
            return None
        sound = opened(self._repository, base)
        if sound is None:
            return None
        base = sound
        selection = self._choice.select(base)
        merge = Merge()
        try:
            with suppress(BaseTooLate, BaseUnusable):
                laid = lay(
                    chain,
                    beginning,
                    base,
                    target,
                    self._tenant.key,
                    self._keys.sealer,
                    merge,
                    selection.tables,
                    [gap for gap in self._gaps if gap.incarnation == incarnation.text],
                )
                return Plan(base, chain, laid, merge, selection.settled(self._tenant, target, base, laid, self._copy))
        except BaseException:
            merge.close()
            raise
        merge.close()
        return None


def _in_full(target: Target, chain: Chain) -> Target:
    """With the 64-bit id of the transaction. Raises InvalidId where it may be one of several."""
    first, last = chain.first_fence, chain.last_fence
    if target.before is None or target.before >> _EPOCH_BITS or first is None or last is None:
        return target
    epoch = last.xid >> _EPOCH_BITS
    near = (one << _EPOCH_BITS | target.before for one in range(max(epoch - 1, 0), epoch + 2))
    found = [xid for xid in near if first.xid < xid <= last.xid + _AHEAD]
    if len(found) > 1:
        raise InvalidId(
            "Several transactions of the journal have this id",
            on=str(target.before),
            why=f"in full they are {', '.join(map(str, found))}: the server's counter went round",
            remedy="name one of these",
        )
    return replace(target, before=found[0]) if found else target
