"""Which tenants were erased: one object each, outside the tenants' own prefixes, in the catalog of every region.

While it is there, nothing begins for the tenant: no lease is taken for the first time, no key is made, and the catalog says
nothing of it. It is looked for only where there is no key or no lease, so that it costs nothing in normal runs.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from sbh_pipelines.errors import ObjectMissing, TenantErased
from sbh_pipelines.repository.format import parse_document, pretty
from sbh_pipelines.stores.base import ObjectStore

ERASED, CERTIFICATES = "erased/", "certificates/"
ERASING, DONE = "erasing", "erased"  # states


class CatalogPlace(Protocol):
    @property
    def store(self) -> ObjectStore: ...

    @property
    def prefix(self) -> str: ...


def erased_key(slug: str) -> str:
    return f"{ERASED}{slug}.json"


def certificate_key(slug: str, erasure_id: str) -> str:
    return f"{CERTIFICATES}{slug}/{erasure_id}.json"


def erased_slug(key: str) -> str | None:
    """The tenant that an object below a catalog's prefix says is erased."""
    name = key.removeprefix(ERASED)
    return name.removesuffix(".json") if name != key and name.endswith(".json") and "/" not in name else None


def read_erased(catalog: CatalogPlace, slug: str) -> dict[str, Any] | None:
    """The record: {tenant_id, state, erasure_id, ...}. Raises CorruptObject."""
    key = catalog.prefix + erased_key(slug)
    try:
        return parse_document(catalog.store.get(key), catalog.store.url(key))
    except ObjectMissing:
        return None


def write_erased(catalog: CatalogPlace, slug: str, record: Mapping[str, Any]) -> None:
    catalog.store.put(catalog.prefix + erased_key(slug), pretty(record))


def refuse_erased(catalog: CatalogPlace, slug: str) -> None:
    """Raises TenantErased where there is a record, also a damaged one."""
    key = catalog.prefix + erased_key(slug)
    try:
        catalog.store.get(key)
    except ObjectMissing:
        return
    raise TenantErased(
        "The tenant's backups were erased",
        on=slug,
        why="nothing can be read, and no backup is made until the tenant is admitted again",
        remedy=f"`sbh tenants certificate {slug}` shows the certificate; `sbh tenants readmit {slug}` allows backups again",
    )


def read_certificate(catalog: CatalogPlace, slug: str, erasure_id: str) -> dict[str, Any]:
    """Raises ObjectMissing, CorruptObject."""
    key = catalog.prefix + certificate_key(slug, erasure_id)
    return parse_document(catalog.store.get(key), catalog.store.url(key))


def list_certificates(catalog: CatalogPlace, slug: str) -> list[str]:
    """Ids of the erasures that this region has a certificate of."""
    folder = catalog.prefix + certificate_key(slug, "").removesuffix(".json")
    return [info.key.removeprefix(folder).removesuffix(".json") for info in catalog.store.list(folder)]
