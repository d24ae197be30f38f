"""Measures memory: `backup.memory_mib = 64`, a table and a file list each ten times as large.

Each is backed up twice, once about as large as the bound and once ten times that, in fresh processes. Shown is what the
process grows by over its size when it begins, imports done. The smaller input hardly fills the budget, so growth from
one to ten times alone does not tell a plateau from a slope: `--times 15` takes larger ones.
"""

from collections.abc import Mapping
from contextlib import closing
from time import monotonic
from typing import Any

import _common as common
import psycopg2
from _common import MIB, Measured, console

from sbh_pipelines.embedded.sample.fleet import fleet
from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.stack import Stack

_BOUND_MIB = 64
_ONE, _TEN = "tenant-1", "tenant-2"
_ROW_BYTES = 1240
_LINE_BYTES = 3300  # of the file list: name, attributes, checksum, chunk
_OURS = "bench-sbh-{region}"


def main() -> None:
    args = common.arguments(__doc__, repeat=1, times=10)
    times = 2 if args.small else args.times  # --small shows that it works, not the bound
    rows = _BOUND_MIB * MIB // _ROW_BYTES
    files = _BOUND_MIB * MIB // _LINE_BYTES
    with common.running_stack(args.keep) as servers:
        _fill(servers, rows, rows * times)
        requests: dict[str, dict[str, Any]] = {
            "table_1x": {"tenants": [_ONE], "formula_files": 0},
            f"table_{times}x": {"tenants": [_TEN], "formula_files": 0},
            "list_1x": {"tenants": ["tenant-3"], "formula_files": files},
            f"list_{times}x": {"tenants": ["tenant-3"], "formula_files": files * times},
        }
        runs = {name: [_run(servers, request) for _ in range(args.repeat)] for name, request in requests.items()}
    _report(runs)


def _fill(servers: Stack, one: int, ten: int) -> None:
    """A table of random text: `one` rows of the first tenant, `ten` of the second, mixed."""
    with closing(psycopg2.connect(servers.dsn())) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('public.blobs') IS NOT NULL")
            if cursor.fetchone()[0]:
                return
        begun = monotonic()
        fleet(connection, tenants=3, scale=1e-5)
        with connection, connection.cursor() as cursor:
            # sha512 in base64 compresses to three quarters at best.
            text = " || ".join(f"encode(sha512((i * 20 + {n})::text::bytea), 'base64')" for n in range(14))
            cursor.execute(
                f"CREATE TABLE blobs AS SELECT i AS id, (CASE WHEN i % {one + ten} < {one} THEN 1 ELSE 2 END)::bigint"
                f" AS tenant_id, replace({text}, E'\\n', '') AS body FROM generate_series(1::bigint, {one + ten}) i"
            )
            cursor.execute(
                "ALTER TABLE blobs ALTER tenant_id SET NOT NULL, ADD PRIMARY KEY (id),"
                " ADD FOREIGN KEY (tenant_id) REFERENCES tenants; ANALYZE blobs"
            )
    console.print(f"[dim]{one + ten:,} rows made in {monotonic() - begun:.0f} s")


def _run(servers: Stack, request: Mapping[str, Any]) -> Measured:
    names = [_OURS.replace("{region}", region) for region in object_server.REGIONS]
    with common.buckets(servers, names):
        changes = {"storage": {"bucket": _OURS}, "backup": {"memory_mib": _BOUND_MIB}}
        whole = {"settings": str(servers.settings), "set": changes, **request}
        return common.run(common.python("_client.py", whole), servers=common.server_pids(servers))


def _report(runs: Mapping[str, list[Measured]]) -> None:
    figures: dict[str, Any] = {"bound_mib": _BOUND_MIB}
    for name, found in runs.items():
        answers = [measured.answer() for measured in found]
        last = answers[-1]
        figures[name] = {
            "input_mib": round((last["table_bytes"] if name.startswith("table") else last["file_list_bytes"]) / MIB, 1),
            "items": last["rows"] if name.startswith("table") else last["files"],
            "peak_growth_mib": round(max(a["rss_peak"] - a["rss_before"] for a in answers) / MIB, 1),
            "rss_before_mib": round(last["rss_before"] / MIB, 1),
            "rss_peak_mib": round(max(a["rss_peak"] for a in answers) / MIB, 1),
            "wall_s": round(last["seconds"], 1),
        }
    shown = {name: figures[name] for name in runs}
    common.show(
        f"Peak memory with backup.memory_mib = {_BOUND_MIB}",
        ["", "input, MiB", "rows or files", "RSS before, MiB", "RSS peak, MiB", "growth, MiB", "wall, s"],
        [
            [
                name,
                f["input_mib"],
                f"{f['items']:,}",
                f["rss_before_mib"],
                f["rss_peak_mib"],
                f["peak_growth_mib"],
                f["wall_s"],
            ]
            for name, f in shown.items()
        ],
    )
    growth = [f["peak_growth_mib"] for f in shown.values()]
    common.finish(
        "memory",
        figures,
        {
            "peak_vs_bound": common.ratio(max(growth), _BOUND_MIB),
            "table_growth_large_vs_small": common.ratio(growth[1], growth[0]),
            "list_growth_large_vs_small": common.ratio(growth[3], growth[2]),
        },
    )


if __name__ == "__main__":
    main()
