"""Pins and legal holds: what nothing may forget, whatever the policy says.

Each is an object below `holds/` of the tenant's repository. Its key alone says what it protects, so that deciding costs
one listing, and one whose content is damaged or forged still protects: it is shown as damaged until an admin takes it
away. A pin protects one backup, a legal hold one backup or all of the tenant's, also those made later. A backup may have
several legal holds; releasing one leaves the others. A third kind protects one backup until a time: those made before a
restore, which an undo needs. The time is compared with that of the tenant's newest backup, as all of retention is.

Without the tenant's key it cannot be forged who placed a hold, and why. The signature cannot keep somebody with write
access to the bucket from deleting one: that takes the bucket's object lock.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, ObjectExists, ObjectMissing, RequestError, UnknownBackup, UnknownHold
from sbh_pipelines.model import BackupId, Clock, timestamp
from sbh_pipelines.repository.bounds import listed as bounded
from sbh_pipelines.repository.documents import prove_stored, read_signed, signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import ObjectStore

_NAME = re.compile(
    r"(?P<kind>pin|legal|until)-(?:(?P<until>\d{10})-)?(?:(?P<backup>backup_\d{8}_\d{4}(?:_\d{2,4})?)|tenant)"
    r"(?:-(?P<token>[0-9a-f]{8}))?"
)
_KIND = "hold"
_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Hold:
    """A pin, a legal hold, or a term.

    Attributes:
        id: Its id.
        key: Key of its object, below the tenant's prefix.
        backup_id: The backup that it protects; None: all of the tenant's.
        reason: Why it was placed.
        placed_by: The user who placed it.
        placed_at: Time at which it was placed, ISO 8601 in UTC.
        by_platform: Whether a user of the platform placed it. None: not on record, as of those of before it was.
        damage: Why its object cannot be read.
        until: It protects as long as the tenant's newest backup is older than this; None: until it is released.
    """

    id: str
    key: str
    backup_id: BackupId | None
    reason: str = ""
    placed_by: str = ""
    placed_at: str = ""
    by_platform: bool | None = None
    damage: CorruptObject | None = None
    until: datetime | None = None

    @property
    def is_pin(self) -> bool:
        return self.id.startswith("pin-") and self.backup_id is not None

    @property
    def rule(self) -> str:
        """How a verdict names it."""
        name = self.kind if self.until else "pinned" if self.is_pin else f"legal hold {self.id}"
        if self.damage is not None:
            return f"{name}, which is damaged"
        return f"{name}: {self.reason}" if self.reason else name

    @property
    def kind(self) -> str:
        if self.until is not None:
            return f"kept until {timestamp(self.until)}"
        return "pin" if self.is_pin else "legal hold"

    def protects(self, backup_id: BackupId, newest: datetime) -> bool:
        return self.backup_id in (None, backup_id) and not self.expired(newest)

    def expired(self, newest: datetime) -> bool:
        return self.until is not None and newest >= self.until

    def line(self) -> "HoldLine":
        """As people see it."""
        return HoldLine(self.id, self.kind, self.backup_id, self.reason, self.placed_by, self.placed_at, self.damage)


@dataclass(frozen=True, slots=True)
class HoldLine:
    """A pin or a legal hold, as people see it.

    Attributes:
        id: Its id.
        kind: `pin`, `legal hold`, or `kept until` and a time.
        backup_id: The backup that it keeps; null where it keeps all of the tenant's, also those to come.
        reason: Why, in the words of the user who placed it.
        placed_by: The user who placed it.
        placed_at: Time at which it was placed, ISO 8601 in UTC.
        error: Why its object cannot be read; it holds nevertheless.
    """

    id: str
    kind: str
    backup_id: BackupId | None
    reason: str
    placed_by: str
    placed_at: str
    error: CorruptObject | None


def list_holds(repository: Repository, *, seen: bool = False) -> list[Hold]:
    """All pins and holds by id, as their keys tell: one request, no reasons. An object of another name holds everything.

    `seen`: those that there were when the repository's index was loaded, if that is known, and no request.
    """
    if seen and (known := repository.inventory.holds) is not None:
        return _by_keys(known)
    return _listed(repository.store, repository.prefix)


def legal_holds(store: ObjectStore, prefix: str) -> list[Hold]:
    """Those that are neither pins nor end by themselves; needs no key."""
    return [hold for hold in _listed(store, prefix) if not hold.is_pin and hold.until is None]


def _listed(store: ObjectStore, prefix: str) -> list[Hold]:
    return _by_keys(info.key[len(prefix) :] for info in bounded(store, prefix, Keys.HOLDS))


def _by_keys(keys: Iterable[str]) -> list[Hold]:
    found = []
    for key in keys:
        if key == Keys.HOLDS:
            continue  # how some tools mark a folder
        hold_id = key.removeprefix(Keys.HOLDS).removesuffix(".json")
        parts = _NAME.fullmatch(hold_id) if key == Keys.hold(hold_id) else None
        found.append(_named(hold_id, key, parts) if parts else Hold(hold_id, key, None))
    return sorted(found, key=lambda hold: hold.id)


def _named(hold_id: str, key: str, parts: re.Match[str]) -> Hold:
    """What the parts of its name say; one that makes no sense holds everything."""
    given = {name for name in ("until", "backup", "token") if parts[name]}
    wanted = {"pin": [{"backup"}], "legal": [{"token"}, {"backup", "token"}], "until": [{"until", "backup"}]}
    if given not in wanted[parts["kind"]]:
        return Hold(hold_id, key, None)
    until = None
    if parts["until"]:
        try:
            until = datetime.strptime(parts["until"], "%Y%m%d%H").replace(tzinfo=UTC)
        except ValueError:
            return Hold(hold_id, key, None)
    return Hold(hold_id, key, BackupId(parts["backup"]) if parts["backup"] else None, until=until)


def read_holds(repository: Repository) -> list[Hold]:
    """`list_holds` with who, when and why: one more request each. A damaged one carries its `damage`."""
    found = side_by_side(lambda hold: _read(repository, hold), list_holds(repository), name="holds")
    return [hold for hold in found if hold is not None]


def _read(repository: Repository, hold: Hold) -> Hold | None:
    try:
        fields = read_signed(repository, hold.key, _KIND)
        if fields.get("hold_id") != hold.id or fields.get("backup_id") != hold.backup_id:
            raise CorruptObject(
                "A hold is in the wrong place", on=repository.url(hold.key), why="copied from another key"
            )
    except ObjectMissing:
        return None  # released since it was listed
    except CorruptObject as damage:
        return replace(hold, damage=damage)
    reason, by, at = (str(fields.get(name) or "") for name in ("reason", "placed_by", "placed_at"))
    by_platform = None if "by_platform" not in fields else fields["by_platform"] is not False
    return replace(hold, reason=reason, placed_by=by, placed_at=at, by_platform=by_platform)


def protected(holds: Iterable[Hold], backup_ids: Iterable[BackupId], newest: datetime) -> dict[BackupId, list[str]]:
    """The rules that keep each backup that a pin or hold protects; `newest` is when the newest backup was made."""
    rules = {backup_id: [h.rule for h in holds if h.protects(backup_id, newest)] for backup_id in backup_ids}
    return {backup_id: kept for backup_id, kept in rules.items() if kept}


def place_pin(
    repository: Repository,
    backup_id: BackupId,
    reason: str,
    placed_by: str,
    clock: Clock,
    by_platform: bool | None = None,
    may_replace: Callable[[], None] = lambda: None,
) -> Hold:
    """Pin a backup; a second pin replaces the reason of the first, if `may_replace` does not raise over the one that is there.

    Raises UnknownBackup, RequestError, ObjectChanged where others did it at the same time.
    """
    return _place(repository, f"pin-{backup_id}", backup_id, reason, placed_by, clock, by_platform, may_replace)


def place_term(
    repository: Repository, backup_id: BackupId, reason: str, placed_by: str, clock: Clock, until: datetime
) -> Hold:
    """Keep a backup until a time, rounded up to the hour. Raises UnknownBackup, RequestError."""
    until += timedelta(hours=1, microseconds=-1)
    hold_id = f"until-{until.astimezone(UTC):%Y%m%d%H}-{backup_id}"
    return _place(repository, hold_id, backup_id, reason, placed_by, clock)


def drop_expired(repository: Repository, holds: Iterable[Hold], newest: datetime) -> None:
    """Remove the objects of those whose time is over."""
    if gone := [repository.prefix + hold.key for hold in holds if hold.expired(newest)]:
        repository.store.delete(gone)


def place_hold(repository: Repository, backup_id: BackupId | None, reason: str, placed_by: str, clock: Clock) -> Hold:
    """Hold a backup, or with None all of the tenant's. Raises UnknownBackup, and RequestError without a reason."""
    if not reason.strip():
        raise RequestError("A legal hold needs a reason", remedy="say why it is held: --reason")
    hold_id = f"legal-{backup_id or 'tenant'}-{os.urandom(4).hex()}"
    return _place(repository, hold_id, backup_id, reason, placed_by, clock)


