"""What a recovery did, tenant by tenant, as its report says it; from what the run noted in the target, and what failed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sbh_pipelines.database.rebuild.run import Loaded, Run
from sbh_pipelines.errors import SbhError

COMPLETED, INCOMPLETE = "completed", "incomplete"
RESTORED, FAILED = "restored", "failed"


def recovery_report(
    asked_for: Iterable[str], control: Run, failed: Mapping[str, SbhError], ddl_only: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """`completed` where all that was asked for, and all that is there, is proved."""
    loaded = {tenant.tenant_id: tenant for tenant in control.tenants()}
    phases = control.phases()
    names = dict.fromkeys((*asked_for, *loaded))
    tenants = [_line(name, loaded.get(name), failed.get(name)) for name in names]
    complete = all(line["status"] == RESTORED for line in tenants)
    scripts = [name for name in ("pre_data", "post_data") if phases[name]["skipped"]]
    return {
        "status": COMPLETED if complete else INCOMPLETE,
        "tenants": tenants,
        "rows": sum(line["rows"] for line in tenants) + phases["shared"]["rows"],
        "bytes": sum(line["bytes"] for line in tenants),
        "files": sum((line["files"] or {}).get("restored", 0) for line in tenants),
        "roles_made": phases.get("roles", {}).get("made", []),
        "skipped_statements": {name: phases[name]["first"] for name in scripts},
        "ddl_only": [f"{fact['schema']}.{fact['name']}" for fact in ddl_only],
    }


def _line(name: str, loaded: Loaded | None, error: SbhError | None) -> dict[str, Any]:
    line: dict[str, Any] = {"tenant_id": name, "backup_id": None, "rows": 0, "bytes": 0, "seconds": 0.0}
    line |= {"point": None, "passed_over": [], "files": None}
    if loaded is not None:
        line["backup_id"], line["files"] = loaded.backup_id, loaded.files
        line |= {fact: loaded.facts[fact] for fact in ("rows", "bytes", "seconds", "point", "passed_over")}
    sound = error is None and loaded is not None and loaded.proved
    line["status"] = RESTORED if sound else FAILED
    return line if error is None else {**line, "error": error.as_dict()}
