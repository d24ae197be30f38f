"""The embedded servers as one thing: up, down, status, or running for the length of a block; and the loss of the store.

Everything lies under one directory, so several stacks live side by side, and removing the directory of one that is
down removes all of it. `up` starts only what is not running; a lock keeps two of them apart. The settings file
DIR/sbh.toml is written once; later only the ports in it are brought up to date.
"""

import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.embedded.servers import copy_server, object_server, postgres, process, settings_file
from sbh_pipelines.embedded.servers import kms as kms_server
from sbh_pipelines.embedded.servers.layout import Layout, Ports
from sbh_pipelines.embedded.servers.process import Daemon, PortTaken
from sbh_pipelines.errors import EmbeddedError

Progress = Callable[[str], None]

_ATTEMPTS = 3
_LOCK_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Stack:
    """Where a running stack is reached. No field holds a secret: `dsn` names a password file."""

    dir: Path
    settings: Path
    s3_endpoint: str
    kms_endpoint: str
    ports: Ports

    def dsn(self, role: str = postgres.OWNER) -> str:
        """libpq connection string of `app`, `sbh_backup`, `sbh_journal` or `sbh_admin`, for psycopg2 and for psql, pg_dump."""
        return postgres.dsn(Layout(self.dir), self.ports, role)

    def s3_client(self) -> Any:
        return object_server.client(Layout(self.dir), self.ports)

    def kms_client(self, region: str = object_server.REGIONS[0]) -> Any:
        return kms_server.client(self.ports, region)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server of a stack.

    Attributes:
        name: postgres, objects, kms, or copy, where the stack has one.
        running: Whether its process lives.
        pid: Its process; None where it does not run.
        address: Host and port; None where it does not run.
    """

    name: str
    running: bool
    pid: int | None
    address: str | None


@dataclass(frozen=True, slots=True)
class StackStatus:
    """What of a stack runs.

    Attributes:
        dir: Where it keeps everything.
        running: Whether the database and the object store both run; the KMS and the copy's server are optional.
        servers: Each of its servers.
        data_bytes: Disk that the database and the objects take.
    """

    dir: Path
    running: bool
    servers: tuple[ServerStatus, ...]
    data_bytes: int


@dataclass(frozen=True, slots=True)
class Environment:
    """What a shell needs to work on a stack. No variable holds a secret: they name the files that do.

    Attributes:
        variables: Of `sbh`, of libpq (as the owner of the tables), and of what speaks to S3 as `aws` does.
        programs: The folder with `psql` and `pg_dump`.
    """

    variables: Mapping[str, str]
    programs: Path


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    ports: tuple[str, ...]  # the first is the one users connect to
    find: Callable[[Layout], Daemon | None]
    launch: Callable[[Layout, Ports], Daemon]
    prepare: Callable[[Layout, Ports], None]  # idempotent
    stop: Callable[[Layout, Daemon], None]


def up(
    directory: Path | str,
    *,
    kms: bool = True,
    sample: bool = True,
    copy: bool = False,
    fsync: bool = True,
    progress: Progress | None = None,
) -> Stack:
    """Start what is not running and return where it is. With `fsync=False` a power cut may ruin the database.

    With `sample` new settings map the tables of the sample data; `map_sample` does it later.
    With `copy` there is a second S3 server, and the settings have a copy `dr` on it; a stack that has one keeps it. Raises
    EmbeddedError when a server does not start; what this call had started is stopped again.
    """
    layout = Layout(Path(directory).expanduser().resolve())
    _create(layout)
    with _locked(layout):
        layout.ensure_backup_key()
        layout.ensure_signing_key()
        saved = layout.load_ports()
        copy = copy or _has_copy(layout)
        wanted = {postgres.NAME: True, object_server.NAME: True, kms_server.NAME: kms, copy_server.NAME: copy}
        servers = [server for server in _servers(fsync) if wanted[server.name]]
        taken: set[int] = set()
        with ThreadPoolExecutor(len(servers)) as pool:
            jobs = [pool.submit(_bring_up, server, layout, saved, taken, progress) for server in servers]
        failures = [job.exception() for job in jobs if job.exception()]
        if failures:
            for server, job in zip(servers, jobs, strict=True):
                daemon = server.find(layout)
                if daemon and (job.exception() or job.result()[1]):
                    server.stop(layout, daemon)
            raise failures[0] or AssertionError
        ports = dict(saved)
        for job in jobs:
            ports |= job.result()[0]
        ports |= process.choose_ports([name for name in kms_server.PORTS if name not in ports], {}, taken=taken)
        settings_file.write(layout, saved, ports, sample=sample, copy=copy)
        layout.save_ports(ports)
    return _stack(layout, ports)


def map_sample(directory: Path | str) -> None:
    """Settings that map the tables of the sample data, where they map none."""
    layout = Layout(Path(directory).expanduser().resolve())
    with _locked(layout):
        settings_file.map_sample(layout)


def down(directory: Path | str, *, progress: Progress | None = None) -> None:
    """Stop every server of the stack that runs; its data stay. Does nothing where none runs."""
    layout = Layout(Path(directory).expanduser().resolve())
    if not layout.run.is_dir():
        return
    with _locked(layout):
        found = [(server, server.find(layout)) for server in _servers()]
        running = [partial(server.stop, layout, daemon) for server, daemon in found if daemon]
        side_by_side(lambda stop: stop(), running, name="stop", threads=len(found))
    if progress:
        progress(f"stopped {len(running)} servers")


def lose_store(directory: Path | str) -> int:
    """What the loss of a region takes: the S3 server is killed, and its directory and the key file are deleted.

    The database and the copy's server stay. `up` brings an empty store back, with another key. Returns the bytes on disk that
    are gone. Raises EmbeddedError where the server does not run.
    """
    layout = Layout(Path(directory).expanduser().resolve())
    with _locked(layout):
        daemon = process.find(layout, object_server.NAME)
        if daemon is None:
            raise EmbeddedError(
                "There is no S3 server to lose", on=str(layout.root), remedy=f"sbh stack up --dir {layout.root}"
            )
        object_server.stop(layout, daemon, signal.SIGKILL)
        size = _disk_usage(layout.objects)
        shutil.rmtree(layout.objects)
        layout.backup_key.unlink()
    return size


def begin_next_copy(directory: Path | str) -> None:
    """After the loss of the store: settings by which `dr` is read only, and `dr-2` is the copy of what is backed up from now on."""
    layout = Layout(Path(directory).expanduser().resolve())
    with _locked(layout):
        settings_file.begin_next_copy(layout, layout.load_ports())


def drop_copies(directory: Path | str) -> bool:
    """Stop the copies' server, delete all that it has, and take the copies out of the settings. Returns whether there was one."""
    layout = Layout(Path(directory).expanduser().resolve())
    if not _has_copy(layout):
        return False
    with _locked(layout):
        if (daemon := copy_server.find(layout)) is not None:
            copy_server.stop(layout, daemon)
        shutil.rmtree(copy_server.layout_of(layout).root)
        settings_file.drop_copies(layout)
    return True


