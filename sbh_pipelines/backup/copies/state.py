"""Until when each tenant was found whole at a copy: sealed objects below `copies/NAME/states/`, in the catalogs of both ends.

The source's are what counts; the copy's are there for the day when the source is gone, and are read where the source does not
answer or has none. Objects are only added, each with the tenants that were looked at; what says the most recent is believed, in
whatever order objects are read, but for what claims to be of the future. Each names the bucket it tells of: what was found
elsewhere, under the same name of a copy, is not believed. Deleting all of them costs one verification of the copy, nothing else.

Who records needs no right to delete, and never merges: the source's prune does at the source, and the copy's upkeep at the copy.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError, error_from_dict
from sbh_pipelines.model import parse_timestamp, timestamp
from sbh_pipelines.placement import catalog_place, place_identity
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.journal.sealed_objects import SealedObjects

COPIES = "copies/"  # below it a folder for each copy: its states, and the lease of a run
_STATES = "states/"
_STEP = "*"  # before a step's name, in place of a repository's, which has no such character
_UPKEEP = "upkeep"  # the step that says what the copy's own upkeep may not do
_VERSION = 1
_OBJECT_BYTES = 4 << 20  # of plaintext, after which an object is ended
_MERGE_AT = 16  # objects more than as few as possible, from which on they are merged
_PROBE = "delete-probe"  # there never is such an object
_LISTINGS = 5  # how often to list anew when a merge takes away what was listed


@dataclass(frozen=True, slots=True)
class CopyState:
    """What is known of one tenant at a copy.

    Attributes:
        home: The name of the tenant's repository; of a step of a run `*` and the step's name.
        tenant_key: The tenant's key in the application: another's state is not this tenant's.
        backup_id: The newest backup that was found whole there; None where none was yet.
        recovery_point: Its recovery point, UTC, or that of a later tick that found the tenant unchanged.
        verified_at: When that was found, UTC.
        error: What was wrong when it was looked at last; None where nothing was.
        deep: Whether the error was found by reading everything: only that can find that it is gone.
        seen_at: When it was looked at last, UTC.
        tier: Its tier when it was copied last: where its row is gone, nothing else tells.
        left_out: Why it is not continued any more; empty where it is.
        left_out_since: When that was seen first, UTC.
        backups: How many of its backups lay there then, or after the last upkeep; None where it is continued.
        anew_at: When a run read everything there last, because of the error, UTC; None where none did yet.
    """

    home: str
    tenant_key: str
    backup_id: str | None
    recovery_point: datetime | None
    verified_at: datetime | None
    error: SbhError | None
    deep: bool
    seen_at: datetime
    tier: str = ""
    left_out: str = ""
    left_out_since: datetime | None = None
    backups: int | None = None
    anew_at: datetime | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """What a stored document says. Raises KeyError, TypeError, ValueError."""
        point, verified, error = fields["recovery_point"], fields["verified_at"], fields["error"]
        return cls(
            str(fields["home"]),
            str(fields["tenant_key"]),
            None if fields["backup_id"] is None else str(fields["backup_id"]),
            None if point is None else _moment(point),
            None if verified is None else _moment(verified),
            None if error is None else error_from_dict(error),
            fields["deep"] is True,
            _moment(fields["seen_at"]),
            str(fields.get("tier", "")),
            str(fields.get("left_out", "")),
            None if fields.get("left_out_since") is None else _moment(fields["left_out_since"]),
            None if fields.get("backups") is None else int(fields["backups"]),
            None if fields.get("anew_at") is None else _moment(fields["anew_at"]),
        )

    def as_dict(self) -> dict[str, Any]:
        since = self.left_out_since and self.left_out_since.isoformat()
        anew = self.anew_at and self.anew_at.isoformat()
        more = {"tier": self.tier, "left_out": self.left_out, "left_out_since": since, "backups": self.backups}
        more["anew_at"] = anew
        return {
            **{name: value for name, value in more.items() if value not in ("", None)},
            "home": self.home,
            "tenant_key": self.tenant_key,
            "backup_id": self.backup_id,
            "recovery_point": self.recovery_point and self.recovery_point.isoformat(),
            "verified_at": self.verified_at and self.verified_at.isoformat(),
            "error": self.error and self.error.as_dict(),
            "deep": self.deep,
            "seen_at": self.seen_at.isoformat(),
        }

    def until(self, record: TenantRecord | None) -> datetime | None:
        """Until when the tenant is there, UTC: as was verified, or as the copy's catalog says of the same backup since."""
        return point_of(self.recovery_point, self.backup_id, self.tenant_key, record)


def point_of(
    point: datetime | None, backup_id: str | None, tenant_key: str, record: TenantRecord | None
) -> datetime | None:
    """A backup's recovery point, or that of a later tick that found the tenant as that backup says: the copy's catalog tells."""
    if point is None or record is None or record.backup_id != backup_id or not record.may_be_of(tenant_key):
        return point
    return max(point, parse_timestamp(record.point.time))


