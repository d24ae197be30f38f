"""The API's read side: listing the backups of one of 1,000 tenants with 60 backups each; and the console's page of all of them.

One backup of each tenant is real; the other 59 are manifests that its own repository signed and published, as an hourly
schedule would leave them: the server cannot tell. The server is `sbh serve` with one process; clients are processes
with one kept-alive connection each, that ask for a tenant drawn at random, one request after the other. Cold: each tenant's
first listing by a fresh server. Warm: after that. The floors, in the same run: the same server's liveness answer, and a raw
LIST of a tenant's manifests, asked of the store by a process beside it.
"""

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any
from urllib.request import urlopen

import _common as common
from _common import console

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import BackupId, Tenant, parse_timestamp, timestamp, utc_now
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import load_settings

_USER = UserContext("bench", "*", Role.ADMIN)
_BACKUPS = 60
_ROWS_EACH, _ROWS_A_TENANT = 5.6e6, 120
_AT_ONCE = 16
_LIST = f"/api/backup?limit={_BACKUPS}"
_LIVE = "/api/health/live"
_FLEET = "/console"


def main() -> None:
    args = common.arguments(__doc__, repeat=1, tenants=1000, clients=4, seconds=30)
    tenants, seconds = (min(args.tenants, 40), min(args.seconds, 4)) if args.small else (args.tenants, args.seconds)
    with common.running_stack(args.keep) as servers:
        common.fill_fleet(servers, tenants=tenants, scale=tenants * _ROWS_A_TENANT / _ROWS_EACH)
        settings = load_settings(servers.settings)
        service = BackupService(settings)
        found = service.tenants.all()
        _make_backups(service, found)
        token = open_tokens(settings).issue("bench", "*", Role.ADMIN, 3600)
        with _serving(servers) as (address, process):
            asking = {"address": address, "token": token, "slugs": [str(t.id) for t in found]}
            before = common.tree_cpu(process.pid)
            cold = _ask(asking, args.clients, path=_LIST, once=args.clients, backups=_BACKUPS)
            spent = common.tree_cpu(process.pid)
            warm = _ask(asking, args.clients, path=_LIST, seconds=seconds, backups=_BACKUPS)
            figures: dict[str, Any] = {
                "cold": {**_summary(cold), "cpu_ms": round(1000 * (spent - before) / _count(cold), 2)},
                "list": {
                    **_summary(warm),
                    "cpu_ms": round(1000 * (common.tree_cpu(process.pid) - spent) / _count(warm), 2),
                },
                "list_alone": _summary(_ask(asking, 1, path=_LIST, seconds=seconds / 2, backups=_BACKUPS)),
                "get": _summary(_ask(asking, args.clients, path="/api/backup/latest", seconds=seconds / 3)),
                "live": _summary(_ask(asking, args.clients, path=_LIVE, seconds=seconds / 3)),
                "fleet_cold": _summary(_ask({**asking, "slugs": asking["slugs"][:1]}, 1, path=_FLEET, once=1)),
                "fleet": _summary(_ask(asking, args.clients, path=_FLEET, seconds=seconds / 3)),
                "raw_list": _raw_list(service, found, seconds / 3),
                "server_peak_mib": round(common.memory(process.pid).get("VmHWM", 0) / common.MIB),
            }
    _report(figures, len(found), args.clients)


def _make_backups(service: BackupService, tenants: Sequence[Tenant]) -> None:
    """What is missing of each tenant's 60."""
    begun, site = monotonic(), Site(service.settings, utc_now)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        have = dict(zip([t.id for t in tenants], pool.map(lambda t: _ids(site, t), tenants), strict=True))
        if without := [slug for slug, ids in have.items() if not ids]:
            failed = [draft.error for draft in service.backups.create_all(without, _USER) if draft.error]
            if failed:
                raise SystemExit(f"{len(failed)} backups failed: {failed[0]}")
        made = sum(pool.map(lambda t: _multiply(site, t), tenants))
    if made:
        console.print(f"[dim]{made:,} backups made in {monotonic() - begun:.0f} s")


def _ids(site: Site, tenant: Tenant) -> list[BackupId]:
    store, prefix = site.backup_store(tenant)
    return [BackupId(info.key.rsplit("/", 1)[1][:-5]) for info in store.list(f"{prefix}manifests/")]


