"""PgBouncer in front of a server of a test's own."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers import process
from sbh_pipelines_tests.support.own_server import OwnServer, server_user, wait_for

_USERS = ("app", "sbh_backup", "sbh_admin")


@contextmanager
def pgbouncer(server: OwnServer, mode: str, size: int, *, ignore: str = "", wait_s: int = 20) -> Iterator[int]:
    """The port of a running pooler; every client logs in as itself. Skips the test where the program is absent."""
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    folder = Path(tempfile.mkdtemp(prefix="sbh-pgbouncer-"))
    port = process.choose_ports(["pgbouncer"], {}, taken={server.port})["pgbouncer"]
    (folder / "users").write_text("".join(f'"{name}" ""\n' for name in _USERS))
    (folder / "ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = trust\nauth_file = {folder / 'users'}\npool_mode = {mode}\ndefault_pool_size = {size}\nunix_socket_dir =\n"
        f"ignore_startup_parameters = extra_float_digits{ignore and ','}{ignore}\nquery_wait_timeout = {wait_s}\n"
    )
    user = server_user()  # it does not run as root either
    for path in (folder, *folder.iterdir()):
        if user:
            os.chown(path, user["user"], user["group"])
    running = subprocess.Popen(
        [program, str(folder / "ini")], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user
    )
    try:
        wait_for(lambda: _answers(port), "the pooler")
        yield port
    finally:
        running.terminate()
        running.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(port: int) -> bool:
    with closing(socket.socket()) as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
