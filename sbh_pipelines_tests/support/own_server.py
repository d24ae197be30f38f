"""PostgreSQL servers of a test's own: of the embedded version or of Debian's 15, stopped, killed and tampered with at will.

The shared embedded server is for tests that need only a database. One that needs prepared transactions, another
transaction counter, a crash or another version starts its own here.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psycopg2
import pytest

from sbh_pipelines.embedded.servers import postgres, process
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.databases import Database, end_sessions

VERSIONS = {18: postgres.binaries(), 15: Path("/usr/lib/postgresql/15/bin")}
_FAST = {
    "fsync": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_prepared_transactions": "20",
    "shared_buffers": "64MB",
    "autovacuum": "off",
    "max_wal_size": "2GB",
}


@dataclass
class OwnServer:
    """One cluster in `directory`. `dsn` and `database` are used as those of the shared stack are."""

    version: int
    directory: Path
    options: Mapping[str, str] = field(default_factory=dict)
    port: int = 0

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def create(self) -> None:
        self.tool("initdb", "-U", postgres.ADMIN, "-A", "trust", "--encoding=UTF8", "--locale=C", "--no-sync")

    def start(self) -> None:
        taken: set[int] = set()
        while True:
            self.port = process.choose_ports(["postgres"], {}, taken=taken)["postgres"]
            options = {**_FAST, **self.options, "port": str(self.port)}
            flags = " ".join(f"-c {name}={value or chr(39) * 2}" for name, value in options.items())
            try:
                self.tool("pg_ctl", "-w", "-t", "300", "-l", str(self.directory / "log"), "-o", flags, "start")
            except RuntimeError as error:  # another test's server may have taken it meanwhile
                if "Address already in use" not in str(error) or len(taken) > 4:
                    raise
            else:
                return

    def stop(self, how: str = "fast") -> None:
        """`immediate` is a crash: shared memory is lost, and the next start recovers."""
        self.tool("pg_ctl", "-w", "-m", how, "stop")

    def tool(self, name: str, *arguments: str) -> str:
        """Run a program of this version on the cluster, as its user; its output. Raises RuntimeError."""
        command = [str(VERSIONS[self.version] / name), *arguments]
        environment = {**os.environ, "PGDATA": str(self.data)}
        with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as the server
            ended = subprocess.run(
                command,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                **server_user(),
            )
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
        if ended.returncode:
            log = self.directory / "log"
            raise RuntimeError(f"{name}: {text} {log.read_text()[-2000:] if log.exists() else ''}")
        return text

    def dsn(self, role: str = postgres.ADMIN) -> str:
        return f"host=127.0.0.1 port={self.port} dbname=postgres user={role}"

    def prepare(self) -> None:
        """The role that backups log in as."""
        with closing(psycopg2.connect(self.dsn())) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(f"CREATE ROLE {postgres.BACKUP} LOGIN BYPASSRLS")
            cursor.execute(f"GRANT pg_read_all_data, pg_write_all_data TO {postgres.BACKUP}")
            cursor.execute(f"GRANT SET ON PARAMETER session_replication_role TO {postgres.BACKUP}")

    def database(self, name: str) -> Database:
        return Database(cast(Stack, self), name)

    def create_database(self, name: str, template: str = "template1") -> Database:
        with closing(psycopg2.connect(self.dsn())) as connection:
            connection.autocommit = True
            strategy = " STRATEGY wal_log" if self.version >= 15 else ""
            end_sessions(connection, template)
            connection.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {template}{strategy}")
        return self.database(name)

    def drop_database(self, name: str) -> None:
        with closing(psycopg2.connect(self.dsn())) as connection:
            connection.autocommit = True
            connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def own_server(version: int = 18, **options: str) -> Iterator[OwnServer]:
    """A running server, removed at the end. Skips the test where this version cannot be run."""
    if not (VERSIONS[version] / "initdb").exists():
        pytest.skip(f"PostgreSQL {version} is not installed in {VERSIONS[version]}")
    directory = Path(tempfile.mkdtemp(prefix=f"sbh-pg{version}-"))
    try:
        if user := server_user():
            os.chown(directory, user["user"], user["group"])
        server = OwnServer(version, directory, options)
        try:
            server.create()
        except PermissionError:
            pytest.skip(f"the server's user may not enter {VERSIONS[version]}")
        server.start()
        try:
            server.prepare()
            yield server
        finally:
            with suppress(RuntimeError):  # a test may have stopped it
                server.stop("immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def wait_for(condition: Any, what: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


def server_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: the arguments with which `subprocess` becomes somebody else."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return process.identity((entry.pw_uid, entry.pw_gid))
    return process.identity((65534, 65534))
