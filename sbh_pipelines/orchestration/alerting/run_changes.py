"""Runs that began or succeeded since a sensor looked last.

Dagster's own sensors of a run's status write a line into the log of every run they are called for, whether they did
something or not: `Sensor "break_glass_alerts" acted on ...` at the end of each backup reads as if an emergency had been declared.
"""

from typing import Literal

import dagster as dg

from sbh_pipelines.orchestration.common.runs import is_ours

Change = Literal[dg.DagsterEventType.RUN_START, dg.DagsterEventType.RUN_SUCCESS]

_MOST = 500  # of one tick; the next one goes on


def runs_since(context: dg.SensorEvaluationContext, change: Change) -> list[dg.DagsterRun]:
    """Our runs that have come to this state since the last tick, in that order; none at the first. Moves the sensor's cursor."""
    instance, cursor = context.instance, context.cursor or ""
    if not cursor.isdecimal():
        newest = instance.fetch_run_status_changes(change, limit=1).records
        context.update_cursor(str(newest[0].storage_id if newest else 0))
        return []
    found = instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(change, after_storage_id=int(cursor)), limit=_MOST, ascending=True
    ).records
    if not found:
        return []
    context.update_cursor(str(found[-1].storage_id))
    ids = [record.event_log_entry.run_id for record in found]
    runs = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(run_ids=ids))}
    return [runs[run_id] for run_id in ids if run_id in runs and is_ours(runs[run_id])]