def status(directory: Path | str) -> StackStatus:
    """What runs, where, and how much disk the database and the objects take. Starts and changes nothing."""
    layout = Layout(Path(directory).expanduser().resolve())
    found = []
    servers = [server for server in _servers() if server.name != copy_server.NAME or _has_copy(layout)]
    for server in servers:
        daemon = server.find(layout)
        address = f"127.0.0.1:{daemon.ports[server.ports[0]]}" if daemon else None
        found.append(ServerStatus(server.name, daemon is not None, daemon.pid if daemon else None, address))
    folders = (layout.postgres, layout.objects, copy_server.layout_of(layout).objects)
    size = sum(_disk_usage(folder) for folder in folders)
    up = all(server.running for server in found if server.name in (postgres.NAME, object_server.NAME))
    return StackStatus(layout.root, up, tuple(found), size)


def connect_to(directory: Path | str) -> Stack:
    """The stack in `directory` as it runs. Raises EmbeddedError where its database or object store is down."""
    now = status(directory)
    if not now.running:
        raise EmbeddedError("The stack is not running", on=str(now.dir), remedy=f"sbh stack up --dir {now.dir}")
    layout = Layout(now.dir)
    return _stack(layout, layout.load_ports())


def environment(stack: Stack) -> Environment:
    """For a shell that is to work on it."""
    layout = Layout(stack.dir)
    variables = {
        "SBH_SETTINGS": str(stack.settings),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(stack.ports["postgres"]),
        "PGUSER": postgres.OWNER,
        "PGDATABASE": postgres.DATABASE,
        "PGPASSFILE": str(layout.passfile),
        "AWS_ENDPOINT_URL_S3": stack.s3_endpoint,
        "AWS_SHARED_CREDENTIALS_FILE": str(object_server.credentials_file(layout)),
        "AWS_DEFAULT_REGION": object_server.REGIONS[0],
    }
    return Environment(variables, postgres.binaries())


