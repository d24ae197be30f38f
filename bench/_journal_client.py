"""A process that works on the change journal through the Python API, and reports on itself in one line of JSON.

Argument: {"settings": path, "set": {section: {field: value}}, "do": "setup" | "drain" | "loop" | "recover"}. `loop` drains
every "every" seconds until its standard input ends, and once more. `recover` has "tenant" and "moment", puts a backup of that
moment together and restores it.
"""

import json
import select
import sys
import time
from collections.abc import Callable
from typing import Any

from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.journal.drain_result import DrainResult
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import load_settings

_US = UserContext("bench", "*", Role.ADMIN)


def main() -> None:
    request = json.loads(sys.argv[1])
    settings = load_settings(request["settings"])
    for section, fields in request["set"].items():
        settings = settings.model_copy(update={section: getattr(settings, section).model_copy(update=fields)})
    service = BackupService(settings)
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "setup": lambda: _told([service.journal.setup(_US).drained]),
        "drain": lambda: _told([service.journal.drain(_US)]),
        "loop": lambda: _told(_drains(service, request["every"])),
        "recover": lambda: _recovered(service, request["tenant"], request["moment"]),
    }
    begun, cpu = time.monotonic(), time.process_time()
    report = work[request["do"]]()
    spent = {"seconds": round(time.monotonic() - begun, 3), "cpu_s": round(time.process_time() - cpu, 3)}
    print(json.dumps({**spent, **report}))


def _drains(service: BackupService, every: float) -> list[DrainResult]:
    drains = []
    ended = False
    while not ended:
        ended = bool(select.select([sys.stdin], [], [], every)[0])
        drains.append(service.journal.drain(_US))
    return drains


def _told(drains: list[DrainResult]) -> dict[str, Any]:
    return {
        "drains": len(drains),
        "drain_s": round(sum(one.seconds for one in drains), 3),
        "transactions": sum(one.transactions for one in drains),
        "changes": sum(one.changes for one in drains),
        "events": sum(one.events for one in drains),
        "stored_bytes": sum(region.bytes for one in drains for region in one.regions),
        "covered": drains[-1].covered,
        "gap": next((one.gap for one in drains if one.gap), None),
    }


def _recovered(service: BackupService, tenant: str, moment: str) -> dict[str, Any]:
    begun = time.monotonic()
    made = service.backups.create_at(tenant, _US, Target.parse(moment))
    materialised = time.monotonic()
    result = service.restore_backup(str(made.id), tenant, _US, request=RestoreRequest())
    return {
        "materialise_s": round(materialised - begun, 3),
        "restore_s": round(time.monotonic() - materialised, 3),
        "rows_inserted": result.get("rows_inserted"),
        "requests": dict(service.request_counts()),
    }


if __name__ == "__main__":
    main()
