"""The guarded web UI as a process of its own, in front of Dagster with the sample's tenants as partitions."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.servers import PATIENCE_S, answers, free_port, started, until

if TYPE_CHECKING:
    import dagster as dg

TENANTS = [f"tenant-{n}" for n in range(1, 7)]
SECRET = "pr0d-pa55w0rd-of-the-database"
VARIABLE = "PLANTED_PASSWORD"
"""A variable of the server's environment, and so of its runs' workers', and what it holds."""

CALLERS_TOKEN = "the-token-of-who-started-it"


@dataclass(frozen=True)
class Ui:
    url: str
    home: Path
    settings: Path

    def token(self, user: str, role: str, tenant: str = "*", ttl_s: int = 600) -> str:
        return open_tokens(load_settings(self.settings)).issue(user, tenant, role, ttl_s)

    def client(self, role: str | None = None, **headers: str) -> httpx.Client:
        """With a bearer token of that role, or without any."""
        if role:
            headers["authorization"] = f"Bearer {self.token(role, role)}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S, verify=False)

    @contextmanager
    def log_in(self, user: str, role: str) -> Iterator[httpx.Client]:
        """With the cookie of a login."""
        with self.client(origin=self.url) as client:
            answer = client.post("/login", data={"token": self.token(user, role), "next": "/"})
            assert answer.status_code == 303, answer.text
            yield client

    def ask(self, client: httpx.Client, query: str, **variables: Any) -> dict[str, Any]:
        answer = client.post("/graphql", json={"query": query, "variables": variables})
        document: dict[str, Any] = answer.json()
        return document

    @contextmanager
    def instance(self) -> Iterator["dg.DagsterInstance"]:
        """Dagster's own records."""
        import dagster as dg  # takes seconds, and this module is loaded for every test

        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            yield instance

    def runs(self, **tags: str) -> list["dg.DagsterRun"]:
        import dagster as dg

        with self.instance() as instance:
            return list(instance.get_runs(dg.RunsFilter(tags=tags)))

    def ended(self, run_id: str) -> "dg.DagsterRun":
        """The run, once it has ended."""
        with self.instance() as instance:

            def ended() -> "dg.DagsterRun | None":
                run = instance.get_run_by_id(run_id)
                return run if run is not None and run.is_finished else None

            found: dg.DagsterRun = until(ended)
            return found


@pytest.fixture(scope="module")
def ui(sample_stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    home = tmp_path_factory.mktemp("ui-home")
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\nnux: {enabled: false}\n"
        # Without a daemon nobody would take runs from a queue.
        "run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}\n"
    )
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("tenants", TENANTS)
    environment = {**os.environ, "DAGSTER_HOME": str(home), "SBH_SETTINGS": str(sample_stack.settings)}
    environment |= {VARIABLE: SECRET, "SBH_TOKEN": CALLERS_TOKEN}
    with guarded_ui(environment) as it:
        yield it


@contextmanager
def guarded_ui(environment: Mapping[str, str], *arguments: str) -> Iterator[Ui]:
    """The process, with the instance and the settings that its environment names."""
    home, port = Path(environment["DAGSTER_HOME"]), free_port()
    command = [sys.executable, "-m", "sbh_pipelines.orchestration.guarded_ui", "--port", str(port), *arguments]
    log = home / "ui.log"
    with started(command, environment, log) as process:
        it = Ui(f"http://127.0.0.1:{port}", home, Path(environment["SBH_SETTINGS"]))
        until(lambda: answers(it.url + "/healthz", process, log))
        yield it