def _multiply(site: Site, tenant: Tenant) -> int:
    """Publish copies of the newest manifest, an hour apart, signed anew by the tenant's repository."""
    repository = site.repository(tenant)
    try:
        have = set(repository.manifest_ids())
        newest = repository.manifest(max(have))
        at, made = parse_timestamp(newest["created_at"]), 0
        for hours in range(1, _BACKUPS):
            moment = at - timedelta(hours=hours)
            if (backup_id := BackupId.at(moment)) not in have:
                plain = {name: value for name, value in newest.items() if name not in ("checksum", "signature")}
                document = {**plain, "id": backup_id, "created_at": timestamp(moment)}
                repository.publish_manifest(repository.sign(document))
                made += 1
        return made
    finally:
        repository.close()


@contextmanager
def _serving(servers: Stack) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = "from sbh_pipelines.cli.app import run; raise SystemExit(run())"
    log = Path(servers.dir) / "log" / "api.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", command, "serve", "--port", str(port), "--settings", str(servers.settings)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SBH_API__CALLS_PER_MINUTE": "10000000", "SBH_API__CALLS_BURST": "1000000"},
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(150):
            try:
                urlopen(address + _LIVE, timeout=5).close()
                break
            except OSError:
                sleep(0.2)
        yield address, process
    finally:
        process.terminate()
        process.wait(40)


def _ask(asking: Mapping[str, Any], clients: int, **more: Any) -> list[dict[str, Any]]:
    """The answers of `clients` processes at once, and of each how long it took."""
    commands = [common.python("_api_client.py", {**asking, **more, "seed": seed}) for seed in range(clients)]
    begun = perf_counter()
    started = [
        subprocess.Popen([str(part) for part in c.argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    found = []
    for process in started:
        said, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors[-2000:])
        found.append({**json.loads(said.strip().splitlines()[-1]), "seconds": perf_counter() - begun})
    return found


def _count(answers: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(answer["ms"]) for answer in answers)


def _summary(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates are those that the clients saw while they asked, without their start."""
    spent = sorted(ms for answer in answers for ms in answer["ms"])
    rate = sum(len(answer["ms"]) / (sum(answer["ms"]) / 1000) for answer in answers)
    return {
        "requests": len(spent),
        "p50_ms": _at(spent, 0.5),
        "p99_ms": _at(spent, 0.99),
        "max_ms": spent[-1],
        "requests_per_s": round(rate, 1),
        "kb_each": round(sum(answer["bytes"] for answer in answers) / len(spent) / 1000, 1),
    }


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _raw_list(service: BackupService, tenants: Sequence[Tenant], seconds: float) -> dict[str, Any]:
    """The one request to the store that nothing can save: which manifests are there now?"""
    site, chance, spent, deadline = Site(service.settings, utc_now), random.Random(1), [], monotonic() + seconds
    while monotonic() < deadline:
        tenant = chance.choice(tenants)
        begun = perf_counter()
        if len(_ids(site, tenant)) < _BACKUPS:
            raise SystemExit(f"{tenant.id} has too few backups")
        spent.append(round(1000 * (perf_counter() - begun), 2))
    return _summary([{"ms": spent, "bytes": 0}])


def _report(figures: Mapping[str, Any], tenants: int, clients: int) -> None:
    titles = {
        "cold": "list, first time",
        "list": f"list, {clients} clients",
        "list_alone": "list, 1 client",
        "get": "show the latest",
        "fleet_cold": "fleet, first time",
        "fleet": "fleet's page",
        "live": "liveness (floor)",
        "raw_list": "store's LIST (floor)",
    }
    names = ("requests", "p50_ms", "p99_ms", "max_ms", "requests_per_s", "kb_each", "cpu_ms")
    common.show(
        f"{tenants:,} tenants with {_BACKUPS} backups each",
        ["", *titles.values()],
        [[name, *(figures[key].get(name) for key in titles)] for name in names],
    )
    figures = {
        **figures,
        "list_p50_ms": figures["list"]["p50_ms"],
        "list_p99_ms": figures["list"]["p99_ms"],
        "requests_per_s": figures["list"]["requests_per_s"],
        "fleet_p50_ms": figures["fleet"]["p50_ms"],
    }
    ratios = {
        "list_p50_vs_raw_list": common.ratio(figures["list_alone"]["p50_ms"], figures["raw_list"]["p50_ms"]),
        "fleet_p50_vs_live": common.ratio(figures["fleet"]["p50_ms"], figures["live"]["p50_ms"]),
        "list_p50_vs_live": common.ratio(figures["list"]["p50_ms"], figures["live"]["p50_ms"]),
        "list_p50_vs_15_ms": common.ratio(figures["list"]["p50_ms"], 15),
        "fleet_p50_vs_300_ms": common.ratio(figures["fleet"]["p50_ms"], 300),
    }
    common.finish("api", figures, ratios)


if __name__ == "__main__":
    main()
