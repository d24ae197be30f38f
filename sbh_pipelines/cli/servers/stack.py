"""`sbh stack`: the embedded servers, for trying the system out and for tests."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.output import Answer, count, facts, plural, table, verdict
from sbh_pipelines.document import as_document
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.embedded.sample.data import SampleSummary
    from sbh_pipelines.embedded.servers.stack import Stack, StackStatus

app = typer.Typer(name="stack", help="Embedded servers: PostgreSQL, an S3 server, a KMS. Not for production.")

DirOption = Annotated[Path, typer.Option("--dir", help="Where the stack keeps everything.", file_okay=False)]
TenantsOption = Annotated[int, typer.Option("--tenants", min=1, max=100_000, help="Tenants of the sample data.")]
RowsOption = Annotated[int, typer.Option("--rows", min=0, help="Rows of the sample data, roughly.")]
FilesOption = Annotated[int, typer.Option("--files", min=0, help="Files of the sample data.")]
SeedOption = Annotated[int, typer.Option("--seed", help="The same seed gives the same data.")]

DEFAULT_DIR = Path(".sbh/stack")


@command(app, "up", permission="host.manage")
def up(
    invocation: Invocation,
    directory: DirOption = DEFAULT_DIR,
    sample: Annotated[bool, typer.Option("--sample", help="Make sample data where there are none.")] = False,
    tenants: TenantsOption = 8,
    rows: RowsOption = 60_000,
    files: FilesOption = 400,
    seed: SeedOption = 7,
) -> Answer:
    """Start what is not running yet. The settings file it writes is DIR/sbh.toml."""
    from sbh_pipelines.embedded.servers import stack

    say = speaker(invocation)
    running = stack.up(directory, sample=sample, progress=say)
    made = None
    if sample:
        from sbh_pipelines.embedded.sample import data, fingerprint

        if not fingerprint.has_data(running):
            stack.map_sample(directory)
            made = data.generate(running, tenants=tenants, rows=rows, files=files, seed=seed, progress=say)
    return _up_answer(running, stack.status(running.dir), made)


@command(app, "sample", permission="host.manage")
def sample(
    invocation: Invocation,
    directory: DirOption = DEFAULT_DIR,
    tenants: TenantsOption = 8,
    rows: RowsOption = 60_000,
    files: FilesOption = 400,
    seed: SeedOption = 7,
) -> Answer:
    """Fill a running stack with sample data: a small SaaS with tenants, rows and files."""
    from sbh_pipelines.embedded.sample import data
    from sbh_pipelines.embedded.servers import stack

    running = stack.connect_to(directory)
    stack.map_sample(directory)
    made = data.generate(running, tenants=tenants, rows=rows, files=files, seed=seed, progress=speaker(invocation))
    return Answer(made, lambda out: out.print(_sample_table(made)), made.tenants)


@command(app, "status", permission="host.manage")
def status(invocation: Invocation, directory: DirOption = DEFAULT_DIR) -> Answer:
    """What runs, and where."""
    from sbh_pipelines.embedded.servers import stack

    found = stack.status(directory)
    return Answer(found, lambda out: _show_status(out, found), ["up" if found.running else "down"])


@command(app, "env", permission="host.manage")
def environment(invocation: Invocation, directory: DirOption = DEFAULT_DIR) -> Answer:
    """Where it is, for a shell: `eval "$(sbh stack env)"`. Then sbh, psql, pg_dump and aws work on it."""
    from sbh_pipelines.embedded.servers import stack

    found = stack.environment(stack.connect_to(directory))
    lines = [f"export {name}={shlex.quote(value)}" for name, value in found.variables.items()]
    lines.append(f"export PATH={shlex.quote(str(found.programs))}:$PATH")

    def show(out: Any) -> None:
        out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)

    return Answer(found, show, lines)


@command(app, "down", permission="host.manage")
def down(invocation: Invocation, directory: DirOption = DEFAULT_DIR) -> Answer:
    """Stop the servers. Their data stay; `rm -r DIR` removes them."""
    from sbh_pipelines.embedded.servers import stack

    stack.down(directory, progress=speaker(invocation))
    found = stack.status(directory)
    return Answer(found, lambda out: _show_status(out, found), ["down"])


def speaker(invocation: Invocation) -> Any:
    """Prints what the stack reports, on standard error; says nothing with --quiet."""
    from sbh_pipelines.cli.output import console

    out = console(stderr=True)
    return (lambda _: None) if invocation.quiet else (lambda text: out.print(text, style="dim"))


def _up_answer(running: "Stack", found: "StackStatus", made: "SampleSummary | None") -> Answer:
    document = {**as_document(found), "settings": running.settings, **({"sample": made} if made else {})}

    def show(out: Any) -> None:
        _show_status(out, found)
        if made:
            out.print(_sample_table(made))
        where = "" if running.dir == DEFAULT_DIR.resolve() else f" --dir {shlex.quote(str(running.dir))}"
        mapped = "sbh doctor" if made else "load your tables with psql; sbh doctor --suggest"
        out.print(facts({"settings": running.settings, "next": f'eval "$(sbh stack env{where})"; {mapped}'}))

    return Answer(document, show, [str(running.settings)])


def _show_status(out: Any, found: "StackStatus") -> None:
    rows = [
        (
            server.name,
            verdict(server.running, "up" if server.running else "down"),
            server.address or "",
            server.pid or "",
        )
        for server in found.servers
    ]
    out.print(
        table(f"Stack in {found.dir}, {size_text(found.data_bytes)}", ("server", "status", "address", ">pid"), rows)
    )


def _sample_table(made: "SampleSummary") -> Any:
    rows = [(name, count(number)) for name, number in made.rows.items()]
    total = count(sum(made.rows.values()))
    title = f"{plural(len(made.tenants), 'tenant')}, {total} rows, {made.files} files of {size_text(made.file_bytes)}"
    return table(title, ("table", ">rows"), rows)
