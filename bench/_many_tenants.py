"""What a tick of incremental backups costs per tenant of a large fleet: those that did not change, and those that did.

The backups lie where the settings put them unless told otherwise: in the bucket of the tenants' files, below their prefix.
All tenants are one batch, as in a run that the hourly schedule launches. Each tick is measured by scans, by the change journal, and
by the journal without files (what lists them then is left out). Making the first backups takes by far the longest; with `--keep` it
is done once.
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import _common as common
import psycopg2
from _changes import Parts, change
from _common import Measured, console

from sbh_pipelines.embedded.sample.fleet import file_key
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ObjectMissing
from sbh_pipelines.settings import load_settings
from sbh_pipelines.stores.s3 import open_s3

_FILES = 3  # of each tenant
_ROWS_EACH = 5.6e6  # of the whole fleet at scale 1
_ROWS_A_TENANT = 120
PARTS = Parts(updated=0.05, deleted=0.01, inserted=0.05)
_AT_ONCE = 16
_SCAN, _JOURNAL, _NO_FILES = "scan", "journal", "journal, no files"
_WAYS: dict[str, dict[str, dict[str, bool]]] = {
    _SCAN: {"journal": {"enabled": False}},
    _JOURNAL: {"journal": {"enabled": True}},
    _NO_FILES: {"journal": {"enabled": True}, "files": {"enabled": False}},
}


def measure(args: argparse.Namespace) -> None:
    """`args.changed` of `args.tenants` tenants change between one tick and the next."""
    tenants, changed = (min(args.tenants, 150), min(args.changed, 15)) if args.small else (args.tenants, args.changed)
    quiet: dict[str, list[Measured]] = {way: [] for way in _WAYS}
    busy: dict[str, list[Measured]] = {way: [] for way in _WAYS}
    with common.running_stack(args.keep) as servers:
        regions = _made(servers, tenants)
        batch = load_settings(servers.settings).schedules.incremental_tenants_per_run
        slugs = sorted(regions, key=lambda slug: int(slug.removeprefix("tenant-")))[:: tenants // changed][:changed]
        request = {"settings": str(servers.settings), "set": _WAYS[_JOURNAL], "do": "setup"}
        common.run(common.python("_journal_client.py", request), servers={})
        _first_backups(servers)
        for way in _WAYS:
            # Once for all that is not the same any more: files that come to be counted, or are not to be. Once for the caches.
            _tick(servers, batch, way)
            _tick(servers, batch, way)
            for _ in range(args.repeat):
                quiet[way].append(_expect(_tick(servers, batch, way), unchanged=tenants))
                change(servers, PARTS, slugs=slugs)
                busy[way].append(_expect(_tick(servers, batch, way), unchanged=tenants - changed, incremental=changed))
    _report(quiet, busy, tenants, changed)


def prepare(servers: Stack, tenants: int) -> dict[str, str]:
    """A fleet with its files, and a backup of each tenant; what is there already is left. The region of each tenant."""
    regions = _made(servers, tenants)
    _first_backups(servers)
    return regions


def _made(servers: Stack, tenants: int) -> dict[str, str]:
    common.fill_fleet(servers, tenants=tenants, scale=tenants * _ROWS_A_TENANT / _ROWS_EACH, files=_FILES)
    regions = _regions(servers)
    if len(regions) != tenants:
        raise SystemExit(f"{servers.dir} holds a fleet of {len(regions):,} tenants: give another directory")
    _put_files(servers, regions)
    return regions


def _regions(servers: Stack) -> dict[str, str]:
    with closing(psycopg2.connect(servers.dsn())) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT slug, region FROM tenants")
        return dict(cursor.fetchall())


def _put_files(servers: Stack, regions: Mapping[str, str]) -> None:
    """The files that the table names, of 1,000 bytes each, where the last of them is not there yet."""
    access = common.s3_access(servers)
    stores = {
        region: open_s3(
            f"sbh-files-{region}",
            region,
            endpoint_url=servers.s3_endpoint,
            access_key_id=access["AWS_ACCESS_KEY_ID"],
            secret_access_key=access["AWS_SECRET_ACCESS_KEY"],
        )
        for region in set(regions.values())
    }
    last = list(regions)[-1]
    with suppress(ObjectMissing):
        stores[regions[last]].head(file_key(last, _FILES))
        return
    begun = monotonic()
    wanted = [(slug, nth) for slug in regions for nth in range(1, _FILES + 1)]

    def put(one: tuple[str, int]) -> None:
        slug, nth = one
        stores[regions[slug]].put(file_key(slug, nth), f"{slug} {nth} ".encode().ljust(1000, b"."))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(put, wanted))
    console.print(f"[dim]{len(wanted):,} files made in {monotonic() - begun:.0f} s")


def _first_backups(servers: Stack) -> None:
    """Full backups of all tenants that have none: an incremental one without a parent is full."""
    begun = monotonic()
    request = {"settings": str(servers.settings), "type": "incremental"}
    answer = common.run(common.python("_client.py", request), servers={}).answer()
    if full := answer["made"].get("full"):
        console.print(f"[dim]{full:,} full backups made in {monotonic() - begun:.0f} s")


def _tick(servers: Stack, batch: int, way: str) -> Measured:
    request = {
        "settings": str(servers.settings),
        "set": {"backup": {"batch_tenants": batch}, **_WAYS[way]},
        "type": "incremental",
    }
    found = common.run(common.python("_client.py", request), servers=common.server_pids(servers))
    return replace(found, wall=found.answer()["seconds"])


def _expect(tick: Measured, **made: int) -> Measured:
    if tick.answer()["made"] != {kind: count for kind, count in made.items() if count}:
        raise SystemExit(f"{made} were to be made, not {tick.answer()['made']}; {tick.answer()['reread']}")
    return tick


def _report(
    quiet: Mapping[str, Sequence[Measured]], busy: Mapping[str, Sequence[Measured]], tenants: int, changed: int
) -> None:
    figures: dict[str, Any] = {}
    each: dict[str, dict[str, float]] = {}
    for way in _WAYS:
        none, some = (_figures(found[way]) for found in (quiet, busy))
        figures[way] = {"unchanged": none, "changed": some}
        _show(f"{tenants:,} tenants, in one batch: {way}; median of {len(quiet[way])}", none, some, changed)
        for name, less, more, count in (("unchanged", {}, none, tenants), ("changed", none["cpu_s"], some, changed)):
            spent = {part: 1000 * (value - less.get(part, 0.0)) / count for part, value in more["cpu_s"].items()}
            each[f"{name}, {way}"] = {part: round(value, 3) for part, value in spent.items()}
    figures["cpu_ms_each"] = each
    common.show(
        "CPU, ms per tenant",
        ["", *next(iter(each.values())), "together"],
        [
            [name, *(round(value, 2) for value in found.values()), round(sum(found.values()), 2)]
            for name, found in each.items()
        ],
    )
    ratios = {
        f"cpu_ms_per_{name}_tenant{suffix}": round(sum(each[f"{name}, {way}"].values()), 3)
        for way, suffix in {_SCAN: "", _JOURNAL: "_journal", _NO_FILES: "_journal_no_files"}.items()
        for name in ("unchanged", "changed")
    }
    for way, suffix in {_SCAN: "", _JOURNAL: "_journal", _NO_FILES: "_journal_no_files"}.items():
        none, some = (sum(figures[way][tick]["requests"].values()) for tick in ("unchanged", "changed"))
        ratios[f"requests_per_changed_tenant{suffix}"] = common.ratio(some - none, changed)
    common.finish("incremental_tenants", figures, ratios)


def _figures(ticks: Sequence[Measured]) -> dict[str, Any]:
    answer = ticks[-1].answer()
    told = ("requests", "steps", "bytes_stored", "database_bytes", "rows_changed", "reread", "start_up_seconds")
    return {**common.summary(ticks), **{key: answer[key] for key in told}}


def _show(title: str, none: Mapping[str, Any], some: Mapping[str, Any], changed: int) -> None:
    verbs = sorted({*none["requests"], *some["requests"]})
    common.show(
        title,
        ["", "0 changed", f"{changed:,} changed", "more, a changed tenant"],
        [
            *([*row, None] for row in common.contender_rows({"0": none, "some": some})),
            ["read from the database, KB", *_kb(none, some, "database_bytes", changed)],
            ["stored in repositories, KB", *_kb(none, some, "bytes_stored", changed)],
            *(
                [
                    f"{verb}, calls",
                    none["requests"].get(verb, 0),
                    some["requests"].get(verb, 0),
                    round((some["requests"].get(verb, 0) - none["requests"].get(verb, 0)) / changed, 1),
                ]
                for verb in verbs
            ),
            *([f"{step}, s", none["steps"][step], some["steps"][step], None] for step in none["steps"]),
        ],
    )


def _kb(none: Mapping[str, Any], some: Mapping[str, Any], name: str, changed: int) -> list[float]:
    return [
        round(none[name] / 1e3),
        round(some[name] / 1e3),
        round((some[name] - none[name]) / 1e3 / changed, 1),
    ]
