"""Where each tenant's changes go: its region, and the key that its blocks are sealed to.

Both are read after the fence, and on the primary: a standby may not know yet where a tenant is now. A tenant whose key was
registered before the fence, as every one that has a backup from before it, is among them. An erased tenant has no key, whoever put
an old object with its key back.
"""

from collections.abc import Mapping
from contextlib import suppress

from sbh_pipelines.backup.journal.routing.tenant_blocks import Place
from sbh_pipelines.backup.site.erased_homes import without_erased
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.schema.tenants import list_tenants
from sbh_pipelines.database.session.encodings import parsable, printable, to_utf8
from sbh_pipelines.database.session.targets import journal_database
from sbh_pipelines.errors import ResidencyError
from sbh_pipelines.placement import check_tenant
from sbh_pipelines.repository.journal.journal import Journal


class Places:
    """The tenants of a drain. `known`: by their key."""

    def __init__(self, site: Site, journals: Mapping[str, Journal], encoding: str) -> None:
        settings = site.settings
        keys = {
            region: without_erased(site, region, journal.public_keys.read()) for region, journal in journals.items()
        }
        self._encoding = encoding
        self.known: dict[str, Place] = {}
        for tenant in list_tenants(settings, journal_database(settings)).tenants:
            if tenant.region not in keys:
                self.known[tenant.key] = Place(tenant.key, None, None)
                continue
            key = None
            with suppress(ResidencyError):
                check_tenant(settings, tenant)
                key = keys[tenant.region].get(tenant.key)
            self.known[tenant.key] = Place(tenant.key, tenant.region, key)

    def key_of(self, tenant: bytes) -> str:
        """A tenant's key as text, of what a row has in the database's encoding."""
        return printable(parsable(to_utf8(tenant, self._encoding)))

    def of(self, tenant: bytes) -> Place:
        """Where the tenant's changes go. One that is not listed has no region."""
        key = self.key_of(tenant)
        return self.known.get(key) or Place(key, None, None)
