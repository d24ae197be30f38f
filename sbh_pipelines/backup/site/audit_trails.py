"""The audit trails that verbs write to: one per tenant and region, one of the platform per region.

What is recorded when an event cannot be written is decided here: `record` raises, so that reads, plans and restores refuse;
a backup that is committed is not undone for want of its event. `create/events.py` adds such events later and says so.

At a copy the trails of tenants and platform are what was brought there, byte for byte, and nothing is added to them: they would
fork. What is done at a copy is recorded in a trail of the copy's own, one per region, with the tenant in the event's properties.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

from sbh_pipelines.backup.site.repeats import FOLDED, Repeats
from sbh_pipelines.errors import CorruptObject, InvalidId, ObjectMissing, ResidencyError, SbhError, SlugTaken
from sbh_pipelines.model import HousedTenant, Tenant, TenantId
from sbh_pipelines.placement import PLATFORM as PLATFORM_TENANT
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.owners import split_home
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.trail.end import POLICY, TrailEnd
from sbh_pipelines.repository.trail.event import AT_COPY, PLATFORM, Chain, Entry, entry_of
from sbh_pipelines.repository.trail.trail import Trail

if TYPE_CHECKING:
    from sbh_pipelines.backup.site.site import Site

_log = logging.getLogger(__name__)
AT_COPY_FOLDER = "at-copies/"  # beside the platform's trail; a copier never writes there
_MOVERS = 4  # threads
_OPEN_TRAILS = 2000  # how many ends a process remembers: each saves a request
_VIA: ContextVar[str] = ContextVar("via", default="python")


def came_through(via: str) -> None:
    """Events recorded from now on in this thread of work came through this face: python, cli, api, console, dagster."""
    _VIA.set(via)


class HeadMover:
    """Moves heads behind the events that are durable already: each once, however many events came meanwhile. Thread-safe."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_MOVERS, thread_name_prefix="heads")
        self._lock = threading.Lock()
        self._behind: set[Trail] = set()
        self._late: set[Trail] = set()  # whose heads could not be moved

    def behind(self, trail: Trail) -> bool:
        """Whether the head will be moved; False where no thread can be had, or the process ends: who appends does it then."""
        with self._lock:
            if trail in self._behind:
                return True
            try:
                self._pool.submit(self._move, trail)
            except RuntimeError:
                return False
            self._behind.add(trail)
            return True

    def _move(self, trail: Trail) -> None:
        with self._lock:
            self._behind.discard(trail)
        try:
            trail.catch_up()
        except Exception as error:
            _log.warning(
                "The head of the audit trail of %s is behind its events: %s", trail.chain, type(error).__name__
            )
            with self._lock:
                self._late.add(trail)

    def again(self) -> None:
        """Try those again that could not be moved."""
        with self._lock:
            late, self._late = self._late, set()
        for trail in late:
            self.behind(trail)

    def end(self) -> None:
        """Returns when all heads are where their trails end, as far as the store lets them."""
        self.again()
        self._pool.shutdown()


def _may_lag(entries: Sequence[Entry]) -> bool:
    """Whether they only tell of reads and denials, which are many: what changed anything moves the head before it is answered."""
    return all(entry.event in FOLDED for entry in entries)


