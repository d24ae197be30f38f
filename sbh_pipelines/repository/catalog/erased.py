"""Which tenants were erased: one object each, outside the tenants' own prefixes, in the catalog of every region.

While it is there, nothing begins for the tenant: no lease is taken for the first time, no key is made, and the catalog says
nothing of it. It is looked for only where there is no key or no lease, so that it costs nothing in normal runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sbh_pipelines.document import as_document, optional
from sbh_pipelines.errors import CorruptObject, ObjectMissing, TenantErased
from sbh_pipelines.repository.bounds import CERTIFICATE_BYTES, ERASED_BYTES
from sbh_pipelines.repository.format import parse_document, pretty
from sbh_pipelines.stores.base import ObjectStore

ERASED, CERTIFICATES = "erased/", "certificates/"
ERASING, DONE = "erasing", "erased"  # states


@dataclass(frozen=True, slots=True)
class ErasedKey:
    """A key object that an erasure found; null is what its document did not say.

    Attributes:
        object: Its address.
        epoch: Its key epoch.
        region: Its region.
        provider: What wrapped the key.
        key_id: Name of the key that did.
    """

    object: str
    epoch: int | None
    region: str | None
    provider: str | None
    key_id: str | None


@dataclass(frozen=True, slots=True)
class ErasureCounts:
    """What an erasure found of a tenant's backups.

    Attributes:
        objects: Objects, in their current versions.
        versions: Versions of objects, those included.
        bytes: Bytes of all versions.
    """

    objects: int
    versions: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ErasureRecord:
    """The record of an erasure, by which nothing begins for the tenant any more.

    Attributes:
        tenant_id: The tenant.
        state: `erasing`, or `erased` when all is done.
        erasure_id: Id of the erasure.
        region: The region whose key signs the certificate, and whose trail has the event.
        requested_by: Who asked for it.
        reason: Why.
        begun_at: Time at which it began, UTC.
        found: What there was then.
        keys: The key objects that there were.
        certificate: Key of the certificate, below the catalog's prefix.
    """

    tenant_id: str
    state: str
    erasure_id: str
    region: str
    requested_by: str
    reason: str
    begun_at: str
    found: ErasureCounts
    keys: Sequence[ErasedKey]
    certificate: str | None = optional()

    @property
    def done(self) -> bool:
        return self.state == DONE

    @classmethod
    def of(cls, document: Mapping[str, Any], on: str) -> "ErasureRecord":
        """The record that is stored as `document`. Raises CorruptObject."""
        try:
            keys = [ErasedKey(**key) for key in document["keys"]]
            return cls(**{**document, "found": ErasureCounts(**document["found"]), "keys": keys})
        except (KeyError, TypeError) as error:
            raise CorruptObject("The record of an erasure is damaged", on=on, why=type(error).__name__) from None


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


def read_erased(catalog: CatalogPlace, slug: str) -> ErasureRecord | None:
    """The record of the tenant's last erasure; None where it is not erased. Raises CorruptObject."""
    key = catalog.prefix + erased_key(slug)
    place = catalog.store.url(key)
    try:
        return ErasureRecord.of(parse_document(catalog.store.get(key, ERASED_BYTES), place), place)
    except ObjectMissing:
        return None


def write_erased(catalog: CatalogPlace, slug: str, record: ErasureRecord) -> None:
    catalog.store.put(catalog.prefix + erased_key(slug), pretty(as_document(record)))


def refuse_erased(catalog: CatalogPlace, slug: str) -> None:
    """Raises TenantErased where there is a record, also a damaged one."""
    key = catalog.prefix + erased_key(slug)
    try:
        catalog.store.head(key)
    except ObjectMissing:
        return
    raise TenantErased(
        "The tenant's backups were erased",
        on=slug,
        why="nothing can be read, and no backup is made until the tenant is admitted again",
        remedy=f"`sbh tenants certificate {slug}` shows the certificate; `sbh tenants readmit {slug}` allows backups again",
    )


def read_certificate(catalog: CatalogPlace, slug: str, erasure_id: str) -> dict[str, Any]:
    """The certificate as it is stored, nothing of it believed yet. Raises ObjectMissing, CorruptObject."""
    key = catalog.prefix + certificate_key(slug, erasure_id)
    return parse_document(catalog.store.get(key, CERTIFICATE_BYTES), catalog.store.url(key))


def list_certificates(catalog: CatalogPlace, slug: str) -> list[str]:
    """Ids of the erasures that this region has a certificate of."""
    folder = catalog.prefix + certificate_key(slug, "").removesuffix(".json")
    return [info.key.removeprefix(folder).removesuffix(".json") for info in catalog.store.list(folder)]
