"""`sbh tenants`: who there is to back up."""

from dataclasses import asdict

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.output import Answer, plural, table

app = typer.Typer(name="tenants", help="The application's tenants.")


@command(app, "list")
def list_tenants(invocation: Invocation) -> Answer:
    """List the tenants, as the application's tenants table has them."""
    found = invocation.service().tenants()
    rows = [(tenant.id, tenant.region, tenant.tier, tenant.key) for tenant in found]
    return Answer(
        [asdict(tenant) for tenant in found],
        lambda out: out.print(table(plural(len(found), "tenant"), ("tenant", "region", "tier", "key"), rows)),
        brief=[tenant.id for tenant in found],
    )


def complete_tenant(incomplete: str) -> list[str]:
    """Shell completion: tenants that begin so. An error completes to nothing, and never prints."""
    try:
        return [tenant.id for tenant in Invocation().service().tenants() if tenant.id.startswith(incomplete)]
    except Exception:
        return []
