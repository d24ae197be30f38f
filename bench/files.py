"""One tenant's files, S3 to S3: 10,000 of 20 KB and 4 of 256 MB, next to `rclone copy` between the same buckets.

rclone gets two remotes, for which it does not copy inside the server: it reads and writes all bytes, as a backup must
that encrypts them. What it needs when it may copy inside the server is shown as a figure. It makes a plain copy;
SBH Pipelines cuts, hashes, encrypts and packs, keeps a list with checksums, and checks all of it before it commits.
Content is random, so compression helps nobody.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from time import monotonic
from typing import Any

import _common as common
import psycopg2
from _common import Command, Measured, console

from sbh_pipelines.embedded.sample.fleet import fleet
from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import open_s3

_TENANT, REGIONS = "tenant-1", object_server.REGIONS
_REGION = REGIONS[0]
_FILES, _PREFIX = f"sbh-files-{_REGION}", f"files/{_TENANT}/"
OURS, RCLONE, _SERVER_SIDE = "bench-sbh-{region}", "bench-rclone", "bench-rclone-server"
_AT_ONCE = 16  # `files.connections` by default; rclone gets as many transfers
_SMALL_BYTES, _LARGE_BYTES = 20_000, 256 << 20


def main() -> None:
    args = common.arguments(__doc__, repeat=3)
    small, large = (500, 1) if args.small else (10_000, 4)
    rclone = common.rclone()
    with common.running_stack(args.keep) as servers:
        fill(servers, small, large, _SMALL_BYTES)
        contenders: dict[str, Callable[[], tuple[Measured, tuple[int, int]]]] = {"sbh": lambda: _ours(servers)}
        if rclone:
            contenders["rclone"] = lambda: _rclone(servers, rclone, "there", RCLONE)
            contenders["server_side"] = lambda: _rclone(servers, rclone, "here", _SERVER_SIDE)
        runs: dict[str, list[Measured]] = {name: [] for name in contenders}
        stored = {}
        for _ in range(args.repeat):
            for name, contender in contenders.items():
                found, stored[name] = contender()
                runs[name].append(found)
    _report(runs, stored, small * _SMALL_BYTES + large * _LARGE_BYTES)


def fill(servers: Stack, small: int, large: int, small_bytes: int) -> Store:
    """The tenant's row and its files, made where they are not there yet; the store that they are in."""
    with closing(psycopg2.connect(servers.dsn())) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('public.tenants') IS NOT NULL")
        present = cursor.fetchone()[0]
        connection.rollback()
        if not present:
            fleet(connection, tenants=1, scale=1e-6)
    begun = monotonic()
    access = common.s3_access(servers)
    store = open_s3(
        _FILES,
        _REGION,
        endpoint_url=servers.s3_endpoint,
        access_key_id=access["AWS_ACCESS_KEY_ID"],
        secret_access_key=access["AWS_SECRET_ACCESS_KEY"],
    )
    if common.stored(servers, [_FILES], _PREFIX)[0] == small + large:
        return store
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda i: put_small(store, i, small_bytes, seed=i), range(small)))
    for i in range(large):
        _put(store, f"{_PREFIX}large/{i}.bin", small + i, _LARGE_BYTES)
    console.print(f"[dim]{small:,} small and {large} large files made in {monotonic() - begun:.0f} s")
    return store


def put_small(store: Store, number: int, size: int, *, seed: int) -> None:
    _put(store, f"{_PREFIX}small/{number % 100:02}/{number:06}.bin", seed, size)


def _put(store: Store, key: str, seed: int, size: int) -> None:
    chance = random.Random(seed)
    pieces = (chance.randbytes(min(8 << 20, size - at)) for at in range(0, size, 8 << 20))
    store.put_stream(key, pieces, {})


def _ours(servers: Stack) -> tuple[Measured, tuple[int, int]]:
    names = [OURS.replace("{region}", region) for region in REGIONS]
    with common.buckets(servers, names, versioned=True):
        return ours(servers, "full"), common.stored(servers, names)


