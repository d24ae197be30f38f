"""Servers that outlive the command that started them: started, recognised, waited for, stopped.

A daemon is identified by pid, start time and boot id together, so that a pid that was given to another process since
is never taken for ours, and never signalled. Linux only: it reads /proc.
"""

import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sbh_pipelines.embedded.servers.layout import Layout, Ports, write_private
from sbh_pipelines.errors import EmbeddedError

_POLL_S = 0.03
# Below the range from which the kernel takes ports for outgoing connections.
_PORTS = range(15_000, 32_000)


class PortTaken(EmbeddedError):
    """Another process took a port between our look and the server's bind; another port is worth a try."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A server process of ours."""

    name: str
    pid: int
    started: int  # in clock ticks since boot, field 22 of /proc/PID/stat
    boot: str
    ports: dict[str, int]

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.started and _boot_id() == self.boot


def spawn(
    name: str,
    command: Sequence[str | Path],
    layout: Layout,
    ports: Ports,
    *,
    env: Mapping[str, str] | None = None,
    user: tuple[int, int] | None = None,
) -> Daemon:
    """Start `command` in a session of its own, its output appended to DIR/log/NAME.log, as `(uid, gid)` if given.

    A shell starts it in the background and leaves, so that it belongs to init and not to us: nothing is left to reap.
    """
    shell = ["/bin/sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh", *map(str, command)]
    with open(layout.log / f"{name}.log", "ab") as log:
        started = subprocess.run(
            shell,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            env={**os.environ, **(env or {})},
            start_new_session=True,
            check=True,
            **identity(user),
        )
    pid = int(started.stdout)
    daemon = Daemon(name, pid, _start_time(pid) or 0, _boot_id(), dict(ports))
    write_private(_pid_file(layout, name), json.dumps(asdict(daemon)))
    return daemon


def identity(user: tuple[int, int] | None) -> dict[str, Any]:
    """The arguments with which `subprocess` becomes `(uid, gid)`."""
    return {} if user is None else {"user": user[0], "group": user[1], "extra_groups": []}


def find(layout: Layout, name: str) -> Daemon | None:
    """The running server `name` of this stack, or None."""
    try:
        daemon = Daemon(**json.loads(_pid_file(layout, name).read_text("ascii")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return daemon if daemon.alive else None


def wait_until(answers: Callable[[], bool], daemon: Daemon, layout: Layout, *, timeout_s: float = 180) -> None:
    """Return once the server answers; raise EmbeddedError when it ended or `timeout_s` passed."""
    deadline = time.monotonic() + timeout_s
    while True:
        if not daemon.alive:  # asked first: what answers on its port may be another's
            tail = _log_tail(layout, daemon.name)
            taken = any(text in tail.lower() for text in ("address already in use", "is in use by another program"))
            raise (PortTaken if taken else EmbeddedError)(
                "A server ended while it started",
                on=daemon.name,
                why=tail or "it wrote nothing",
                remedy=f"read {layout.log / daemon.name}.log",
            )
        if answers():
            return
        if time.monotonic() > deadline:
            raise EmbeddedError(
                "A server does not answer",
                on=f"{daemon.name}, pid {daemon.pid}",
                why=f"waited {timeout_s:g} s",
                remedy=f"read {layout.log / daemon.name}.log",
            )
        time.sleep(_POLL_S)


def stop(layout: Layout, daemon: Daemon, how: signal.Signals, *, patience_s: float, or_kill: bool = False) -> None:
    """Send `how` and wait for the end; past `patience_s` kill it, or raise EmbeddedError."""
    _signal(daemon, how)
    if not _gone(daemon, patience_s):
        if not or_kill:
            raise EmbeddedError(
                "A server does not stop",
                on=f"{daemon.name}, pid {daemon.pid}",
                why=f"waited {patience_s:g} s after {how.name}",
            )
        _signal(daemon, signal.SIGKILL)
        _gone(daemon, 5)
    _pid_file(layout, daemon.name).unlink(missing_ok=True)


def choose_ports(names: Sequence[str], saved: Ports, *, taken: set[int]) -> dict[str, int]:
    """A free port per name: the saved one where it is free. Adds the choice to `taken`."""
    chosen = {}
    for name in names:
        candidates = [saved[name]] if name in saved else []
        # Not by a seed that the caller's process may share with others: all would try the same ones at the same time.
        candidates += random.SystemRandom().sample(_PORTS, 200)
        chosen[name] = next(port for port in candidates if port not in taken and _is_free(port))
        taken.add(chosen[name])
    return chosen


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _signal(daemon: Daemon, how: signal.Signals) -> None:
    try:
        if daemon.alive:
            os.kill(daemon.pid, how)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise EmbeddedError(
            "A server belongs to another user",
            on=f"{daemon.name}, pid {daemon.pid}",
            remedy="stop the stack as the user who started it",
        ) from None


def _gone(daemon: Daemon, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while daemon.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _start_time(pid: int) -> int | None:
    """When the process started; None where it is gone or a zombie.

    The first thread of a killed process may be a zombie while others still end, and hold the process's ports.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        ended = fields[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if ended else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _pid_file(layout: Layout, name: str) -> Path:
    return layout.run / f"{name}.json"


def _log_tail(layout: Layout, name: str) -> str:
    lines = (layout.log / f"{name}.log").read_text("utf-8", "replace").splitlines()
    return " | ".join(line.strip() for line in lines[-6:] if line.strip())
