"""Small signed documents of a tenant's repository, other than manifests: holds, and the listing of backups.

They carry a `kind`, which no manifest has, so that one cannot be passed off as the other.
"""

from collections.abc import Mapping
from typing import Any

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.format import compact, parse_document
from sbh_pipelines.repository.repository import Repository


def signed(repository: Repository, kind: str, fields: Mapping[str, Any]) -> bytes:
    """What to store: the fields with kind, tenant, checksum and signature."""
    return compact(repository.sign({"kind": kind, "tenant_id": repository.tenant, **fields}))


def read_signed(repository: Repository, key: str, kind: str) -> dict[str, Any]:
    """The fields of a document of this tenant and kind. Raises ObjectMissing, CorruptObject."""
    place = repository.url(key)
    document = parse_document(repository.store.get(repository.prefix + key), place)
    bare = {name: value for name, value in document.items() if name not in ("checksum", "signature")}
    if not repository.is_genuine(document) or bare.get("kind") != kind or bare.get("tenant_id") != repository.tenant:
        raise CorruptObject(
            "A document's signature is wrong",
            on=place,
            why=f"changed, forged, of another tenant, or no {kind}",
            remedy="see who can write to the bucket, and restore the object's older version",
        )
    return {name: value for name, value in bare.items() if name not in ("kind", "tenant_id")}
