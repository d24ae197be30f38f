"""The change journal as an asset: a drain is its materialization. A run of the schedule takes a second beyond the drain itself.

A drain that finds another one at work, such as that of `sbh journal run`, leaves the asset as it is: what it would have read, the
other one reads.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from sbh_pipelines.errors import LeaseHeld, SbhError
from sbh_pipelines.orchestration.common.assets import KINDS, OWNERS, TABLES_ASSET, Group
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.names import key, named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import JOURNAL_ASSET_NAME, JOURNAL_DRAIN, OPERATION_TAG, tag_run
from sbh_pipelines.orchestration.common.timetable import Timetable, schedule_of_one_run, timetable
from sbh_pipelines.orchestration.journal.metadata import drained_metadata, drained_text
from sbh_pipelines.settings import ScheduleSettings, Settings

JOURNAL_ASSET = key(JOURNAL_ASSET_NAME)


@dg.asset(
    key=JOURNAL_ASSET,
    group_name=Group.BACKUPS,
    deps=[TABLES_ASSET],
    kinds=KINDS,
    owners=OWNERS,
    output_required=False,
    description="What was committed between two backups, of all tenants and regions: read from the server's log, sealed with each"
    " tenant's key, up to a fence. Every tenant can be brought to any moment that it tells of. Its numbers are plotted over time;"
    " `sbh journal status` says the same and more.",
    metadata={"recover a tenant with": "restore_job, at", "a tenant's moments": "journal_show_job"},
)
def change_journal(context: dg.AssetExecutionContext, backups: Backups) -> Iterator[dg.MaterializeResult[None]]:
    service, user = backups.service, user_of(context.run.tags)
    tag_run(context, None)
    try:
        done = service.journal.drain(user, progress=ProgressLog(context.log))
    except LeaseHeld as error:
        context.log.info(f"Another drain is at work, and reads what this one would have: {error.on}")
        return
    except SbhError as error:
        raise failure_of(error, step=JOURNAL_DRAIN) from None
    said = drained_text(done)
    (context.log.warning if done.gap else context.log.info)(said)
    yield dg.MaterializeResult(metadata=drained_metadata(done, service.settings))


journal_drain_job: Any = dg.define_asset_job(
    named("journal_drain_job"),
    selection=dg.AssetSelection.assets(JOURNAL_ASSET),
    description="Reads what was committed since the last drain from the server's log, and writes it into the change journal of"
    " each region. Then the server may forget it.",
    # In no pool, and first in the queue: while a drain waits behind backups, the server keeps its log.
    tags=tags({OPERATION_TAG: JOURNAL_DRAIN, "dagster/priority": "10"}),
)


def journal_timetable() -> Timetable:
    default = str(ScheduleSettings.model_fields["journal_drain"].default)
    return timetable("journal_drain", "SBH_SCHEDULES__JOURNAL_DRAIN", default)


def _off(settings: Settings) -> str:
    return "" if settings.journal.enabled else "The change journal is off: journal.enabled"


journal_drain = schedule_of_one_run(
    journal_timetable(),
    journal_drain_job,
    JOURNAL_DRAIN,
    lambda settings: settings.schedules.journal_drain,
    "Drains the server's log into the change journal, where `journal.enabled`.",
    unless=_off,
)
