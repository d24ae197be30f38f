"""A trail held against the repository it tells of: backups without an event, and backups that are gone without one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import AuditBroken, CorruptObject, ObjectMissing, RequestError, SbhError
from sbh_pipelines.model import BackupId, Tenant, unparsed
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.documents import list_manifest_ids
from sbh_pipelines.repository.format import FIRST_EPOCH, Keys
from sbh_pipelines.repository.keys.data_key import KeyPlace, read_key_object
from sbh_pipelines.repository.trail.check import EventSink, TrailCheck, check_trail
from sbh_pipelines.repository.trail.end import CREATED
from sbh_pipelines.repository.trail.event import PLATFORM, AuditEvent

_MOST_NAMED = 100


@dataclass(frozen=True)
class ChainReport:
    """What is known of a chain of events.

    Attributes:
        tenant_id: Whose trail; `*` is the platform.
        region: Where it lies.
        valid: Whether nothing is wrong.
        events: Number of genuine events.
        objects: Number of objects they lie in.
        late: Number of events that were recorded late.
        seq: Number of the last genuine event.
        hash: Its hash, 64 hex digits.
        first_at: Time of the first event, UTC.
        last_at: Time of the last event, UTC.
        broken: How much is wrong.
        issues: What is wrong, the first hundred.
    """

    tenant_id: str
    region: str
    valid: bool
    events: int
    objects: int
    late: int
    seq: int
    hash: str
    first_at: str | None
    last_at: str | None
    broken: int
    issues: Sequence[AuditBroken]

    @classmethod
    def of(cls, checked: TrailCheck, **more: Any) -> Self:
        """The report of a check; `more` are the fields that a report has besides."""
        return cls(
            tenant_id=checked.chain.tenant_id,
            region=checked.chain.region,
            valid=checked.broken == 0,
            events=checked.events,
            objects=checked.links,
            late=checked.late,
            seq=checked.seq,
            hash=checked.hash,
            first_at=checked.first_at,
            last_at=checked.last_at,
            broken=checked.broken,
            issues=list(checked.issues),
            **more,
        )


@dataclass(frozen=True)
class TrailReport(ChainReport):
    """Whether a trail is whole, and agrees with the repository that it tells of.

    Attributes:
        unrecorded: Backups without an event.
        unexplained: Backups that are gone without an event.
    """

    unrecorded: Sequence[str]
    unexplained: Sequence[str]

    def recorded(self) -> dict[str, object]:
        """What the event of a verification says of it."""
        return {name: getattr(self, name) for name in ("valid", "events", "seq", "hash", "broken")}


@dataclass(frozen=True, slots=True)
class UnreadableTrail:
    """A trail that could not be read, such as one whose store is out of reach.

    Attributes:
        tenant_id: Whose trail; `*` is the platform.
        region: Where it lies.
        valid: Always false.
        error: Why it could not be read.
    """

    tenant_id: str
    region: str
    valid: bool
    error: SbhError


class _Backups:
    """Which backups there are, by the events alone."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.ever: set[str] = set()
        self.epoch = FIRST_EPOCH  # the newest key epoch that was begun

    def see(self, event: AuditEvent) -> None:
        if not event.inner:
            return
        name, backup_id = event.event, str(event.props.get("backup_id"))
        if name in (CREATED, "backup.kept"):
            self.alive.add(backup_id)
            self.ever.add(backup_id)
        elif name == "backup.deleted":
            self.alive.discard(backup_id)
        elif name == "tenant.erased":
            self.alive.clear()
            self.epoch = FIRST_EPOCH
        elif name == "key.created" and type(epoch := event.props.get("epoch")) is int:
            self.epoch = max(self.epoch, epoch)


