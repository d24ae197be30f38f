"""`sbh copies`: the backups once more, in another region or with another provider. How they stand, copied, verified, promoted."""

from typing import Annotated

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.commands.tenants import complete_tenant
from sbh_pipelines.cli.output import Answer
from sbh_pipelines.cli.show.copies import (
    show_forgotten,
    show_promotion,
    show_run,
    show_status,
    show_upkeep,
    show_verification,
    status_line,
)
from sbh_pipelines.errors import BatchError, HealthError, RepositoryError

app = typer.Typer(name="copies", help="Copies of the backups, in another region or with another provider.")

_NAME = typer.Argument(help="Name of the copy, as `[[copies]]` of the settings has it.", metavar="NAME")
_Tenants = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant",
        help="Only this tenant. May be repeated.",
        metavar="TENANT",
        autocompletion=complete_tenant,
        show_default=False,
    ),
]


@command(app, "status", permission="copies.status")
def status(
    invocation: Invocation,
    name: Annotated[
        str | None, typer.Argument(help="Name of the copy; default: all.", metavar="NAME", show_default=False)
    ] = None,
) -> Answer:
    """Show until when each tenant was verified at each copy, the worst first, and which tenants are left out, and why.

    Exits 14 unless every tenant that is copied is there as lately as the copy's objective asks for, what belongs to the regions
    is there too, and nothing lies there that may not.
    """
    found = invocation.service().copies.status(invocation.user(), name)
    lines = [line for copy in found for line in copy.tenants]
    good = all(line.standing in ("current", "ended", "left_out") and not line.misplaced for line in lines)
    bad = not good or any(copy.issues or copy.damages or copy.steps for copy in found)
    return Answer(
        {"copies": found},
        lambda out: show_status(out, found),
        [status_line(copy) for copy in found],
        HealthError.exit_status if bad else 0,
    )


@command(app, "run", permission="copies.run")
def run(invocation: Invocation, name: Annotated[str, _NAME], tenants: _Tenants = None) -> Answer:
    """Copy what is not there yet, verify it there, and record until when each tenant is. Exits 11 if something failed.

    A run that is interrupted is taken up by the next.
    """
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        done = service.copies.run(user, name, tenants or (), progress=progress)
    failed = [one for one in done.tenants if one.error is not None]
    bad = bool(failed or done.issues)
    brief = [f"{one.tenant_id} {one.backup_id or 'none'}" for one in done.tenants if one.left_out is None]
    return Answer(done, lambda out: show_run(out, done), brief, BatchError.exit_status if bad else 0)


@command(app, "verify", permission="copies.verify")
def verify(
    invocation: Invocation,
    name: Annotated[str, _NAME],
    tenants: _Tenants = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Download, decrypt and hash what all backups there need, each pack once.")
    ] = False,
) -> Answer:
    """Check what is at a copy by the copy alone: its bucket, its keys. What is not whole there exits 8.

    The newest backup of each tenant: its signature, documents, and that every pack is there with its size.
    """
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        found = service.copies.verify(user, name, tenants or (), deep, progress=progress)
    brief = [f"{one.tenant_id} {'valid' if one.valid else 'invalid'}" for one in found.tenants]
    return Answer(
        found, lambda out: show_verification(out, found), brief, 0 if found.valid else RepositoryError.exit_status
    )


@command(app, "prune", permission="copies.run")
def prune(invocation: Invocation, name: Annotated[str, _NAME], tenants: _Tenants = None) -> Answer:
    """Forget at a copy what its own policy drops, give back the space of what nothing needs there, and renew its locks.

    What was deleted at the source stays as long as the copy's policy says. What was not done, and why, is shown, and exits 8.
    """
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        done = service.copies.prune(user, name, tenants or (), progress=progress)
    brief = [f"{one.tenant_id} {len(one.kept)} kept {len(one.forgotten)} forgotten" for one in done.tenants]
    return Answer(done, lambda out: show_upkeep(out, done), brief, 0 if done.good else RepositoryError.exit_status)


@command(app, "forget", permission="copies.forget")
def forget(
    invocation: Invocation,
    name: Annotated[str, _NAME],
    tenant: Annotated[
        str, typer.Option("--tenant", help="The tenant.", metavar="TENANT", autocompletion=complete_tenant)
    ],
    confirm: Annotated[bool, typer.Option("--confirm", help="Do it.")] = False,
) -> Answer:
    """Remove from a copy what lies there of a tenant that is not copied any more, its keys first. Its backups here stay.

    What is under object lock stays until that ends, and nothing opens it; until when is shown.
    """
    done = invocation.service().copies.forget(invocation.user(), name, tenant, confirm=confirm)
    return Answer(done, lambda out: show_forgotten(out, done), [*done.repositories])


@command(app, "promote", permission="copies.promote")
def promote(
    invocation: Invocation,
    name: Annotated[str, _NAME],
    source_lost: Annotated[
        bool,
        typer.Option(
            "--source-lost", help="Ask nothing of the place of the backups: what is at the copy is all there is."
        ),
    ] = False,
    without_asking: Annotated[
        list[str] | None,
        typer.Option(
            "--without-asking",
            help="Do not ask this other copy, which does not answer, whether it was promoted already. May be repeated.",
            metavar="COPY",
            show_default=False,
        ),
    ] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Do it; without, show what would be done.")] = False,
) -> Answer:
    """Make a copy the place where backups are made from now on. Without --confirm, show what that would do.

    A place that answers writes no more from then on, and loses nothing: it is copied a last time. Killed, the same command goes on.
    """
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        found = service.copies.promote(
            user,
            name,
            source_lost=source_lost,
            without_asking=without_asking or (),
            confirm=confirm,
            progress=progress,
        )
    brief = [f"{name} {'promoted' if found.promoted else 'not promoted'}"]
    brief += [f"{one.tenant_id} {one.standing} {one.backup_id or 'none'}" for one in found.tenants]
    return Answer(found, lambda out: show_promotion(out, found), brief)
