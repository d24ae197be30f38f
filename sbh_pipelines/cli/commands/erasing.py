"""`sbh tenants erase`, `readmit`, `certificate`: the end of a tenant's backups."""

from typing import Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.output import Answer, count, mib, table

SlugArgument = Annotated[str, typer.Argument(help="Slug of the tenant.", metavar="TENANT")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `sbh tenants`."""
    command(app, "erase")(erase)
    command(app, "readmit")(readmit)
    command(app, "certificate")(certificate)


def erase(
    invocation: Invocation,
    tenant: SlugArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is written into the certificate.", metavar="TEXT")],
    confirm: Annotated[
        str,
        typer.Option("--confirm", help="The slug once more: all backups of the tenant are destroyed.", metavar="SLUG"),
    ] = "",
) -> Answer:
    """Destroy all backups of a tenant for good: its keys first, then every object in every version. Its live data stay.

    The answer is a signed certificate. Refused under a legal hold. A run that was cut short goes on by the same command.
    """
    with invocation.progress() as progress:
        document = invocation.service().erase_tenant(
            tenant, invocation.user(), confirm=confirm, reason=reason, progress=progress
        )
    return _shown(document)


def readmit(invocation: Invocation, tenant: SlugArgument) -> Answer:
    """Allow backups of an erased tenant again. What was erased stays erased."""
    done = invocation.service().readmit_tenant(tenant, invocation.user())
    return Answer(done, lambda out: out.print(f"{tenant} may be backed up again"), [tenant])


def certificate(invocation: Invocation, tenant: SlugArgument) -> Answer:
    """Show the certificate of a tenant's last erasure, its signature checked."""
    return _shown(invocation.service().erasure_certificate(tenant, invocation.user()))


def _shown(document: dict[str, Any]) -> Answer:
    destroyed, left = document["destroyed"], document["not_destroyed"]
    rows = [
        ("tenant", document["tenant_id"]),
        ("erasure", document["erasure_id"]),
        ("asked for by", document["requested_by"]),
        ("reason", document["reason"]),
        ("from, to", f"{document['begun_at']}, {document['finished_at']}"),
        ("destroyed", f"{count(destroyed['versions'])} versions of objects, {mib(destroyed['bytes'])}"),
        ("keys", ", ".join(str(key["key_id"]) for key in destroyed["keys"]) or "none was found"),
        (
            "KMS keys of its own",
            ", ".join(f"{k['key_id']} on {k['deletion_date']}" for k in destroyed["kms_keys"]) or "none",
        ),
        ("could not be deleted", f"{count(left['versions'])} versions, unreadable without the keys"),
        ("copies made before", document["copies_made_before"]),
        ("audit trail kept", f"{count(document['audit_trail']['events'])} events"),
        ("signed in", document["signed_in"]),
        ("public key", document["signature"]["public_key"]),
    ]
    return Answer(
        document, lambda out: out.print(table("Certificate of erasure", ("what", ""), rows)), [document["erasure_id"]]
    )
