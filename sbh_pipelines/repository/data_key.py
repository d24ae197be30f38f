"""Data keys as objects: 32 random bytes, wrapped by the key provider, at `keys/0001.json` below a prefix.

A tenant's repository has one, and so has the catalog of a region. A key is made once and never overwritten.
"""

import os

from sbh_pipelines.errors import CorruptObject, KeyServiceError, ObjectExists
from sbh_pipelines.repository.format import Keys, parse_document, pretty
from sbh_pipelines.security.keys import DATA_KEY_BYTES, KeyProvider
from sbh_pipelines.stores.base import ObjectStore

EPOCH = 1  # key rotation will count it up


def read_data_key(store: ObjectStore, prefix: str, owner: str, region: str, keys: KeyProvider) -> bytes:
    """The key below `prefix`. Raises ObjectMissing, CorruptObject and the key provider's errors."""
    key = prefix + Keys.data_key(EPOCH)
    document = parse_document(store.get(key), store.url(key))
    if document.get("tenant_id") != owner or document.get("provider") != keys.name:
        raise CorruptObject(
            "A key object does not belong here",
            on=store.url(key),
            why=f"it is of tenant {document.get('tenant_id')!r}, provider {document.get('provider')!r}",
            remedy="restore its older version, or set keys.provider to the one it was made with",
        )
    fields = (document.get("key_id"), document.get("wrapped"))
    if document.get("epoch") != EPOCH or not all(isinstance(field, str) and field for field in fields):
        raise CorruptObject(
            "A key object is damaged", on=store.url(key), remedy="restore it from the bucket's older version"
        )
    try:
        return keys.unwrap(document, owner, region)
    except KeyServiceError as error:
        on = f"{store.url(key)}, {error.on}"
        raise type(error)(error.what, on=on, why=error.why, remedy=error.remedy) from None


def create_data_key(store: ObjectStore, prefix: str, owner: str, region: str, keys: KeyProvider) -> tuple[bytes, bool]:
    """The key, and whether it was made just now: where another writer is first, its key is the key."""
    data_key = os.urandom(DATA_KEY_BYTES)
    document = {"epoch": EPOCH, "tenant_id": owner, **keys.wrap(data_key, owner, region)}
    try:
        store.create(prefix + Keys.data_key(EPOCH), pretty(document))
    except ObjectExists:
        return read_data_key(store, prefix, owner, region, keys), False
    return data_key, True
