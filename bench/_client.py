"""A process that makes backups through the Python API, and reports on itself in one line of JSON.

Argument: {"settings": path, "set": {section: {field: value}}, "tenants": [slugs] or null for all, "type": of the backups,
"formula_files": how many files to make up instead of reading the bucket's}.
"""

import json
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

_BEGUN = time.monotonic()

import _formula_files  # noqa: E402
import psycopg2  # noqa: E402
import psycopg2.extensions  # noqa: E402

from sbh_pipelines.backup.create.draft import Draft, DraftStatus  # noqa: E402
from sbh_pipelines.backup.service import BackupService  # noqa: E402  the clock starts before the imports
from sbh_pipelines.security.policy import Role, UserContext  # noqa: E402
from sbh_pipelines.settings import Settings, load_settings  # noqa: E402

_STEPS = ("begin", "snapshot_tables", "enumerate_files", "write_manifest", "verify_checksums", "apply_retention")
_COUNTERS = ("rows", "rows_changed", "table_bytes", "files", "files_read", "file_bytes", "chunks", "chunks_new")
_COUNTERS += ("packs", "bytes_stored")
_BYTES_RECEIVED = 128  # where Linux has it in its struct tcp_info


def main() -> None:
    request = json.loads(sys.argv[1])
    settings = _with(load_settings(request["settings"]), request.get("set", {}))
    received = _counting_connections()
    count = request.get("formula_files")
    site = _formula_files.SiteWithFormulaFiles(settings, count) if count is not None else None
    service = BackupService(settings, site=site)
    steps = _timed(service)
    imported = time.monotonic() - _BEGUN
    before = _memory()
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # forget the high-water mark of RSS
    begun = time.monotonic()
    tenants = request.get("tenants") or [tenant.id for tenant in service.tenants.all()]
    drafts = service.backups.create_all(tenants, UserContext("bench", "*", Role.ADMIN), request.get("type", "full"))
    seconds = time.monotonic() - begun
    failed = [draft for draft in drafts if draft.status not in (DraftStatus.COMPLETED, DraftStatus.UNCHANGED)]
    if failed:
        sys.exit(f"{len(failed)} of {len(drafts)} backups failed; the first: {failed[0].tenant.id}: {failed[0].error}")
    report = {
        "tenants": len(drafts),
        "made": dict(Counter(d.type if d.status is DraftStatus.COMPLETED else "unchanged" for d in drafts)),
        "reread": dict(Counter(why for d in drafts for why in d.reread.values())),
        "seconds": round(seconds, 3),
        "start_up_seconds": round(imported, 3),
        "steps": {name: round(spent, 3) for name, spent in steps.items()},
        "requests": dict(service.request_counts()),
        "database_bytes": sum(received),
        "rss_before": before["VmRSS"],
        "rss_peak": _memory()["VmHWM"],
        "file_list_bytes": sum(d.components["files"].size for d in drafts if "files" in d.components),
        **_totals(drafts),
    }
    print(json.dumps(report))


def _with(settings: Settings, changes: dict[str, dict[str, Any]]) -> Settings:
    sections = {name: getattr(settings, name).model_copy(update=fields) for name, fields in changes.items()}
    return settings.model_copy(update=sections)


def _counting_connections() -> list[int]:
    """Bytes that came over each connection to the database, by the kernel's count; filled as they are closed."""
    found: list[int] = []

    class Counting(psycopg2.extensions.connection):  # type: ignore[misc]
        def close(self) -> None:
            if not self.closed:
                with socket.socket(fileno=self.fileno()) as link:
                    told = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    link.detach()  # it is libpq's to close
                found.append(struct.unpack_from("=Q", told, _BYTES_RECEIVED)[0])
            super().close()

    psycopg2.connect = partial(psycopg2.connect, connection_factory=Counting)
    return found


def _timed(service: BackupService) -> dict[str, float]:
    """Wall seconds by step, filled as `create_all` calls them."""
    spent: dict[str, float] = {}

    def wrap(name: str) -> None:
        step = getattr(service.backups, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.monotonic()
            try:
                return step(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0.0) + time.monotonic() - begun

        setattr(service.backups, name, timed)

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
