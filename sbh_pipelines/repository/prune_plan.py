"""What a prune will do to one repository, and why: decided before anything is done, and shown by a dry run.

    needed     in some backup, by the marks that the caller has set
    retired    taken out of use by a prune, and still there for those who read the index before (see `retirement`)
    young      younger than `Safety.min_age`: never touched: a writer may be at work on it

All ages are by the store's clock. Nothing is decided about an object whose name this release does not know.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain

from sbh_pipelines.errors import FormatUnsupported, PruneRefused
from sbh_pipelines.model import timestamp
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.format import COMPONENTS, Keys, pack_id_of
from sbh_pipelines.repository.index import Marks, PackUse
from sbh_pipelines.repository.repository import INDEX_BYTES, Repository
from sbh_pipelines.repository.retirement import is_component
from sbh_pipelines.stores.base import ObjectInfo

_SHOWN = 200  # decisions in a report; the counts are of all


@dataclass(frozen=True, slots=True)
class Safety:
    """The margins of a prune."""

    min_age: timedelta = timedelta(hours=24)  # of what is retired, and of a retirement before anything is removed
    keep_records: timedelta = timedelta(days=90)  # of failed backups, restores and drills
    max_clock_skew: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a repository should look like."""

    pack_bytes: int = 16 << 20
    repack_below: float = 0.5  # share of a pack's chunks, by bytes, that is needed
    small_packs: int = 32  # so many packs of less than a quarter of `pack_bytes` are merged; 0: never
    index_objects: int = 16  # more small index objects than this are merged
    re_encrypt: bool = False  # nothing should be sealed in an earlier key epoch than the newest
    stays: frozenset[str] = frozenset()  # keys below the prefix of what is left alone: see `backup/copies/retention.py`
    slice_bytes: int = 1 << 30  # when re-encrypting: of needed chunks, after which what was copied takes effect


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one object."""

    key: str  # below the prefix
    action: str  # retire | rewrite | remove | keep
    why: str
    size: int
    live: int = 0  # bytes of its chunks that are needed


@dataclass(slots=True)
class Plan:
    """Made by `make_plan`."""

    prune_id: str
    pack_bytes_target: int  # of new packs
    slice_bytes: int | None = None  # of needed chunks that are copied before the packs they come from are retired
    retire: list[Decision] = field(default_factory=list)  # packs that no backup needs
    rewrite: list[Decision] = field(default_factory=list)  # packs whose needed chunks move to new packs
    retire_documents: list[Decision] = field(default_factory=list)  # of backups that are forgotten
    remove: list[Decision] = field(default_factory=list)  # objects that go now, in this order
    keep: list[Decision] = field(default_factory=list)  # what would go were it not for a margin
    replace_index: set[str] = field(default_factory=set)  # index objects whose content moves to new ones
    index_unnamed: dict[bytes, int] = field(default_factory=dict)  # packs, and their sizes, that no index names yet
    packs: int = 0
    pack_bytes: int = 0
    index_objects: int = 0  # in use

    @property
    def dropped(self) -> set[bytes]:
        """The packs that this prune takes out of use."""
        return {_pack(d.key) for d in (*self.retire, *self.rewrite)}

    @property
    def retires(self) -> bool:
        return bool(self.retire or self.rewrite or self.retire_documents or self.replace_index)

    @property
    def rewrites_index(self) -> bool:
        return bool(self.replace_index or self.index_unnamed or self.rewrite)

    def shown(self) -> list[Decision]:
        """The first decisions, one by one."""
        return [*self.retire, *self.rewrite, *self.remove, *self.retire_documents, *self.keep][:_SHOWN]

    def counts(self) -> dict[str, int]:
        """Counts and bytes of everything, by name."""
        return {
            "packs_before": self.packs,
            "bytes_before": self.pack_bytes,
            "index_objects_before": self.index_objects,
            "packs_to_retire": len(self.retire),
            "packs_to_rewrite": len(self.rewrite),
            "bytes_to_rewrite": sum(d.live for d in self.rewrite),
            "packs_to_remove": sum(d.key.startswith(Keys.PACKS) for d in self.remove),
            "objects_to_remove": len(self.remove),
            "bytes_to_remove": sum(d.size for d in self.remove),
            "bytes_to_retire": sum(d.size for d in (*self.retire, *self.rewrite)),
            "index_objects_to_replace": len(self.replace_index),
            "kept_because_young": len(self.keep),
            "bytes_kept_because_young": sum(d.size for d in self.keep),
        }


def find_missing(repository: Repository, marks: Marks) -> bytes | None:
    """A needed chunk that no pack holds, not even a retired one, if there is one."""
    if marks.missing() is not None:
        repository.index.resort()
    return marks.missing()


def make_plan(
    repository: Repository,
    marks: Marks,
    backups: Collection[str],
    now: datetime,
    safety: Safety,
    shape: Shape,
) -> Plan:
    """Decide. `marks` are the chunks of all backups, `backups` their ids, `now` the store's time.

    Raises PruneRefused when something needed is missing, was written by a newer release, or comes from the future.
    """
    for damage in repository.damages:
        if isinstance(damage.error, FormatUnsupported):
            raise refused(repository, str(damage.error), "run the newest release that writes to this repository")
    missing = find_missing(repository, marks)
    if missing is not None:
        raise refused(repository, str(repository.missing(missing)), DAMAGED_REMEDY)
    return _Planner(repository, marks, backups, now, safety, shape).plan()


DAMAGED_REMEDY = (
    "`sbh backup validate --deep` names the damaged backups; take another backup, or restore the lost objects from the"
    " bucket's older versions, then forget the backups that stay damaged"
)


def refused(repository: Repository, why: str, remedy: str) -> PruneRefused:
    return PruneRefused("Nothing was pruned", on=repository.url(""), why=why, remedy=remedy)


def _pack(key: str) -> bytes:
    return bytes.fromhex(key.removeprefix(Keys.PACKS))


class _Planner:
    def __init__(
        self,
        repository: Repository,
        marks: Marks,
        backups: Collection[str],
        now: datetime,
        safety: Safety,
        shape: Shape,
    ) -> None:
        self._repository, self._marks, self._backups = repository, marks, backups
        self._now, self._safety, self._shape = now, safety, shape
        slice_bytes = shape.slice_bytes if shape.re_encrypt else None
        self._plan = Plan(now.strftime("prune_%Y%m%d_%H%M%S"), shape.pack_bytes, slice_bytes)
        self._retired_packs: dict[bytes, datetime] = {}
        self._retired_objects: dict[str, datetime] = {}
        for retirement in sorted(repository.retirements, key=lambda r: r.at):
            self._retired_packs.update(dict.fromkeys(retirement.packs, retirement.at))
            self._retired_objects.update(dict.fromkeys(retirement.index | retirement.documents, retirement.at))
        self._waiting: set[bytes | str] = set()  # retired, there, and not removed by this prune
        self._there: set[bytes] = set()  # packs that are there although they were found to be damaged

    def plan(self) -> Plan:
        self._marks.measure()
        index = list(self._list(Keys.INDEX))
        for info in index:
            if (at := self._retired_objects.get(info.key)) is not None:
                self._remove_if_old(info, info.key, at)
        small = [decision for info in self._list(Keys.PACKS) if (decision := self._pack(info)) is not None]
        if self._shape.small_packs and len(small) >= max(2, self._shape.small_packs):
            self._plan.rewrite += small
        self._index(index)
        self._documents()
        removed = {_pack(d.key) for d in self._plan.remove if d.key.startswith(Keys.PACKS)}
        for info in index:
            self._mark(info, removed)
        return self._plan

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        skip = len(self._repository.prefix)
        for info in all_below(self._repository.store, self._repository.prefix + prefix):
            if info.modified - self._now > self._safety.max_clock_skew:
                raise refused(
                    self._repository,
                    f"{info.key} was written at {timestamp(info.modified)}, but it is {timestamp(self._now)} only",
                    "correct the clocks of this machine and of the store",
                )
            yield ObjectInfo(info.key[skip:], info.size, info.etag, info.modified, info.version)

    def _old(self, since: datetime) -> bool:
        return self._now - since >= self._safety.min_age

    def _pack(self, info: ObjectInfo) -> Decision | None:
        """Decide on one pack; a small one that may be merged with others is returned instead."""
        pack_id = pack_id_of(info.key.removeprefix(Keys.PACKS))
        if pack_id is None:
            return None
        self._plan.packs += 1
        self._plan.pack_bytes += info.size
        if pack_id in self._repository.marked_damaged:
            self._there.add(pack_id)
        use = self._marks.use_of(pack_id)
        live = use.live if use else 0
        retired = self._retired_packs.get(pack_id)
        if retired is not None:
            self._retired(info, pack_id, live, retired)
            return None
        if info.key in self._shape.stays:
            return None
        if live and self._outdated(pack_id):
            epoch = self._repository.index.epoch_of(pack_id)
            # However young: no writer of that epoch is left, and a retired pack can be read for another `min_age`.
            self._give_up(Decision(info.key, "rewrite", f"sealed in key epoch {epoch}", info.size, live))
            return None
        why = self._reason(use)
        small = why is None and info.size * 4 < self._shape.pack_bytes
        if why is None and not small:
            return None
        if not self._old(info.modified):
            if why is not None:
                self._plan.keep.append(Decision(info.key, "keep", f"{why}, but it is young", info.size, live))
            return None
        if small:
            return Decision(info.key, "rewrite", "one of many small packs", info.size, live)
        self._give_up(Decision(info.key, "rewrite" if live else "retire", why or "", info.size, live))
        return None

    def _give_up(self, decision: Decision) -> None:
        (self._plan.rewrite if decision.live else self._plan.retire).append(decision)

    def _outdated(self, pack_id: bytes) -> bool:
        epoch = self._repository.index.epoch_of(pack_id)
        return self._shape.re_encrypt and epoch is not None and epoch < self._repository.sealer.epoch

    def _reason(self, use: PackUse | None) -> str | None:
        """Why a pack should not stay as it is."""
        if use is None:
            return "it is damaged, and no backup needs it"
        if not use.live:
            return "no backup needs it"
        if use.live < self._shape.repack_below * use.payload:
            return f"backups need {use.live / use.payload:.0%} of it"
        return None

    def _retired(self, info: ObjectInfo, pack_id: bytes, live: int, at: datetime) -> None:
        if live:
            self._plan.rewrite.append(
                Decision(info.key, "rewrite", "it was retired, but a backup needs it", info.size, live)
            )
        else:
            self._remove_if_old(info, pack_id, at)

    def _remove_if_old(self, info: ObjectInfo, name: bytes | str, at: datetime) -> None:
        since = f"retired at {timestamp(at)}"
        if info.key in self._shape.stays:
            self._waiting.add(name)
        elif self._old(at):
            self._plan.remove.append(Decision(info.key, "remove", since, info.size))
        else:
            self._plan.keep.append(Decision(info.key, "keep", f"{since}: some may still read it", info.size))
            self._waiting.add(name)

    def _index(self, listed: list[ObjectInfo]) -> None:
        """Which index objects are written anew: all that name what is not used any more, and small ones if many."""
        repository, plan = self._repository, self._plan
        dropped = plan.dropped
        for pack_id in (*dropped, *repository.lost, *self._retired_packs):
            plan.replace_index.update(repository.index.names_of(pack_id))
        damaged = {damage.key for damage in repository.damages}
        in_use = [i for i in listed if i.key in repository.indexed or (i.key in damaged and not _is_mark(i.key))]
        plan.index_objects = len(in_use)
        plan.replace_index -= self._shape.stays
        small = [i.key for i in in_use if i.size * 2 < INDEX_BYTES and i.key not in self._shape.stays]
        if len(small) > self._shape.index_objects:
            plan.replace_index.update(small)
        plan.replace_index.update(i.key for i in in_use if i.key in damaged and self._old(i.modified))
        if self._shape.re_encrypt:
            plan.replace_index.update(repository.old_index)
        gone = dropped | self._retired_packs.keys()
        plan.index_unnamed = {p: size for p, size in repository.unindexed.items() if p not in gone}

    def _mark(self, info: ObjectInfo, removed: set[bytes]) -> None:
        """Marks of damaged packs that are gone, and retirements that are over."""
        if info.key.startswith(Keys.DAMAGED):
            pack_id = pack_id_of(info.key.removeprefix(Keys.DAMAGED))
            if pack_id in removed or (pack_id not in self._there and self._old(info.modified)):
                self._plan.remove.append(Decision(info.key, "remove", "the pack is gone, or whole again", info.size))
        elif info.key.startswith(Keys.RETIRED) and self._old(info.modified):
            known = next((r for r in self._repository.retirements if r.key == info.key), None)
            if known is None or not self._waiting & (known.packs | known.index | known.documents):
                self._plan.remove.append(Decision(info.key, "remove", "what it retired is gone", info.size))

    def _documents(self) -> None:
        for name in COMPONENTS:
            for info in self._list(f"{name}/"):
                backup = info.key.rsplit("/", 1)[1].removesuffix(".json")
                if not is_component(info.key) or backup in self._backups:
                    continue
                if info.key in self._shape.stays:
                    continue
                if (at := self._retired_objects.get(info.key)) is not None:
                    self._remove_if_old(info, info.key, at)
                elif self._old(info.modified):
                    self._plan.retire_documents.append(
                        Decision(info.key, "retire", "its backup is forgotten", info.size)
                    )
        drills = sorted(self._list(Keys.DRILLS), key=lambda info: info.key)
        # Without its last drill a tenant would count as never drilled, and be sampled before the others again.
        for info in chain(self._list(Keys.FAILURES), self._list(Keys.RESTORES), drills[:-1]):
            if self._now - info.modified >= self._safety.keep_records:
                self._plan.remove.append(Decision(info.key, "remove", "an old record", info.size))


def _is_mark(key: str) -> bool:
    return key.startswith((Keys.DAMAGED, Keys.RETIRED))
