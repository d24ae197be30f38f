"""What one hour costs a large fleet: a tick of the hourly schedule through Dagster, whose storage is PostgreSQL.

Of 10,000 tenants 100 changed. One process evaluates the schedule and executes the run that it asks for, with all events, as the
daemon and the worker of the run do; its start is part of the time. The application's database and Dagster's are two of one server.
Each round is two ticks: one after which nothing has changed, one after `--changed` tenants have. Making the first backups takes by
far the longest; with `--keep` it is done once.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _common as common
import _many_tenants
import psycopg2
from _changes import change
from _common import Command, Measured, console
from psycopg2 import sql

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import ScheduleSettings

_DATABASE = "dagster"
_HOUR = datetime(
    2030, 1, 1, tzinfo=UTC
)  # of the first tick: no schedule of ours is due for anything fuller at its hour
_SMALL, _SMALL_CHANGED = 150, 15
_INSTANCE = """\
storage:
  postgres:
    postgres_db: {{hostname: 127.0.0.1, port: {port}, db_name: {database}, username: {user}, password: {{env: SBH_BENCH_PASSWORD}},
                  scheme: postgresql+psycopg2}}
telemetry: {{enabled: false}}
"""


def main() -> None:
    args = common.arguments(__doc__, repeat=2, tenants=10_000, changed=100)
    if find_spec("dagster_postgres") is None:
        console.print(
            "[yellow]dagster-postgres is not installed (pip install 'sbh-pipelines[deploy]'): nothing is measured."
        )
        return
    tenants = min(args.tenants, _SMALL) if args.small else args.tenants
    changed = min(args.changed, _SMALL_CHANGED) if args.small else args.changed
    quiet: list[Measured] = []
    busy: list[Measured] = []
    with common.running_stack(args.keep) as servers:
        regions = _many_tenants.prepare(servers, tenants)
        slugs = sorted(regions, key=lambda slug: int(slug.removeprefix("tenant-")))[:: tenants // changed][:changed]
        dagster = _Dagster(servers)
        dagster.tick()  # what changed while the fleet was made, Dagster's tables, the caches
        for _ in range(args.repeat):
            quiet.append(_expect(dagster.tick(), unchanged=tenants))
            change(servers, _many_tenants.PARTS, slugs=slugs)
            busy.append(_expect(dagster.tick(), unchanged=tenants - changed, incremental=changed))
    _report(quiet, busy, tenants, changed)


class _Dagster:
    """An instance of Dagster whose storage is a database of its own in the stack's server."""

    def __init__(self, servers: Stack) -> None:
        self._servers, self._ticks = servers, 0
        home = Path(servers.dir) / "dagster-home"
        home.mkdir(exist_ok=True)
        access = psycopg2.extensions.parse_dsn(servers.dsn(postgres.ADMIN))
        with closing(psycopg2.connect(servers.dsn(postgres.ADMIN))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            name = sql.Identifier(_DATABASE)
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(name))
            found = {**access, **connection.info.dsn_parameters}
            password = connection.info.password
        said = _INSTANCE.format(port=found["port"], database=_DATABASE, user=found["user"])
        (home / "dagster.yaml").write_text(said, "ascii")
        self._environment = {
            "DAGSTER_HOME": str(home),
            "DAGSTER_EVENT_BATCH_SIZE": "500",  # as `deploy/dagster.yaml` says
            "SBH_SETTINGS": str(servers.settings),
            "SBH_SCHEDULES__TIERS": json.dumps({tier: ["hourly_incremental"] for tier in ScheduleSettings().tiers}),
            "SBH_BENCH_PASSWORD": password,
        }

    def tick(self) -> Measured:
        self._ticks += 1
        slot = _HOUR + timedelta(days=self._ticks)
        command = common.python("_fleet_client.py", {"slot": slot.isoformat()})
        servers = common.server_pids(self._servers)
        found = common.run(Command(command.argv, self._environment), servers=servers)
        return replace(found, wall=found.answer()["seconds"])


def _expect(tick: Measured, **made: int) -> Measured:
    if tick.answer()["made"] != {kind: count for kind, count in made.items() if count}:
        raise SystemExit(f"{made} were to be made, not {tick.answer()}")
    return tick


def _report(quiet: Sequence[Measured], busy: Sequence[Measured], tenants: int, changed: int) -> None:
    none, some = (_figures(found) for found in (quiet, busy))
    each = {
        "unchanged": {part: 1000 * value / tenants for part, value in none["cpu_s"].items()},
        "changed": {part: 1000 * (value - none["cpu_s"][part]) / changed for part, value in some["cpu_s"].items()},
    }
    common.show(
        f"{tenants:,} tenants, a tick through Dagster; median of {len(quiet)}",
        ["", "0 changed", f"{changed:,} changed"],
        [
            *common.contender_rows({"0": none, "some": some}),
            ["events of Dagster", none["events"], some["events"]],
            ["start of the process, s", none["start_up_seconds"], some["start_up_seconds"]],
            *([f"{step}, s", spent, some["steps"].get(step)] for step, spent in none["steps"].items()),
            *([f"{verb}, calls", none["requests"].get(verb, 0), some["requests"][verb]] for verb in some["requests"]),
        ],
    )
    common.show(
        "CPU, ms per tenant",
        ["", *none["cpu_s"], "together"],
        [
            [name, *(round(value, 2) for value in found.values()), round(sum(found.values()), 2)]
            for name, found in each.items()
        ],
    )
    if tenants < 10_000:
        console.print(
            f"[yellow]{tenants:,} tenants: the start of the process is a larger part of each than with 10,000."
        )
    figures: dict[str, Any] = {
        "tenants": tenants,
        "changed_tenants": changed,
        "unchanged": none,
        "changed": some,
        "cpu_ms_each": {name: {part: round(value, 3) for part, value in found.items()} for name, found in each.items()},
    }
    requests = sum(some["requests"].values()) - sum(none["requests"].values())
    ratios = {
        "wall_vs_minute": common.ratio(some["wall_s"], 60),
        "cpu_changed_vs_25_ms": common.ratio(sum(each["changed"].values()), 25),
        "cpu_ms_per_unchanged_tenant": round(sum(each["unchanged"].values()), 3),
        "cpu_ms_per_changed_tenant": round(sum(each["changed"].values()), 3),
        "requests_per_changed_tenant": common.ratio(requests, changed),
    }
    common.finish("fleet_hour", figures, ratios)


def _figures(ticks: Sequence[Measured]) -> dict[str, Any]:
    answer: Mapping[str, Any] = ticks[-1].answer()
    told = ("requests", "steps", "events", "runs", "start_up_seconds")
    return {**common.summary(ticks), **{key: answer[key] for key in told}}


if __name__ == "__main__":
    os.environ.pop("DAGSTER_HOME", None)
    main()
