"""`sbh ui`: Dagster's web UI behind a login, as a process of its own; Dagster is never imported here."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.output import Answer


def add_to(app: typer.Typer) -> None:
    command(app, "ui", permission="host.manage")(ui)


def ui(
    invocation: Invocation,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; default: ui.host.")] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Port; default: ui.port.", min=1, max=65535)] = None,
    module: Annotated[
        str | None, typer.Option("--module", "-m", help="Module with the definitions; default: those of this program.")
    ] = None,
    workspace: Annotated[
        list[Path] | None, typer.Option("--workspace", "-w", help="Workspace file of Dagster, instead of a module.")
    ] = None,
) -> Answer:
    """Serve Dagster's web UI behind a login, until interrupted. For users of all tenants: it shows all of them.

    Log in with a token (`sbh token issue --user NAME --tenant '*' --role viewer`), or at the OIDC issuer. Viewers only read;
    runs act for whoever launched them, with that user's role. Needs [auth] in the settings, and DAGSTER_HOME as every part of
    Dagster does.
    """
    settings = invocation.settings()  # errors in them are told here, with their exit status
    arguments = ["--host", host or settings.ui.host, "--port", str(port or settings.ui.port)]
    arguments += ["--settings", str(invocation.settings_file)] if invocation.settings_file else []
    arguments += ["--module", module] if module else []
    for file in workspace or ():
        arguments += ["--workspace", str(file)]
    if not invocation.quiet:
        print(f"http://{host or settings.ui.host}:{port or settings.ui.port}", file=sys.stderr)
    # In place of this process: signals and the exit status are the server's.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "sbh_pipelines.orchestration.guarded_ui", *arguments])  # noqa: S606
