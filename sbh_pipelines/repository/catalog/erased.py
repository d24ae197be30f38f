"""Which tenants were erased: one object each, outside the tenants' own prefixes, in the catalog of every region.

While it is there, nothing begins for the tenant: no lease is taken for the first time, no key is made, and the catalog says
nothing of it. It is looked for only where there is no key or no lease, so that it costs nothing in normal runs.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sbh_pipelines.document import as_document, optional
from sbh_pipelines.errors import CorruptObject, KeyServiceError, ObjectMissing, TenantErased
from sbh_pipelines.repository.bounds import CERTIFICATE_BYTES, ERASED_BYTES
from sbh_pipelines.repository.catalog.marks import MarkPlace, is_genuine_mark, make_mark, read_mark, sign_mark
from sbh_pipelines.repository.format import canonical, parse_document, pretty

ERASED, CERTIFICATES, READMITTED = "erased/", "certificates/", "readmitted/"
ERASING, DONE = "erasing", "erased"  # states
_ERASURE_ID = re.compile(r"erase_\d{8}_\d{6}_[0-9a-f]{6}")


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
class FormerWrapping:
    """A key that wrapped a data key of the tenant before.

    Attributes:
        key_id: Its name.
        epoch: The key epoch whose data key it wrapped; null where that is not known.
        known_from: What tells of it: `audit trail` or `older version` of a key object.
    """

    key_id: str
    epoch: int | None
    known_from: str


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
class ErasedCopy:
    """What an erasure found in one copy, and what it did there.

    Attributes:
        name: The copy's name in the settings.
        to: The region in which it lies.
        buckets: Its buckets that were looked into.
        reached: Whether all that can be deleted there was. False where it could not be reached, or is not in the settings any more.
        found: What there was of the tenant.
        keys: The key objects that there were.
        left: Versions of objects that could not be deleted; without the keys nothing opens them.
        examples: Some of them, with why.
        locked_until: Time at which the last object lock on them ends, UTC; absent where there is none.
        why: What was in the way; absent where nothing was.
        journal_until: Time at which the last of the tenant's sealed blocks in the copy's change journal is gone, UTC, where
            `sbh copies run` and `sbh copies prune` run daily and the latter may delete; without the keys nothing opens them. No
            object lock is on them; older versions stay for as long as the bucket keeps such. Absent where it has no journal.
    """

    name: str
    to: str
    buckets: Sequence[str] = ()
    reached: bool = False
    found: ErasureCounts = ErasureCounts(0, 0, 0)
    keys: Sequence[ErasedKey] = ()
    left: int = 0
    examples: Sequence[str] = ()
    locked_until: str | None = optional()
    why: str | None = optional()
    journal_until: str | None = optional()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "ErasedCopy":
        """Raises KeyError, TypeError."""
        keys = [ErasedKey(**key) for key in document["keys"]]
        return cls(**{**document, "found": ErasureCounts(**document["found"]), "keys": keys})


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
        former: What wrapped the data keys before; absent in records of earlier releases.
        doubts: Why that may not be all.
        copies: What became of it in each copy; absent where there is none.
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
    former: Sequence[FormerWrapping] | None = optional()
    doubts: Sequence[str] | None = optional()
    copies: Sequence[ErasedCopy] | None = optional()

    @property
    def done(self) -> bool:
        return self.state == DONE

    @classmethod
    def of(cls, document: Mapping[str, Any], on: str) -> "ErasureRecord":
        """The record that is stored as `document`. Raises CorruptObject."""
        try:
            keys = [ErasedKey(**key) for key in document["keys"]]
            told = {name: value for name, value in document.items() if name not in ("mark", "signature")}
            if "former" in told:
                told["former"] = [FormerWrapping(**one) for one in told["former"]]
            if "copies" in told:
                told["copies"] = [ErasedCopy.of(one) for one in told["copies"]]
            return cls(**{**told, "found": ErasureCounts(**document["found"]), "keys": keys})
        except (KeyError, TypeError) as error:
            raise CorruptObject("The record of an erasure is damaged", on=on, why=type(error).__name__) from None


class CatalogPlace(MarkPlace, Protocol):
    @property
    def certificate_key(self) -> bytes: ...

    @property
    def has_key(self) -> bool: ...


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
    """Signed with the catalog's key, where it has one."""
    document = {**as_document(record), "mark": erased_key(slug)}
    if catalog.has_key:
        document = sign_mark(catalog, document)
    catalog.store.put(catalog.prefix + erased_key(slug), pretty(document))


