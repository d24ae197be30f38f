"""Which job of Dagster does which call, and its configuration. The names are those of `orchestration`, without the
site's; a test holds them.

`backup_id` is the backup that is meant now: what `latest` means may have changed when a run leaves the queue. `named` is how
the caller named it, by which a repeated request is known.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sbh_pipelines.api.runs import operations as ops
from sbh_pipelines.api.runs.launches import Launch

PRIVATE = frozenset({"rows", "files"})
"""Options that say what people search for: they reach a run sealed, and Dagster never."""

_NOTHING: Mapping[str, object] = MappingProxyType({})


def create(tenant_id: str, backup_type: str, description: str | None) -> Launch:
    """A backup of one tenant, by the job that needs no partition to exist yet."""
    config: dict[str, object] = {"tenants": [tenant_id], "backup_type": backup_type}
    if description is not None:
        config["description"] = description
    return Launch(
        ops.CREATE,
        "backup.create",
        "fleet_backup_job",
        {"ops": {"snapshot_tables": {"config": config}}},
        {"type": backup_type, "description": description},
        {"sbh/backup_type": backup_type},
    )


def create_at(
    tenant_id: str, moment: str, description: str | None, tables: Sequence[str], as_of_backup: Sequence[str]
) -> Launch:
    """A backup of the tenant as it was at a moment; `moment` as `Target.text` has it."""
    options: dict[str, object] = {"at": moment, "tables": list(tables), "as_of_backup": list(as_of_backup)}
    if description is not None:
        options["description"] = description
    return Launch(
        ops.CREATE,
        "backup.create",
        "moment_backup_job",
        {"ops": {"put_moment_together": {"config": {"tenant": tenant_id, **options}}}},
        options,
    )


def restore(
    tenant_id: str, backup_id: str, named: str, options: Mapping[str, object], sealed: str | None = None
) -> Launch:
    """A restore in place; `options` are fields of the job's configuration, but for those that are in `sealed`."""
    clear = {name: value for name, value in options.items() if name not in PRIVATE}
    config = {"tenant": tenant_id, "backup_id": backup_id, "confirm": True, **clear}
    if sealed is not None:
        config["sealed"] = sealed
    return Launch(
        ops.RESTORE,
        "backup.restore",
        "restore_job",
        {"ops": {"restore_tenant": {"config": config}}},
        {"backup_id": named, **options},
        _tags(options, {ops.BACKUP_TAG: backup_id}),
    )


def into_schema(
    tenant_id: str,
    backup_id: str,
    named: str,
    label: str,
    tables: list[str],
    action: str = "restore.into_schema",
    options: Mapping[str, object] = _NOTHING,
) -> Launch:
    """The tenant's rows of a backup in a new schema beside the live ones."""
    config = {"tenant": tenant_id, "backup_id": backup_id, "schema_name": label, "tables": tables, **options}
    return Launch(
        ops.SCHEMA,
        action,
        "restore_into_schema_job",
        {"ops": {"restore_into_schema": {"config": config}}},
        {"backup_id": named, "into_schema": label, "tables": tables, **options},
        _tags(options, {ops.BACKUP_TAG: backup_id}),
    )


def undo(tenant_id: str, restore_id: str, options: Mapping[str, object]) -> Launch:
    config = {"tenant": tenant_id, "restore_id": restore_id, "confirm": True, **options}
    return Launch(
        ops.UNDO,
        "backup.restore",
        "undo_restore_job",
        {"ops": {"undo_tenant_restore": {"config": config}}},
        {"restore_id": restore_id, **options},
        _tags(options, {"sbh/undoes": restore_id}),
    )


def validate_deep(tenant_id: str, backup_id: str, named: str, options: Mapping[str, object] = _NOTHING) -> Launch:
    config = {"tenants": [tenant_id], "backup_id": backup_id, "deep": True, **options}
    return Launch(
        ops.VALIDATE,
        "backup.validate",
        "validate_backup_job",
        {"ops": {"validate_backups": {"config": config}}},
        {"backup_id": named, "deep": True, **options},
        _tags(options, {ops.BACKUP_TAG: backup_id}),
    )


def copy_run(name: str, tenants: Sequence[str]) -> Launch:
    """One copy brought up to date, for these tenants; for all where none is named."""
    return Launch(
        ops.COPY_RUN,
        "copies.run",
        "copy_run_job",
        {"ops": {"run_copies": {"config": {"copy_name": name, "tenants": list(tenants)}}}},
        {"name": name, "tenants": list(tenants)},
        {ops.COPY_TAG: name},
    )


def copy_verify(name: str, tenants: Sequence[str], deep: bool) -> Launch:
    """What is at a copy, verified there."""
    options = {"tenants": list(tenants), "deep": deep}
    return Launch(
        ops.COPY_VERIFY,
        "copies.verify",
        "copy_verify_job",
        {"ops": {"verify_copy": {"config": {"copy_name": name, **options}}}},
        {"name": name, **options},
        {ops.COPY_TAG: name},
    )


def _tags(options: Mapping[str, object], tags: Mapping[str, str]) -> Mapping[str, str]:
    """With the copy that the work is about, where it is one."""
    copy = options.get("from_copy")
    return tags if copy is None else {**tags, ops.COPY_TAG: str(copy)}