def verify_trail(
    site: Site, tenant: Tenant, noted: tuple[int, str] | None, seen: EventSink | None = None
) -> TrailReport:
    """Read a trail whole; `seen` is given each genuine event, in order. `noted`: an event (seq, hash) that must be there.

    Of a copy only the chain: its manifests come after their events, and go by a retention of its own.
    """

    def see(event: AuditEvent) -> None:
        backups.see(event)
        if seen is not None:
            seen(event)

    if site.copy_name is not None:  # its manifests are another's business: what was brought, and what the copy keeps
        return TrailReport.of(
            check_trail(site.trails.of(tenant), seen or _ignore, noted), unrecorded=(), unexplained=()
        )
    backups = _Backups()
    there = _manifests(site, tenant)  # before the trail is read: what is made meanwhile has its event later
    checked = check_trail(site.trails.of(tenant), see, noted)
    unrecorded = sorted(there - backups.ever)
    if unrecorded:
        working = _at_work(site, tenant)
        unrecorded = [backup_id for backup_id in unrecorded if backup_id != working]
    unexplained = [i for i in sorted(backups.alive - there) if not _exists(site, tenant, i)]
    for backup_id in unrecorded[:_MOST_NAMED]:
        checked.found(
            "A backup has no event",
            "its writer was killed between the commit and the event, or it is from before the trail, or events were removed;"
            " the tenant's next backup records it as late",
            on=backup_id,
        )
    for backup_id in unexplained[:_MOST_NAMED]:
        checked.found("A backup is gone and no event says why", "its manifest was removed from outside", on=backup_id)
    for backup_id in sorted(there & backups.ever - backups.alive)[:_MOST_NAMED]:
        if _exists(site, tenant, backup_id):
            checked.found(
                "A backup is there that was forgotten",
                "its manifest was put back from outside, and what it needs may be gone: a prune refuses then; or whoever forgot it"
                " was killed before it was removed, and the next retention removes it",
                on=f"{backup_id}; `sbh backup forget {tenant.id} --backup {backup_id}` if nobody of yours restored it",
            )
    if (newest := _newest_epoch(site, tenant)) is not None and newest < backups.epoch:
        checked.found(
            "The tenant's keys are of an earlier epoch",
            f"epoch {backups.epoch} was begun, and the key object names {newest} as the newest: an earlier copy was put back",
            on=f"`sbh keys rotate {tenant.id}`",
        )
    return TrailReport.of(checked, unrecorded=unrecorded, unexplained=unexplained)


def _ignore(_: AuditEvent) -> None:
    return


def parse_noted(text: str | None) -> tuple[int, str] | None:
    """`seq:hash`. Raises RequestError."""
    if text is None:
        return None
    seq, _, digest = text.partition(":")
    if not (seq.isascii() and seq.isdigit() and len(seq) <= 18 and len(digest) == 64 and digest.isascii()):
        raise RequestError("Not an event to look for", on=unparsed(text), remedy="SEQ:HASH, as verify prints it")
    return int(seq), digest


def _manifests(site: Site, tenant: Tenant) -> set[str]:
    if tenant.id == PLATFORM:
        return set()
    store, prefix = site.backup_store(tenant)
    return {str(backup_id) for backup_id in list_manifest_ids(store, prefix)}


def _newest_epoch(site: Site, tenant: Tenant) -> int | None:
    """What the key object says; None where there is none, or none that can be believed."""
    if tenant.id == PLATFORM:
        return None
    store, prefix = site.backup_store(tenant)
    try:
        return read_key_object(
            KeyPlace(store, prefix, tenant.id, tenant.region, site.keys, home=site.owners.home_of(tenant)), FIRST_EPOCH
        ).newest
    except (ObjectMissing, CorruptObject):
        return None


def _at_work(site: Site, tenant: Tenant) -> str | None:
    """The backup that a writer works on just now: its event may come in a moment."""
    store, prefix = site.backup_store(tenant)
    lease = leases.running(store, prefix, site.clock)
    return None if lease is None else lease.purpose


def _exists(site: Site, tenant: Tenant, backup_id: str) -> bool:
    store, prefix = site.backup_store(tenant)
    try:
        store.head(prefix + Keys.manifest(BackupId.parse(backup_id)))
    except ObjectMissing:
        return False
    return True
