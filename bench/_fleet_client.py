"""A process that does what Dagster does at one tick of the hourly schedule, and reports on itself in one line of JSON.

Argument: {"slot": time of the tick, ISO 8601}. The instance is that of DAGSTER_HOME, the settings those of SBH_SETTINGS. The
schedule is evaluated, and each run that it asks for is executed here, with all of its events.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

_BEGUN = time.monotonic()

import dagster as dg  # noqa: E402  the clock starts before the imports

from sbh_pipelines.backup.create.draft import Draft, DraftStatus  # noqa: E402
from sbh_pipelines.backup.service.backups import Backups  # noqa: E402
from sbh_pipelines.definitions import defs  # noqa: E402
from sbh_pipelines.orchestration.common.resources import BackupServiceResource  # noqa: E402

_STEPS = ("begin", "snapshot_tables", "enumerate_files", "write_manifest", "verify_checksums", "apply_retention")


def main() -> None:
    slot = datetime.fromisoformat(json.loads(sys.argv[1])["slot"])
    imported = time.monotonic() - _BEGUN
    steps, made = _watched()
    resource = BackupServiceResource()
    with dg.DagsterInstance.get() as instance:
        begun = time.monotonic()
        schedule = defs.resolve_schedule_def("hourly_incremental")
        with dg.build_schedule_context(
            instance=instance, scheduled_execution_time=slot, resources={"backups": resource}
        ) as context:
            asked = schedule.evaluate_tick(context).run_requests or []
        steps["evaluate the schedule"] = time.monotonic() - begun
        job = defs.resolve_job_def("fleet_backup_job")
        events = Counter[str]()
        for request in asked:
            result = job.execute_in_process(
                run_config=request.run_config,
                instance=instance,
                tags={"dagster/schedule_name": schedule.name, **request.tags},
                resources={"backups": resource},
            )
            events.update(event.event_type_value for event in result.all_events)
        seconds = time.monotonic() - begun
    report = {
        "seconds": round(imported + seconds, 3),  # the worker of a run starts for it
        "start_up_seconds": round(imported, 3),
        "runs": len(asked),
        "events": sum(events.values()),
        "made": dict(Counter(made.values())),
        "steps": {name: round(spent, 3) for name, spent in steps.items()},
        "requests": dict(resource.service.request_counts()),
    }
    print(json.dumps(report))


def _watched() -> tuple[dict[str, float], dict[str, str]]:
    """(wall seconds of each step, what became of each tenant), both filled while runs are executed."""
    spent: dict[str, float] = {}
    made: dict[str, str] = {}

    def watch(name: str) -> None:
        step = getattr(Backups, name)

        def watched(self: Backups, *args: Any, **kwargs: Any) -> Sequence[Draft]:
            begun = time.monotonic()
            drafts: Sequence[Draft] = step(self, *args, **kwargs)
            spent[name] = spent.get(name, 0.0) + time.monotonic() - begun
            made.update({d.tenant.id: d.type if d.status is DraftStatus.COMPLETED else str(d.status) for d in drafts})
            return drafts

        setattr(Backups, name, watched)

    for name in _STEPS:
        watch(name)
    return spent, made


if __name__ == "__main__":
    main()
