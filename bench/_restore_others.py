"""What other tenants notice of a restore: single rows of theirs are read and updated at a steady rate by `pgbench`.

A transaction's latency is counted from the moment it was due, so that one that had to wait for the one before it shows.
"""

import math
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _restore_data as data

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack

_CLIENTS, _RATE = 4, 200  # per second, half of them updates
_WARM_UP_S = 3.0
_PATIENCE_S = 30.0
_SCRIPTS = {
    "queries": "SELECT * FROM {table} WHERE id = :id AND tenant_id <> {tenant};",
    "updates": "UPDATE {table} SET user_id = user_id + 1 WHERE id = :id AND tenant_id <> {tenant};",
}


@dataclass
class Load:
    """Latencies by script, (end as seconds since the epoch, seconds); filled when the load has ended."""

    samples: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {name: [] for name in _SCRIPTS})

    def between(self, begin: float, end: float) -> dict[str, dict[str, Any]]:
        """Count and latencies of what ended in that time, ms."""
        return {
            name: _percentiles([s for at, s in found if begin <= at <= end]) for name, found in self.samples.items()
        }


def _percentiles(seconds: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(seconds)
    if not ordered:
        raise SystemExit("No transaction of the other tenants ended while the restore ran: it is too short to measure.")

    def at(part: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)], 2)

    return {"transactions": len(ordered), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1)}


@contextmanager
def load(servers: Stack) -> Iterator[Load]:
    """The load for the length of a block, warmed up."""
    found = Load()
    with data.work_session(servers) as cursor:
        cursor.execute(f"SELECT max(id) FROM {data.TABLE}")
        (rows,) = cursor.fetchone()
    with tempfile.TemporaryDirectory(prefix="sbh-bench-") as folder:
        argv: list[str | Path] = [postgres.binaries() / "pgbench", "--no-vacuum", "--log", "--protocol=prepared"]
        argv += [f"--client={_CLIENTS}", f"--rate={_RATE}", "--time=86400", "--random-seed=1"]
        for name, statement in _SCRIPTS.items():
            script = Path(folder, name)
            text = statement.format(table=data.TABLE, tenant=data.TENANT)
            script.write_text(f"\\set id random(1, {rows})\n{text}\n", "ascii")
            argv.append(f"--file={script}")
        argv.append(data.work_dsn(servers))
        with tempfile.TemporaryFile() as said:
            running = subprocess.Popen(argv, cwd=folder, stdout=said, stderr=said)
            try:
                time.sleep(_WARM_UP_S)
                yield found
                running.send_signal(signal.SIGALRM)  # what --time uses: transactions end, the log is complete
                if running.wait(_PATIENCE_S):
                    said.seek(0)
                    raise SystemExit(f"pgbench failed:\n{said.read().decode('utf-8', 'replace')[-2000:]}")
            finally:
                running.kill()
                running.wait()
        names = list(_SCRIPTS)
        for file in Path(folder).glob("pgbench_log.*"):
            for line in file.read_text("ascii").splitlines():
                _, _, taken, script_number, second, microsecond, *_ = line.split()
                ended = int(second) + int(microsecond) / 1e6
                found.samples[names[int(script_number)]].append((ended, int(taken) / 1e6))
