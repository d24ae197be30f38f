"""`sbh fleet`: up to when the tenants of several sites are safe, in one table, the worst first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.output import Answer, count, plural, print_issues, printable, table, utc
from sbh_pipelines.cli.show.spans import met, span
from sbh_pipelines.errors import BatchError, SbhError

_SHOWN = 50


@dataclass(frozen=True, slots=True)
class FleetTenant:
    """A tenant of one of the sites.

    Attributes:
        site: The site: its name, else its settings file.
        tenant_id: The tenant.
        tier: Its tier.
        recovery_point: The latest instant to which it can be restored, ISO 8601 UTC; null where it has no backups.
        lost_s: How much would be lost now, s: of the rows, where the change journal tells of them.
        objective_s: How much may be lost at most, s; null without an objective.
        missed: Whether more would be lost than was promised, or all of it.
    """

    site: str
    tenant_id: str
    tier: str
    recovery_point: str | None
    lost_s: float | None
    objective_s: float | None
    missed: bool

    @property
    def badness(self) -> tuple[bool, float]:
        """What the worst has most of: without a backup, then the loss in objectives; by days where there is none."""
        return self.lost_s is None, (self.lost_s or 0.0) / (self.objective_s or 86_400.0)


@dataclass(frozen=True, slots=True)
class FleetSite:
    """A site.

    Attributes:
        site: Its name, else its settings file.
        settings: The settings file; empty where there is none.
        tenants: How many tenants it has.
        missed: How many of them miss their objective, or have no backup.
        issues: What could not be read; where it is nothing of the site at all, there are no tenants.
        moved: Tenants that went to another site, by name, and which.
        arriving: Tenants that are on their way here, by name, and from which site: not backed up here yet.
    """

    site: str
    settings: str
    tenants: int
    missed: int
    issues: Sequence[SbhError]
    moved: Mapping[str, str] = field(default_factory=dict)
    arriving: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Several sites, and their tenants, the worst first."""

    sites: Sequence[FleetSite]
    tenants: Sequence[FleetTenant]


def fleet(
    invocation: Invocation,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Settings files, one for each site; default: the one of --settings.", metavar="SETTINGS..."
        ),
    ] = None,
    only_missed: Annotated[
        bool, typer.Option("--missed", help="Only tenants that miss their objective, or have no backup.")
    ] = False,
) -> Answer:
    """Show up to when the tenants of all these sites are safe, the worst first: `sbh fleet /etc/sbh/*.toml`.

    A site that cannot be asked keeps none of the others from being shown; the exit status is then 11. The table has the 50 worst
    tenants, --json all of them.
    """
    from sbh_pipelines.concurrency import side_by_side

    named: list[Path | None] = [*dict.fromkeys(files or ())] or [None]
    found = side_by_side(lambda file: _site(invocation, file), named, name="sites")
    tenants = sorted((t for _, own in found for t in own if t.missed or not only_missed), key=lambda t: t.badness)
    made = Fleet([site for site, _ in found], tenants[::-1])
    bad = any(site.issues for site in made.sites)
    brief = [f"{t.site} {t.tenant_id} {t.recovery_point or 'none'}" for t in made.tenants]
    return Answer(made, lambda out: _show(out, made), brief, BatchError.exit_status if bad else 0)


def add_to(app: typer.Typer) -> None:
    command(app, "fleet", permission="backup.list")(fleet)


def _site(invocation: Invocation, file: Path | None) -> tuple[FleetSite, list[FleetTenant]]:
    """A site and its tenants; what is wrong with it is in it."""
    shown = str(file or invocation.named_file or "")
    name = shown
    own = Invocation(settings_file=file or invocation.settings_file)
    try:
        settings = own.settings()
        name = settings.site.name or shown
        service, user = own.service(), own.user()
        moved, arriving = dict[str, str](), dict[str, str]()
        for one in service.tenants.moved(user):
            (moved if one.state == "went" else arriving)[one.tenant_id] = one.site
        tiers = {str(tenant.id): tenant.tier for tenant in service.tenants.visible_to(user)}
        points = service.backups.recovery_points([], user)
    except SbhError as error:
        return FleetSite(name, shown, 0, 0, [error]), []
    tenants = []
    for point in points.recovery_points:
        tier = tiers.get(point.tenant_id, "")
        time = point.recovery_point.time if point.recovery_point else None
        lost = point.age_s if point.rows_lost_s is None else point.rows_lost_s
        objective = settings.recovery_point_objective_s(tier)
        missed = lost is None or (objective is not None and lost > objective)
        tenants.append(FleetTenant(name, point.tenant_id, tier, time, lost, objective, missed))
    return FleetSite(name, shown, len(tenants), sum(t.missed for t in tenants), points.issues, moved, arriving), tenants


def _show(out: Any, made: Fleet) -> None:
    sites = [(s.site, count(s.tenants), count(s.missed), _state(s), s.settings) for s in made.sites]
    out.print(table(plural(len(sites), "site"), ("site", ">tenants", ">missed", "state", "-settings"), sites))
    rows = [
        (
            tenant.site,
            tenant.tenant_id,
            tenant.tier,
            utc(tenant.recovery_point) or "none",
            span(tenant.lost_s) or "everything",
            span(tenant.objective_s),
            met(None if tenant.objective_s is None and not tenant.missed else not tenant.missed),
        )
        for tenant in made.tenants[:_SHOWN]
    ]
    columns = ("site", "tenant", "-tier", "recovery point", ">lost now", "->objective", "met")
    title = plural(len(made.tenants), "tenant")
    out.print(table(title if len(rows) == len(made.tenants) else f"The worst {_SHOWN} of {title}", columns, rows))
    for site in made.sites:
        for tenant_id, to in site.moved.items():
            out.print(printable(f"{tenant_id} went from {site.site} to {to}"), style="dim", markup=False)
        for tenant_id, source in site.arriving.items():
            told = f"{tenant_id} is on its way from {source} to {site.site}, and not backed up here yet"
            out.print(printable(told), style="yellow", markup=False)
        print_issues(out, site.issues)


def _state(site: FleetSite) -> str:
    return "read" if not site.issues else "read in part" if site.tenants else "not read"
