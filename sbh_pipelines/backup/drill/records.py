"""What drills leave in the tenants' repositories: a signed record each, never changed.

The key tells tenant and time, so that choosing who is drilled next, and a report of the last few drills, read names
first and only then the few records they need. That costs one listing for each tenant: a drill a week over 10,000 tenants
makes 10,000 requests for it, as many as one hourly tick does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side, streamed
from sbh_pipelines.database.rebuild.left_out import LeftOut
from sbh_pipelines.document import as_document, optional
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError, UnknownBackup, error_from_dict
from sbh_pipelines.model import BackupId, DrillId, Tenant, TenantId
from sbh_pipelines.repository.bounds import listed
from sbh_pipelines.repository.documents import read_signed, signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.repository import Repository

PASSED, FAILED, DAMAGED = "passed", "failed", "damaged"
_KIND = "drill"


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """What a drill showed of one scenario.

    Attributes:
        scenario: Its name.
        status: passed, or failed.
        error: Why it failed.
        seconds: How long its parts took, one after the other, s; until it failed.
        objective_s: How long it may take, s; null without an objective.
        margin_s: What is left to the objective, s; null where it failed, or has none.
        met: Whether it met its objective; null without one, false where it failed.
        rows: Rows restored.
        bytes: Bytes restored, before compression.
        files: Files restored.
        proof: What was proved, by kind, and how many of it.
    """

    scenario: str
    status: str
    error: SbhError | None
    seconds: float
    objective_s: float | None
    margin_s: float | None
    met: bool | None
    rows: int
    bytes: int
    files: int
    proof: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DrillRecord:
    """One drill, as it is stored in the tenant's repository.

    Attributes:
        drill_id: Its id.
        tenant_id: The tenant.
        backup_id: The backup that was restored.
        status: passed, or failed.
        error: That of the first scenario that failed.
        scenarios: One result for each scenario.
        issues: What the drill got over, such as a damaged platform backup.
        tier: The tenant's tier.
        recovery_point_age_s: Age of the tenant's newest recovery point then, s; null where it had none.
        recovery_point_objective_s: The age that was allowed, s; null without an objective.
        drilled_by: The user who asked for it.
        started_at: Time at which it began, ISO 8601 in UTC.
        finished_at: Time at which it ended, ISO 8601 in UTC.
        versions: Of the release, the repository's format, and the server; the last null where no database was needed.
        left_out: What was not made in the drill's database, as its role may not make it and rows do not need it, and why.
        from_copy: The copy that was drilled with, where the record lies too; None for the place where backups are made.
    """

    drill_id: DrillId
    tenant_id: TenantId
    backup_id: BackupId
    status: str
    error: SbhError | None
    scenarios: Sequence[ScenarioResult]
    issues: Sequence[SbhError]
    tier: str
    recovery_point_age_s: float | None
    recovery_point_objective_s: float | None
    drilled_by: str
    started_at: str
    finished_at: str
    versions: Mapping[str, str | int | None]
    left_out: Sequence[LeftOut] = ()
    from_copy: str | None = optional()

    @classmethod
    def from_dict(cls, tenant_id: TenantId, fields: Mapping[str, Any]) -> "DrillRecord":
        """Of a stored record. Raises KeyError, TypeError, AttributeError where it is not one."""
        own = ("tenant_id", "left_out", "from_copy")
        known = {of.name: fields[of.name] for of in fields_of(cls) if of.name not in own}
        parsed = {
            "drill_id": DrillId(fields["drill_id"]),
            "backup_id": BackupId(fields["backup_id"]),
            "error": _error(fields["error"]),
            "scenarios": tuple(
                ScenarioResult(
                    **{of.name: one[of.name] for of in fields_of(ScenarioResult)} | {"error": _error(one["error"])}
                )
                for one in fields["scenarios"]
            ),
            "issues": tuple(map(error_from_dict, fields["issues"])),
            "from_copy": None if (copy := fields.get("from_copy")) is None else str(copy),
            "left_out": tuple(LeftOut(str(one["what"]), str(one["why"])) for one in fields.get("left_out", ())),
        }
        return cls(tenant_id=tenant_id, **{**known, **parsed})


@dataclass(frozen=True, slots=True)
class DamagedDrill:
    """A drill whose record cannot be read.

    Attributes:
        tenant_id: The tenant.
        drill_id: Its id, as the key says.
        status: Always damaged.
        backup_id: Unknown.
        scenarios: Unknown: none.
        issues: Unknown: none.
        recovery_point_age_s: Unknown.
        error: What is wrong with the record.
    """

    tenant_id: TenantId
    drill_id: DrillId
    status: str
    backup_id: None
    scenarios: Sequence[ScenarioResult]
    issues: Sequence[SbhError]
    recovery_point_age_s: None
    error: CorruptObject


def _error(fields: Mapping[str, object] | None) -> SbhError | None:
    return error_from_dict(fields) if fields else None


def keep_record(repository: Repository, record: DrillRecord) -> None:
    """Store a drill's record; it is never overwritten."""
    fields = as_document(record)
    del fields["tenant_id"]
    repository.store.create(repository.prefix + Keys.drill(record.drill_id), signed(repository, _KIND, fields))


def drill_ids(site: Site, tenant: Tenant) -> list[DrillId]:
    """The drills of a tenant, the newest first: one listing, and no key is needed."""
    store, prefix = site.backup_store(tenant)
    names = (info.key.rsplit("/", 1)[1].removesuffix(".json") for info in listed(store, prefix, Keys.DRILLS))
    return sorted((DrillId(name) for name in names if DrillId.valid(name)), reverse=True)


def read_records(site: Site, tenant: Tenant, ids: Sequence[DrillId]) -> Iterator[DrillRecord | DamagedDrill]:
    """The records with these ids."""
    if not ids:
        return
    try:
        repository = site.repository(tenant)
    except UnknownBackup:
        return
    with repository:
        found = streamed(lambda drill: _read(repository, drill), ids, name="drills", ahead=len(ids))
        yield from (record for record in found if record is not None)


def _read(repository: Repository, drill_id: DrillId) -> DrillRecord | DamagedDrill | None:
    tenant = TenantId(repository.tenant)
    try:
        fields = read_signed(repository, Keys.drill(drill_id), _KIND)
        if fields.get("drill_id") != drill_id:
            raise _damage(
                repository, drill_id, "The record of a drill is in the wrong place", "copied from another key"
            )
        try:
            return DrillRecord.from_dict(tenant, fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise _damage(repository, drill_id, "The record of a drill is malformed", repr(error)) from None
    except ObjectMissing:
        return None  # pruned since it was listed
    except CorruptObject as damage:
        return DamagedDrill(tenant, drill_id, DAMAGED, None, (), (), None, damage)


def _damage(repository: Repository, drill_id: DrillId, what: str, why: str) -> CorruptObject:
    return CorruptObject(what, on=repository.url(Keys.drill(drill_id)), why=why)


def last_drills(site: Site, tenants: Sequence[Tenant]) -> list[tuple[Tenant, list[DrillId]]]:
    """The drills of each tenant, the newest first; those whose region allows no backups are left out."""
    allowed = [tenant for tenant in tenants if tenant.region in site.settings.storage.regions]
    return list(zip(allowed, side_by_side(lambda t: drill_ids(site, t), allowed, name="drills"), strict=True))


def choose_tenants(site: Site, tenants: Sequence[Tenant], number: int) -> list[Tenant]:
    """Whom to drill next: never drilled first, then those whose last drill is longest ago; of equals the first by slug.

    A failed drill counts: once mended, it is repeated by name. Tenants without a backup are passed over, for
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
