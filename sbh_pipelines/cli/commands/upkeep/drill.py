"""`sbh drill`: rehearse a restore into a throw-away place."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.backup.drill.scenarios import SCENARIOS, proof_text
from sbh_pipelines.cli.command import FromCopyOption, Invocation, command
from sbh_pipelines.cli.commands.backup import TenantOption
from sbh_pipelines.cli.commands.tenants import complete_tenant, failed_table, one_by_one
from sbh_pipelines.cli.output import Answer, count, facts, plural, table, utc, verdict
from sbh_pipelines.cli.show.spans import margin, met, span
from sbh_pipelines.errors import BatchError, DrillFailed, RepositoryError
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import DamagedDrill, DrillRecord, ScenarioResult

app = typer.Typer(name="drill", help="Rehearse restores: into a throw-away database, proved and measured.")

_SCENARIO_HELP = "What to rehearse: " + ", ".join(SCENARIOS) + ". May be repeated; default: all."


@command(app, "run", permission="drill.run")
def run(
    invocation: Invocation,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            "-t",
            help="The tenant's slug; default: those drilled longest ago, `drill.tenants_per_drill` of them.",
            autocompletion=complete_tenant,
        ),
    ] = None,
    scenario: Annotated[list[str] | None, typer.Option("--scenario", help=_SCENARIO_HELP)] = None,
    backup: Annotated[
        str, typer.Option("--backup", help="A backup id, `latest`, or @2024-01-15T14:32.", metavar="BACKUP")
    ] = "latest",
    from_copy: FromCopyOption = None,
) -> Answer:
    """Restore a tenant into a database and files that are thrown away afterwards; prove what came back, and measure how long
    it took. The live tenant is not touched. What does not hold is recorded, and exits 9.
    """
    service, user = invocation.service(from_copy), invocation.user()
    tenants = [tenant] if tenant is not None else service.drills.candidates(user)
    with invocation.progress() as progress:
        records, refused = one_by_one(
            tenants,
            lambda one: service.drills.run(one, user, backup_id=backup, scenarios=scenario or (), progress=progress),
        )

    def show(out: Any) -> None:
        for record in records:
            _show(out, record)
        if refused:
            out.print(failed_table("Not drilled", refused))
        if not tenants:
            out.print("No tenant has a backup: there is nothing to drill with.")

    failed = any(record.status != "passed" for record in records)
    status = DrillFailed.exit_status if failed else BatchError.exit_status if refused else 0
    return Answer({"drills": records, "failed": refused}, show, [r.drill_id for r in records], status)


@command(app, "list", permission="report.read")
def list_drills(invocation: Invocation, tenant: TenantOption, from_copy: FromCopyOption = None) -> Answer:
    """List a tenant's drills, newest first. A damaged record is shown as an error (exit 8)."""
    found = invocation.service(from_copy).drills.of(tenant, invocation.user())
    damaged = any(record.status == "damaged" for record in found)
    columns = ("drill", "backup", "scenario", "result", ">took", ">margin", "finished", "by")

    def show(out: Any) -> None:
        rows = [row for record in found for row in _listed(record)]
        out.print(table(f"{plural(len(found), 'drill')} of {tenant}", columns, rows))

    return Answer(found, show, [r.drill_id for r in found], RepositoryError.exit_status if damaged else 0)


def _listed(record: "DrillRecord | DamagedDrill") -> Iterator[Sequence[Any]]:
    from sbh_pipelines.backup.service.results import DrillRecord

    if not isinstance(record, DrillRecord):
        error = record.error
        yield record.drill_id, "", "", verdict(False, f"{error.code}: {error.why}"), "", "", "", ""
        return
    for one in record.scenarios:
        yield (
            record.drill_id,
            record.backup_id,
            one.scenario,
            _result(one),
            span(one.seconds),
            margin(one.margin_s),
            utc(record.finished_at),
            record.drilled_by,
        )


def _result(one: "ScenarioResult") -> Any:
    return verdict(True, one.status) if not one.error else verdict(False, one.error.code)


def _show(out: Any, record: "DrillRecord") -> None:
    passed = record.status == "passed"
    out.print(
        facts(
            {
                "drill": record.drill_id,
                "tenant": record.tenant_id,
                "backup": record.backup_id,
                "from the copy": record.from_copy,
                "result": verdict(passed, record.status),
                "recovery point": f"{span(record.recovery_point_age_s)} old"
                + (
                    f", at most {span(record.recovery_point_objective_s)} allowed"
                    if record.recovery_point_objective_s
                    else ""
                )
                if record.recovery_point_age_s is not None
                else "",
            }
        )
    )
    columns = ("scenario", "result", ">took", ">objective", ">margin", "met", ">rows", ">size", ">files", "proved")
    rows = [
        (
            one.scenario,
            _result(one),
            span(one.seconds),
            span(one.objective_s),
            margin(one.margin_s),
            met(one.met),
            count(one.rows),
            size_text(one.bytes),
            count(one.files),
            proof_text(one.proof),
        )
        for one in record.scenarios
    ]
    out.print(table("", columns, rows))
    if record.left_out:
        out.print(table("Left out: rows do not need it", ("~what", "~why"), [(o.what, o.why) for o in record.left_out]))
    found = [*(one.error for one in record.scenarios), *record.issues]
    for error in {str(error): error for error in found if error}.values():
        out.print(str(error), style="red", markup=False)
