"""A process that restores through the Python API, and reports on itself in one line of JSON.

Argument: {"settings": path, "set": {section: {field: value}}, "tenant": slug, "backup": id or "latest", "tables": names}.
"""

import json
import sys
import time

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.model import Progress
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import load_settings

_KEPT = ("rows_inserted", "rows_updated", "rows_deleted", "bytes_downloaded", "proof", "safety_backup_id")


def main() -> None:
    request = json.loads(sys.argv[1])
    settings = load_settings(request["settings"])
    for section, fields in request["set"].items():
        settings = settings.model_copy(update={section: getattr(settings, section).model_copy(update=fields)})
    service = BackupService(settings)
    steps: dict[str, float] = {}
    current, since = "begin", time.monotonic()

    def progress(notice: Progress) -> None:
        """Wall seconds by step, each from its first notice to the next step's."""
        nonlocal current, since
        if notice.step != current:
            now = time.monotonic()
            steps[current] = round(steps.get(current, 0.0) + now - since, 3)
            current, since = notice.step, now

    begun = time.monotonic()
    result = service.restore_backup(
        request["backup"],
        request["tenant"],
        UserContext("bench", "*", Role.ADMIN),
        request=RestoreRequest(tables=tuple(request["tables"])),
        progress=progress,
    )
    ended = time.monotonic()
    steps[current] = round(steps.get(current, 0.0) + ended - since, 3)
    kept = {name: result.get(name) for name in _KEPT}
    print(
        json.dumps({"seconds": round(ended - begun, 3), "began": time.time() - (ended - begun), "steps": steps, **kept})
    )


if __name__ == "__main__":
    main()
