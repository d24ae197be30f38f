"""The service's calls about keys, and about the end of a tenant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sbh_pipelines.backup.keys.certificate import ErasureCertificate, public_key_of, verify_certificate
from sbh_pipelines.backup.keys.erased_owner import whose
from sbh_pipelines.backup.keys.erasure import check_request, erase
from sbh_pipelines.backup.keys.key_state import KeyState, key_state
from sbh_pipelines.backup.keys.owner_change import Adoption, Retired, adopt, check_confirmed, retire
from sbh_pipelines.backup.keys.rotation import (
    KeyOwner,
    RotationReport,
    RotationRequest,
    each_owner,
    rotate_all,
)
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.database.schema.tenants import find_tenant
from sbh_pipelines.errors import EraseRefused, RequestError, SbhError, SourceError, UnknownTenant
from sbh_pipelines.model import HousedTenant, ProgressSink, Tenant, TenantId, no_progress
from sbh_pipelines.repository.catalog.erased import (
    ErasureRecord,
    erased_key,
    list_certificates,
    mark_readmitted,
    read_certificate,
    read_erased,
)
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext


@dataclass(frozen=True, slots=True)
class Readmission:
    """An erased tenant of which backups may be made again.

    Attributes:
        tenant_id: The tenant.
        erasure_id: The erasure that it was readmitted after.
    """

    tenant_id: str
    erasure_id: str


class Keys:
    """The keys that protect the backups, and the erasure of a tenant by destroying them."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._site = gate, gate.site

    # keys

    def rotate(
        self,
        tenant_ids: Sequence[str],
        user_ctx: UserContext,
        *,
        everyone: bool = False,
        new_data_key: bool = False,
        re_encrypt: bool = False,
        progress: ProgressSink = no_progress,
    ) -> RotationReport:
        """Wrap the data keys of these tenants anew, under the key that the settings name now; nothing else is rewritten.

        `everyone`: all tenants, those of whom only backups are left, the platform, and the regions' catalogs. `new_data_key`
        begins a key epoch besides; `re_encrypt` rewrites what is of earlier ones, in two runs a day apart, the second of which
        destroys their keys.

        Raises AccessDenied, KeyRotationFailed (some failed; its `report` says which), or for a single tenant its own error.
        """
        request, damages = RotationRequest(new_data_key, re_encrypt), list[SbhError]()
        owners = self._owners(tenant_ids, user_ctx, "keys.rotate", everyone, damages)
        report = rotate_all(self._site, owners, request, user_ctx.user_id, progress)
        return replace(report, issues=damages)

    def status(self, user_ctx: UserContext, tenant_ids: Sequence[str] = ()) -> list[KeyState]:
        """What is known of the tenants' keys; for none given of all that the caller may see.

        A platform user sees those of the platform and of the catalogs too.
        """
        if not tenant_ids and user_ctx.tenant_id != ALL_TENANTS:
            tenant_ids = [user_ctx.tenant_id]
        owners = self._owners(tenant_ids, user_ctx, "keys.read", not tenant_ids, [])
        states = side_by_side(lambda owner: key_state(self._site, owner), owners, name="keys")
        return [state for state in states if state is not None]

    def _owners(
        self,
        tenant_ids: Sequence[str],
        user_ctx: UserContext,
        action: str,
        everyone: bool,
        damages: list[SbhError],
    ) -> list[KeyOwner]:
        if everyone:
            self._gate.authorize(user_ctx, action, ALL_TENANTS)
            return each_owner(self._site, self._gate.tenants.all(), damages.append)
        tenants = [self._gate.allowed(tenant_id, user_ctx, action) for tenant_id in dict.fromkeys(tenant_ids)]
        return [KeyOwner(str(tenant.id), tenant) for tenant in tenants]

    def public(self, user_ctx: UserContext) -> dict[str, str]:
        """The public key of each region's certificates of erasure, in base64: to be kept by who will check them."""
        self._gate.authorize(user_ctx, "keys.read", ALL_TENANTS)
        regions = self._site.settings.storage.regions
        return {region: public_key_of(self._site.catalog(region).certificate_key) for region in regions}

    # a slug that changed hands

    def adopt(
        self, tenant_id: str, user_ctx: UserContext, *, confirm: str, former_keys: Sequence[str] = ()
    ) -> Adoption:
        """Hand what is kept under a slug to the tenant that has the slug now: the same customer under another key.

        Only platform admins may. `former_keys`: whose backups, where there are several's. They can be read and exported from
        then on; into live tables go only those of the tenant's own key. Raises AccessDenied, NotConfirmed, OwnerRefused,
        UnknownTenant, LeaseHeld.
        """
        slug = TenantId.parse(tenant_id)
        self._gate.authorize(user_ctx, "tenant.rehome", ALL_TENANTS)
        check_confirmed(slug, confirm, "adopt")
        return adopt(self._site, find_tenant(self._site.settings, slug), user_ctx.user_id, former_keys)

    def retire(self, tenant_id: str, user_ctx: UserContext, *, confirm: str) -> Retired:
        """Put what is kept under a slug aside: it stays the former tenant's, and the slug's next tenant begins anew.

        Only platform admins may, who read it by naming the former tenant's key. Killed anywhere, the same call goes on. Raises
        AccessDenied, NotConfirmed, OwnerRefused (it is the tenant's own), LeaseHeld.
        """
        slug = TenantId.parse(tenant_id)
        self._gate.authorize(user_ctx, "tenant.rehome", ALL_TENANTS)
        check_confirmed(slug, confirm, "retire")
        try:
            live = find_tenant(self._site.settings, slug)
        except UnknownTenant:
            live = None
        return retire(self._site, slug, live, user_ctx.user_id)

    # erasing

    def erase(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        *,
        confirm: str,
        reason: str,
        former_key: str | None = None,
        also_keys: Sequence[str] = (),
        progress: ProgressSink = no_progress,
    ) -> ErasureCertificate:
        """Destroy all backups of a tenant for good, keys first; the signed certificate. The tenant's live data stay.

        Only platform admins may. `confirm` is the slug once more. `former_key`: those of the tenant that had the slug before under
        this key. `also_keys`: of others whose backups lie in the same repository, and go too. Killed anywhere, the same call goes
        on; for a tenant that is erased it gives the certificate again. Until `readmit_tenant` nothing is backed up for the
        tenant; another one that gets the slug is not concerned.

        Raises AccessDenied, EraseRefused (not confirmed, or under a legal hold), OwnerRefused (others' backups would go too),
        RequestError, LeaseHeld, UnknownTenant.
        """
        slug = TenantId.parse(tenant_id)
        self._gate.authorize(user_ctx, "tenant.erase", ALL_TENANTS)
        check_request(slug, confirm, reason)
        live = self._live(slug)
        erased = whose(self._site, slug, live, former_key, also_keys)
        region = live.region if live is not None else None
        return erase(self._site, erased, user_ctx.user_id, reason, region, progress)

    def _live(self, slug: TenantId) -> Tenant | None:
        try:
            return find_tenant(self._site.settings, slug)
        except (UnknownTenant, SourceError):  # the database may be gone for good: the buckets tell
            return None

    def readmit(self, tenant_id: str, user_ctx: UserContext) -> Readmission:
        """Allow backups of an erased tenant again, with keys of their own. Certificates stay. A killed call is given again.

        Raises AccessDenied, EraseRefused while the erasure is not finished, RequestError where the tenant is not erased.
        """
        slug = TenantId.parse(tenant_id)
        self._gate.authorize(user_ctx, "tenant.erase", ALL_TENANTS)
        home, record = self._erasure(slug)
        if not record.done:
            raise EraseRefused(
                "The erasure of the tenant is not finished",
                on=slug,
                why="its keys may be gone already, and objects are left",
                remedy=f"finish it first: sbh tenants erase {slug} --confirm {slug} --reason ...",
            )
        tenant = HousedTenant(slug, "", record.region, "", home)
        self._site.track(tenant, "tenant.readmitted", user_ctx.user_id, {"erasure_id": record.erasure_id})
        catalogs = [self._site.catalog(region) for region in self._site.settings.storage.regions]
        for catalog in catalogs:  # first: who has a copy of the record can put it back once it is deleted
            mark_readmitted(catalog, home, record.erasure_id)
        for catalog in catalogs:
            catalog.store.delete([catalog.prefix + erased_key(home)])
        return Readmission(slug, record.erasure_id)

    def certificate(self, tenant_id: str, user_ctx: UserContext) -> ErasureCertificate:
        """The certificate of a tenant's last erasure, its signature checked. Raises RequestError where there is none."""
        slug = TenantId.parse(tenant_id)
        self._gate.authorize(user_ctx, "tenant.erase", ALL_TENANTS)
        catalogs = {region: self._site.catalog(region) for region in self._site.settings.storage.regions}
        found = {name: catalog for catalog in catalogs.values() for name in list_certificates(catalog, slug)}
        if not found:
            raise RequestError("There is no certificate of an erasure", on=slug, remedy="see `sbh audit list`")
        newest = max(found)
        document = read_certificate(found[newest], slug, newest)
        signer = catalogs.get(str(document.get("signed_in")), found[newest])
        verify_certificate(document, public_key_of(signer.certificate_key))
        return ErasureCertificate.of(document)

    @staticmethod
    def verify_certificate(document: Mapping[str, object], public_key: str) -> None:
        """Raises CorruptObject unless a certificate is genuine, RequestError for no public key. Needs no settings."""
        verify_certificate(document, public_key)

    def _erasure(self, slug: TenantId) -> tuple[str, ErasureRecord]:
        """The name of the repository, and the record: the live tenant's own, or, where nobody has the slug, the last one's."""
        live = self._live(slug)
        homes = self._site.owners.every_home(slug) if live is None else [self._site.owners.home_of(live)]
        for home in homes:
            for region in self._site.settings.storage.regions:
                if (record := read_erased(self._site.catalog(region), home)) is not None:
                    return home, record
        raise RequestError("The tenant is not erased", on=slug, remedy="none is needed: backups of it are allowed")
