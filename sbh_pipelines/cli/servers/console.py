"""`sbh console`: where the console is, and whether something listens there. It is served by `sbh serve`."""

import socket
import webbrowser
from typing import Annotated

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.output import Answer
from sbh_pipelines.errors import RequestError

_WAIT_S = 5.0
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nosec - where a server that listens everywhere is reached


def add_to(app: typer.Typer) -> None:
    command(app, "console", permission="backup.list")(console)


def console(
    invocation: Invocation,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Port; default: api.port.", show_default=False)
    ] = None,
) -> Answer:
    """Say where the console is: pages for fleet, tenants, backups, restores, requests and evidence, served by `sbh serve`.

    Sign in with a token (`sbh token issue`); a tenant's own users see their tenant only.
    """
    own = invocation.settings().api
    host = _HERE.get(own.host, own.host)
    shown = f"[{host}]" if ":" in host else host
    address = f"{'https' if own.tls_cert_file else 'http'}://{shown}:{port or own.port}/console"
    if not _listens(host, port or own.port):
        raise RequestError(
            "Nothing listens where the console is to be",
            on=address,
            remedy="start it, and leave it running: `sbh serve`",
        )
    if open_browser:
        webbrowser.open(address)
    return Answer({"address": address}, lambda out: out.print(address, soft_wrap=True), [address])


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _WAIT_S).close()
    except OSError:
        return False
    return True
