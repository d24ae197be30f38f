"""A stack of the API's own with four tenants, its tokens, and what runs on it.

A Dagster that has nothing to do needs a quarter of a core: it goes with the file that asked for it. What it runs stays loaded.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.servers.stack import Stack, running
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import Tokens, open_tokens
from sbh_pipelines.settings import Settings, load_settings
from sbh_pipelines_tests.support.servers import Server, code_server, guarded_dagster, serving

# Of `lonely_server`, for tests that wait for it: a busy machine sends a request's head and body in much less.
HEAD_S, IDLE_S = 4, 12
TENANTS = tuple(f"tenant-{n}" for n in range(1, 6))


@pytest.fixture(scope="session")
def api_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("api"), fsync=False, kms=False) as stack:
        sample.generate(stack, tenants=len(TENANTS), rows=1200, files=12, seed=5)
        yield stack


@pytest.fixture(scope="session")
def api_settings(api_stack: Stack) -> Settings:
    return load_settings(api_stack.settings)


@pytest.fixture(scope="session")
def tokens(api_settings: Settings) -> Tokens:
    return open_tokens(api_settings)


@pytest.fixture(scope="session")
def backed_up(api_settings: Settings) -> str:
    """The id of a backup of tenant-1; tenant-2 has one as well."""
    service = BackupService(api_settings)
    user = UserContext("fixture", "*", Role.ADMIN)
    made = [service.create_backup(tenant, user) for tenant in TENANTS[:2]]
    return str(made[0]["id"])


@pytest.fixture(scope="session")
def workspace(api_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with code_server(api_stack, tmp_path_factory.mktemp("code") / "server") as made:
        yield made


@pytest.fixture(scope="module")
def dagster_url(api_stack: Stack, workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with guarded_dagster(api_stack, tmp_path_factory.mktemp("dagster") / "home", workspace) as address:
        yield address


@pytest.fixture(scope="module")
def server(
    api_stack: Stack, tokens: Tokens, dagster_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """With a real Dagster. Bounds are wide: what limits do is tested apart."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(
        api_stack,
        tokens,
        log,
        dagster_url=dagster_url,
        expensive_per_minute=100_000,
        expensive_burst=10_000,
        max_body_kib=10_000,
        calls_per_minute=1_000_000,
        calls_burst=1_000_000,
    ) as made:
        yield made


@pytest.fixture(scope="module")
def second_server(
    server: Server, api_stack: Stack, dagster_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Another process of the same API."""
    log = tmp_path_factory.mktemp("second") / "log"
    with serving(api_stack, server.tokens, log, dagster_url=dagster_url) as made:
        yield made


@pytest.fixture(scope="session")
def lonely_server(api_stack: Stack, tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without a Dagster: what needs one is answered with 503, and with nothing else that depends on it."""
    log = tmp_path_factory.mktemp("lonely") / "log"
    with serving(
        api_stack, tokens, log, dagster_url="http://127.0.0.1:9", expensive_per_minute=100_000, expensive_burst=10_000,
        body_timeout_s=HEAD_S, keep_alive_s=IDLE_S, calls_per_minute=1_000_000, calls_burst=1_000_000,
    ) as made:  # fmt: skip
        yield made
