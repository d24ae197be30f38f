"""`sbh demo`: one tenant out and back, on real servers, through Dagster, with proof that it worked."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.demo.steps import Steps
from sbh_pipelines.cli.output import Answer, console
from sbh_pipelines.cli.servers.stack import FilesOption, RowsOption, SeedOption, TenantsOption
from sbh_pipelines.errors import SbhError

_FOREIGN = ("SBH_", "AWS_", "DAGSTER_", "PG")  # variables of another, real site


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
    """See it work: servers, sample data, backups through Dagster, damage, restore, proof; back to a moment; a region lost.

    Takes less than a minute. Ends 0 only if what was damaged or lost came back bit for bit and no other tenant changed. With --ui
    backups and a copy of them are begun anew before, where the lost store was.
    """
    from sbh_pipelines.cli.demo.story import DemoStory
    from sbh_pipelines.embedded.servers import stack as servers

    steps = Steps(quiet=invocation.quiet)
    out = None if invocation.as_json or invocation.quiet else console()
    with clean_environment(), demo_directory(directory) as folder:
        was_running = servers.status(folder).running
        try:
            with steps.step("start PostgreSQL, two S3 servers and a KMS") as step:
                again = servers.drop_copies(folder)  # of an earlier demo here, whose store was lost
                stack = servers.up(folder, copy=True, fsync=False, progress=steps.say)
                step.note(f"in {stack.dir}", dir=str(stack.dir))
            story = DemoStory(stack, steps, out, again=again)
            story.run(tenants=tenants, rows=rows, files=files, seed=seed)
            if ui:
                story.begin_anew()
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
    done = (
        f"{story.damaged} is back as its backup has it, {story.ruined} as it was just before the script: bit for bit, and no"
        f" other tenant changed. Then all of the first region was lost, and {story.lost} and everybody's files are back from the"
        " copy: bit for bit."
    )
    return Answer(document, lambda last: last.print(done, style="bold green"), ["ok"])


def add_to(app: typer.Typer) -> None:
    command(app, "demo", permission="host.manage")(demo)


@contextmanager
def demo_directory(directory: Path | None) -> Iterator[Path]:
    """The demo's directory. A temporary one is removed, except after an error, when its logs are wanted."""
    if directory is not None:
        yield directory
        return
    made = Path(tempfile.mkdtemp(prefix="sbh-demo-"))
    try:
        yield made
    except SbhError:
        console(stderr=True).print(f"The demo's directory is kept, with its logs: {made}", soft_wrap=True)
        raise
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    shutil.rmtree(made, ignore_errors=True)


@contextmanager
def clean_environment() -> Iterator[None]:
    """An environment without settings and credentials, which are of another, real site.

    A termination request ends the demo as Ctrl-C does, so that no server is left behind; and both do so also where the
    demo was started in the background, whose jobs a shell makes deaf to Ctrl-C.
    """
    foreign = {name: value for name, value in os.environ.items() if name.startswith(_FOREIGN)}
    before = _on(signal.SIGTERM, _interrupt), _on(signal.SIGINT, _interrupt)
    for name in foreign:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(foreign)
        _on(signal.SIGTERM, before[0])
        _on(signal.SIGINT, before[1])


def _on(number: signal.Signals, handler: Any) -> Any:
    try:
        return signal.signal(number, handler)
    except ValueError:  # not in the main thread: a test
        return signal.SIG_DFL


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
