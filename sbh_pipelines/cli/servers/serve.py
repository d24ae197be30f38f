"""`sbh serve`: the REST API and the console. The application is imported by uvicorn, by its name, in each worker process."""

import os
import secrets
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.output import Answer
from sbh_pipelines.errors import RequestError, SettingsError

if TYPE_CHECKING:
    from sbh_pipelines.settings import Settings
    from sbh_pipelines.settings.api import ApiSettings

_APPLICATION = "sbh_pipelines.api.app.app:application"
_PROTOCOL = "sbh_pipelines.api.app.server:PromptH11Protocol"
_LONGEST_HEAD = 32 << 10
_GRACE_S = 30
_BACKLOG = 512
_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "sbh_pipelines.api.app.server.JsonLines"}},
    "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
    "loggers": {
        "sbh_pipelines.api": {"handlers": ["lines"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["lines"], "level": "WARNING", "propagate": False},
    },
}


def add_to(app: typer.Typer) -> None:
    command(app, "serve", permission="host.manage")(serve)


def serve(
    invocation: Invocation,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; default: api.host.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Port; 0: any; default: api.port.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=64, help="Processes; default: api.workers.", show_default=False),
    ] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A reverse proxy on a private network ends TLS.")
    ] = False,
) -> Answer:
    """Serve the REST API, and the console below /console, until it is interrupted. Prints where, as soon as it listens."""
    settings = invocation.settings()
    changes = {"host": host, "port": port, "workers": workers, "behind_proxy": behind_proxy or None}
    own = settings.api.model_copy(update={name: value for name, value in changes.items() if value is not None})
    _check(settings, own)
    if invocation.settings_file is not None:
        os.environ["SBH_SETTINGS"] = str(invocation.settings_file.resolve())
    if own.behind_proxy:
        os.environ["SBH_API__BEHIND_PROXY"] = "true"
    listening = _listen(own)
    # For the processes that answer: what people type leads there, and each opens what another has sealed.
    os.environ["SBH_API__HOST"], os.environ["SBH_API__PORT"] = own.host, str(listening.getsockname()[1])
    if own.workers > 1 and own.session_secret() is None:
        os.environ["SBH_API__SESSION_KEY"] = secrets.token_urlsafe(32)
    scheme = "https" if own.tls_cert_file else "http"
    shown = f"[{own.host}]" if ":" in own.host else own.host
    address = f"{scheme}://{shown}:{listening.getsockname()[1]}"
    _say(invocation, address)
    with suppress(KeyboardInterrupt):  # it has ended in order by then
        _run(own, listening)
    return Answer({"address": address, "stopped": True}, lambda out: out.print(f"{address} stopped"), [address])


def _say(invocation: Invocation, address: str) -> None:
    """On standard error: the answer, at the end, goes to standard output."""
    long = f"The API listens on {address}; its document is {address}/api/openapi.json; the console is {address}/console"
    text = address if invocation.quiet else long
    print(text, file=sys.stderr, flush=True)


def _check(settings: "Settings", own: "ApiSettings") -> None:
    """What would fail later, in another process, said now. Raises SettingsError, KeyServiceError."""
    from sbh_pipelines.security.code_flow import client_secret, has_client
    from sbh_pipelines.security.tokens import open_tokens

    open_tokens(settings)
    if has_client(settings):
        client_secret(settings)
    own.session_secret()
    own.require_safe_dagster()
    if own.tls_cert_file is None and not own.behind_proxy and not _loopback(own.host):
        raise SettingsError(
            "Tokens would cross the network unencrypted",
            on=f"api.host = {own.host}",
            remedy="set api.tls_cert_file and api.tls_key_file; or `--behind-proxy` where a proxy on a private network ends"
            " TLS; or listen on 127.0.0.1",
        )
    for file in (own.tls_cert_file, own.tls_key_file):
        if file is not None and not file.is_file():
            raise SettingsError("No such file", on=str(file), remedy="correct api.tls_cert_file and api.tls_key_file")


def _loopback(host: str) -> bool:
    from sbh_pipelines.settings.access import is_loopback

    return is_loopback(host)


def _listen(own: "ApiSettings") -> socket.socket:
    """The socket is made here, so that a port that is taken is an error of this command, and no request is refused from now on."""
    family = socket.AF_INET6 if ":" in own.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((own.host, own.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise RequestError(
            "Cannot listen there", on=f"{own.host}:{own.port}", why=error.strerror or "", remedy="choose another --port"
        ) from None
    return listening


def _run(own: "ApiSettings", listening: socket.socket) -> None:
    import uvicorn

    options: Any = {
        "factory": True,
        "http": _PROTOCOL,
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "log_config": _LOGGING,
        "server_header": False,
        "proxy_headers": own.behind_proxy,
        "limit_concurrency": own.connections,
        "timeout_keep_alive": own.keep_alive_s,
        "timeout_graceful_shutdown": _GRACE_S,
        "h11_max_incomplete_event_size": _LONGEST_HEAD,
        "ssl_certfile": own.tls_cert_file,
        "ssl_keyfile": own.tls_key_file,
    }
    if own.workers == 1:
        uvicorn.Server(uvicorn.Config(_APPLICATION, **options)).run(sockets=[listening])
        return
    port = listening.getsockname()[1]
    listening.close()  # uvicorn shares a socket of its own among the processes
    uvicorn.run(_APPLICATION, host=own.host, port=port, workers=own.workers, backlog=_BACKLOG, **options)
