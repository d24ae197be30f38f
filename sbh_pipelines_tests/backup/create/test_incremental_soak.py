"""Backups of a database that is never at rest: each holds exactly what the server showed under its snapshot.

One short round in `make test`. `make soak` goes on in rounds of a minute with other seeds (`TEST_SOAK_SEED` is the first), on
both versions of the server, with maintenance and TRUNCATE meanwhile.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifest import WITH_TABLES
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.create import drafts
from sbh_pipelines.backup.create import table_delta as delta
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.model import RecoveryPoint, Tenant, TenantId
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.effort import SECONDS, either
from sbh_pipelines_tests.support.incremental.soak import LIKES, SCHEMA, TENANTS, WITNESSED, Witness, Writers, state_of
from sbh_pipelines_tests.support.own_server import OwnServer, own_server
from sbh_pipelines_tests.support.site import site_of

FIRST_SEED = int(os.environ.get("TEST_SOAK_SEED", "1"))
VERSIONS = either([18], [18, 15])
ROUND_S = either(4.0, 60.0)
PATIENCE_S = 240.0
NUMBERS = {slug: number for number, slug in TENANTS.items()}
# A table was truncated or rewritten under the backup; it was locked; another backup of the tenant is running.
_MAY_FAIL = {"SBH-304", "SBH-303", "SBH-603"}


@pytest.fixture(scope="module", params=VERSIONS, ids=[f"PostgreSQL {v}" for v in VERSIONS])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """A server that allows prepared transactions, and whose autovacuum freezes what it finds."""
    with own_server(
        request.param,
        autovacuum="on",
        autovacuum_naptime="1s",
        autovacuum_vacuum_threshold="5",
        autovacuum_vacuum_scale_factor="0",
        autovacuum_vacuum_insert_threshold="5",
        autovacuum_vacuum_insert_scale_factor="0",
        vacuum_freeze_min_age="0",
        max_connections="60",
    ) as made:
        yield made


@dataclass
class Soak:
    """One round: a database, its writers, and the backups made of it."""

    application: Application
    witness: Witness
    seed: int

    def __post_init__(self) -> None:
        keep = {f"{kind}_backups": {"keep_last": 10_000} for kind in ("full", "incremental", "differential")}
        self.settings = self.application.configured(database={"links": [LIKES]}, retention=keep)
        self.made: dict[tuple[str, str], RecoveryPoint] = {}
        self.unchanged: list[Draft] = []
        self.counts: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.lock = threading.Lock()

    def back_up(self, slugs: list[str], kind: str) -> None:
        for draft in BackupService(self.settings).backups.create_all(slugs, ADMIN, kind):
            with self.lock:
                self._keep(draft)

    def _keep(self, draft: Draft) -> None:
        if draft.error is not None:
            code = draft.error.code
            assert code in _MAY_FAIL, draft.error
            self.counts[f"failed {code}"] += 1
            return
        assert draft.recovery_point is not None
        if draft.status is DraftStatus.UNCHANGED:
            self.counts["unchanged"] += 1
            self.unchanged.append(draft)
            return
        self.made[draft.tenant.id, draft.backup_id] = draft.recovery_point
        self.counts[draft.type] += 1
        for reason in draft.reread.values():
            self.counts[f"read again: {reason}"] += 1

    def loop(
        self, until: float, chance: random.Random, pause_s: float, enough: Callable[[], bool] = lambda: True
    ) -> None:
        """Until a time, and until there is `enough`: a machine that has other work as well does less in the same time."""
        last = until + PATIENCE_S
        while (time.monotonic() < until or not (enough() or time.monotonic() > last)) and not self.errors:
            kind = chance.choice(["incremental"] * 6 + ["differential"] * 2 + ["full"])
            slugs = chance.sample(sorted(NUMBERS), chance.choice([1, 2, 3, 3]))
            self.back_up(slugs, kind)
            time.sleep(chance.random() * pause_s)

    def elsewhere(self, until: float, chance: random.Random, pause_s: float) -> None:
        """`loop` in a thread."""
        try:
            self.loop(until, chance, pause_s)
        except BaseException as error:
            self.errors.append(error)

    def check(self) -> None:
        """Every backup, and every verdict that there was nothing to back up, against what the witness saw."""
        service = BackupService(self.settings)
        layers = 0
        for slug in NUMBERS:
            repository = site_of(service).repository(
                Tenant(TenantId(slug), str(NUMBERS[slug]), "eu-west-1", "critical")
            )
            with closing(repository):
                repository.load_index()
                for (tenant, backup_id), point in self.made.items():
                    if tenant == slug:
                        layers += self._same(repository, backup_id, self.witness.at(point, NUMBERS[slug]))
        self.counts["layers"] = layers
        for draft in self.unchanged:
            assert draft.recovery_point is not None
            assert draft.unchanged_since is not None
            number, since = NUMBERS[draft.tenant.id], self.made[draft.tenant.id, draft.unchanged_since]
            assert self.witness.at(draft.recovery_point, number) == self.witness.at(since, number), draft.recovery_point

    def _same(self, repository: Any, backup_id: Any, truth: dict[str, bytes]) -> int:
        manifest = read_manifest(repository, backup_id)
        summaries = [summary for name in WITH_TABLES for summary in read_component(repository, manifest, name).tables]
        assert {summary.table for summary in summaries} == {f"public.{name}" for name in WITNESSED}
        for summary in summaries:
            name = summary.table.removeprefix("public.")
            lines = sorted(b"".join(table_rows(repository, read_table(repository, summary))).splitlines(keepends=True))
            expected = truth[name].splitlines(keepends=True)
            lost, alien = set(expected) - set(lines), set(lines) - set(expected)
            assert lines == expected, (
                f"{backup_id} {name}: lost {sorted(lost)[:5]}, too many {sorted(alien)[:5]}; {summary}"
            )
        return sum(summary.layers > 0 for summary in summaries)

    def validate(self, few: int) -> None:
        service = BackupService(self.settings)
        for tenant, backup_id in random.Random(self.seed).sample(sorted(self.made), min(few, len(self.made))):
            assert service.validate_backup(backup_id, tenant, ADMIN, deep=True)["issues"] == []

    def restore(self, few: int) -> None:
        """Backups of all tenants at one recovery point, in place of whatever is there."""
        together: dict[str, dict[str, str]] = {}
        for (tenant, backup_id), point in self.made.items():
            together.setdefault(point.time, {})[tenant] = backup_id
        times = [at for at, found in together.items() if len(found) == len(TENANTS)]
        for at in random.Random(self.seed).sample(times, min(few, len(times))):
            self.application.database.run("TRUNCATE docs, tokens, grid, shards, labels, likes, events, logs CASCADE")
            for tenant, backup_id in together[at].items():
                BackupService(self.settings).restore_backup(backup_id, tenant, ADMIN)
                with closing(self.application.database.connect()) as connection:
                    point = self.made[tenant, backup_id]
                    assert state_of(connection, NUMBERS[tenant]) == self.witness.at(point, NUMBERS[tenant])
            self.counts["restored"] += len(together[at])


def _round(server: OwnServer, directory: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    chance = random.Random(seed)
    database = server.create_database(f"soak_{server.version}_{seed}")
    try:
        database.run(SCHEMA)
        soak = Soak(Application(database, directory), Witness(database), seed)
        with monkeypatch.context() as patch:
            patch.setattr(drafts, "exported_snapshot", soak.witness.beside(drafts.exported_snapshot))
            patch.setattr(delta, "MAX_LAYERS", chance.choice([2, 4, 8]))
            soak.back_up(sorted(NUMBERS), "full")
            busy = chance.choice([0.01, 0.03, 0.1])
            writers = Writers(database, seed, pause_s=busy, disturbing=bool(SECONDS) and chance.random() < 0.8)
            writers.start(4)
            until = time.monotonic() + ROUND_S
            # As another process would: it meets the leases and the catalog's records of the first.
            other = threading.Thread(target=soak.elsewhere, args=(until, random.Random(seed + 0.5), 1.0))
            other.start()
            try:
                soak.loop(until, chance, 0.2, lambda: writers.committed > 20 and soak.counts["incremental"] > 3)
            finally:
                other.join()
                writers.stop()
            if soak.errors:
                raise soak.errors[0]
            soak.back_up(sorted(NUMBERS), "incremental")
            soak.back_up(sorted(NUMBERS), "incremental")
        assert writers.committed > 20
        assert writers.prepared or not SECONDS
        soak.check()
        soak.validate(40 if SECONDS else 5)
        soak.restore(3 if SECONDS else 1)
        soak.counts["transactions"] = writers.committed
        soak.counts["refused"] = writers.refused
        return soak.counts
    finally:
        server.drop_database(database.name)


@pytest.mark.soak
def test_every_backup_is_what_its_snapshot_showed(
    server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row for row, whatever other sessions were in the middle of."""
    deadline, seed, total = time.monotonic() + SECONDS, FIRST_SEED, Counter[str]()
    while True:
        directory = tmp_path / str(seed)
        directory.mkdir()
        try:
            total += _round(server, directory, seed, monkeypatch)
        except BaseException as error:
            error.add_note(f"TEST_SOAK_SEED={seed}")
            raise
        seed += 1
        if time.monotonic() >= deadline:
            break
    print(f"\nPostgreSQL {server.version}, seeds {FIRST_SEED} to {seed - 1}: {dict(total)}")
    assert total["layers"]
    assert total["incremental"]
