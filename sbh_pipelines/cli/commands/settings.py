"""`sbh settings`: the reference of every setting."""

from pathlib import Path
from typing import Annotated

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.output import Answer

app = typer.Typer(name="settings", help="What can be set.")


@command(app, "docs")
def docs(
    invocation: Invocation,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write the page there instead of printing it.")
    ] = None,
) -> Answer:
    """Print the reference of all settings, docs/settings.md, made from the settings themselves."""
    from sbh_pipelines.cli.settings_docs import fields, page

    if write:
        write.write_text(page(), "utf-8")
    return Answer([row.as_dict() for row in fields()], lambda _: print("" if write else page(), end=""))
