"""An application's load on the fleet, by `pgbench`: single rows updated, inserted and deleted, each in a transaction of its own."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _common as common
import psycopg2
from _common import Command, Measured

from sbh_pipelines.embedded.servers import postgres, process
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack

_CLIENTS = 4
_SAMPLE_S = 0.2
_SEQUENCE = "bench_ids"
_SCRIPTS = {  # and how often, of ten
    "UPDATE events SET user_id = user_id + 1, props = props || '{{\"ms\": 1}}' WHERE id = :id;": 5,
    "INSERT INTO messages (id, tenant_id, sender_id, channel_id, sent_at, body)"
    " SELECT nextval('{sequence}'), tenant_id, sender_id, channel_id, sent_at, body FROM messages WHERE id = :id;": 4,
    "DELETE FROM orders WHERE id = :id;": 1,
}
_TABLES = ("events", "messages", "orders")


@dataclass
class Held:
    """Most of the log that a slot held, bytes; and how many times that was looked at."""

    most: int = 0
    samples: int = 0


def without_journal(servers: Stack) -> None:
    """No slot and no publication, as if there had never been a journal."""
    with closing(psycopg2.connect(servers.dsn(postgres.ADMIN))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
        cursor.execute("SELECT format('DROP PUBLICATION %I', pubname) FROM pg_publication")
        for (statement,) in cursor.fetchall():
            cursor.execute(statement)


def run_load(servers: Stack, transactions: int, seed: int) -> Measured:
    """That many transactions of all clients together, as fast as they go; on tables vacuumed and written out before."""
    with closing(psycopg2.connect(servers.dsn())) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"VACUUM (ANALYZE) {', '.join(_TABLES)}")
        cursor.execute(f"CREATE SEQUENCE IF NOT EXISTS {_SEQUENCE} START 1000000000 CACHE 100")
        cursor.execute("SELECT max(id) FROM orders")  # all three tables have ids up to there
        (rows,) = cursor.fetchone()
    common.checkpoint(servers)
    argv: list[str | Path] = [postgres.binaries() / "pgbench", "--no-vacuum", "--protocol=prepared"]
    argv += [f"--client={_CLIENTS}", f"--transactions={transactions // _CLIENTS}", f"--random-seed={seed}"]
    with tempfile.TemporaryDirectory(prefix="sbh-bench-") as folder:
        for nth, (statement, weight) in enumerate(_SCRIPTS.items()):
            script = Path(folder, str(nth))
            script.write_text(f"\\set id random(1, {rows})\n{statement.format(sequence=_SEQUENCE)}\n", "ascii")
            argv.append(f"--file={script}@{weight}")
        return common.run(Command([*argv, servers.dsn()]), servers=common.server_pids(servers))


@contextmanager
def drains_beside(request: dict[str, Any], found: dict[str, Any]) -> Iterator[None]:
    """A process that drains all the time, as `sbh journal run` does; what it says of itself at the end goes into `found`."""
    command = common.python("_journal_client.py", request)
    with tempfile.TemporaryFile() as errors:
        running = subprocess.Popen(
            [str(part) for part in command.argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            yield
            said, _ = running.communicate()  # the end of its input ends it
            if running.returncode:
                errors.seek(0)
                raise SystemExit(f"drains: {errors.read().decode('utf-8', 'replace')[-2000:]}")
            found |= Measured(0.0, {}, 0, said.decode("utf-8")).answer()
        finally:
            running.kill()
            running.wait()


@contextmanager
def watch_slot(servers: Stack) -> Iterator[Held]:
    """What the slots hold of the log, as they themselves say it, looked at all the time."""
    held, stop = Held(), threading.Event()

    def look() -> None:
        with closing(psycopg2.connect(servers.dsn(postgres.ADMIN))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while not stop.wait(_SAMPLE_S):
                cursor.execute("SELECT max(pg_current_wal_lsn() - restart_lsn) FROM pg_replication_slots")
                held.most = max(held.most, int(cursor.fetchone()[0] or 0))
                held.samples += 1

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        yield held
    finally:
        stop.set()
        watching.join()


@contextmanager
def wal_level(servers: Stack, level: str) -> Iterator[None]:
    """The server started again with another `wal_level`, and as it was afterwards. There may be no slot."""
    _restart(servers, f"ALTER SYSTEM SET wal_level = {level}")
    try:
        yield
    finally:
        _restart(servers, "ALTER SYSTEM RESET wal_level")


def _restart(servers: Stack, statement: str) -> None:
    with closing(psycopg2.connect(servers.dsn(postgres.ADMIN))) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)
    layout = Layout(servers.dir)
    daemon = process.find(layout, postgres.NAME)
    if daemon is None:
        sys.exit("PostgreSQL is not running")
    postgres.stop(layout, daemon)
    postgres.launch(layout, servers.ports)


def without_start(measured: Measured, seconds: float) -> Measured:
    """The call's own time: a service has imported its modules long ago."""
    return replace(measured, wall=seconds)
