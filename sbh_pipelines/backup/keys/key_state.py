"""What is known of an owner's keys without unwrapping any: epochs, providers, key ids, and how much is of old epochs."""

from typing import Any

from sbh_pipelines.backup.keys.rotation import Owner, key_place, remaining
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import ObjectMissing, SbhError
from sbh_pipelines.model import timestamp
from sbh_pipelines.repository.keys.data_key import EPOCH, KeyPlace, read_key_object
from sbh_pipelines.repository.keys.epochs import epochs


def key_state(site: Site, owner: Owner) -> dict[str, Any] | None:
    """{tenant_id, region, newest, epochs: [{epoch, provider, key_id, wrapped_at, destroyed}], old_packs, old_bytes, error}.

    None where it has no keys. `wrapped_at` is when the store says that the object was written. `error` instead of what could
    not be read.
    """
    place = key_place(site, owner)
    state: dict[str, Any] = {"tenant_id": owner.name, "region": owner.tenant.region, "newest": None, "epochs": []}
    state |= {"old_packs": 0, "old_bytes": 0, "error": None}
    try:
        state["newest"] = read_key_object(place, EPOCH).newest
        state["epochs"] = [_epoch(place, epoch) for epoch in epochs(place)]
        if state["newest"] > EPOCH and not owner.catalog:
            state |= remaining(site, owner.tenant, state["newest"])
    except ObjectMissing:
        return None
    except SbhError as error:
        state["error"] = error.as_dict()
    return state


def _epoch(place: KeyPlace, epoch: int) -> dict[str, Any]:
    found = read_key_object(place, epoch)
    modified = place.store.head(place.key(epoch)).modified
    return {
        "epoch": epoch,
        "provider": found.provider,
        "key_id": found.key_id,
        "wrapped_at": timestamp(modified),
        "destroyed": found.destroyed,
    }
