"""`sbh demo`: one tenant out and back, on real servers, through Dagster, with proof that it worked."""

from pathlib import Path
from typing import Annotated

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.demo.place import alone, place
from sbh_pipelines.cli.demo.steps import Steps
from sbh_pipelines.cli.output import Answer, console
from sbh_pipelines.cli.servers.stack import FilesOption, RowsOption, SeedOption, TenantsOption


def demo(
    invocation: Invocation,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Keep everything there; default: a temporary directory.", file_okay=False),
    ] = None,
    tenants: TenantsOption = 8,
    rows: RowsOption = 60_000,
    files: FilesOption = 400,
    seed: SeedOption = 7,
    ui: Annotated[bool, typer.Option("--ui", help="Leave Dagster's web UI running on it, until Ctrl-C.")] = False,
    port: Annotated[int | None, typer.Option(help="Port of the web UI.", min=1, max=65535)] = None,
) -> Answer:
    """See it work: servers, sample data, backups through Dagster, damage, restore, proof. About a minute.

    Ends 0 only if the damaged tenant came back bit for bit and no other tenant changed.
    """
    from sbh_pipelines.cli.demo.story import DemoStory
    from sbh_pipelines.embedded.servers import stack as servers

    steps = Steps(quiet=invocation.quiet)
    out = None if invocation.as_json or invocation.quiet else console()
    with alone(), place(directory) as folder:
        was_running = servers.status(folder).running
        try:
            with steps.step("start PostgreSQL, an S3 server and a KMS") as step:
                stack = servers.up(folder, fsync=False, progress=steps.say)
                step.note(f"in {stack.dir}", dir=str(stack.dir))
            story = DemoStory(stack, steps, out)
            story.run(tenants=tenants, rows=rows, files=files, seed=seed)
            if out:
                out.print(steps.table())
            if ui:
                story.leave_ui(port)
        finally:
            if not was_running:
                with steps.step("stop the servers") as step:
                    servers.down(folder)
                    step.note("down")
    document = {"ok": True, "steps": [step.as_dict() for step in steps.done]}
    done = f"{story.damaged} is back, bit for bit, and no other tenant changed."
    return Answer(document, lambda last: last.print(done, style="bold green"), ["ok"])


def add_to(app: typer.Typer) -> None:
    command(app, "demo")(demo)
