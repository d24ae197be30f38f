"""Who is backed up at a tick of a schedule, and who is left out and why.

A tenant follows the schedules of its tier, or its own. It is left out where a fuller schedule that it follows launches as
well, and where a run that backs it up, as fully or more, is still queued or at work: a backlog becomes one run per tenant.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.model import BackupType, Tenant
from sbh_pipelines.orchestration.common.names import site
from sbh_pipelines.orchestration.common.runs import (
    SCHEDULE_TAG,
    SLOT_TAG,
    makes_backups,
    tenants_of,
    types_of,
    under_way,
)
from sbh_pipelines.settings import Settings

_FULLNESS = {BackupType.INCREMENTAL: 0, BackupType.DIFFERENTIAL: 1, BackupType.FULL: 2}


@dataclass(frozen=True, slots=True)
class Due:
    """`left_out` counts the others by reason; `unknown_tiers` are tiers of tenants that the settings do not name."""

    tenants: Sequence[Tenant]
    left_out: Mapping[str, int]
    unknown_tiers: Mapping[str, int]


def schedules_of(settings: Settings, tenant: Tenant) -> Collection[str]:
    """The schedules that a tenant follows. Raises SettingsError where neither its tier nor the default tier has any."""
    follows = settings.schedules
    if tenant.id in follows.tenants:
        return follows.tenants[tenant.id]
    default = settings.tenants.default_tier
    found = follows.tiers.get(tenant.tier, follows.tiers.get(default))
    if found is None:
        raise SettingsError(
            "No schedules for a tier",
            on=f"tier {tenant.tier!r} of {tenant.id}",
            why=f"[schedules.tiers] has neither it nor tenants.default_tier = {default!r}",
            remedy=f"add {default} = [...] to [schedules.tiers]; an empty list means none",
        )
    return found


def due_tenants(
    instance: DagsterInstance,
    settings: Settings,
    tenants: Sequence[Tenant],
    backup_type: BackupType,
    schedule: str,
    slot: str,
    fuller: Sequence[str],
) -> Due:
    """The tenants that the tick of `schedule` for `slot` backs up; `fuller` are the schedules that launch as well."""
    launched, busy = _launched(instance, schedule, slot), _busy(instance, backup_type, schedule, slot)
    due: list[Tenant] = []
    left_out: dict[str, int] = {}
    unknown: dict[str, int] = {}
    for tenant in tenants:
        follows = schedules_of(settings, tenant)
        if schedule not in follows:
            why = "do not follow this schedule"
        elif covering := next((name for name in fuller if name in follows), None):
            why = f"are left to {covering}"
        elif tenant.id in launched:
            why = "have their run for this slot already"
        elif busy is None or tenant.id in busy:
            why = "have a backup queued or at work"
        else:
            why = ""
            due.append(tenant)
        if why:
            left_out[why] = left_out.get(why, 0) + 1
        if tenant.id not in settings.schedules.tenants and tenant.tier not in settings.schedules.tiers:
            unknown[tenant.tier] = unknown.get(tenant.tier, 0) + 1
    return Due(due, left_out, unknown)


def _launched(instance: DagsterInstance, schedule: str, slot: str) -> set[str]:
    """Tenants that have their run for this slot: the tick broke off after it. One that was created and never queued does
    not count: asking for it again is what queues it."""
    runs = instance.get_runs(RunsFilter(tags={**site().tags, SCHEDULE_TAG: schedule, SLOT_TAG: slot}))
    submitted = [run for run in runs if makes_backups(run) and run.status is not DagsterRunStatus.NOT_STARTED]
    return {tenant for run in submitted for tenant in tenants_of(instance, run)}


def _busy(instance: DagsterInstance, backup_type: BackupType, schedule: str, slot: str) -> set[str] | None:
    """Tenants of runs under way that back up as fully or more; None: a run for all tenants is among them."""

    def counts(run: DagsterRun) -> bool:
        own = run.tags.get(SCHEDULE_TAG) == schedule and run.tags.get(SLOT_TAG) == slot
        as_full = max(_FULLNESS[made] for made in types_of(run)) >= _FULLNESS[backup_type]
        return makes_backups(run) and not own and as_full

    found: set[str] = set()
    for run in filter(counts, under_way(instance)):
        tenants = tenants_of(instance, run)
        if not tenants:
            return None
        found.update(tenants)
    return found