class Trails:
    """The audit trails of a site. Thread-safe."""

    def __init__(self, site: "Site") -> None:
        self._site = site
        self._lock = threading.Lock()
        self._repeats: Repeats | None = None
        self._heads: HeadMover | None = None
        self._ending = threading.Event()
        self._open: OrderedDict[Chain, Trail] = OrderedDict()

    def of(self, tenant: Tenant) -> Trail:
        """The tenant's trail, or the platform's in the tenant's region for `*` and `_platform`. Raises ResidencyError.

        At the copy NAME also that of what was done there, for `*@NAME`; also where it is the primary now.
        """
        if tenant.id.startswith(AT_COPY):
            return self.of_copy(tenant.region)
        name = PLATFORM if tenant.id in (PLATFORM, PLATFORM_TENANT) else self._site.owners.home_of(tenant)
        return self._known(tenant, Chain(name, tenant.region))

    def of_copy(self, region: str) -> Trail:
        """The trail of what was done at the copy that this site is, or was, to what it has of a region. Raises ResidencyError."""
        chain = Chain(f"{AT_COPY}{self._site.work_name}", region)
        return self._known(Tenant(PLATFORM_TENANT, "", region, ""), chain)

    def _known(self, tenant: Tenant, chain: Chain) -> Trail:
        with self._lock:
            if (known := self._open.get(chain)) is not None:
                self._open.move_to_end(chain)
                return known
        made = self._opened(tenant, chain)
        with self._lock:
            known = self._open.setdefault(chain, made)
            while len(self._open) > _OPEN_TRAILS:  # only memory of where it ends is lost
                self._open.popitem(last=False)
        return known

    def _opened(self, tenant: Tenant, chain: Chain) -> Trail:
        site = self._site
        catalog = site.catalog(chain.region)
        heads, below = site.audit_store(chain.region)
        if chain.tenant_id.startswith(AT_COPY):
            own = f"{below}{AT_COPY_FOLDER}{site.work_name}/"
            store, folder, head = heads, f"{own}events/", f"{own}head.json"
            create = site.locked_creates(None, chain.region)
        elif chain.tenant_id == PLATFORM:
            store, folder, head = heads, f"{below}events/", f"{below}head.json"
            create = site.locked_creates(None, chain.region)
        else:
            housed = HousedTenant(tenant.id, tenant.key, tenant.region, tenant.tier, chain.tenant_id)
            store, prefix = site.backup_store(housed)
            folder, head = prefix + Keys.AUDIT, f"{below}heads/{chain.tenant_id}.json"
            create = site.locked_creates(housed, chain.region)
        behind = None if self._heads is None else self._heads.behind
        return Trail(chain, store, folder, heads, head, lambda: catalog.audit_key, site.clock, create, behind)

    def audited_tenants(self, only: TenantId | None = None) -> Iterator[Tenant]:
        """Every tenant that has a trail, also those that are gone or erased: as the heads tell."""
        for region in self._site.settings.storage.regions:
            store, below = self._site.audit_store(region)
            folder = f"{below}heads/"
            if only is not None:
                with suppress(ObjectMissing):
                    store.head(f"{folder}{only}.json")
                    yield HousedTenant(only, "", region, "", only)
                continue
            for info in all_below(store, folder):
                with suppress(InvalidId):  # not one of ours
                    home = info.key.removeprefix(folder).removesuffix(".json")
                    parts = split_home(home) or (home, 1)
                    yield HousedTenant(TenantId.parse(parts[0]), "", region, "", home)

    # recording

    def record(
        self,
        tenant: Tenant,
        event: str,
        user_id: str,
        props: Mapping[str, object],
        source: str = "backup",
        via: str = "",
    ) -> None:
        """Durable when it returns. Raises the store's and the key provider's errors, unless `audit.required` is off."""
        entry = entry_of(event, user_id, source, via or _VIA.get(), props)
        repeats = self._repeats
        if repeats is not None and repeats.counted(tenant, entry):
            return
        self.record_all(tenant, [entry])
        if repeats is not None:
            repeats.began(tenant, entry)

    def record_all(self, tenant: Tenant, entries: Sequence[Entry], *, always: bool = False) -> None:
        """Several events at the cost of one. `always`: raises whatever `audit.required` says."""
        if not entries:
            return
        try:
            if self._site.copy_name is not None:
                self._record_at_copy(tenant, entries)
                return
            try:
                self._site.owners.check(tenant)
            except CorruptObject as error:  # nothing says whose the trail is; the trail's own damage is another matter
                self._record_elsewhere(tenant, entries, error)
                return
            self.of(tenant).append(lambda _: entries, may_lag=_may_lag(entries))
        except (ResidencyError, SlugTaken) as error:
            self._record_elsewhere(tenant, entries, error)
        except SbhError:
            if always or self._site.settings.audit.required:
                raise

    def _record_elsewhere(self, tenant: Tenant, entries: Sequence[Entry], error: SbhError) -> None:
        """Where the tenant's own trail may not lie, or not any more, or is another's, the platform's takes its events."""
        platform = platform_tenant(self._site.settings)
        if tenant.id in (PLATFORM, PLATFORM_TENANT) and tenant.region == platform.region:
            raise error
        moved = [replace(entry, props={**entry.props, "tenant": str(tenant.id)}) for entry in entries]
        self.record_all(platform, moved)

    def _record_at_copy(self, tenant: Tenant, entries: Sequence[Entry]) -> None:
        """In the copy's own trail: the tenant's is its source's, and goes on there."""
        said = PLATFORM if tenant.id == PLATFORM_TENANT or tenant.id.startswith(PLATFORM) else str(tenant.id)
        told = [replace(entry, props={**entry.props, "tenant": said}) for entry in entries]
        self.of_copy(tenant.region).append(lambda _: told, may_lag=_may_lag(told))

    def fold(self, window_s: float) -> None:
        """From now on, until `end`: repeats of looks and denials within so long are one event with a count (`repeats.py`), and such
        an event is durable before its trail's head is moved.
        """
        self._repeats, self._heads = Repeats(window_s, self._site.clock), (heads := HeadMover())

        def fold() -> None:
            while not self._ending.wait(window_s / 2):
                with suppress(SbhError):  # the next time says it again
                    self._record_repeats()
                heads.again()

        threading.Thread(target=fold, name="repeats", daemon=True).start()

    def end(self) -> None:
        """Record what was counted until now, and move the heads. Raises what recording raises; it was counted in vain then."""
        self._ending.set()
        try:
            if self._repeats is not None:
                self._record_repeats(all_of_them=True)
        finally:
            if self._heads is not None:
                self._heads.end()

    def _record_repeats(self, *, all_of_them: bool = False) -> None:
        """An object for each trail. What cannot be recorded is counted on."""
        assert self._repeats is not None
        by_trail: dict[Tenant, list[Entry]] = {}
        for tenant, entry in self._repeats.take(all_of_them=all_of_them):
            by_trail.setdefault(tenant, []).append(entry)
        failed: SbhError | None = None
        for tenant, entries in by_trail.items():
            try:
                self.record_all(tenant, entries)
            except SbhError as error:
                failed = failed or error
                self._repeats.put_back(tenant, entries)
        if failed is not None:
            raise failed

    def entry(self, event: str, user_id: str, props: Mapping[str, object], via: str = "") -> Entry:
        return entry_of(event, user_id, "backup", via or _VIA.get(), props)

    def record_policy(self, digest: str, props: Mapping[str, object], user_id: str) -> None:
        """`policy.changed`, if `digest` is another than the one recorded last."""

        def build(end: TrailEnd) -> list[Entry]:
            if end.policy == digest:
                return []
            return [self.entry(POLICY, user_id, {**props, "digest": digest, "previous": end.policy or None})]

        self._site.primary_only("The record of a policy")
        self.of(platform_tenant(self._site.settings)).append(build)


@contextmanager
def noted(error: BaseException) -> Iterator[None]:
    """For events about what has failed already: if they cannot be written, `error` says so beside its own words."""
    try:
        yield
    except SbhError as second:
        error.add_note(f"and it could not be recorded in the audit trail: {second}")
