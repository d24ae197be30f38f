"""`sbh health`, `sbh metrics`, `sbh alerts test`: how the backups stand, in words, in numbers, and whether people are told."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.commands.tenants import complete_tenant
from sbh_pipelines.cli.files import write_made
from sbh_pipelines.cli.output import Answer, count, facts, plural, seconds, table, utc, verdict
from sbh_pipelines.cli.show.spans import span
from sbh_pipelines.errors import AlertError, HealthError, RequestError, error_from_dict
from sbh_pipelines.model import size_text, timestamp

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import BackupMetrics

app = typer.Typer(name="alerts", help="Whether people are told when something is wrong.")

_TENANT = typer.Argument(help="Slug of the tenant; default: all.", autocompletion=complete_tenant)
_COLORS = {"critical": "bold red", "error": "red", "warning": "yellow"}
_TIMEOUT_S = 180


_MADE_BY = "# HELP sbh_"


def add_to(root: typer.Typer) -> None:
    command(root, "health", permission="health.read")(health)
    command(root, "metrics", permission="health.read")(metrics)


def health(invocation: Invocation, tenant: Annotated[str | None, _TENANT] = None) -> Answer:
    """Check that backups are made, can be reached and are as they should be.

    Prints each check, and what is wrong with what to do about it. Exits 14 unless everything is healthy.
    """
    found = invocation.service().health.check(invocation.user(), tenant)

    def show(out: Any) -> None:
        whom = tenant or plural(found.tenants, "tenant")
        title = f"{whom}, {_time(found.at)}: {found.backup_service}"
        rows = [(name, verdict(holds, "yes" if holds else "no")) for name, holds in found.checks.items()]
        out.print(table(title, ("check", "holds"), rows))
        without = {issue.tenant_id for issue in found.issues if issue.kind == "no_backup"}
        for issue in found.issues:
            if issue.kind == "no_recovery_point" and issue.tenant_id in without:
                continue  # the same, said again for another check
            on = f" ({issue.on})" if issue.on else ""
            why = f": {issue.why}" if issue.why else ""
            text = f"{issue.severity}  [{issue.code}] {issue.what}{on}{why}"
            out.print(text, style=_COLORS.get(issue.severity, ""), markup=False)
            out.print(f"  next  {issue.remedy}", style="dim", markup=False)
        if hidden := found.issues_count - len(found.issues):
            out.print(f"… and {hidden:,} more issues", markup=False)
        if found.tenants_not_looked_at:
            out.print(f"{plural(found.tenants_not_looked_at, 'tenant')} could not be looked at", style="red")

    healthy = found.backup_service == "healthy"
    return Answer(found, show, [found.backup_service], 0 if healthy else HealthError.exit_status)


def metrics(
    invocation: Invocation,
    tenant: Annotated[str | None, _TENANT] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            help="Write all metrics in Prometheus' text format to this file, in one step, for node_exporter's textfile"
            " collector; `-`: print them.",
            show_default=False,
        ),
    ] = None,
) -> Answer:
    """Show how many backups there are, how large, how long they took and how old; or write them for Prometheus.

    What is not of backups, as the change journal's lag, is only in the latter: `sbh metrics --write -` prints it.
    """
    service, user = invocation.service(), invocation.user()
    if write is not None:
        if tenant is not None:
            raise RequestError(
                "--write is for all tenants",
                on=ascii(tenant)[:64],
                remedy="leave the tenant out; series carry its name",
            )
        text = service.health.prometheus_text(user)
        if str(write) == "-":
            return Answer({"text": text}, lambda out: print(text, end=""), text.splitlines())
        write_made(write, text, _MADE_BY)  # node_exporter must never read half a file
        series = sum(1 for line in text.splitlines() if not line.startswith("#"))
        document = {"file": str(write), "series": series}
        return Answer(document, lambda out: out.print(f"{series:,} series in {write}"), [str(write)])
    found = service.health.metrics(user, tenant)
    return Answer(found, lambda out: _show(out, found, tenant), [f"{found.backups_total}"])


def _show(out: Any, found: "BackupMetrics", tenant: str | None) -> None:
    columns = ("type", ">successful", ">failed", ">size", ">stored", "->mean duration", "last")
    rows = [
        (
            kind,
            count(of.successful),
            count(of.failed),
            size_text(of.size),
            size_text(of.stored_bytes),
            seconds(of.duration_avg),
            _time(of.last_at),
        )
        for kind, of in found.by_type.items()
    ]
    out.print(table(tenant or plural(found.tenants, "tenant"), columns, rows))
    out.print(
        facts(
            {
                "backups": f"{found.backups_total:,}, of them failed: {found.backups_failed:,}",
                "size": size_text(found.backup_size_total),
                "with files": size_text(found.logical_bytes_total),
                "stored": size_text(found.stored_bytes_total),
                "mean duration": seconds(found.backup_duration_avg),
                "last backup": _time(found.last_backup_at),
                "recovery point": f"{span(found.recovery_point_age_s)} old" if found.recovery_point_age_s else "",
                "objectives missed": count(found.recovery_points_missed),
                "without backup": count(found.tenants_without_backup),
                "files missing": count(found.files_missing) if found.files_missing else "",
                "last drill": utc(found.last_drill_at),
            }
        )
    )


def _time(moment: datetime | None) -> str:
    return utc(timestamp(moment)) if moment else ""


@command(app, "test", permission="host.manage")
def try_channels(
    invocation: Invocation,
    severity: Annotated[
        str, typer.Option("--severity", help="Of the test: info, warning, error or critical.")
    ] = "critical",
) -> Answer:
    """Send a test alert through every configured channel, and show which took it. Exits 12 if one did not.

    PagerDuty gets an incident that is resolved at once.
    """
    if severity not in ("info", "warning", "error", "critical"):
        raise RequestError("No such severity", on=ascii(severity)[:64], remedy="one of: info, warning, error, critical")
    invocation.settings()  # wrong ones are told here, with all they have to say
    command_line = [sys.executable, "-P", "-m", "sbh_pipelines.orchestration.alerting.channels", severity]
    if invocation.settings_file is not None:
        command_line.append(str(invocation.settings_file))
    try:
        ended = subprocess.run(command_line, capture_output=True, text=True, timeout=_TIMEOUT_S)
        document: dict[str, Any] = json.loads(ended.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise AlertError(
            "The test did not come to an end", why="no answer", remedy="see `sbh doctor`, and try again"
        ) from None
    if "error" in document:
        raise error_from_dict(document["error"])
    outcome: dict[str, str | None] = document["channels"]
    rows = [
        (name, verdict(why is None, "taken" if why is None else "not taken"), why or "")
        for name, why in outcome.items()
    ]
    bad = any(outcome.values())
    return Answer(
        {"channels": outcome, "delivered": not bad},
        lambda out: out.print(table("A test alert", ("channel", "outcome", "~why"), rows)),
        [f"{name} {'taken' if why is None else 'failed'}" for name, why in outcome.items()],
        AlertError.exit_status if bad else 0,
    )