@contextmanager
def running(
    directory: Path | str | None = None, *, kms: bool = True, fsync: bool = True, progress: Progress | None = None
) -> Iterator[Stack]:
    """A stack for the length of a block, down afterwards whatever happened; without `directory` in a temporary one."""
    root = Path(directory or tempfile.mkdtemp(prefix="sbh-"))
    try:
        yield up(root, kms=kms, fsync=fsync, progress=progress)
    finally:
        down(root)
        if directory is None:
            shutil.rmtree(root, ignore_errors=True)


def _servers(fsync: bool = True) -> tuple[_Server, ...]:
    database = partial(postgres.launch, fsync=fsync)
    return (
        _Server(postgres.NAME, postgres.PORTS, _found(postgres.NAME), database, postgres.prepare, postgres.stop),
        _Server(
            object_server.NAME,
            object_server.PORTS,
            _found(object_server.NAME),
            object_server.launch,
            object_server.prepare,
            object_server.stop,
        ),
        _Server(
            kms_server.NAME,
            kms_server.PORTS,
            _found(kms_server.NAME),
            kms_server.launch,
            kms_server.prepare,
            kms_server.stop,
        ),
        _Server(
            copy_server.NAME,
            copy_server.PORTS,
            copy_server.find,
            copy_server.launch,
            copy_server.prepare,
            copy_server.stop,
        ),
    )


def _found(name: str) -> Callable[[Layout], Daemon | None]:
    return lambda layout: process.find(layout, name)


def _has_copy(layout: Layout) -> bool:
    return copy_server.layout_of(layout).root.is_dir()


def _bring_up(
    server: _Server, layout: Layout, saved: Ports, taken: set[int], progress: Progress | None
) -> tuple[Ports, bool]:
    """The ports it runs on, and whether this call started it."""
    daemon = server.find(layout)
    started = daemon is None
    for attempt in range(1, _ATTEMPTS + 1):
        if daemon:
            break
        try:
            daemon = server.launch(layout, process.choose_ports(server.ports, saved, taken=taken))
        except PortTaken:
            if attempt == _ATTEMPTS:
                raise
    assert daemon is not None
    server.prepare(layout, daemon.ports)
    if progress:
        progress(f"{server.name} {'started' if started else 'was running'}, port {daemon.ports[server.ports[0]]}")
    return daemon.ports, started


def _stack(layout: Layout, ports: Ports) -> Stack:
    s3, kms = object_server.endpoint(ports), kms_server.endpoint(ports)
    return Stack(layout.root, layout.settings, s3, kms, ports)


def _create(layout: Layout) -> None:
    try:
        layout.create()
        if os.geteuid() == 0:  # the database's own user must get through
            layout.root.chmod(layout.root.stat().st_mode | 0o011)
    except OSError as error:
        raise EmbeddedError(
            "Cannot write the stack's directory",
            on=str(layout.root),
            why=str(error),
            remedy="choose another directory, or run as the user who made it",
        ) from None


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    with open(layout.lock, "a") as file:
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        "Another command works on this stack", on=str(layout.root), why=f"waited {_LOCK_PATIENCE_S:g} s"
                    ) from None
                time.sleep(0.05)
        yield


def _disk_usage(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
