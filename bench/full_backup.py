"""A whole fleet to S3, next to `pg_dump | restic backup --stdin` on the same servers, and `pg_dump > /dev/null`.

The three take turns, round by round, each into empty buckets. restic stores one stream that only restores as a whole;
SBH Pipelines makes a backup of its own for each of the 200 tenants, encrypted with the tenant's own key.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import _common as common
from _common import Command, Measured, console

from sbh_pipelines.embedded.servers import object_server, postgres
from sbh_pipelines.embedded.servers.stack import Stack

_RESTIC = "bench-restic"
_OURS = "bench-sbh-{region}"
_SMALL = 0.03


def main() -> None:
    args = common.arguments(__doc__, repeat=3)
    restic = shutil.which("restic")
    if restic is None:
        console.print(
            "[yellow]restic is not installed (Debian: apt install restic): its figures and ratios are left out."
        )
    with common.running_stack(args.keep) as servers:
        rows = common.fill_fleet(servers, tenants=50 if args.small else 200, scale=_SMALL if args.small else 1.0)
        runs: dict[str, list[Measured]] = {"floor": [], "restic": [], "sbh": []}
        stored: dict[str, tuple[int, int]] = {}
        for _ in range(args.repeat):
            runs["floor"].append(_floor(servers))
            if restic:
                found, stored["restic"] = _restic(servers, restic)
                runs["restic"].append(found)
            found, stored["sbh"] = _ours(servers)
            runs["sbh"].append(found)
    _report({name: found for name, found in runs.items() if found}, stored, rows)


def _pg_dump(servers: Stack) -> Command:
    return Command([postgres.binaries() / "pg_dump", f"--dbname={servers.dsn(postgres.BACKUP)}"])


def _floor(servers: Stack) -> Measured:
    dump = _pg_dump(servers)
    to_nothing = replace(dump, argv=[*dump.argv, "--file=/dev/null"])
    return common.run(to_nothing, servers=common.server_pids(servers))


def _restic(servers: Stack, restic: str) -> tuple[Measured, tuple[int, int]]:
    with common.buckets(servers, [_RESTIC]), tempfile.TemporaryDirectory(prefix="sbh-bench-") as cache:
        env = {
            **common.s3_access(servers),
            "RESTIC_REPOSITORY": f"s3:{servers.s3_endpoint}/{_RESTIC}",
            "RESTIC_PASSWORD": secrets.token_urlsafe(),
            "RESTIC_CACHE_DIR": cache,
        }
        subprocess.run([restic, "init", "--quiet"], env={**os.environ, **env}, check=True)
        backup = Command([restic, "backup", "--quiet", "--stdin", "--stdin-filename", "fleet.sql"], env)
        found = common.run(_pg_dump(servers), backup, servers=common.server_pids(servers))
        return found, common.stored(servers, [_RESTIC])


def _ours(servers: Stack) -> tuple[Measured, tuple[int, int]]:
    names = [_OURS.replace("{region}", region) for region in object_server.REGIONS]
    with common.buckets(servers, names, versioned=True):
        request = {"settings": str(servers.settings), "set": {"storage": {"bucket": _OURS}}}
        found = common.run(common.python("_client.py", request), servers=common.server_pids(servers))
        # The API's own time: a service has imported its modules long ago. The start is shown as a line of its own.
        return replace(found, wall=found.answer()["seconds"]), common.stored(servers, names)


def _report(runs: Mapping[str, list[Measured]], stored: Mapping[str, tuple[int, int]], rows: Mapping[str, int]) -> None:
    figures: dict[str, Any] = {name: common.summary(found) for name, found in runs.items()}
    for name, (objects, size) in stored.items():
        figures[name] |= {"objects": objects, "stored_bytes": size}
    ours, answer = figures["sbh"], runs["sbh"][-1].answer()
    ours |= {
        name: answer[name]
        for name in ("tenants", "rows", "table_bytes", "packs", "requests", "steps", "start_up_seconds")
    }
    titles = {"floor": "pg_dump > /dev/null", "restic": "pg_dump | restic", "sbh": "SBH Pipelines"}
    shown = {name: figures[name] for name in runs}
    common.show(
        f"{sum(rows.values()):,} rows, {ours['table_bytes'] / 1e6:,.0f} MB of COPY text, {ours['tenants']} tenants;"
        f" median of {len(runs['sbh'])}",
        ["", *(titles[name] for name in shown)],
        [
            *common.contender_rows(shown),
            [
                "stored, MB",
                *(round(f["stored_bytes"] / 1e6, 1) if "stored_bytes" in f else None for f in shown.values()),
            ],
            ["objects stored", *(f.get("objects") for f in shown.values())],
            ["calls to the store", *(sum(f["requests"].values()) if "requests" in f else None for f in shown.values())],
            ["start (imports), s; not in wall", *(f.get("start_up_seconds") for f in shown.values())],
        ],
    )
    common.show(
        "SBH Pipelines, the last round: steps, calls",
        ["", ""],
        [[f"{name}, s", spent] for name, spent in ours["steps"].items()]
        + [[f"{verb}, calls", count] for verb, count in sorted(ours["requests"].items())],
    )
    ratios = {"wall_vs_floor": common.ratio(ours["wall_s"], figures["floor"]["wall_s"])}
    if "restic" in figures:
        restic = figures["restic"]
        ratios["wall_vs_restic"] = common.ratio(ours["wall_s"], restic["wall_s"])
        ratios["stored_vs_restic"] = common.ratio(ours["stored_bytes"], restic["stored_bytes"])
        ratios["cpu_vs_restic"] = common.ratio(ours["cpu_total_s"], restic["cpu_total_s"])
    ratios["requests_per_tenant"] = common.ratio(sum(ours["requests"].values()), ours["tenants"])
    common.finish("full_backup", figures, ratios)


if __name__ == "__main__":
    main()
