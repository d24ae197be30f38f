"""A process that copies backups through the Python API, and reports on itself in one line of JSON.

Argument: {"settings": path, "set": {section: {field: value}}, "copy": fields of [[copies]], "do": "platform" | "run" | "verify"}.
`platform` makes a backup of the platform; `run` is a run of the copy, with "verify" false one that verifies nothing; `verify` reads
everything there.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

_BEGUN = time.monotonic()

from sbh_pipelines.backup.copies.run import run_copy  # noqa: E402  the clock starts before the imports
from sbh_pipelines.backup.copies.verification import verify_copy  # noqa: E402
from sbh_pipelines.backup.service import BackupService  # noqa: E402
from sbh_pipelines.backup.site.site import Site  # noqa: E402
from sbh_pipelines.model import Tenant, utc_now  # noqa: E402
from sbh_pipelines.security.policy import Role, UserContext  # noqa: E402
from sbh_pipelines.settings import CopySettings, Settings, load_settings  # noqa: E402


def main() -> None:
    request = json.loads(sys.argv[1])
    settings = load_settings(request["settings"])
    for section, fields in request["set"].items():
        settings = settings.model_copy(update={section: getattr(settings, section).model_copy(update=fields)})
    settings = settings.model_copy(update={"copies": [CopySettings(**request["copy"])]})
    service = BackupService(settings)
    if request["do"] == "platform":
        service.platform.create(UserContext("bench", "*", Role.ADMIN))
        print("{}")
        return
    tenants = service.tenants.all()
    imported = time.monotonic() - _BEGUN
    if request["do"] == "verify":
        report = _verified(settings, request["copy"]["name"], tenants)
    else:
        report = _copied(settings, request["copy"]["name"], tenants, request["verify"])
    print(json.dumps({"tenants": len(tenants), "start_up_seconds": round(imported, 3), **report}))


def _copied(settings: Settings, name: str, tenants: list[Tenant], verify: bool) -> dict[str, Any]:
    site = Site(settings, utc_now)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # forget the high-water mark of RSS
    begun, cpu = time.monotonic(), time.process_time()
    found = run_copy(site, name, tenants, verify=verify)
    seconds, spent = time.monotonic() - begun, time.process_time() - cpu
    _end_on([*found.issues, *(one.error for one in found.tenants if one.error is not None)])
    return {
        "seconds": round(seconds, 4),
        "cpu_s": round(spent, 3),
        "objects": found.objects,
        "bytes": found.bytes,
        "copied": sum(one.objects > 0 for one in found.tenants),
        "current": sum(one.backup_id is not None for one in found.tenants),
        "source_requests": site.request_counts(),
        "copy_requests": site.copy(name).request_counts(),
    }


def _verified(settings: Settings, name: str, tenants: list[Tenant]) -> dict[str, Any]:
    found = verify_copy(Site(settings, utc_now), name, tenants, deep=True)
    _end_on([*found.issues, *(one.error for one in found.tenants if one.error is not None)])
    if missing := sum(one.backup_id is None for one in found.tenants):
        sys.exit(f"{missing} tenants have no whole backup at the copy")
    return {"objects": sum(one.objects for one in found.tenants)}


def _end_on(errors: list[Any]) -> None:
    if errors:
        sys.exit(f"{len(errors)} errors; the first: {errors[0]}")


if __name__ == "__main__":
    main()
