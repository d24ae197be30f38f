"""What is known of an owner's keys without unwrapping any: epochs, who wraps them, what is still of earlier ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sbh_pipelines.backup.keys.rotation import KeyOwner, key_place
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import ObjectMissing, SbhError
from sbh_pipelines.repository.keys.data_key import EPOCH, KeyPlace, read_key_object
from sbh_pipelines.repository.keys.epochs import epochs
from sbh_pipelines.repository.keys.remains import remains


@dataclass(frozen=True, slots=True)
class EpochState:
    """One key epoch.

    Attributes:
        epoch: Its number.
        provider: What wraps its key.
        key_id: Name of the key that does.
        wrapped_at: Time at which the key object was written, UTC.
        destroyed: Whether the object holds no key any more.
    """

    epoch: int
    provider: str
    key_id: str
    wrapped_at: datetime
    destroyed: bool


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is known of an owner's keys without unwrapping any.

    Attributes:
        tenant_id: Name of the owner.
        region: Where its keys are.
        newest: The epoch in which is written; None where that could not be read.
        epochs: The epochs there are.
        old_packs: Packs that are still of earlier epochs.
        old_bytes: Bytes that are still of earlier epochs.
        error: Why not all could be read.
    """

    tenant_id: str
    region: str
    newest: int | None = None
    epochs: Sequence[EpochState] = ()
    old_packs: int = 0
    old_bytes: int = 0
    error: SbhError | None = None


def key_state(site: Site, owner: KeyOwner) -> KeyState | None:
    """What is known of an owner's keys, as far as they can be read; None where it has none."""
    place = key_place(site, owner)
    state = KeyState(owner.name, owner.tenant.region)
    try:
        newest = read_key_object(place, EPOCH).newest
        state = replace(state, newest=newest)
        state = replace(state, epochs=[_epoch_state(place, epoch) for epoch in epochs(place)])
        if newest > EPOCH and not owner.catalog:
            with site.repository(owner.tenant) as repository:
                repository.load_index()
                old = [found for epoch, found in remains(repository).items() if epoch < newest]
            return replace(
                state, old_packs=sum(found.packs for found in old), old_bytes=sum(found.bytes for found in old)
            )
    except ObjectMissing:
        return None
    except SbhError as error:
        return replace(state, error=error)
    return state


def _epoch_state(place: KeyPlace, epoch: int) -> EpochState:
    found = read_key_object(place, epoch)
    modified = place.store.head(place.key(epoch)).modified
    return EpochState(epoch, found.provider, found.key_id, modified, found.destroyed)
