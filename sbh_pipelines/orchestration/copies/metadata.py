"""What a run of a copy did, as Dagster metadata: of one tenant at one copy, and of all copies. Numbers are plotted over time."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.model import timestamp
from sbh_pipelines.orchestration.common.metadata import MetadataMap, age, issues_table, markdown
from sbh_pipelines.settings import CopySettings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import CopyRun, TenantCopied


def copied_text(copy: CopySettings, tenant: "TenantCopied", now: datetime) -> str:
    """What stands above a tenant's numbers. `now`: UTC."""
    assert tenant.recovery_point is not None
    lag, objective = _lag(tenant, now) or 0.0, copy.objective_minutes * 60
    said = f"{tenant.tenant_id} can be brought back from the copy {copy.name} as of {timestamp(tenant.recovery_point)}"
    late = "LATE, " if lag > objective else ""
    return f"{said}: {late}{age(lag)} old, the objective is {age(objective)}" + (
        f". This run failed for it: [{tenant.error.code}] {tenant.error.what}" if tenant.error else ""
    )


def copied_metadata(copy: CopySettings, tenant: "TenantCopied", now: datetime) -> MetadataMap:
    """Of one tenant that is there. `now`: UTC."""
    assert tenant.recovery_point is not None
    where = f"latest --tenant {tenant.tenant_id} --from-copy {copy.name}"
    metadata: MetadataMap = {
        "summary": dg.MetadataValue.text(f"{copied_text(copy, tenant, now)}."),
        "lag_s": dg.MetadataValue.float(_lag(tenant, now) or 0.0),
        "objective": dg.MetadataValue.text(age(copy.objective_minutes * 60)),
        "verified_until": dg.MetadataValue.timestamp(tenant.recovery_point),
        "backup_id": dg.MetadataValue.text(tenant.backup_id or ""),
        "objects": dg.MetadataValue.int(tenant.objects),
        "bytes": dg.MetadataValue.int(tenant.bytes),
        "tenant": dg.MetadataValue.text(str(tenant.tenant_id)),
        "from_region": dg.MetadataValue.text(tenant.region),
        "in_region": dg.MetadataValue.text(copy.to),
        "see_what_a_restore_would_do": dg.MetadataValue.text(f"sbh restore diff {where}"),
        "restore_from_it": dg.MetadataValue.text(f"sbh restore run {where} --no-safety-backup --confirm"),
    }
    if tenant.error is not None:
        metadata["error_code"] = dg.MetadataValue.text(str(tenant.error.code))
        metadata["error"] = dg.MetadataValue.md(issues_table([tenant.error]))
    return metadata


def copies_metadata(runs: "Sequence[tuple[CopySettings, CopyRun]]", now: datetime) -> MetadataMap:
    """Of all copies: a table to read first, then each copy's numbers under its name, and its tenants. `now`: UTC."""
    metadata: MetadataMap = {
        "copies": dg.MetadataValue.md(
            markdown(
                ["copy", "tenants", "late", "failed", "oldest"],
                [_row(copy, done, now) for copy, done in runs],
            )
        ),
        "see_it_in_a_shell": dg.MetadataValue.text("sbh copies status"),
    }
    for copy, done in runs:
        name = copy.name.replace("-", "_")
        lags = _lags(done, now)
        if lags:
            metadata[f"{name}_worst_lag_s"] = dg.MetadataValue.float(max(lags))
        metadata[f"{name}_late"] = dg.MetadataValue.int(_late(copy, done, now))
        metadata[f"{name}_failed"] = dg.MetadataValue.int(sum(one.error is not None for one in done.tenants))
        metadata[f"{name}_left_out"] = dg.MetadataValue.int(_left_out(done))
        metadata[f"{name}_bytes"] = dg.MetadataValue.int(done.bytes)
        metadata[f"{name}_duration_s"] = dg.MetadataValue.float(round(done.seconds, 3))
        metadata[f"{name}_tenants"] = dg.MetadataValue.md(_tenants(done, now))
        errors = [*(one.error for one in done.tenants if one.error is not None), *done.issues]
        if errors:
            metadata[f"{name}_errors"] = dg.MetadataValue.md(issues_table(errors))
    return metadata


def _row(copy: CopySettings, done: "CopyRun", now: datetime) -> Sequence[object]:
    lags = _lags(done, now)
    oldest = f"{age(max(lags))} of {age(copy.objective_minutes * 60)}" if lags else "nothing there"
    return [
        copy.name if copy.kind == "managed" else f"{copy.name} ({copy.kind})",
        len(done.tenants) - _left_out(done),
        _late(copy, done, now),
        sum(one.error is not None for one in done.tenants),
        "not asked: outside its hours" if done.outside_hours else oldest,
    ]


def _left_out(done: "CopyRun") -> int:
    return sum(one.left_out is not None for one in done.tenants)


def _tenants(done: "CopyRun", now: datetime) -> str:
    """The worst first."""

    def rank(one: "TenantCopied") -> tuple[bool, bool, float]:
        return one.left_out is not None, one.error is None, -(_lag(one, now) or 0.0)

    rows = [
        [
            one.tenant_id,
            age(_lag(one, now)),
            timestamp(one.recovery_point) if one.recovery_point else "",
            f"{one.error.code}: {one.error.what}"
            if one.error
            else f"left out: {one.left_out}"
            if one.left_out
            else one.ended,
        ]
        for one in sorted(done.tenants, key=rank)
    ]
    return markdown(["tenant", "lag", "verified until", "of note"], rows)


def _lag(tenant: "TenantCopied", now: datetime) -> float | None:
    point = tenant.recovery_point
    return None if point is None else round(max((now - point).total_seconds(), 0.0), 1)


def _lags(done: "CopyRun", now: datetime) -> list[float]:
    return [
        lag for one in done.tenants if one.left_out is None and not one.ended and (lag := _lag(one, now)) is not None
    ]


def _late(copy: CopySettings, done: "CopyRun", now: datetime) -> int:
    return sum(lag > copy.objective_minutes * 60 for lag in _lags(done, now))
