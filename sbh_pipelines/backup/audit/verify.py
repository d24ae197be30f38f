"""A trail held against the repository it tells of: backups without an event, and backups that are gone without one."""

from collections.abc import Mapping
from typing import Any

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import AuditBroken, ObjectMissing, RequestError
from sbh_pipelines.model import BackupId, Tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.trail.check import Checked, Seen, check_trail
from sbh_pipelines.repository.trail.event import PLATFORM
from sbh_pipelines.repository.trail.trail import CREATED, INNER

_MOST_NAMED = 100


class _Backups:
    """Which backups there are, by the events alone."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.ever: set[str] = set()

    def see(self, event: Mapping[str, Any]) -> None:
        if event["source"] != INNER or event["via"] == "analytics":
            return
        name, backup_id = event["event"], str(event["props"].get("backup_id"))
        if name in (CREATED, "backup.kept"):
            self.alive.add(backup_id)
            self.ever.add(backup_id)
        elif name == "backup.deleted":
            self.alive.discard(backup_id)
        elif name == "tenant.erased":
            self.alive.clear()


def verify_trail(site: Site, tenant: Tenant, noted: tuple[int, str] | None, seen: Seen | None = None) -> dict[str, Any]:
    """What `verify_audit` returns; `seen` is given each genuine event, in order."""

    def see(event: Mapping[str, Any]) -> None:
        backups.see(event)
        if seen is not None:
            seen(event)

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
    return {**document(checked), "unrecorded": unrecorded, "unexplained": unexplained}


def document(checked: Checked) -> dict[str, Any]:
    """What is known of a chain, as verify and export say it."""
    return {
        "tenant_id": checked.chain.tenant_id,
        "region": checked.chain.region,
        "valid": checked.broken == 0,
        "events": checked.events,
        "objects": checked.links,
        "late": checked.late,
        "seq": checked.seq,
        "hash": checked.hash,
        "first_at": checked.first_at,
        "last_at": checked.last_at,
        "broken": checked.broken,
        "issues": [issue.as_dict() for issue in checked.issues],
    }


def parse_noted(text: str | None) -> tuple[int, str] | None:
    """`seq:hash`. Raises RequestError."""
    if text is None:
        return None
    seq, _, digest = text.partition(":")
    if not (seq.isascii() and seq.isdigit() and len(seq) <= 18 and len(digest) == 64 and digest.isascii()):
        raise RequestError("Not an event to look for", on=ascii(text)[:100], remedy="SEQ:HASH, as verify prints it")
    return int(seq), digest


def raise_broken(results: list[dict[str, Any]]) -> None:
    """Raises AuditBroken with the first issue of the first broken trail."""
    for result in results:
        for issue in result.get("issues", ()):
            raise AuditBroken(issue["what"], on=issue["on"], why=issue["why"], remedy=issue["remedy"])


def _manifests(site: Site, tenant: Tenant) -> set[str]:
    if tenant.id == PLATFORM:
        return set()
    store, prefix = site.backup_store(tenant)
    folder = prefix + Keys.MANIFESTS
    return {info.key.removeprefix(folder).removesuffix(".json") for info in store.list(folder)}


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
