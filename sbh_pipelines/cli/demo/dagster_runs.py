"""Runs Dagster as separate processes on an instance of its own: for the demo. Dagster itself is never imported here."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sbh_pipelines.errors import EmbeddedError
from sbh_pipelines.settings import load_site

_DEFINITIONS = "sbh_pipelines.definitions"
_DG = (
    sys.executable,
    "-P",
    "-c",
    "from dagster_dg_cli.cli import main; main()",
)  # the program `dg`, wherever its script is
_INSTANCE = "# Written by `sbh demo`.\ntelemetry:\n  enabled: false\nnux:\n  enabled: false\n"
# What the sensor `tenants_sync` does while a daemon runs; Dagster has no command for it.
_ADD_PARTITIONS = """
import json, sys
from dagster import DagsterInstance

with DagsterInstance.get() as instance, open(sys.argv[1], encoding="utf-8") as slugs:
    instance.add_dynamic_partitions(sys.argv[2], json.load(slugs))
"""
_PATIENCE_S = 20.0
_STARTUP_S = 120.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# What to quote of a failed run's log, best first: an error of ours, any exception, the last line.
_QUOTABLE = (
    re.compile(r"\[SBH-\d{3}\].*"),
    re.compile(r"^[\w.]*(?:Error|Exception|Failure): (?!Run ).*", re.MULTILINE),
)

Say = Callable[[str], None]


class DagsterRuns:
    """Dagster with its home in `home`, for the settings in `settings`; what it prints goes to files in `logs`."""

    def __init__(self, home: Path, settings: Path, logs: Path) -> None:
        self.home, self._logs, self._settings = home, logs, settings
        home.mkdir(parents=True, exist_ok=True)
        logs.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            (home / "dagster.yaml").write_text(_INSTANCE, "ascii")
        self._environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "SBH_SETTINGS": str(settings),
            "PYTHONUNBUFFERED": "1",
            "PYTHONSAFEPATH": "1",  # also for what Dagster starts
        }

    def add_partitions(self, slugs: Sequence[str], say: Say) -> None:
        """Make the tenants known as partitions."""
        file = self.home / "partitions.json"
        file.write_text(json.dumps(list(slugs)), "utf-8")
        self._run("partitions", [sys.executable, "-P", "-c", _ADD_PARTITIONS, str(file), self._named("tenants")], say)

    def launch(self, job: str, config: Mapping[str, object], say: Say) -> None:
        """Run a job to its end in a process of its own. Raises EmbeddedError with the run's first error."""
        file = self.home / f"{job}.yaml"
        file.write_text(json.dumps(config, indent=1), "utf-8")  # JSON is YAML
        self._run(job, [*_DG, "launch", "-m", _DEFINITIONS, "--job", self._named(job), "--config", str(file)], say)

    def _named(self, text: str) -> str:
        """As the site of the settings, which people may have edited, calls it in Dagster."""
        return load_site(self._settings).named(text)

    @contextmanager
    def web_ui(self, say: Say, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        """Web server and daemon for the length of the block: the address, and the process to wait for."""
        port = port or _free_port()
        address = f"http://127.0.0.1:{port}"
        command = [*_DG, "dev", "-m", _DEFINITIONS, "--host", "127.0.0.1", "--port", str(port)]
        with self._process("web-ui", command) as (process, log):
            deadline = time.monotonic() + _STARTUP_S
            while not _answers(f"{address}/server_info"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise self._failed("web-ui", "Dagster's web UI did not start", log.read_text("utf-8", "replace"))
                say("waiting for the web UI")
                time.sleep(0.5)
            yield address, process

    def _run(self, name: str, command: Sequence[str], say: Say) -> str:
        with self._process(name, command) as (process, log):
            while process.poll() is None:
                time.sleep(0.1)
                say(_last_message(log))
            text = log.read_text("utf-8", "replace")
            if process.returncode:
                raise self._failed(name, "The Dagster run failed", text)
            return text

    @contextmanager
    def _process(self, name: str, command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """The process is in a session of its own, so that Ctrl-C reaches only us, and we end it in order."""
        log = self._logs / f"dagster-{name}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process, log
            finally:
                _end(process)

    def _failed(self, name: str, what: str, text: str) -> EmbeddedError:
        plain = _COLOURS.sub("", text)
        found = [quote for pattern in _QUOTABLE for quote in pattern.findall(plain)]
        last = [line.strip() for line in plain.splitlines() if line.strip()][-1:]
        return EmbeddedError(
            what,
            on=name,
            why=(found or last or ["it printed nothing"])[0][:600],
            remedy=f"see {self._logs / f'dagster-{name}.log'}",
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """An interrupt first, so that runs are marked canceled and leases released; processes that are left are killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # none is left


def _last_message(log: Path) -> str:
    """The end of the last line: Dagster's lines are `time - dagster - LEVEL - job - run - step - message`."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 2000))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return _COLOURS.sub("", lines[-1]).rpartition(" - ")[2] if lines else "starting Dagster"


def _free_port() -> int:
    """3000, Dagster's own port, if it is free; else any."""
    for port in (3000, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EmbeddedError("No free port", remedy="free one on 127.0.0.1")


def _answers(url: str) -> bool:
    try:
        # nosemgrep: redirect-followed - a server of ours on this machine
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - an address of ours
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
