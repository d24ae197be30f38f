"""A process that makes backups through the Python API, and reports on itself in one line of JSON.

Argument: {"settings": path, "set": {section: {field: value}}, "tenants": [slugs] or null for all,
"formula_files": how many files to make up instead of reading the bucket's}.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_BEGUN = time.monotonic()

import _formula_files  # noqa: E402

from sbh_pipelines.backup.service import BackupService  # noqa: E402  the clock starts before the imports
from sbh_pipelines.model import Draft, DraftStatus  # noqa: E402
from sbh_pipelines.security.policy import Role, UserContext  # noqa: E402
from sbh_pipelines.settings import Settings, load_settings  # noqa: E402

_STEPS = ("begin", "snapshot_tables", "enumerate_files", "write_manifest", "verify_checksums", "apply_retention")
_COUNTERS = ("rows", "table_bytes", "files", "file_bytes", "chunks", "chunks_new", "packs", "bytes_stored")


def main() -> None:
    request = json.loads(sys.argv[1])
    settings = _with(load_settings(request["settings"]), request.get("set", {}))
    service = BackupService(settings)
    if "formula_files" in request:
        _formula_files.install(service, request["formula_files"])
    steps = _timed(service)
    imported = time.monotonic() - _BEGUN
    before = _memory()
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # forget the high-water mark of RSS
    begun = time.monotonic()
    tenants = request.get("tenants") or [tenant.id for tenant in service.tenants()]
    drafts = service.create_backups(tenants, UserContext("bench", "*", Role.ADMIN))
    seconds = time.monotonic() - begun
    failed = [draft for draft in drafts if draft.status is not DraftStatus.COMPLETED]
    if failed:
        sys.exit(f"{len(failed)} of {len(drafts)} backups failed; the first: {failed[0].tenant.id}: {failed[0].error}")
    report = {
        "tenants": len(drafts),
        "seconds": round(seconds, 3),
        "start_up_seconds": round(imported, 3),
        "steps": {name: round(spent, 3) for name, spent in steps.items()},
        "requests": dict(service.request_counts()),
        "rss_before": before["VmRSS"],
        "rss_peak": _memory()["VmHWM"],
        "file_list_bytes": sum(d.components["files"].size for d in drafts if "files" in d.components),
        **_totals(drafts),
    }
    print(json.dumps(report))


def _with(settings: Settings, changes: dict[str, dict[str, Any]]) -> Settings:
    sections = {name: getattr(settings, name).model_copy(update=fields) for name, fields in changes.items()}
    return settings.model_copy(update=sections)


def _timed(service: BackupService) -> dict[str, float]:
    """Wall seconds by step, filled as `create_backups` calls them."""
    spent: dict[str, float] = {}

    def wrap(name: str) -> None:
        step = getattr(service, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.monotonic()
            try:
                return step(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0.0) + time.monotonic() - begun

        setattr(service, name, timed)

    for name in _STEPS:
        wrap(name)
    return spent


def _totals(drafts: Sequence[Draft]) -> dict[str, int]:
    return {name: int(sum(draft.counters.get(name, 0) for draft in drafts)) for name in _COUNTERS}


def _memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    return {n: int(size.split()[0]) * 1024 for n, _, size in (line.partition(":") for line in lines) if "Vm" in n}


if __name__ == "__main__":
    main()
