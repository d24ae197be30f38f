"""Random work, with transactions that stay open across backups and drains: every moment that was kept comes back to the byte."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2
import pytest

from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines_tests.backup.create.moment.recovered import recovered_application
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as running:
        yield running


class Worker:
    """A session that begins a transaction, goes on in it, and ends it some time later."""

    def __init__(self, dsn: str, chance: random.Random, number: int) -> None:
        self.connection = psycopg2.connect(dsn)
        self.cursor = self.connection.cursor()
        self.chance, self.number, self.open = chance, number, False
        self.cursor.execute("SET statement_timeout = '2s'; SET lock_timeout = '200ms'")
        self.connection.commit()

    def step(self) -> bool:
        """One statement, or the end of the transaction; whether something was committed."""
        if self.open and self.chance.random() < 0.5:
            commits = self.chance.random() < 0.8
            (self.connection.commit if commits else self.connection.rollback)()
            self.open = False
            return commits
        self.open = True
        try:
            self.cursor.execute("SAVEPOINT one")
            self.cursor.execute(self.statement())
            if self.chance.random() < 0.1:
                self.cursor.execute("ROLLBACK TO one")
        except psycopg2.Error:
            self.connection.rollback()
            self.open = False
        return False

    def statement(self) -> str:
        n, key = self.chance.randint(1, 9), self.chance.randint(1, 60)
        title = self.chance.choice(["NULL", "'a'", r"E'tab\t, back \\, line\n'", "repeat('long', 900)"])
        own = 1000 * self.number + self.chance.randint(1, 400)
        return self.chance.choice(
            [
                f"UPDATE projects SET title = {title} WHERE id = {n}",
                f"UPDATE projects SET body = {title} WHERE id = {n}",
                f"INSERT INTO items VALUES ({own}, {n}, {title}) ON CONFLICT (id) DO UPDATE SET title = excluded.title",
                f"DELETE FROM items WHERE id % 17 = {n}",
                f"UPDATE items SET id = {own} WHERE id = {key} AND NOT EXISTS (SELECT FROM items WHERE id = {own})",
                f"UPDATE comments SET title = {title} WHERE id % 20 = {n}",
                f"DELETE FROM comments WHERE id = {key}",
                f"INSERT INTO comments SELECT {own}, min(id), {title} FROM items ON CONFLICT DO NOTHING",
            ]
        )


@pytest.mark.parametrize("seed", range(examples(2)))
def test_random_work_comes_back_at_every_moment(server: OwnServer, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with recovered_application(server, tmp_path) as application, ExitStack() as stack:
        workers = [Worker(application.database.dsn, chance, n) for n in (1, 2, 3)]
        for worker in workers:
            stack.callback(worker.connection.close)
        for step in range(60):
            if chance.choice(workers).step() or step % 10 == 0:
                application.keep()
            if step % 15 == 7:
                application.back_up(chance.choice(["incremental", "full"]), 1, 3)
            if step % 11 == 5:
                application.drain()
        for worker in workers:
            worker.connection.commit()
        application.keep()
        application.drain()
        application.drain()
        for kept in chance.sample(application.kept, min(8, len(application.kept))):
            for tenant in (1, 3):
                manifest = application.recover(tenant, kept.at)
                assert application.stored(tenant, manifest) == kept.rows[tenant], (seed, kept.at, manifest.moment)


def test_a_transaction_that_was_open_at_the_base_and_committed_later_is_laid_over_it(
    server: OwnServer, tmp_path: Path
) -> None:
    with (
        recovered_application(server, tmp_path) as application,
        closing(psycopg2.connect(application.database.dsn)) as long,
    ):
        cursor = long.cursor()
        cursor.execute("UPDATE projects SET title = 'long' WHERE tenant_id = 1")
        application.drain()
        application.do("UPDATE items SET title = 'short'")
        base = application.back_up("full", 1)[0]
        before = application.keep()
        long.commit()
        after = application.keep()
        assert before.rows[1] != after.rows[1]
        for kept in (before, after):
            manifest = application.recover(1, kept.at)
            assert application.stored(1, manifest) == kept.rows[1]
            assert manifest.moment is not None
            assert manifest.moment.base == base
        place = manifest.moment.last_in
        assert place is not None
        assert application.stored(1, application.recover(1, Target(before=place.xid))) == before.rows[1]
