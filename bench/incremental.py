"""What a backup costs after few changes: 1 % of the rows updated, 0.1 % deleted, 1 % inserted, scattered over all pages.

Each round: a full backup of all tenants and restic's first of `pg_dump`, into empty buckets; the changes; restic's second,
our incremental, one more incremental that finds nothing changed, and a full backup of the changed data, which the two
are compared with. Both incrementals also with the change journal, in repositories of their own: what they drain is part of
them. `--tenants N --changed M` measures instead what a tick costs per tenant of a large fleet.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common as common
import _journal_load as load
import _many_tenants
from _changes import Changes, change, compressed
from _common import Command, Measured, console

from sbh_pipelines.embedded.servers import object_server, postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import load_settings

_RESTIC = "bench-restic"
_OURS = "bench-sbh-{region}"
_JOURNALED = "bench-sbhj-{region}"
_NAMES = [name.replace("{region}", region) for region in object_server.REGIONS for name in (_OURS, _JOURNALED)]
_SMALL = 0.03
_TITLES = {
    "restic_first": "restic",
    "restic_again": "restic again",
    "full_first": "full",
    "full": "full again",
    "incremental": "incremental",
    "unchanged": "unchanged",
    "journal_first": "full, journal",
    "journal": "incremental, journal",
    "journal_unchanged": "unchanged, journal",
}


def main() -> None:
    args = common.arguments(__doc__, repeat=3, tenants=0, changed=100)
    if args.tenants:
        _many_tenants.measure(args)
        return
    restic = shutil.which("restic")
    if restic is None:
        console.print("[yellow]restic is not installed (Debian: apt install restic): its figures are left out.")
    runs: dict[str, list[Measured]] = {name: [] for name in _TITLES if restic or "restic" not in name}
    stored: dict[str, list[int]] = {name: [] for name in runs}
    done: list[tuple[Changes, int]] = []
    with common.running_stack(args.keep) as servers:
        common.fill_fleet(servers, tenants=50 if args.small else 200, scale=_SMALL if args.small else 1.0)
        level = load_settings(servers.settings).backup.compression_level
        for _ in range(args.repeat):
            with (
                common.buckets(servers, [_RESTIC]),
                common.buckets(servers, _NAMES, versioned=True),
                tempfile.TemporaryDirectory(prefix="sbh-bench-") as cache,
            ):
                contenders = _Contenders(servers, restic, Path(cache), runs, stored)
                contenders.before()
                made = change(servers)
                done.append((made, compressed(servers, made, level)))
                contenders.after()
        dumped = int(common.run(_pg_dump(servers), Command(["wc", "-c"]), servers={}).output)
    _report(runs, stored, done, dumped)


def _pg_dump(servers: Stack) -> Command:
    return Command([postgres.binaries() / "pg_dump", f"--dbname={servers.dsn(postgres.BACKUP)}"])


class _Contenders:
    """One round, before and after the changes; adds to `runs` and to `stored` what each run wrote, in bytes."""

    def __init__(
        self,
        servers: Stack,
        restic: str | None,
        cache: Path,
        runs: Mapping[str, list[Measured]],
        stored: Mapping[str, list[int]],
    ) -> None:
        self._servers, self._program, self._runs, self._stored = servers, restic, runs, stored
        self._env = {
            **common.s3_access(servers),
            "RESTIC_REPOSITORY": f"s3:{servers.s3_endpoint}/{_RESTIC}",
            "RESTIC_PASSWORD": secrets.token_urlsafe(),
            "RESTIC_CACHE_DIR": str(cache),
        }

    def before(self) -> None:
        if self._program:
            subprocess.run([self._program, "init", "--quiet"], env={**os.environ, **self._env}, check=True)
            self._restic("restic_first")
        self._ours("full_first", "full")
        load.without_journal(self._servers)  # an earlier round's: it is of buckets that are gone
        request = {"settings": str(self._servers.settings), "set": _settings(journal=True), "do": "setup"}
        common.run(common.python("_journal_client.py", request), servers={})
        self._ours("journal_first", "full")  # after it: what the journal tells begins before the backup

    def after(self) -> None:
        if self._program:
            self._restic("restic_again")
        self._ours("incremental", "incremental")
        self._ours("unchanged", "incremental")
        self._ours("journal", "incremental")
        self._ours("journal_unchanged", "incremental")
        self._ours("full", "full")

    def _restic(self, name: str) -> None:
        argv = [self._program or "", "backup", "--quiet", "--stdin", "--stdin-filename", "fleet.sql"]
        dump, backup = _pg_dump(self._servers), Command(argv, self._env)
        before = common.objects(self._servers, [_RESTIC])
        self._runs[name].append(common.run(dump, backup, servers=common.server_pids(self._servers)))
        self._stored[name].append(_written(before, common.objects(self._servers, [_RESTIC])))

    def _ours(self, name: str, kind: str) -> None:
        changed = _settings(journal="journal" in name)
        request = {"settings": str(self._servers.settings), "set": changed, "type": kind}
        before = common.objects(self._servers, _NAMES)
        found = common.run(common.python("_client.py", request), servers=common.server_pids(self._servers))
        answer = found.answer()
        # The API's own time: a service has imported its modules long ago.
        self._runs[name].append(replace(found, wall=answer["seconds"]))
        self._stored[name].append(_written(before, common.objects(self._servers, _NAMES)))
        expected = "unchanged" if "unchanged" in name else kind
        if answer["made"] != {expected: answer["tenants"]} or ("journal" in name and answer["reread"]):
            raise SystemExit(f"{name}: not {expected} backups throughout: {answer['made']}, {answer['reread']}")


def _settings(*, journal: bool) -> dict[str, dict[str, Any]]:
    return {"storage": {"bucket": _JOURNALED if journal else _OURS}, "journal": {"enabled": journal}}


def _written(before: Mapping[str, tuple[str, int]], after: Mapping[str, tuple[str, int]]) -> int:
    return sum(size for key, (etag, size) in after.items() if before.get(key) != (etag, size))


def _report(
    runs: Mapping[str, Sequence[Measured]],
    stored: Mapping[str, Sequence[int]],
    done: Sequence[tuple[Changes, int]],
    dumped: int,
) -> None:
    figures: dict[str, Any] = {name: common.summary(found) for name, found in runs.items()}
    for name, found in figures.items():
        found["stored_bytes"] = common.median(stored[name])
        if "restic" in name:
            found["database_bytes"] = dumped  # what pg_dump printed, some bytes a row less than it received
            continue
        answer = runs[name][-1].answer()
        found |= {
            key: answer[key]
            for key in ("tenants", "rows", "rows_changed", "database_bytes", "requests", "steps", "made", "reread")
        }
    changes, _ = done[-1]
    ideal = common.median([size for _, size in done])
    figures["changes"] = {
        "updated": changes.updated,
        "deleted": changes.deleted,
        "inserted": changes.inserted,
        "compressed_bytes": ideal,
    }
    _show(
        f"{figures['full']['rows']:,} rows, {figures['full']['tenants']} tenants; {changes.updated:,} updated,"
        f" {changes.deleted:,} deleted, {changes.inserted:,} inserted; median of {len(done)}",
        {name: figures[name] for name in runs if "journal" not in name},
    )
    _show("The same with the change journal", {name: figures[name] for name in runs if "journal" in name})
    console.print(f"The rows that were written, compressed: {ideal / 1e6:.2f} MB")
    ratios = {
        "incremental_vs_full": common.ratio(figures["incremental"]["wall_s"], figures["full"]["wall_s"]),
        "stored_vs_changed": common.ratio(figures["incremental"]["stored_bytes"], ideal),
        "unchanged_vs_full": common.ratio(figures["unchanged"]["wall_s"], figures["full"]["wall_s"]),
        "incremental_cpu_vs_full": common.ratio(figures["incremental"]["cpu_total_s"], figures["full"]["cpu_total_s"]),
        "unchanged_cpu_vs_full": common.ratio(figures["unchanged"]["cpu_total_s"], figures["full"]["cpu_total_s"]),
    }
    for name, ratio in {"journal": "incremental_journal", "journal_unchanged": "unchanged_journal"}.items():
        ratios[f"{ratio}_vs_full"] = common.ratio(figures[name]["wall_s"], figures["full"]["wall_s"])
        ratios[f"{ratio}_cpu_vs_full"] = common.ratio(figures[name]["cpu_total_s"], figures["full"]["cpu_total_s"])
    if "restic_again" in figures:
        ratios["restic_again_vs_first"] = common.ratio(
            figures["restic_again"]["wall_s"], figures["restic_first"]["wall_s"]
        )
        ratios["incremental_vs_restic_again"] = common.ratio(
            figures["incremental"]["wall_s"], figures["restic_again"]["wall_s"]
        )
    common.finish("incremental", figures, ratios)


def _show(title: str, shown: Mapping[str, Mapping[str, Any]]) -> None:
    verbs = sorted({verb for found in shown.values() for verb in found.get("requests", ())})
    common.show(
        title,
        ["", *(_TITLES[name] for name in shown)],
        [
            *common.contender_rows(shown),
            ["read from the database, MB", *(round(f["database_bytes"] / 1e6, 1) for f in shown.values())],
            ["stored, MB", *(round(f["stored_bytes"] / 1e6, 2) for f in shown.values())],
            *(
                [f"{verb}, calls", *(f["requests"].get(verb, 0) if "requests" in f else None for f in shown.values())]
                for verb in verbs
            ),
        ],
    )
    ours = {name: found for name, found in shown.items() if "steps" in found}
    common.show(
        "Wall seconds by step, the last round",
        ["", *(_TITLES[name] for name in ours)],
        [[step, *(found["steps"][step] for found in ours.values())] for step in next(iter(ours.values()))["steps"]],
    )


if __name__ == "__main__":
    main()
