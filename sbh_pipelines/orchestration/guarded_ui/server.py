"""Dagster's web application behind the guard, as one process."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import dagster as dg
import uvicorn

from sbh_pipelines.errors import OrchestratorError
from sbh_pipelines.orchestration.common.dagster_internals import (
    RequestContext,
    Workspace,
    load_target,
    web_application,
    webserver_version,
    without_newsletter,
)
from sbh_pipelines.orchestration.guarded_ui import sockets
from sbh_pipelines.orchestration.guarded_ui.guard import USER, Guard
from sbh_pipelines.orchestration.guarded_ui.login import CALLBACK, VIA, Login
from sbh_pipelines.orchestration.guarded_ui.operations import Earlier
from sbh_pipelines.orchestration.guarded_ui.origins import origins_of
from sbh_pipelines.orchestration.guarded_ui.record import recorder, sign_ins
from sbh_pipelines.orchestration.guarded_ui.sessions import Sessions
from sbh_pipelines.security.code_flow import CodeFlow, has_client
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext, allows
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import Settings

OLDEST, BEFORE = (1, 13), (1, 14)
"""Versions of dagster-webserver that the guard was tried with: from OLDEST, below BEFORE."""

DEFINITIONS = "sbh_pipelines.definitions"
_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_OVERFLOW = 15_000, 3600, 20


@dataclass(frozen=True, slots=True)
class Where:
    """`workspace`: workspace files as `dagster-webserver -w` takes them; empty: `module`."""

    host: str
    port: int
    module: str = DEFINITIONS
    workspace: tuple[str, ...] = ()


def serve(settings: Settings, where: Where) -> None:
    """Serve until interrupted. Raises SettingsError, OrchestratorError."""
    with guarded_app(settings, where) as app:
        uvicorn.run(
            app,
            host=where.host,
            port=where.port,
            log_level="warning",
            access_log=False,  # its lines would hold codes of logins
            server_header=False,
            ws_max_size=sockets.LARGEST_MESSAGE,
            timeout_graceful_shutdown=5,
        )


@contextmanager
def guarded_app(settings: Settings, where: Where) -> Iterator[Guard]:
    """The guarded application, with the code servers it needs. Raises SettingsError, OrchestratorError."""
    version = webserver_version()
    check_version(version)
    tokens, origins = open_tokens(settings), origins_of(settings.ui, where.host, where.port)
    flow = None
    if has_client(settings):
        flow = CodeFlow(settings, tokens, VIA, origins.allowed[0] + CALLBACK)
    sessions = Sessions(settings.ui.session_s)
    with dg.DagsterInstance.get() as instance, sign_ins(settings) as record_sign_in:
        without_newsletter(instance)
        instance.optimize_for_webserver(_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_OVERFLOW)
        target = load_target(where.module, where.workspace)
        with _GuardedWorkspace(instance, target, version=version) as workspace:
            yield Guard(
                web_application(workspace, _lifespan),
                tokens=tokens,
                login=Login(tokens, sessions, origins, flow, record_sign_in),
                origins=origins,
                services=settings.auth.services,
                earlier=_earlier(instance),
                sites={settings.site.name, *settings.ui.sites},
                record=recorder(settings),
            )


def check_version(found: str) -> None:
    """Raises OrchestratorError."""
    parts = found.split(".")
    known = tuple(int(part) for part in parts[:2] if part.isdigit())
    if not OLDEST <= known < BEFORE:
        raise OrchestratorError(
            "The guarded web UI was not tried with this version of dagster-webserver",
            on=f"dagster-webserver {found}",
            why=f"it knows {_dotted(OLDEST)} up to, not including, {_dotted(BEFORE)}; a newer one may have ways past it",
            remedy=f"pip install 'dagster-webserver>={_dotted(OLDEST)},<{_dotted(BEFORE)}', or a newer sbh-pipelines",
        )


class _GuardedWorkspace(Workspace):
    """Dagster's workspace; for users who may not launch anything its pages are read-only, so that buttons say so."""

    def create_request_context(self, source: Any = None) -> RequestContext:
        user: UserContext | None = getattr(source, "scope", {}).get(USER)
        if user is None:  # of its own, for no request
            return super().create_request_context(source)
        return RequestContext(
            instance=self.instance,
            current_workspace=self.get_current_workspace(),
            process_context=self,
            version=self.version,
            source=source,
            read_only=not allows(user, "dagster.launch", ALL_TENANTS),
        )


def _earlier(instance: dg.DagsterInstance) -> Earlier:
    def run(run_id: str) -> tuple[str, Mapping[str, str]] | None:
        found = instance.get_run_by_id(run_id)
        return (found.job_name, found.tags) if found else None

    def backfill_tags(backfill_id: str) -> Mapping[str, str] | None:
        found = instance.get_backfill(backfill_id)
        return found.tags if found else None

    return Earlier(run, backfill_tags)


@asynccontextmanager
async def _lifespan(_: Any) -> AsyncIterator[None]:
    with suppress(asyncio.CancelledError):  # how uvicorn ends it
        yield


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
