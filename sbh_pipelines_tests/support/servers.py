"""The API as users run it: `sbh serve` in a process of its own, with or without a Dagster behind it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from sbh_pipelines.embedded.servers import process as servers
from sbh_pipelines.security.policy import Role
from sbh_pipelines.security.tokens import Tokens

ROOT = Path(__file__).parents[2]
QUICK_DAGSTER = str(Path(__file__).with_name("quick_dagster"))
INSTANCE = """
telemetry: {enabled: false}
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
"""
# What a schedule launches takes the time of what is tested, and the next hour or day may begin in the midst of a test.
NO_SCHEDULES = {
    f"SBH_{name}": ""
    for name in (
        "SCHEDULES__HOURLY_INCREMENTAL",
        "SCHEDULES__DIFFERENTIAL",
        "SCHEDULES__DAILY_FULL",
        "SCHEDULES__WEEKLY_FULL",
        "SCHEDULES__DAILY_PRUNE",
        "SCHEDULES__COPIES",
        "DRILL__SCHEDULE",
        "SCHEDULES__JOURNAL_DRAIN",
        "PLATFORM__SCHEDULE",
    )
}
ENDED = ("completed", "failed", "canceled")
# For a machine that has other work as well. What limits do is tested with limits of the test's own.
PATIENCE_S = 240
PATIENT = {"request_timeout_s": PATIENCE_S, "dagster_timeout_s": PATIENCE_S}


class Place(Protocol):
    """What servers are started for: a stack, or one with a copy."""

    @property
    def settings(self) -> Path: ...


@dataclass(frozen=True)
class Server:
    """A running `sbh serve`."""

    address: str
    log: Path
    tokens: Tokens
    process: "subprocess.Popen[bytes]" = field(repr=False)

    def client(
        self, tenant: str = "*", role: Role = Role.ADMIN, slug: str | None = None, user: str = "alice"
    ) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens.issue(user, tenant, role, 3600)}"}
        if slug is not None:
            headers["X-Tenant-Slug"] = slug
        # Nothing is verified over plain HTTP, and to load what certificates are verified by takes 25 ms.
        return httpx.Client(base_url=self.address, headers=headers, timeout=PATIENCE_S, trust_env=False, verify=False)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Without a token, but for what is given."""
        return httpx.get(self.address + path, timeout=PATIENCE_S, trust_env=False, verify=False, **more)


def until(true: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """What `true` gives, once it is true.

    Whoever asks takes time from what is waited for, so that it asks less and less often: a question to Dagster costs 50 ms.
    """
    deadline, pause = time.monotonic() + seconds, 0.1
    while not (given := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)
        pause = min(1.0, pause * 1.3)
    return given


def watched(client: httpx.Client, accepted: httpx.Response) -> dict[str, Any]:
    """The operation once it has ended."""
    assert accepted.status_code == 202, accepted.text
    link = accepted.headers["Location"]

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(link).raise_for_status().json()
        return found if found["status"] in ENDED else None

    return dict(until(ended))


def free_port() -> int:
    """One that the kernel gives to nobody else before it is listened on."""
    return servers.choose_ports(["it"], {}, taken=set())["it"]


@contextmanager
def serving(
    stack: Place, tokens: Tokens, log: Path, other: Mapping[str, str] | None = None, **settings: object
) -> Iterator[Server]:
    """`settings` are those of `[api]`; `other`: variables of the environment."""
    port = free_port()
    given = PATIENT | settings
    environment = environment_of(stack) | {f"SBH_API__{name.upper()}": str(value) for name, value in given.items()}
    environment |= other or {}
    command = [sys.executable, "-c", "from sbh_pipelines.cli.app import run; raise SystemExit(run())", "serve"]
    # What it has counted it records at its end.
    with started([*command, "--port", str(port)], environment, log, patience_s=60) as process:
        address = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{address}/api/health/live", process, log))
        yield Server(address, log, tokens, process)


@contextmanager
def code_server(stack: Place, directory: Path, environment: Mapping[str, str] | None = None) -> Iterator[Path]:
    """What any number of Dagsters run, loaded once; without one at work it costs nothing. Their workspace file."""
    directory.mkdir(parents=True)
    port = free_port()
    command = [str(Path(sys.executable).with_name("dagster")), "api", "grpc", "-m", "sbh_pipelines.definitions"]
    log = directory / "log"
    workspace = directory / "workspace.yaml"
    workspace.write_text(f"load_from: [{{grpc_server: {{host: 127.0.0.1, port: {port}, location_name: sbh}}}}]\n")
    variables = environment or _dagster_environment(stack)
    with started([*command, "-h", "127.0.0.1", "-p", str(port)], variables, log) as process:
        until(lambda: listens(port, process, log))
        yield workspace


@contextmanager
def guarded_dagster(stack: Place, home: Path, workspace: Path) -> Iterator[str]:
    """Dagster's daemon, and its web server behind the login: the API has to show a token of its own. The address."""
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(INSTANCE)
    import dagster as dg  # takes seconds, and this module is loaded for every test

    with dg.DagsterInstance.from_config(str(home)):
        pass  # its tables are there before two processes would both make them
    port = free_port()
    environment = _dagster_environment(stack) | {"DAGSTER_HOME": str(home)}
    daemon = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-w", str(workspace)]
    ui = [
        sys.executable,
        "-c",
        "from sbh_pipelines.cli.app import run; raise SystemExit(run())",
        "ui",
        "--port",
        str(port),
        "--workspace",
        str(workspace),
    ]
    log = home / "log"
    with started(daemon, environment, home / "daemon.log"), started(ui, environment, log) as process:
        address = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{address}/server_info", process, log, 401))
        yield address


def environment_of(stack: Place) -> dict[str, str]:
    return os.environ | {"SBH_SETTINGS": str(stack.settings), "PYTHONPATH": str(ROOT)}


def _dagster_environment(stack: Place) -> dict[str, str]:
    return (
        environment_of(stack)
        | NO_SCHEDULES
        | {
            "PYTHONPATH": f"{QUICK_DAGSTER}:{ROOT}",
            "DAGSTER_GRPC_TIMEOUT_SECONDS": str(PATIENCE_S),
        }
    )


@contextmanager
def started(
    command: list[str], environment: Mapping[str, str], log: Path, patience_s: float = 5
) -> Iterator["subprocess.Popen[bytes]"]:
    """Ended with all that it has started, such as runs that are at work."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def listens(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Whether something listens on the port, and the process that should has not ended."""
    assert process.poll() is None, log.read_text("utf-8", "replace")[-2000:]
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str, process: "subprocess.Popen[bytes]", log: Path, status: int = 200) -> bool:
    assert process.poll() is None, log.read_text("utf-8", "replace")[-2000:]
    try:
        return httpx.get(url, timeout=5, trust_env=False, verify=False).status_code == status
    except httpx.HTTPError:
        return False