def ours(servers: Stack, kind: str) -> Measured:
    """A backup of the tenant into buckets that are there."""
    changes = {"storage": {"bucket": OURS}, "files": {"connections": _AT_ONCE}}
    request = {"settings": str(servers.settings), "set": changes, "tenants": [_TENANT], "type": kind}
    found = common.run(common.python("_client.py", request), servers=common.server_pids(servers))
    return replace(found, wall=found.answer()["seconds"])


def _rclone(servers: Stack, rclone: str, target: str, bucket: str) -> tuple[Measured, tuple[int, int]]:
    with common.buckets(servers, [bucket]):
        return copied(servers, rclone, target, bucket), common.stored(servers, [bucket])


def copied(servers: Stack, rclone: str, target: str, bucket: str) -> Measured:
    """rclone's copy into a bucket that is there.

    `here` and `there` are the same server; between two remotes rclone moves the bytes itself.
    """
    access = common.s3_access(servers)
    remote = {
        "TYPE": "s3",
        "PROVIDER": "SeaweedFS",
        "ENDPOINT": servers.s3_endpoint,
        "ACCESS_KEY_ID": access["AWS_ACCESS_KEY_ID"],
        "SECRET_ACCESS_KEY": access["AWS_SECRET_ACCESS_KEY"],
        "NO_CHECK_BUCKET": "true",
    }
    env = {f"RCLONE_CONFIG_{name}_{key}": value for name in ("HERE", "THERE") for key, value in remote.items()}
    env["RCLONE_CONFIG"] = ""
    flags = ["--transfers", str(_AT_ONCE), "--checkers", str(_AT_ONCE), "--quiet"]
    argv = [rclone, "copy", f"here:{_FILES}/{_PREFIX}", f"{target}:{bucket}/{_PREFIX}", *flags]
    return common.run(Command(argv, env), servers=common.server_pids(servers))


def _report(runs: Mapping[str, Sequence[Measured]], stored: Mapping[str, tuple[int, int]], content_bytes: int) -> None:
    figures: dict[str, Any] = {name: common.summary(found) for name, found in runs.items()}
    for name, (objects, size) in stored.items():
        figures[name] |= {"objects": objects, "stored_bytes": size}
        figures[name]["mb_per_s"] = round(content_bytes / 1e6 / figures[name]["wall_s"])
    answer = runs["sbh"][-1].answer()
    figures["sbh"] |= {name: answer[name] for name in ("files", "file_bytes", "requests", "steps", "packs", "chunks")}
    titles = {"sbh": "SBH Pipelines", "rclone": "rclone, two remotes", "server_side": "rclone, inside the server"}
    shown = figures.values()
    common.show(
        f"{answer['files']:,} files, {content_bytes / 1e6:,.0f} MB, S3 to S3; median of {len(runs['sbh'])}",
        ["", *(titles[name] for name in figures)],
        [
            *common.contender_rows(figures),
            ["MB/s of content", *(f["mb_per_s"] for f in shown)],
            ["stored, MB", *(round(f["stored_bytes"] / 1e6, 1) for f in shown)],
            ["objects stored", *(f["objects"] for f in shown)],
            ["calls to the store", *(sum(f["requests"].values()) if "requests" in f else None for f in shown)],
        ],
    )
    ratios = {}
    if "rclone" in figures:
        ratios["wall_vs_rclone"] = common.ratio(figures["sbh"]["wall_s"], figures["rclone"]["wall_s"])
        ratios["cpu_vs_rclone"] = common.ratio(figures["sbh"]["cpu_total_s"], figures["rclone"]["cpu_total_s"])
        ratios["stored_vs_rclone"] = common.ratio(figures["sbh"]["stored_bytes"], figures["rclone"]["stored_bytes"])
    common.finish("files", figures, ratios)


if __name__ == "__main__":
    main()
