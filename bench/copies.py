"""A fleet's backups copied to another server, next to `rclone sync` of the same objects; then ticks of few changes, and of none.

Two S3 servers: the backups are in one, each contender copies into an empty bucket of its own in the other. They take turns.
rclone copies every object by its name, in no order, and asks the server once for what it put. SBH Pipelines brings what is
needed before what needs it, wraps the keys for the copy, proves each object and, unless told not to, opens the newest backup of
each tenant by what the copy alone has. rclone is told to leave out what a copier does (leases, listings, marks of epochs).
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import _common as common
import psycopg2
from _changes import Parts, change
from _common import Command, Measured, console

from sbh_pipelines.embedded.servers import object_server, process
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import load_settings

_REGION, _SOURCE, _COPY = object_server.REGIONS[0], "bench-source", "bench-copy"
_LEFT_OUT = ("lease.json", "listing.json", "/_sbh-catalog/*/copies/**", "/_sbh-catalog/*/epochs/**", "index/retired-*")
_SCALE = 1 / 400  # of the fleet, a tenant: some 14,000 rows
_AT_ONCE = 16  # transfers and checkers of rclone
_MORE = Parts(updated=0.02, deleted=0.002, inserted=0.02)  # between one backup of the whole fleet and the next
_TICK = Parts(updated=0.05, deleted=0.01, inserted=0.05)  # of few tenants
_FIRST, _UNVERIFIED, _RCLONE, _TICKED, _IDLE = "first copy", "not verified", "rclone sync", "tick", "idle"


def main() -> None:
    args = common.arguments(__doc__, repeat=2, tenants=300, backups=4)
    if args.small:
        args.tenants, args.backups = min(args.tenants, 40), min(args.backups, 3)
    rclone = common.rclone()
    with common.running_stack(args.keep) as servers, _second_server() as there:
        bench = _Bench(servers, there, args)
        bench.fill()
        for turn in range(args.repeat):
            bench.round(turn, rclone)
    _report(bench)


@dataclass(frozen=True, slots=True)
class _Second:
    """The server where copies lie."""

    endpoint: str
    secret: str
    client: Any
    pid: int


@contextmanager
def _second_server() -> Iterator[_Second]:
    with tempfile.TemporaryDirectory(prefix="sbh-bench-") as directory:
        layout = Layout(Path(directory))
        layout.create()
        daemon = object_server.launch(layout, process.choose_ports(object_server.PORTS, {}, taken=set()))
        try:
            client = object_server.client(layout, daemon.ports)
            secret = layout.secret(object_server.secret_file(layout))
            yield _Second(object_server.endpoint(daemon.ports), secret, client, daemon.pid)
        finally:
            object_server.stop(layout, daemon)


@dataclass
class _Bench:
    servers: Stack
    there: _Second
    args: argparse.Namespace
    runs: dict[str, list[Measured]] = field(default_factory=dict)
    stored: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """Tenants that change between two ticks."""
        return max(1, self.args.tenants // 100)

    def fill(self) -> None:
        """A full backup of each tenant, incremental ones, and one of the platform, where they are not there yet."""
        common.fill_fleet(self.servers, tenants=self.args.tenants, scale=self.args.tenants * _SCALE)
        client = self.servers.s3_client()
        if any(bucket["Name"] == _SOURCE for bucket in client.list_buckets()["Buckets"]):
            if common.stored(self.servers, [_SOURCE], load_settings(self.servers.settings).platform.prefix)[0]:
                return
            client.delete_bucket(Bucket=_SOURCE)  # its making was killed: what is made last is not there
        with closing(psycopg2.connect(self.servers.dsn())) as connection, connection, connection.cursor() as cursor:
            cursor.execute("UPDATE tenants SET region = %s", (_REGION,))
        client.create_bucket(Bucket=_SOURCE)
        client.put_bucket_versioning(Bucket=_SOURCE, VersioningConfiguration={"Status": "Enabled"})
        begun = monotonic()
        self._back_up("full", self.args.tenants)
        for _ in range(self.args.backups - 1):
            change(self.servers, _MORE)
            self._back_up("incremental", self.args.tenants)
        self._client("platform", "", servers={})
        objects, size = common.stored(self.servers, [_SOURCE])
        took = monotonic() - begun
        console.print(f"[dim]{objects:,} objects, {size / common.MIB:,.0f} MiB of backups made in {took:.0f} s")

    def _back_up(self, kind: str, expected: int) -> None:
        request = {"settings": str(self.servers.settings), "set": _settings(), "type": kind}
        made = common.run(common.python("_client.py", request), servers={}).answer()["made"]
        if made.get(kind, 0) != expected:
            raise SystemExit(f"{expected} {kind} backups were to be made, not {made}")

    def round(self, turn: int, rclone: str | None) -> None:
        """Each contender once, beginning with another one each time; then a tick without changes, and one with."""
        names = [_FIRST, _UNVERIFIED, *([_RCLONE] if rclone else [])]
        buckets = {name: f"{_COPY}-{number}-{turn}" for number, name in enumerate(names)}
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            self.there.client.create_bucket(Bucket=buckets[name])
            common.checkpoint(self.servers)
            if name == _RCLONE:
                found = self._rclone(rclone or "", buckets[name])
            else:
                found = self._copy(buckets[name], verify=name == _FIRST, copied=self.args.tenants)
            self._note(name, found)
            self.stored[name] = self._in_copy(buckets[name])
        self._note(_IDLE, self._copy(buckets[_FIRST], copied=0))
        step = self.args.tenants // self.changed
        change(self.servers, _TICK, slugs=[f"tenant-{1 + nth * step}" for nth in range(self.changed)])
        self._back_up("incremental", self.changed)
        self._note(_TICKED, self._copy(buckets[_FIRST], copied=self.changed))
        if turn == 0:
            self._client("verify", buckets[_FIRST], servers={})
        for bucket in buckets.values():
            self.there.client.delete_bucket(Bucket=bucket)  # this server takes the objects with it

    def _note(self, name: str, found: Measured) -> None:
        self.runs.setdefault(name, []).append(found)

    def _copy(self, bucket: str, *, copied: int, verify: bool = True) -> Measured:
        found = self._client("run", bucket, verify=verify)
        if found.answer()["copied"] != copied:
            raise SystemExit(f"{copied} tenants were to be copied, not {found.answer()['copied']}")
        answer = found.answer()  # of the call itself: a service has imported its modules long ago
        return replace(found, wall=answer["seconds"], cpu={**found.cpu, "client": answer["cpu_s"]})

    def _client(self, do: str, bucket: str, *, servers: Mapping[str, int] | None = None, **more: object) -> Measured:
        copy = {
            "name": _COPY,
            "to": object_server.REGIONS[1],
            "bucket": bucket or _COPY,
            "endpoint_url": self.there.endpoint,
            "access_key_id": object_server.ACCESS_KEY,
            "secret_access_key": self.there.secret,
        }
        request = {"settings": str(self.servers.settings), "set": _settings(), "copy": copy, "do": do, **more}
        return common.run(common.python("_copy_client.py", request), servers=self._pids if servers is None else servers)

    @property
    def _pids(self) -> dict[str, int]:
        return {**common.server_pids(self.servers), "copy's s3": self.there.pid}

    def _rclone(self, rclone: str, bucket: str) -> Measured:
        access = common.s3_access(self.servers)
        ends = {
            "HERE": (self.servers.s3_endpoint, access["AWS_SECRET_ACCESS_KEY"]),
            "THERE": (self.there.endpoint, self.there.secret),
        }
        env = {"RCLONE_CONFIG": os.devnull, "AWS_CA_BUNDLE": ""}  # some releases end where that is set
        for name, (endpoint, secret) in ends.items():
            remote = {
                "TYPE": "s3",
                "PROVIDER": "SeaweedFS",
                "ENDPOINT": endpoint,
                "ACCESS_KEY_ID": object_server.ACCESS_KEY,
                "SECRET_ACCESS_KEY": secret,
                "NO_CHECK_BUCKET": "true",
            }
            env |= {f"RCLONE_CONFIG_{name}_{key}": value for key, value in remote.items()}
        flags = ["--transfers", _AT_ONCE, "--checkers", _AT_ONCE, "--fast-list", "--use-server-modtime", "--quiet"]
        left_out = [part for name in _LEFT_OUT for part in ("--exclude", name)]
        argv = [rclone, "sync", f"here:{_SOURCE}", f"there:{bucket}", *map(str, flags), *left_out]
        return common.run(Command(argv, env), servers=self._pids)

    def _in_copy(self, bucket: str) -> tuple[int, int]:
        pages = self.there.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        sizes = [found["Size"] for page in pages for found in page.get("Contents", ())]
        return len(sizes), sum(sizes)


def _settings() -> dict[str, dict[str, Any]]:
    return {"storage": {"bucket": _SOURCE, "regions": [_REGION]}, "journal": {"enabled": False}}


def _report(bench: _Bench) -> None:
    figures: dict[str, Any] = {name: common.summary(found) for name, found in bench.runs.items()}
    for name, found in bench.runs.items():
        if name != _RCLONE:
            answer = found[-1].answer()
            figures[name] |= {
                key: answer[key] for key in ("objects", "bytes", "source_requests", "copy_requests", "start_up_seconds")
            }
    for name, (objects, size) in bench.stored.items():
        figures[name] |= {"stored_objects": objects, "stored_bytes": size}
    shown = figures.values()
    verbs = sorted(
        {(end, verb) for f in shown for end in ("source", "copy") for verb in f.get(f"{end}_requests", {})},
        reverse=True,
    )
    common.show(
        f"{bench.args.tenants} tenants, {bench.args.backups} backups each; median of {bench.args.repeat}",
        ["", *figures],
        [
            *common.contender_rows(figures),
            ["CPU copy's s3, s", *(f["cpu_s"].get("copy's s3") for f in shown)],
            ["objects in the copy", *(f.get("stored_objects") for f in shown)],
            ["MB in the copy", *(round(f["stored_bytes"] / 1e6, 1) if "stored_bytes" in f else None for f in shown)],
            *(
                [f"{verb} at the {end}, calls", *(f.get(f"{end}_requests", {}).get(verb) for f in shown)]
                for end, verb in verbs
            ),
        ],
    )
    first = figures[_FIRST]
    ratios = {
        "tick_vs_first": common.ratio(figures[_TICKED]["wall_s"], first["wall_s"]),
        "idle_vs_first": common.ratio(figures[_IDLE]["wall_s"], first["wall_s"]),
    }
    if _RCLONE in figures:
        peer = figures[_RCLONE]
        ratios = {
            "wall_vs_rclone": common.ratio(first["wall_s"], peer["wall_s"]),
            "unverified_wall_vs_rclone": common.ratio(figures[_UNVERIFIED]["wall_s"], peer["wall_s"]),
            "cpu_vs_rclone": common.ratio(first["cpu_total_s"], peer["cpu_total_s"]),
            "unverified_cpu_vs_rclone": common.ratio(figures[_UNVERIFIED]["cpu_total_s"], peer["cpu_total_s"]),
            **ratios,
        }
    common.finish("copies", figures, ratios)


if __name__ == "__main__":
    main()