def is_erased(catalog: CatalogPlace, slug: str, keys_left: Callable[[], bool]) -> bool:
    """Whether the tenant was erased, or is being erased.

    A record that the catalog's key signed says so, itself or by its certificate. Any other may be a forgery, or one of an earlier
    release: it is believed where no key of the tenant is left, which `keys_left` tells, for then nothing can be read anyway. One
    of an erasure after which the tenant was readmitted says nothing: somebody kept a copy, or made it from the certificate.
    """
    key = catalog.prefix + erased_key(slug)
    try:
        document = parse_document(catalog.store.get(key, ERASED_BYTES), catalog.store.url(key))
    except ObjectMissing:
        return False
    except CorruptObject:
        return not keys_left()
    if is_readmitted(catalog, slug, document.get("erasure_id")):
        return False
    return _is_proven(catalog, slug, document) or not keys_left()


def proven_erasure(catalog: CatalogPlace, slug: str) -> str | None:
    """Id of the tenant's erasure where the catalog's key signed its record or its certificate; None of any other, whatever is left.

    Whether the tenant was readmitted since is for the caller to ask, of each catalog that may say so.
    """
    key = catalog.prefix + erased_key(slug)
    try:
        document = parse_document(catalog.store.get(key, ERASED_BYTES), catalog.store.url(key))
    except (ObjectMissing, CorruptObject):
        return None
    erasure_id = document.get("erasure_id")
    return erasure_id if isinstance(erasure_id, str) and _is_proven(catalog, slug, document) else None


def _is_proven(catalog: CatalogPlace, slug: str, document: Mapping[str, Any]) -> bool:
    with suppress(CorruptObject, KeyServiceError):  # a catalog whose key does not open can tell nothing from a forgery
        if not catalog.has_key:
            return False
        if document.get("mark") == erased_key(slug) and is_genuine_mark(catalog, document):
            return True
        return document.get("tenant_id") == slug and _is_certified(catalog, slug, document)
    return False


def mark_readmitted(catalog: CatalogPlace, slug: str, erasure_id: str) -> None:
    """From now on the record of this erasure counts no more, whoever puts it back. Raises CorruptObject for a damaged mark.

    A catalog without a key has signed nothing that could count.
    """
    if catalog.has_key and _ERASURE_ID.fullmatch(erasure_id):
        make_mark(catalog, _readmitted_name(slug, erasure_id), {})


def is_readmitted(catalog: CatalogPlace, slug: str, erasure_id: object) -> bool:
    """Whether the tenant was readmitted after this erasure. A mark that is not genuine, or whose catalog does not open, is none."""
    if not isinstance(erasure_id, str) or not _ERASURE_ID.fullmatch(erasure_id):
        return False
    try:
        return catalog.has_key and read_mark(catalog, _readmitted_name(slug, erasure_id)) is not None
    except (CorruptObject, KeyServiceError):
        return False


def _readmitted_name(slug: str, erasure_id: str) -> str:
    return f"{READMITTED}{slug}/{erasure_id}.json"


def _is_certified(catalog: CatalogPlace, slug: str, record: Mapping[str, Any]) -> bool:
    """Whether there is the certificate of this very erasure, signed in this region."""
    erasure_id = record.get("erasure_id")
    if not isinstance(erasure_id, str) or not _ERASURE_ID.fullmatch(erasure_id):
        return False
    try:
        document = read_certificate(catalog, slug, erasure_id)
    except (ObjectMissing, CorruptObject):
        return False
    signature = document.pop("signature", None)
    try:
        signed = base64.b64decode(str(signature["value"]), validate=True) if isinstance(signature, dict) else b""
        public = Ed25519PrivateKey.from_private_bytes(catalog.certificate_key).public_key()
        public.verify(signed, canonical(document))
    except (InvalidSignature, ValueError, KeyError):
        return False
    return document.get("tenant_id") == slug and document.get("erasure_id") == erasure_id


def refuse_erased(catalog: CatalogPlace, slug: str, keys_left: Callable[[], bool]) -> None:
    """Raises TenantErased where the tenant was erased."""
    if not is_erased(catalog, slug, keys_left):
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
