"""The contenders of `restore.py`, each on a new copy of the damaged database, and each checked afterwards."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _common as common
import _restore_data as data
from _common import Command, Measured, console
from _restore_data import Damage
from _restore_others import load

from sbh_pipelines.embedded.servers import object_server, postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import RestoreSettings

_BUCKET = "bench-sbh-{region}"
BUCKETS = [_BUCKET.replace("{region}", region) for region in object_server.REGIONS]
OTHER = "bench_runbook"  # where the runbook restores the dump
_WARM_S = 5.0
_UNPACED = {"pace": 0}
DAMAGES = {
    "0_1pct": Damage("0.1 %", 0.0005, 0.0005),
    "1pct": Damage("1 %", 0.005, 0.005),
    "10pct": Damage("10 %", 0.05, 0.05),
    "100pct": Damage("100 %", 0.5, 0.5),
    "all_deleted": Damage("all deleted", 0.0, 1.0),
}
LITTLE, WHOLE = "0_1pct", "100pct"
RUNBOOKS = {"runbook": (), "runbook_one_table": ("--table", data.TABLE)}  # options of pg_restore


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: what all its processes took, the WAL it wrote in bytes, wall seconds by part."""

    measured: Measured
    wal: int
    parts: Mapping[str, float]


class Contenders:
    """The contenders on one stack; `folder` is for the rows and the dump."""

    def __init__(self, servers: Stack, folder: Path) -> None:
        self._servers = servers
        self._rows, self._dump = folder / "rows.copy", folder / "fleet.dump"
        self.damaged: dict[str, int] = {}
        self.copied = 0

    def prepare(self) -> None:
        """What every contender has before anything is lost: the backup, the tenant's rows in a file, the dump."""
        data.renew(self._servers)
        self.copied = data.save(self._servers, self._rows)
        self._want, self._others = data.expected(self._servers), data.others(self._servers)
        request = {"settings": str(self._servers.settings), "set": self._settings(), "tenants": [data.SLUG]}
        made = common.run(common.python("_client.py", request), servers={}).answer()
        console.print(f"[dim]backup of {data.SLUG} made in {made['seconds']:.1f} s")
        self._backup = self._only_backup()
        dump: list[str | Path] = [postgres.binaries() / "pg_dump", "--format=custom", "--compress=1"]
        begun = time.monotonic()
        subprocess.run(
            [*dump, f"--file={self._dump}", f"--dbname={data.work_dsn(self._servers, postgres.BACKUP)}"], check=True
        )
        console.print(f"[dim]{self._dump.stat().st_size / 1e6:,.0f} MB dumped in {time.monotonic() - begun:.1f} s")

    def _settings(self, **restore: Any) -> dict[str, dict[str, Any]]:
        return {
            "storage": {"bucket": _BUCKET},
            "database": {"dsn": data.work_dsn(self._servers, postgres.BACKUP)},
            # The contenders rest as little: what ours takes for the sake of others is measured in `others`.
            "restore": {"safety_backup": False, **_UNPACED, **restore},
        }

    def round(self) -> dict[str, Run]:
        """Each contender once, in turn, each on the same damage."""
        found = {}
        for name in DAMAGES:
            found[f"sbh_{name}"] = self._on(name, self._ours, others=True)
            found[f"copy_{name}"] = self._on(name, self._delete_and_copy)
        found["sbh_safely"] = self._on(WHOLE, lambda: self._ours(safety_backup=True), others=True)
        for name, options in RUNBOOKS.items():
            found[name] = self._on(LITTLE, lambda o=options: self._runbook(o))  # type: ignore[misc]
        return found

    def _on(self, damage: str, contender: Callable[[], Run], *, others: bool = False) -> Run:
        """One measurement on a new copy; ends the benchmark when the tenant's rows are not as before, or the `others`."""
        data.renew(self._servers)
        self.damaged[damage] = data.apply(self._servers, DAMAGES[damage])
        made = contender()
        if data.expected(self._servers) != self._want or (others and data.others(self._servers) != self._others):
            raise SystemExit(f"{DAMAGES[damage].name}: the rows are not as they were before the damage")
        return made

    def _ours(self, **restore: Any) -> Run:
        request = {
            "settings": str(self._servers.settings),
            "set": self._settings(**restore),
            "tenant": data.SLUG,
            "backup": self._backup,
            "tables": [data.TABLE],
        }
        begun = data.wal(self._servers)
        found = common.run(common.python("_restore_client.py", request), servers=common.server_pids(self._servers))
        answer = found.answer()
        # The API's own time: a service has imported its modules long ago.
        return Run(replace(found, wall=answer["seconds"]), data.wal(self._servers) - begun, answer["steps"])

    def _only_backup(self) -> str:
        prefix = f"files/{data.SLUG}/backups/manifests/"
        keys = common.objects(self._servers, BUCKETS, prefix)
        return max(Path(key).stem for key in keys)

    def _delete_and_copy(self) -> Run:
        """As the application's owner, foreign keys checked: what a file with the rows is good for."""
        begun = data.wal(self._servers)
        made = common.run(
            self._psql(
                data.work_dsn(self._servers),
                f"DELETE FROM {data.TABLE} WHERE tenant_id = {data.TENANT}",
                f"\\copy {data.TABLE} FROM '{self._rows}'",
            ),
            servers=common.server_pids(self._servers),
        )
        return Run(made, data.wal(self._servers) - begun, {})

    def _runbook(self, options: Sequence[str]) -> Run:
        """The dump into another database, the tenant's rows out of it, and in place of the live ones."""
        data.drop(self._servers, OTHER)
        with data.work_session(self._servers, postgres.ADMIN, "postgres") as cursor:
            cursor.execute(f"CREATE DATABASE {OTHER} OWNER {postgres.OWNER}")
        aside = data.work_dsn(self._servers, postgres.ADMIN, OTHER)
        taken = self._rows.with_name("taken.copy")
        mine = f"SELECT * FROM {data.TABLE} WHERE tenant_id = {data.TENANT}"
        restore: list[str | Path] = [postgres.binaries() / "pg_restore", "--jobs=2", "--exit-on-error", *options]
        replaced = f"DELETE FROM {data.TABLE} WHERE tenant_id = {data.TENANT}", f"\\copy {data.TABLE} FROM '{taken}'"
        steps = {
            "restore the dump": Command([*restore, f"--dbname={aside}", self._dump]),
            "extract": self._psql(aside, f"\\copy ({mine}) TO '{taken}'"),
            "load": self._psql(data.work_dsn(self._servers), *replaced),
        }
        begun = data.wal(self._servers)
        runs = {name: common.run(step, servers=common.server_pids(self._servers)) for name, step in steps.items()}
        written = data.wal(self._servers) - begun
        data.drop(self._servers, OTHER)
        made = list(runs.values())
        cpu = {part: sum(run.cpu[part] for run in made) for part in made[0].cpu}
        together = Measured(sum(run.wall for run in made), cpu, max(run.peak for run in made))
        return Run(together, written, {name: run.wall for name, run in runs.items()})

    def _psql(self, dsn: str, *statements: str) -> Command:
        """The statements in one transaction."""
        options = ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"]
        return Command([postgres.binaries() / "psql", *options, dsn, *(f"--command={s}" for s in statements)])

    def others(self, idle_s: float) -> dict[str, dict[str, Any]]:
        """Latencies of the other tenants by state: idle, restoring as by default, and without rests; and how long those took."""
        found: dict[str, dict[str, Any]] = {}
        for name, settings in {"restoring": {"pace": RestoreSettings().pace}, "unpaced": _UNPACED}.items():
            data.renew(self._servers)
            data.apply(self._servers, DAMAGES[WHOLE])
            with load(self._servers) as running:
                time.sleep(_WARM_S)  # the copy's pages are touched for the first time
                begun = time.time()
                time.sleep(0 if "idle" in found else idle_s)
                idle = time.time()
                answer = self._ours(**settings).measured.answer()
            if data.expected(self._servers) != self._want:
                raise SystemExit(f"{name}: the rows are not as they were before the damage")
            if "idle" not in found:
                found["idle"] = {"seconds": idle_s, **running.between(begun, idle)}
            during = running.between(answer["began"], answer["began"] + answer["seconds"])
            found[name] = {"seconds": answer["seconds"], **during}
        return found
