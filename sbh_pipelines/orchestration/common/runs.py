"""What a run of Dagster is about, read from its tags, its assets and its configuration: whose it is, which tenants, which type.

A run that crashed has said nothing, and one that waits in the queue has not begun: this is all there is to know. An instance
may hold runs of other sites, of the same operations and of tenants of the same names: of those nothing is read here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from sbh_pipelines.model import BackupType
from sbh_pipelines.orchestration.common import names
from sbh_pipelines.orchestration.common.assets import ASSET_PREFIX, TENANTS
from sbh_pipelines.orchestration.common.resources import USER_TAG, VIA

OPERATION_TAG = "sbh/operation"
TYPE_TAG = "sbh/backup_type"
SCHEDULE_TAG = "sbh/schedule"
SLOT_TAG = "sbh/slot"
REGION_TAG = "sbh/region"
TENANTS_TAG = "sbh/tenants"
"""For whom a run is, to be read and to filter by: the tenant, how many they are, or `all`."""
BACKUP = "backup"
DRILL_OPERATION = "drill"
PLATFORM_BACKUP = "platform_backup"
STORAGE_REPORT = "storage_report"
JOURNAL_DRAIN = "journal_drain"
JOURNAL_ASSET_NAME = "change_journal"

_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
_OPERATIONS = {
    (ASSET_PREFIX, DRILL_OPERATION): DRILL_OPERATION,
    (JOURNAL_ASSET_NAME,): JOURNAL_DRAIN,
    ("platform_backup",): PLATFORM_BACKUP,
    ("recovery_report",): "recovery_report",
    (STORAGE_REPORT,): STORAGE_REPORT,
}
"""What makes an asset, by its path without the site; the first that is named counts."""
_LAUNCHED_BY = {"dagster/schedule_name", "dagster/sensor_name"}
_PAGE, _MOST_PAGES = 200, 50
_UNDER_WAY = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def is_ours(run: dg.DagsterRun) -> bool:
    """Whether the run is of this site: runs started from the command line belong to no code location."""
    return bool(operation_of(run))


def operation_of(run: dg.DagsterRun) -> str:
    """What a run does: its tag, else what its assets are made by, for runs that somebody materialized by hand carry no tag.

    Empty for the runs of others, such as those of other sites on the instance.
    """
    if tagged := run.tags.get(OPERATION_TAG):
        return tagged if names.site().owns(run.tags) else ""
    if _types_of_assets(run):
        return BACKUP
    named = {names.own_path(key) for key in run.asset_selection or ()}
    named |= {names.own_path(check.asset_key) for check in run.asset_check_selection or ()}
    for path, operation in _OPERATIONS.items():
        if path in named:
            return operation
    return ""


def makes_backups(run: dg.DagsterRun) -> bool:
    return operation_of(run) == BACKUP


def types_of(run: dg.DagsterRun) -> list[BackupType]:
    """The backup types a run was asked to make: those of its assets, else that of its tag or its configuration."""
    asked = str(run.tags.get(TYPE_TAG) or _config(run).get("backup_type", BackupType.FULL))
    return _types_of_assets(run) or [BackupType(asked) if asked in set(BackupType) else BackupType.FULL]


def tenants_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """The tenants a run was for, from its tags or its configuration; empty if it was for all or none."""
    if partition := run.tags.get("dagster/partition"):
        return [partition]
    if start := run.tags.get(_RANGE_START):
        keys = list(instance.get_dynamic_partitions(TENANTS))
        end = run.tags.get(_RANGE_END, start)
        return keys[keys.index(start) : keys.index(end) + 1] if {start, end} <= set(keys) else [start, end]
    config = _config(run)
    named = config.get("tenants") or [config.get("tenant")]
    return [str(tenant) for tenant in named if tenant]


def configured(run: dg.DagsterRun, name: str) -> object:
    """What a run's ops are configured with under this name; None where they are not."""
    return _config(run).get(name)


def tag_run(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, tenants: Sequence[str] | None, backup_type: str = ""
) -> None:
    """Say in the run's tags what it does, for whom and as whom, where they do not say it yet: those of runs by hand.

    `tenants`: empty for all of them; None where it is for none in particular.
    """
    run = context.run
    whose = tenants or ["all"]
    said = {
        **names.site().tags,
        OPERATION_TAG: operation_of(run),
        TYPE_TAG: backup_type,
        TENANTS_TAG: "" if tenants is None else whose[0] if len(whose) == 1 else f"{len(whose):,} tenants",
        # Not of a run that a schedule or a sensor launched: Dagster's list of runs would name the user in its place.
        USER_TAG: "" if _LAUNCHED_BY & run.tags.keys() else VIA,
    }
    new = {name: value for name, value in said.items() if value and not run.tags.get(name)}
    if new:
        context.instance.add_run_tags(run.run_id, new)


def tags_of_region(region: str) -> dict[str, str]:
    """The tags of a run for tenants of one region, by which it waits for a worker of that region."""
    return {REGION_TAG: region, names.QUEUE_TAG: names.named(region)}


def same_region(tags: Mapping[str, str]) -> dict[str, str]:
    """Those of a run's tags with which another run waits where this one did."""
    return {name: tags[name] for name in (REGION_TAG, names.QUEUE_TAG) if name in tags}


def own_records(instance: dg.DagsterInstance, filters: dg.RunsFilter, most: int) -> list[dg.RunRecord]:
    """At most so many of this site's runs that pass the filter, the oldest first. Those of others, read past, hide none."""
    found: list[dg.RunRecord] = []
    cursor = None
    for _ in range(_MOST_PAGES):
        page = instance.get_run_records(filters, limit=_PAGE, ascending=True, cursor=cursor)
        found += [record for record in page if is_ours(record.dagster_run)]
        if len(page) < _PAGE or len(found) >= most:
            break
        cursor = page[-1].dagster_run.run_id
    return found[:most]


def under_way(instance: dg.DagsterInstance, tags: Mapping[str, str] | None = None) -> list[dg.DagsterRun]:
    """The runs of this site with these tags that are created, queued or at work."""
    # Not by the site's tag: what somebody materialized by hand has it only from its first step on.
    found = instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY, tags=dict(tags or {})))
    return [run for run in found if is_ours(run)]


def _types_of_assets(run: dg.DagsterRun) -> list[BackupType]:
    paths = [names.own_path(key) for key in run.asset_selection or ()]
    return sorted(BackupType(path[1]) for path in paths if path[:1] == (ASSET_PREFIX,) and path[1] in set(BackupType))


def _config(run: dg.DagsterRun) -> Mapping[str, Any]:
    """What the run's ops are configured with, in one. Runs of an asset nest it deeper, and name no tenants in it."""
    ops: Mapping[str, Any] = dict(run.run_config).get("ops", {})  # type: ignore[assignment]
    return {name: value for op in ops.values() for name, value in (op.get("config") or {}).items()}
