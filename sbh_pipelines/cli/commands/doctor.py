"""`sbh doctor`: do the settings fit the real world, and if not, what mends it. `sbh settings`: what can be set, a first file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.files import rewrite, write_made
from sbh_pipelines.cli.output import Answer, plural, printable, table
from sbh_pipelines.cli.servers.stack import speaker
from sbh_pipelines.errors import RequestError, SettingsError, error_from_dict

if TYPE_CHECKING:
    from sbh_pipelines.doctor import Report

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
_PATIENCE_S = 60.0  # to import Dagster takes seconds
_OPEN = ("unmapped", "ambiguous", "outside")
_TABLE_STYLES = dict.fromkeys(_OPEN, "bold red") | {"excluded": "dim", "shared": "dim", "extension": "dim"}

app = typer.Typer(name="settings", help="What can be set.")


def doctor(
    invocation: Invocation,
    write: Annotated[
        bool, typer.Option("--write", help="Also put, read and delete a test object in every bucket.")
    ] = False,
    suggest: Annotated[
        bool,
        typer.Option(
            "--suggest", help="Print settings that map the database's tables and tenants, to be pasted, and why."
        ),
    ] = False,
    save: Annotated[bool, typer.Option("--save", help="With --suggest: put them into the settings file.")] = False,
) -> Answer:
    """Check the settings against the real world: database, privileges, tenancy map, buckets, keys, clocks, disk.

    Each finding says how to mend it. Exit status 0 without an error among the findings, else 3.
    """
    from sbh_pipelines.doctor import examine

    settings = invocation.settings()
    file = invocation.named_file or Path("sbh.toml")
    if save and not suggest:
        raise RequestError("Nothing to save", remedy="`sbh doctor --suggest --save` saves what it suggests")
    if save and not file.exists():
        raise SettingsError("No settings file to save it in", on=str(file), remedy="`sbh settings init` writes one")
    if suggest:
        return _suggest(invocation, file if save else None)
    report = examine(settings, settings_file=file, write=write, say=speaker(invocation))
    _ask_dagster(report, invocation.named_file)
    brief = [
        ": ".join(filter(None, (finding.level, finding.what, finding.detail, finding.remedy)))
        for finding in (*report.errors, *report.warnings)
    ]
    status = SettingsError.exit_status if report.errors else 0
    return Answer(report.as_dict(), lambda out: _show(out, report), brief, status)


def _ask_dagster(report: "Report", file: Path | None) -> None:
    """Whether another code location of the instance in DAGSTER_HOME has this site's name; nothing where there is no instance."""
    home = os.environ.get("DAGSTER_HOME")
    if not home or not Path(home).is_dir():
        return
    environment = os.environ | ({"SBH_SETTINGS": str(file.resolve())} if file is not None else {})
    command_line = [sys.executable, "-P", "-m", "sbh_pipelines.orchestration.alerting.locations"]
    try:
        ended = subprocess.run(command_line, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S)
        error = json.loads(ended.stdout)["error"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        report.warn("dagster", "Dagster's instance cannot be read", home, "see DAGSTER_HOME/dagster.yaml")
        return
    if error is None:
        report.ok("dagster", "No other code location has this site's name", home)
        return
    with report.trying("dagster"):
        raise error_from_dict(error)


def _suggest(invocation: Invocation, file: Path | None) -> Answer:
    from sbh_pipelines.doctor.suggest import suggest

    made = suggest(invocation.settings(), speaker(invocation))
    saved = ""
    if file is not None and not made.empty:
        from sbh_pipelines.doctor.suggest.paste import pasted

        rewrite(file, pasted(file.read_text("utf-8"), made))
        saved = f"\nSaved in {file}. Next: read it, most of all what is marked CHECK; `sbh doctor`"

    def show(out: Any) -> None:
        print(made.text)
        if saved:
            out.print(saved, highlight=False, soft_wrap=True)

    return Answer(made.as_dict(), show, brief=[made.text])


def add_to(app: typer.Typer) -> None:
    command(app, "doctor", permission="host.manage")(doctor)


def _show(out: Any, report: "Report") -> None:
    """What is wrong first, then how every table is mapped, then all that was looked at, and the numbers."""
    from rich.text import Text

    for finding in (*report.errors, *report.warnings):
        out.print(Text(f"{finding.level:<8}", _STYLES[finding.level]) + Text(printable(finding.what)), soft_wrap=True)
        if finding.detail:
            out.print(Text("  " + printable(finding.detail), "dim"), soft_wrap=True)
        if finding.remedy:
            out.print(Text("  to mend it: ", "dim") + Text(printable(finding.remedy)), soft_wrap=True)
    if report.tables:
        rows = [
            (f"{status.schema}.{status.name}", Text(status.status, _TABLE_STYLES.get(status.status, "")), status.why)
            for status in sorted(report.tables, key=lambda status: status.status not in _OPEN)
        ]
        out.print(table("Tenancy map", ("table", "status", "~why"), rows))
    findings = [
        (Text(finding.level, _STYLES[finding.level]), finding.area, finding.what, finding.detail)
        for finding in report.findings
    ]
    out.print(table("Findings", ("level", "area", "~what", "~detail"), findings))
    out.print(f"{plural(len(report.errors), 'error')}, {plural(len(report.warnings), 'warning')}")
    if any(status.status in _OPEN for status in report.tables):
        out.print(
            "`sbh doctor --suggest` prints settings that map the tables; `sbh doctor -q` prints what is wrong only"
        )


@command(app, "init", permission="host.manage")
def init(
    invocation: Invocation,
    kms: Annotated[
        str | None,
        typer.Option(
            "--kms", help="Wrap keys with this AWS KMS key, and not with a key file.", metavar="KEY", show_default=False
        ),
    ] = None,
) -> Answer:
    """Write a first sbh.toml, with comments, and a key file beside it. What is there already is left as it is (exit 2).

    The file is the one that --settings or SBH_SETTINGS names, else sbh.toml here. The key is 32 random bytes in base64, readable by
    its owner only, and never shown.
    """
    from sbh_pipelines.cli.settings_init import write_new

    made = write_new(invocation.named_file or Path("sbh.toml"), kms)

    def show(out: Any) -> None:
        out.print(f"wrote {made.settings}", soft_wrap=True)
        if made.key_file is not None:
            out.print(f"wrote {made.key_file}: keep a copy elsewhere, without it no backup can be read", soft_wrap=True)
        out.print(
            "next  fill in [database]; `sbh doctor --suggest --save` adds how the tables map to tenants; `sbh doctor`"
            " checks all of it",
            soft_wrap=True,
        )

    return Answer(made, show, [str(file) for file in (made.settings, made.key_file) if file])


@command(app, "docs", permission="host.manage")
def docs(
    invocation: Invocation,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write the page there instead of printing it.")
    ] = None,
) -> Answer:
    """Print the reference of all settings, docs/settings.md, made from the settings themselves."""
    from sbh_pipelines.cli.settings_docs import MADE_BY, fields, page

    if write:
        write_made(write, page(), MADE_BY)
    return Answer([row.as_dict() for row in fields()], lambda _: print("" if write else page(), end=""))
