"""A tenant whose row is gone from the application's table of tenants, or whose database is: what its backups know of it."""

from sbh_pipelines.backup.contents.json_lines import read_lines
from sbh_pipelines.backup.contents.manifest import LATEST
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.model import BackupId, Tenant, TenantId
from sbh_pipelines.repository.catalog.erased import refuse_erased
from sbh_pipelines.repository.format import CONFIG, Keys


def lost_tenant(site: Site, slug: TenantId, backup_id: str = LATEST) -> Tenant | None:
    """The tenant as this backup has it, for `latest` the newest of all regions; None where no region has one.

    Raises TenantErased, CorruptObject, and the errors of reaching the store.
    """
    found: dict[str, str] = {}  # region by backup id
    for region in site.settings.storage.regions:
        store, prefix = site.backup_store(Tenant(slug, "", region, ""))
        folder = prefix + Keys.MANIFESTS
        for info in store.list(folder):
            found[info.key.removeprefix(folder).removesuffix(".json")] = region
    wanted = max(found, default="") if backup_id == LATEST else backup_id
    if wanted not in found:
        for region in site.settings.storage.regions:
            refuse_erased(site.catalog(region), slug)
        return None
    with site.repository(Tenant(slug, "", found[wanted], "")) as repository:
        repository.load_index()
        manifest = read_manifest(repository, BackupId.parse(wanted))
        detail = read_component(repository, manifest, CONFIG).detail
        for fields in read_lines(repository, detail):
            if "tenant" in fields:
                return Tenant(**{**fields["tenant"], "id": slug})
    return None
