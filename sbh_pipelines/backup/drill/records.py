"""What drills leave in the tenants' repositories: a signed record each, never changed.

The key tells tenant and time, so that choosing who is drilled next, and a report of the last few drills, read names
first and only then the few records they need. That costs one listing for each tenant: a drill a week over 10,000 tenants
makes 10,000 requests for it, as many as one hourly tick does.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side, streamed
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError, UnknownBackup
from sbh_pipelines.model import DrillId, Tenant
from sbh_pipelines.repository.documents import read_signed, signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.repository import Repository

PASSED, FAILED, DAMAGED = "passed", "failed", "damaged"
_KIND = "drill"


def keep_record(repository: Repository, record: Mapping[str, Any]) -> None:
    """Store a drill's record; it is never overwritten."""
    fields = {name: value for name, value in record.items() if name != "tenant_id"}
    key = repository.prefix + Keys.drill(str(record["drill_id"]))
    repository.store.create(key, signed(repository, _KIND, fields))


def drill_ids(site: Site, tenant: Tenant) -> list[DrillId]:
    """The drills of a tenant, the newest first: one listing, and no key is needed."""
    store, prefix = site.backup_store(tenant)
    names = (info.key.rsplit("/", 1)[1].removesuffix(".json") for info in store.list(prefix + Keys.DRILLS))
    return sorted((DrillId(name) for name in names if DrillId.valid(name)), reverse=True)


def read_records(site: Site, tenant: Tenant, ids: Sequence[DrillId]) -> Iterator[dict[str, Any]]:
    """The records with these ids; of a damaged one only its id, with `status` damaged and the `error`."""
    if not ids:
        return
    try:
        repository = site.repository(tenant)
    except UnknownBackup:
        return
    with repository:
        found = streamed(lambda drill: _read(repository, drill), ids, name="drills", ahead=len(ids))
        yield from (record for record in found if record is not None)


def _read(repository: Repository, drill_id: DrillId) -> dict[str, Any] | None:
    try:
        fields = read_signed(repository, Keys.drill(drill_id), _KIND)
        if fields.get("drill_id") != drill_id:
            raise CorruptObject(
                "The record of a drill is in the wrong place",
                on=repository.url(Keys.drill(drill_id)),
                why="copied from another key",
            )
    except ObjectMissing:
        return None  # pruned since it was listed
    except CorruptObject as damage:
        nothing: dict[str, Any] = {"backup_id": None, "scenarios": [], "issues": [], "recovery_point_age_s": None}
        fields = {"drill_id": drill_id, "status": DAMAGED, **nothing, "error": damage.as_dict()}
    return {"tenant_id": str(repository.tenant), **fields}


def last_drills(site: Site, tenants: Sequence[Tenant]) -> list[tuple[Tenant, list[DrillId]]]:
    """The drills of each tenant, the newest first; those whose region allows no backups are left out."""
    allowed = [tenant for tenant in tenants if tenant.region in site.settings.storage.regions]
    return list(zip(allowed, side_by_side(lambda t: drill_ids(site, t), allowed, name="drills"), strict=True))


def choose_tenants(site: Site, tenants: Sequence[Tenant], number: int) -> list[Tenant]:
    """Whom to drill next: never drilled first, then those whose last drill is longest ago; of equals the first by slug.

    A failed drill counts: whoever mends what it found repeats it by name. Tenants without a backup are passed over, for
    there is nothing to restore: that they have none is for the recovery points to say.
    """
    ranked = sorted(last_drills(site, tenants), key=lambda found: (found[1][0] if found[1] else "", found[0].id))
    chosen: list[Tenant] = []
    for tenant, _ in ranked:
        if len(chosen) == number:
            break
        if _has_backup(site, tenant):
            chosen.append(tenant)
    return chosen


def _has_backup(site: Site, tenant: Tenant) -> bool:
    store, prefix = site.backup_store(tenant)
    try:
        return next(iter(store.list(prefix + Keys.MANIFESTS)), None) is not None
    except SbhError as error:
        if error.transient:
            raise
        return True  # the drill will say what is wrong