def found_wrong(before: CopyState | None, error: SbhError) -> tuple[SbhError, bool]:
    """(error, deep) of a look that failed: what reading everything found is not forgotten because of it."""
    if before is not None and before.deep and before.error is not None:
        return before.error, True
    return error, False


@dataclass(slots=True)
class _Found:
    """What one end has."""

    states: dict[str, CopyState] = field(default_factory=dict)
    damages: list[SbhError] = field(default_factory=list)
    readable: list[str] = field(default_factory=list)  # names of the objects that were believed
    garbage: list[str] = field(default_factory=list)  # names of what nobody with the catalog's key wrote
    early: bool = False  # whether one claims to be of the future: a merge leaves that out

    def add(self, states: Iterable[CopyState]) -> None:
        for state in states:
            if state.home not in self.states or state.seen_at >= self.states[state.home].seen_at:
                self.states[state.home] = state


class CopyStates:
    """Of one copy. Thread-safe, but for the attributes, which the last `read` sets.

    Attributes:
        damages: What was not believed; show them.
        steps: How the last run ended of what belongs to the region and to no tenant, by step: `catalog`, `audit`, `platform`,
            `journal`, `states`; of one that never failed nothing is there.
        undeleted: Why the last upkeep could delete nothing at the copy; None where it could.
        source_error: Why the source could not be asked; None where it could.
        by_copy: Whether the copy was asked instead, for the source said nothing.
    """

    def __init__(self, place: CopyPlace) -> None:
        self._place = place
        self.damages: list[SbhError] = []
        self.steps: Mapping[str, CopyState] = {}
        self.undeleted: SbhError | None = None
        self.source_error: SbhError | None = None
        self.by_copy = False

    def read(self, region: str) -> Mapping[str, CopyState]:
        """By the name of the tenant's repository. Writes nothing.

        Raises the store's errors and the key provider's, those of the source, where neither end says anything.
        """
        self.source_error, found = None, _Found()
        try:
            found = self._read(self._place.source, region)
        except SbhError as error:
            self.source_error = error
        self.by_copy = False
        if not found.readable:
            found = self._at_copy(region, found)
        self.damages = found.damages
        steps = {home[len(_STEP) :]: state for home, state in found.states.items() if home.startswith(_STEP)}
        upkeep = steps.pop(_UPKEEP, None)
        self.undeleted = upkeep.error if upkeep is not None else None
        self.steps = steps
        return {home: state for home, state in found.states.items() if not home.startswith(_STEP)}

    def record_upkeep(self, region: str, undeleted: SbhError | None) -> None:
        """Say whether the upkeep could delete; what was read last is not said again. Raises as `record`."""
        if (undeleted and undeleted.as_dict()) != (self.undeleted and self.undeleted.as_dict()):
            now = self._place.source.clock()
            self.record(region, [CopyState(_STEP + _UPKEEP, "", None, None, None, undeleted, False, now)])
            self.undeleted = undeleted

    def _at_copy(self, region: str, here: _Found) -> _Found:
        """What the copy has, where the source says nothing."""
        try:
            there = self._read(self._place.target, region)
        except SbhError:
            there = _Found()
        if there.readable:
            self.by_copy = True
            return there
        if self.source_error is not None:
            raise self.source_error
        return here

    def record(self, region: str, states: Iterable[CopyState], *, at_copy: bool = False) -> None:
        """Add what was found. `at_copy`: there as well, by who may write there.

        Raises the store's errors and the key provider's, of either end, when the other was told.
        """
        added = list(states)
        if not added:
            return
        failed: SbhError | None = None
        if at_copy:
            try:
                if self._place.target.catalog(region).has_key:  # one that was never brought is not made there
                    _write(self._objects(self._place.target, region), self._there(region), added)
            except SbhError as error:
                failed = error
        _write(self._objects(self._place.source, region), self._there(region), added)
        if failed is not None:
            raise failed

    def record_steps(self, region: str, errors: Mapping[str, SbhError | None], *, at_copy: bool = False) -> None:
        """How the steps of a run ended for what is the region's own; what the last `read` told already is not said again.

        Raises as `record`.
        """
        now, changed = self._place.source.clock(), list[CopyState]()
        for step, error in errors.items():
            before = self.steps[step].error if step in self.steps else None
            if _told(before) != _told(error):
                changed.append(CopyState(_STEP + step, "", None, None, None, error, False, now))
        self.record(region, changed, at_copy=at_copy)

    def keep_at_source(self, region: str) -> int:
        """Merge what the source has, and drop what says nothing; how many objects went. Nothing is made where there is none.

        Raises StoreDenied, before anything is written, where nothing may be deleted, and as `record`.
        """
        return self._merge(self._place.source, region, self._read(self._place.source, region))

    def keep_at_copy(self, region: str, *, deletes: bool) -> None:
        """Add what only the source knows; by who may delete there, merge what the copy has. Raises as `record`."""
        if not self._place.target.catalog(region).has_key:
            return
        there, here = self._read(self._place.target, region), self._read(self._place.source, region)
        lacking = [
            state
            for home, state in here.states.items()
            if home not in there.states or there.states[home].seen_at < state.seen_at
        ]
        if lacking:
            _write(self._objects(self._place.target, region), self._there(region), lacking)
            there = self._read(self._place.target, region)
        if deletes:
            self._merge(self._place.target, region, there)

    def _merge(self, site: Site, region: str, found: _Found) -> int:
        """Where that is worth it: the fewer tenants there are, the fewer objects stay, and the sooner they are rewritten."""
        if not found.readable:
            return 0
        objects, bodies = self._objects(site, region), list(_packed(self._there(region), found.states.values()))
        if not (found.early or found.garbage or len(found.readable) >= len(bodies) + _MERGE_AT):
            return 0
        objects.delete([_PROBE])  # who may not would leave everything there, and write it all once more beside it
        merged = found.readable if found.early or len(found.readable) > len(bodies) else []
        if merged:
            for body in bodies:
                objects.add(body)
        objects.delete(
            [*merged, *found.garbage]
        )  # after the merged ones are there: killed in between, both say the same
        return len(merged) + len(found.garbage)

    def forget(self, region: str, home: str, *, at_copy: bool) -> None:
        """Nothing is said of a repository any more, at one end: it was erased, and what begins under its name is another.

        Raises the store's errors and the key provider's.
        """
        site = self._place.target if at_copy else self._place.source
        objects, found = self._objects(site, region), self._read(site, region)
        if found.states.pop(home, None) is not None:
            _write(objects, self._there(region), found.states.values())
            objects.delete(found.readable)

    def _there(self, region: str) -> str:
        """Names the bucket of the region's copy, and the server that has it."""
        settings = self._place.target.settings
        return "|".join(place_identity(settings, catalog_place(settings, region))[:2])

    def _objects(self, site: Site, region: str) -> SealedObjects:
        catalog = site.catalog(region)
        return SealedObjects(
            catalog.store,
            catalog.prefix,
            region,
            f"{COPIES}{self._place.name}/{_STATES}",
            catalog,
            site.clock,
            whole="the state of copies",
        )

    def _read(self, site: Site, region: str) -> _Found:
        """All of one end. What a merge took away since it was listed is in what the merge wrote: so it is listed anew then."""
        objects = self._objects(site, region)
        for _ in range(_LISTINGS):
            found = _Found()
            if self._read_all(objects, region, objects.names(found.damages, found.garbage), found):
                break
        return found

    def _read_all(self, objects: SealedObjects, region: str, names: list[str], found: _Found) -> bool:
        """False where one that was listed is gone."""
        complete, place = True, self._there(region)
        # By how much the clock of who recorded may be ahead of this machine's.
        latest = self._place.source.clock() + timedelta(seconds=self._place.source.settings.prune.max_clock_skew_s)
        for name, plain in objects.read(names):
            if isinstance(plain, ObjectMissing):
                complete = False
                continue
            if isinstance(plain, SbhError):
                found.damages.append(plain)
                if isinstance(plain, CorruptObject):
                    found.garbage.append(name)
                continue
            try:
                document = json.loads(plain)
                if document["version"] > _VERSION:
                    raise ValueError("a newer format")
                states = [CopyState.of(fields) for fields in document["states"]]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                why = f"its content is not that of one: {type(error).__name__}"
                found.damages.append(self._not_believed(objects.url(name), why))
                continue
            found.readable.append(name)
            if document.get("place") != place:
                continue
            early = max((state.seen_at for state in states if state.seen_at > latest), default=None)
            if early is not None:
                found.early = True
                why = f"it tells what was seen at {timestamp(early)}, which is yet to come"
                found.damages.append(self._not_believed(objects.url(name), why))
            found.add(state for state in states if state.seen_at <= latest)
        return complete

    def _not_believed(self, on: str, why: str) -> CorruptObject:
        return CorruptObject(
            "An object of the state of copies is not believed",
            on=on,
            why=why,
            remedy=f"sbh copies verify {self._place.name}",
        )


def _told(error: SbhError | None) -> Mapping[str, Any] | None:
    return None if error is None else error.as_dict()


def _write(objects: SealedObjects, place: str, states: Iterable[CopyState]) -> None:
    for body in _packed(place, states):
        objects.add(body)


def _packed(place: str, states: Iterable[CopyState]) -> Iterator[bytes]:
    """Contents of as few objects as possible."""
    pending, size = list[str](), 0
    for state in states:
        pending.append(json.dumps(state.as_dict(), separators=(",", ":")))
        size += len(pending[-1])
        if size >= _OBJECT_BYTES:
            yield _document(place, pending)
            pending, size = [], 0
    if pending:
        yield _document(place, pending)


def _document(place: str, states: list[str]) -> bytes:
    return f'{{"version":{_VERSION},"place":{json.dumps(place)},"states":[{",".join(states)}]}}'.encode()


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment
