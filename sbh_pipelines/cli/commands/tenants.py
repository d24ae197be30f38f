"""`sbh tenants`: who there is to back up, up to when each is safe, and the end of a tenant's backups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sbh_pipelines.cli.command import FromCopyOption, Invocation, ask_for_slug, command, on_terminal
from sbh_pipelines.cli.output import Answer, console, count, plural, printable, table, utc
from sbh_pipelines.cli.show.journal import show_windows
from sbh_pipelines.cli.show.moves import show_move_plan, show_moved
from sbh_pipelines.errors import RequestError, SbhError
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import ErasedCopy, ErasureCertificate, LatestPoint

app = typer.Typer(name="tenants", help="The application's tenants.")

_WHERE = {"went": "went to another site, {}", "on_its_way": "on its way here from {}"}
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class FailedTenant:
    """A tenant of several that failed; the others went on.

    Attributes:
        tenant_id: The tenant.
        error: What kept it.
    """

    tenant_id: str
    error: SbhError


def one_by_one(tenants: Sequence[str], work: Callable[[str], _Result]) -> tuple[list[_Result], list[FailedTenant]]:
    """What `work` gives for each tenant. One of several that fails, fails alone; the error of a single one is raised."""
    done: list[_Result] = []
    failed: list[FailedTenant] = []
    for tenant in tenants:
        try:
            done.append(work(tenant))
        except SbhError as error:
            if len(tenants) == 1:
                raise
            failed.append(FailedTenant(tenant, error))
    return done, failed


def failed_table(title: str, failed: Sequence[FailedTenant], *, remedies: bool = False) -> Any:
    """A line for each tenant that failed; with `remedies` also what to do next."""
    columns = ["tenant", "code", "what failed", "why", *(["what to do next"] if remedies else [])]
    lines = [(f.tenant_id, f.error.code, f.error.what, f.error.why, f.error.remedy)[: len(columns)] for f in failed]
    return table(title, columns, lines)


@command(app, "list", permission="backup.list")
def list_tenants(invocation: Invocation) -> Answer:
    """List the tenants, as the application's tenants table has them, those that move between sites, and unusable slugs."""
    tenants = invocation.service().tenants
    user = invocation.user()
    found, moved, unusable = tenants.visible_to(user), tenants.moved(user), tenants.unusable()
    rows = [(tenant.id, tenant.region, tenant.tier, tenant.key) for tenant in found]

    def show(out: Any) -> None:
        out.print(table(plural(len(found), "tenant"), ("tenant", "region", "tier", "key"), rows))
        if moved:
            gone = [
                (one.tenant_id, _WHERE[one.state].format(printable(one.site)), utc(one.since), one.backup_id)
                for one in moved
            ]
            columns = ("tenant", "where", "since", "last backup before")
            out.print(table(f"{plural(len(moved), 'tenant')} not backed up here", columns, gone))
        if unusable:
            lines = [(error.on, error.what, error.why, error.remedy) for error in unusable]
            columns = ("which", "~what is wrong", "~why", "~what to do next")
            out.print(table(f"{plural(len(unusable), 'tenant')} in no backup", columns, lines))

    return Answer(found, show, brief=[tenant.id for tenant in found])


@command(app, "recovery-points", permission="backup.list")
def recovery_points(
    invocation: Invocation,
    tenants: Annotated[
        list[str] | None, typer.Argument(help="Slugs of the tenants; default: all.", metavar="TENANT...")
    ] = None,
    pitr: Annotated[
        bool, typer.Option("--pitr", help="Show instead to which moments each can be brought, by the change journal.")
    ] = False,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Show up to when each tenant is safe: by a backup, or by a run that found it unchanged since, and its rows by the journal.

    Damage exits 8. With --from-copy, and --pitr: by what there is at the copy; `sbh copies status` says the rest.
    """
    if from_copy is not None and not pitr:
        raise RequestError(
            "Up to when tenants are safe at a copy is said elsewhere",
            on="--from-copy",
            remedy=f"sbh copies status {from_copy}",
        )
    service, user = invocation.service(from_copy), invocation.user()
    if pitr:
        windows = service.journal.recovery_windows(list(dict.fromkeys(tenants or ())), user)
        told = [f"{one.tenant_id} {window.start} {window.end}" for one in windows.tenants for window in one.windows]
        bad = windows.issues[0].exit_status if windows.issues else 0
        return Answer(windows, lambda out: show_windows(out, windows), told, bad)
    found = service.backups.recovery_points(list(dict.fromkeys(tenants or ())), user)

    def show_all(out: Any) -> None:
        columns = ("tenant", "latest recovery point", ">age", "backup", "-recorded as", "-rows until")
        out.print(
            table(plural(len(found.recovery_points), "tenant"), columns, map(_recovery_point, found.recovery_points))
        )
        for issue in found.issues:
            out.print(str(issue), style="red", markup=False)

    brief = [f"{p.tenant_id} {p.recovery_point.time if p.recovery_point else 'none'}" for p in found.recovery_points]
    return Answer(found, show_all, brief, found.issues[0].exit_status if found.issues else 0)


def _recovery_point(point: "LatestPoint") -> tuple[str, ...]:
    if point.recovery_point is None:
        return (point.tenant_id, "none", "", "", "", "")
    age = _age(point.age_s or 0.0)
    whole = (point.tenant_id, utc(point.recovery_point.time), age, str(point.backup_id), str(point.recorded_as))
    return (*whole, utc(point.rows_until) if point.rows_until else "")


def _age(seconds: float) -> str:
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min"


def complete_tenant(incomplete: str) -> list[str]:
    """Shell completion: tenants that begin so. An error completes to nothing, and never prints."""
    try:
        sbh = Invocation()
        return [
            tenant.id for tenant in sbh.service().tenants.visible_to(sbh.user()) if tenant.id.startswith(incomplete)
        ]
    except Exception:
        return []


TenantsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Slugs of the tenants.", metavar="TENANT...", autocompletion=complete_tenant),
]
EveryoneOption = Annotated[bool, typer.Option("--all", help="All tenants of the tenants table.")]


def check_chosen(tenants: list[str] | None, everyone: bool, verb: str) -> None:
    """Raises RequestError unless tenants are named, or all are meant, but not both."""
    if everyone == bool(tenants):
        raise RequestError(
            "Name the tenants, or say --all",
            why="both were given" if everyone else "neither was given",
            remedy=f"sbh {verb} TENANT..., or sbh {verb} --all",
        )


def chosen_tenants(invocation: Invocation, tenants: list[str] | None, everyone: bool, verb: str) -> list[str]:
    """The slugs that `verb` (as typed after `sbh`) is for. Raises RequestError unless exactly one of the two ways is used."""
    check_chosen(tenants, everyone, verb)
    if everyone:
        return [str(tenant.id) for tenant in invocation.service().tenants.visible_to(invocation.user())]
    return list(dict.fromkeys(tenants or ()))


FormerKeyOption = Annotated[
    str | None,
    typer.Option(
        "--former-key",
        help="The tenant that had this slug before, by its key in the application. For administrators of the platform.",
        metavar="KEY",
        show_default=False,
    ),
]
SlugArgument = Annotated[str, typer.Argument(help="Slug of the tenant.", metavar="TENANT")]


@command(app, "erase", permission="tenant.erase")
def erase(
    invocation: Invocation,
    tenant: SlugArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is written into the certificate.", metavar="TEXT")],
    confirm: Annotated[
        str,
        typer.Option("--confirm", help="The slug once more: all backups of the tenant are destroyed.", metavar="SLUG"),
    ] = "",
    former_key: FormerKeyOption = None,
    also_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--also-key",
            help="A tenant whose backups lie in the same repository, and go too. May be repeated.",
            metavar="KEY",
        ),
    ] = None,
) -> Answer:
    """Destroy all backups of a tenant for good: its keys first, then every object in every version. Its live data stay.

    The answer is a signed certificate. Refused under a legal hold. A run that was cut short goes on by the same command.
    """
    with invocation.progress() as progress:
        erased = invocation.service().keys.erase(
            tenant,
            invocation.user(),
            confirm=confirm,
            reason=reason,
            former_key=former_key,
            also_keys=also_keys or (),
            progress=progress,
        )
    return _shown(erased)


@command(app, "readmit", permission="tenant.erase")
def readmit(invocation: Invocation, tenant: SlugArgument) -> Answer:
    """Allow backups of an erased tenant again. What was erased stays erased."""
    done = invocation.service().keys.readmit(tenant, invocation.user())
    return Answer(done, lambda out: out.print(f"{tenant} may be backed up again"), [tenant])


@command(app, "adopt", permission="tenant.rehome")
def adopt(
    invocation: Invocation,
    tenant: SlugArgument,
    confirm: Annotated[str, typer.Option("--confirm", help="The slug once more.", metavar="SLUG")] = "",
    former_keys: Annotated[
        list[str] | None,
        typer.Option("--former-key", help="Whose backups, where there are several's. May be repeated.", metavar="KEY"),
    ] = None,
) -> Answer:
    """Hand what is kept under a slug to the tenant that has it now: the same customer under another key.

    Backups of the former key can be listed, exported and put into a schema from then on; never into live tables.
    """
    done = invocation.service().keys.adopt(tenant, invocation.user(), confirm=confirm, former_keys=former_keys or ())
    keys = ", ".join(done.former_keys) or "none that a backup names"
    told = f"the repository of {tenant} is now of the tenant with key {done.key}; former keys: {keys}"
    return Answer(done, lambda out: out.print(told, markup=False), [tenant])


@command(app, "retire", permission="tenant.rehome")
def retire(
    invocation: Invocation,
    tenant: SlugArgument,
    confirm: Annotated[str, typer.Option("--confirm", help="The slug once more.", metavar="SLUG")] = "",
) -> Answer:
    """Put what is kept under a slug aside, for the tenant that had it: the next one begins with backups of its own.

    Nothing is copied or deleted. Platform administrators read what was put aside by `--former-key KEY`.
    """
    done = invocation.service().keys.retire(tenant, invocation.user(), confirm=confirm)
    keys = ", ".join(done.former_keys) or "none that a backup names"
    told = f"{done.home} is put aside (keys: {keys}); the next tenant of {tenant} begins as {done.next_home}"
    return Answer(done, lambda out: out.print(told, markup=False), [tenant])


@command(app, "move", permission="tenant.move")
def move(
    invocation: Invocation,
    tenant: SlugArgument,
    target: Annotated[
        Path, typer.Option("--to", help="Settings file of the site that it comes to.", metavar="SETTINGS")
    ],
    source: Annotated[
        Path | None, typer.Option("--from", help="Settings file of the site that it leaves.", metavar="SETTINGS")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it would do, and every reason to refuse it.")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Yes, move it: the application writes no more for it.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Write over what was changed at the other site since a move was cut short."),
    ] = False,
    arrived: Annotated[
        bool,
        typer.Option("--arrived", help="Instead, without the other site: the tenant is here as it is, and backed up."),
    ] = False,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="Instead: it does not come. Its rows must be gone here, or not have come.")
    ] = False,
) -> Answer:
    """Move a tenant to another site: rows, files and all of its backups, after a final one. Nothing at the first site is removed.

    First have the application stop writing for the tenant. What wrote all the same is found out, and the move is then not finished;
    the same command goes on, as after a crash. Other tenants are not touched.
    """
    if (source is None) != (arrived or give_up) or (arrived and give_up):
        raise RequestError(
            "Say which site the tenant leaves, or how a move ends that was cut short",
            on=tenant,
            why="a move needs both sites, and its end at one of them the settings of that one only",
            remedy=f"sbh tenants move {tenant} --from SETTINGS --to {target}, or --arrived or --give-up in place of --from",
        )
    there_end = Invocation(settings_file=target)
    there, user_there = there_end.service().moves, there_end.user()
    if source is None:
        how = "--arrived" if arrived else "--give-up"
        if not confirm:
            told = "is backed up there from now on, as it is" if arrived else "does not come there any more"
            ask_for_slug(
                invocation,
                tenant,
                f"{tenant} {told}. The other site is not asked.",
                on=tenant,
                why="it ends a move at one site, and the other is not asked",
                remedy=f"sbh tenants move {tenant} --to {target} {how} --confirm",
            )
        if give_up:
            there.give_up(tenant, user_there)
            return Answer({"tenant_id": tenant}, lambda out: out.print(f"{tenant} does not come any more"), [tenant])
        with invocation.progress() as progress:
            made = there.arrived(tenant, user_there, progress=progress)
        return Answer(
            {"tenant_id": tenant, "arrival_id": made},
            lambda out: out.print(f"{tenant} is here, and backed up: {made}"),
            [made],
        )
    here_end = Invocation(settings_file=source)
    here, user = here_end.service().moves, here_end.user()
    if not confirm or dry_run:
        with invocation.progress() as progress:
            plan = here.plan(tenant, user, there, user_there, overwrite=overwrite, progress=progress)
        if dry_run:
            status = plan.problems[0].exit_status if plan.problems else 0
            return Answer(plan, lambda out: show_move_plan(out, plan), [plan.stage], status)
        if on_terminal(invocation):
            show_move_plan(console(stderr=True), plan)
        ask_for_slug(
            invocation,
            tenant,
            f"This moves {plan.tenant_id} to {printable(plan.to_site)}. The application must write no more for it.",
            on=f"{plan.tenant_id} from {plan.from_site} to {plan.to_site}",
            why="it writes the tenant's rows and files there, and ends its backups here",
            remedy=f"sbh tenants move {plan.tenant_id} --from {source} --to {target}"
            f"{' --overwrite' if overwrite else ''} --confirm",
        )
    with invocation.progress() as progress:
        moved = here.run(tenant, user, there, user_there, overwrite=overwrite, progress=progress)
    return Answer(moved, lambda out: show_moved(out, moved), [moved.arrival_id])


@command(app, "certificate", permission="tenant.erase")
def certificate(invocation: Invocation, tenant: SlugArgument) -> Answer:
    """Show the certificate of a tenant's last erasure, its signature checked."""
    return _shown(invocation.service().keys.certificate(tenant, invocation.user()))


def _shown(certificate: "ErasureCertificate") -> Answer:
    destroyed, left = certificate.destroyed, certificate.not_destroyed
    kms_keys = ", ".join(f"{key.key_id} on {key.deletion_date}" for key in destroyed.kms_keys)
    remains = certificate.journal
    rows = [
        ("tenant", certificate.tenant_id),
        ("erasure", certificate.erasure_id),
        ("asked for by", certificate.requested_by),
        ("reason", certificate.reason),
        ("from, to", f"{certificate.begun_at}, {certificate.finished_at}"),
        ("destroyed", f"{count(destroyed.versions)} versions of objects, {size_text(destroyed.bytes)}"),
        ("keys", ", ".join(str(key.key_id) for key in destroyed.keys) or "none was found"),
        ("KMS keys of its own", kms_keys or "none"),
        ("could not be deleted", f"{count(left.versions)} versions, unreadable without the keys"),
        ("wrapped before by", ", ".join(one.key_id for one in destroyed.former_wrappings or ()) or "no other key"),
        ("copies made before", certificate.copies_made_before),
        *((f"copy {copy.name}", _of_copy(copy)) for copy in certificate.copies or ()),
        *([("sealed blocks in the journal", f"gone by {remains.until}")] if remains else []),
        ("kept elsewhere", "; ".join(certificate.kept_elsewhere or ()) or "not told"),
        ("audit trail kept", f"{count(certificate.audit_trail.events)} events"),
        ("signed in", certificate.signed_in),
        ("public key", certificate.signature.public_key if certificate.signature else ""),
    ]
    shown = table("Certificate of erasure", ("what", "~"), rows)
    return Answer(certificate, lambda out: out.print(shown), [certificate.erasure_id])


def _of_copy(copy: "ErasedCopy") -> str:
    if not copy.reached:
        return f"not reached: {copy.why or 'not known why'}"
    destroyed = f"{count(copy.found.versions - copy.left)} versions of objects, {size_text(copy.found.bytes)} found"
    if not copy.left:
        return f"{destroyed}; {copy.why}" if copy.why else destroyed
    until = f", locked until {copy.locked_until}" if copy.locked_until else ""
    return f"{destroyed}; {count(copy.left)} versions are left{until}, unreadable without the keys"