def _place(
    repository: Repository,
    hold_id: str,
    backup_id: BackupId | None,
    reason: str,
    placed_by: str,
    clock: Clock,
    by_platform: bool | None = None,
    may_replace: Callable[[], None] = lambda: None,
) -> Hold:
    if len(reason) > _LONGEST_REASON:
        raise RequestError(
            "The reason is too long", why=f"it may have {_LONGEST_REASON} characters", remedy="shorten it"
        )
    hold = Hold(hold_id, Keys.hold(hold_id), backup_id, reason, placed_by, timestamp(clock()), by_platform)
    _must_exist(repository, hold.backup_id)
    fields = {
        "hold_id": hold.id,
        "backup_id": hold.backup_id,
        "reason": hold.reason,
        "placed_by": hold.placed_by,
        "placed_at": hold.placed_at,
        **({} if by_platform is None else {"by_platform": by_platform}),
    }
    key = repository.prefix + hold.key
    body = signed(repository, _KIND, fields)
    try:
        repository.store.create(key, body)
    except ObjectExists:
        found = repository.store.head(key).etag  # before the question: what is replaced is what was asked about
        may_replace()
        repository.store.replace(key, body, found)
    prove_stored(repository.store, key, body)  # what is under a hold is relied upon
    try:
        # `forget.py` looks at the holds once more after deleting: either it sees this one and puts the
        # backup back, or the backup was gone before, which shows now.
        _must_exist(repository, hold.backup_id)
    except UnknownBackup:
        repository.store.delete([key])
        raise
    return hold


def _must_exist(repository: Repository, backup_id: BackupId | None) -> None:
    if backup_id is None:
        return
    try:
        repository.store.head(repository.prefix + Keys.manifest(backup_id))
    except ObjectMissing:
        raise UnknownBackup(
            "No such backup",
            on=f"{backup_id} of {repository.tenant}",
            remedy=f"see `sbh backup list {repository.tenant}`",
        ) from None


def find_hold(repository: Repository, hold_id: str) -> Hold | None:
    """The pin or hold with its content, or its damage; None where there is none."""
    named = next((hold for hold in list_holds(repository) if hold.id == hold_id), None)
    return None if named is None else _read(repository, named)


def release(repository: Repository, hold_id: str, record: Callable[[Hold], None] = lambda _: None) -> Hold:
    """Release a hold or pin, also a damaged one, once `record` has put that into the audit trail. Raises UnknownHold."""
    for hold in list_holds(repository):
        if hold.id == hold_id:
            record(hold)
            repository.store.delete([repository.prefix + hold.key])
            return hold
    raise UnknownHold(
        "No such pin or hold",
        on=f"{ascii(hold_id)[:80]} of {repository.tenant}",
        remedy=f"see `sbh backup holds {repository.tenant}`",
    )
