"""What a certificate of erasure says of keys: which there were, and what a copy of the bucket made before could still open."""

from collections.abc import Mapping, Sequence
from typing import Any

from sbh_pipelines.errors import CorruptObject, ObjectMissing
from sbh_pipelines.repository.format import Keys, parse_document
from sbh_pipelines.stores.base import ObjectStore


def describe_keys(store: ObjectStore, prefix: str) -> list[dict[str, Any]]:
    """{object, epoch, region, provider, key_id} of each key object; nothing secret, and nothing is unwrapped."""
    found = []
    for info in store.list(prefix + Keys.KEYS):
        try:
            document = parse_document(store.get(info.key), store.url(info.key))
        except (ObjectMissing, CorruptObject):
            document = {}
        fields = {name: document.get(name) for name in ("epoch", "region", "provider", "key_id")}
        found.append({"object": store.url(info.key), **fields})
    return found


def what_copies_open(keys: Sequence[Mapping[str, Any]], own_keys: Sequence[Mapping[str, str]], slug: str) -> str:
    """In words, for the certificate: crypto-erasure reaches as far as the wrapped keys, or the keys that wrap them."""
    own = {name for key in own_keys for name in (key["key_id"], key["key_id"].rpartition("/")[2])}  # an ARN, or its id
    others = [key for key in keys if key.get("key_id") and str(key["key_id"]) not in own]
    if own_keys and not others:
        until = ", ".join(f"{key['key_id']} on {key['deletion_date']}" for key in own_keys)
        return (
            "Nothing, since the deletion of the tenant's own KMS key was scheduled: it unwraps nothing while it is pending, and"
            f" is deleted for good ({until}). Until then only who may call kms:CancelKeyDeletion could make it usable again."
        )
    names = sorted({str(key["key_id"]) for key in others})
    if not names:
        return "No key was found, so nothing that was copied before can be opened with what this site keeps."
    local = all(key.get("provider") == "local" for key in others)
    holder = "the key file" if local else f"the KMS key, with sbh:tenant={slug} in the encryption context"
    kept = (
        "It is not the tenant's key that the settings name"
        if own_keys
        else "That key wraps other tenants' keys as well"
    )
    return (
        "Who has a copy of the bucket made before the erasure, its key objects included, and may use"
        f" {holder} ({', '.join(names)}), can open that copy. {kept}, so it was not destroyed."
    )
