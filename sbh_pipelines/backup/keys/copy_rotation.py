"""Rotation in the copies: their key objects wrapped anew, and the keys of epochs destroyed that ended at the source.

A new epoch needs nothing at once: the next run of a copy brings its key. An epoch's key goes at a copy once it is destroyed at the
source, which a signed mark says there, and nothing at the copy is of that epoch any more. What the copy alone still keeps of it, by
its own retention, is sealed and signed anew there first.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from sbh_pipelines.backup.copies.place import CopyPlace, open_copy
from sbh_pipelines.backup.copies.retention import at_source
from sbh_pipelines.backup.keys.journal_keys import SealedEpochs
from sbh_pipelines.backup.retain.prune import lease_for, prune
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CopyError, ObjectMissing, ResidencyError, SbhError, StoreDenied
from sbh_pipelines.model import ProgressSink, Tenant, timestamp
from sbh_pipelines.repository.keys.data_key import EPOCH, KeyPlace, read_epoch, read_key_object
from sbh_pipelines.repository.keys.epochs import destroy_epoch, epochs, rewrap
from sbh_pipelines.repository.keys.remains import remains, sign_anew
from sbh_pipelines.settings import CopySettings
from sbh_pipelines.stores.purge import keys_of

STEP = "rotate keys of a copy"
Ends = Callable[[Site], KeyPlace]  # where the owner's key objects are, of the source or of a copy


@dataclass(frozen=True, slots=True)
class CopyRotation:
    """What was done for one owner of keys in one copy.

    Attributes:
        copy: The copy's name.
        keys: How many data keys were wrapped anew.
        epochs_destroyed: Epochs whose key was destroyed just now.
        note: Why keys of ended epochs are still there; empty where none is.
    """

    copy: str
    keys: int
    epochs_destroyed: tuple[int, ...] = ()
    note: str = ""


def rotate_in_copies(
    site: Site, name: str, tenant: Tenant, ends: Ends, user_id: str, *, end_epochs: bool, progress: ProgressSink
) -> list[CopyRotation]:
    """Wrap the keys anew in each copy that has them; `end_epochs`: destroy those of ended epochs, too.

    `name` and `tenant` are the owner's; `ends` finds its key objects at a site. Raises CopyError when all is done and a copy
    did not answer: rotating again is harmless.
    """
    done, errors = list[CopyRotation](), dict[str, SbhError]()
    for copy in site.settings.copies:
        if copy.kind != "managed":
            continue
        try:
            done.append(_rotate(site, copy, name, tenant, ends, user_id, end_epochs, progress))
        except ObjectMissing:
            continue  # nothing was copied yet
        except ResidencyError as error:
            if open_copy(site, copy.name).forbidden(tenant) is None:  # a bucket is elsewhere, or not bound
                errors[copy.name] = error
                continue
            # It was copied when it might lie there: nothing of it is written there any more.
            note = f"its data may not lie in {copy.to} any more, so nothing was changed there: remove it,"
            command = f"`sbh copies forget {copy.name} --tenant {tenant.id} --confirm`"
            done.append(CopyRotation(copy.name, 0, note=f"{note} {command}"))
        except SbhError as error:
            errors[copy.name] = error
    if errors:
        first = next(iter(errors.values()))
        raise CopyError(
            "The keys were rotated here, and not in every copy",
            on=f"{name}, {'copies' if len(errors) > 1 else 'copy'} {', '.join(errors)}",
            why=f"{first.what} ({first.on}): {first.why}",
            remedy=f"{first.remedy or 'see the error'}; then run it again: what is done is done again, which is harmless",
        )
    return done


def _rotate(
    site: Site,
    copy: CopySettings,
    name: str,
    tenant: Tenant,
    ends: Ends,
    user_id: str,
    end_epochs: bool,
    progress: ProgressSink,
) -> CopyRotation:
    there = site.copy(copy.name, every_region=True)  # what is not continued any more has keys as well
    source, target = ends(site), ends(there)
    keys = rewrap(target)
    said = {"owner": name, "region": tenant.region, "copy": copy.name}
    site.track(tenant, "key.rotated", user_id, {**said, "keys": [asdict(key) for key in keys]})
    if not end_epochs:
        return CopyRotation(copy.name, len(keys))
    ended, why = _ended(source, target)
    if not ended:
        return CopyRotation(copy.name, len(keys), note=why)
    destroyed, notes = _end(open_copy(site, copy.name).with_left_regions(), tenant, target, ended, progress)
    if destroyed:
        site.track(tenant, "key.rotated", user_id, {**said, "epochs_destroyed": destroyed})
    return CopyRotation(copy.name, len(keys), tuple(destroyed), "; ".join(dict.fromkeys(notes)))


def _ended(source: KeyPlace, target: KeyPlace) -> tuple[list[int], str]:
    """The epochs that ended at the source and have a key at the copy; and why none is to end, where some are not the newest.

    What the objects at the source say is not enough: whoever may write there can delete one. A signed mark says that it ended.
    """
    newest, newest_there = (read_key_object(place, EPOCH).newest for place in (source, target))
    alive = [epoch for epoch in epochs(target) if epoch < newest_there and not read_key_object(target, epoch).destroyed]
    if not alive:
        return [], ""
    if newest_there != newest:
        return [], "the copy does not know the newest epoch yet: run the copy, then this again"
    here = [epoch for epoch in epochs(source) if epoch < newest and not read_key_object(source, epoch).destroyed]
    if here:
        return [], "earlier epochs have not ended here yet"
    name_key, marks = read_epoch(target, newest_there)[1], source.marks
    ended = [epoch for epoch in alive if marks is not None and marks.ended(name_key, epoch)]
    return ended, "" if ended else "no mark says that earlier epochs ended: their key objects were deleted by somebody"


def _end(
    place: CopyPlace, tenant: Tenant, target: KeyPlace, ended: list[int], progress: ProgressSink
) -> tuple[list[int], list[str]]:
    """Seal and sign anew at the copy what is of ended epochs, and destroy the keys of those of which nothing is left.

    What the source has is of none of them, and stays: repacked it would be brought once more.
    """
    there = place.target
    elsewhere = at_source(place, place.source.owners.housed(tenant))
    prune(there, tenant, dry_run=False, progress=progress, re_encrypt=True, elsewhere=elsewhere)
    newest, sealed = read_key_object(target, EPOCH).newest, SealedEpochs(there)
    destroyed, notes = list[int](), list[str]()
    with ExitStack() as stack:
        held = lease_for(there, tenant, STEP, stack)
        repository = stack.enter_context(there.repository(tenant))
        sign_anew(repository, progress)
        repository.load_index()
        old = remains(repository)
        for epoch in ended:
            held.renew()
            hours = there.settings.prune.min_age_hours
            why = (
                f"what was retired there is removed after {hours:g} hours: run it again then" if epoch in old else None
            )
            why = why or sealed.why_needed(tenant, epoch, newest)
            if why is not None:
                notes.append(why)
                continue
            destroy_epoch(target, epoch, timestamp(there.clock()))
            destroyed.append(epoch)
            notes += _purge_older(there, target, tenant, epoch)
    return destroyed, notes


def _purge_older(there: Site, target: KeyPlace, tenant: Tenant, epoch: int) -> list[str]:
    key = target.key(epoch)
    older = keys_of([key])
    try:
        left = there.purger(there.backup_place(tenant)).purge(key, lambda k, now: older(k, now) and not now).left
    except StoreDenied:  # a role that may not delete versions: they stay until the bucket's lifecycle removes them
        left = 1
    return [f"{left} older versions of the key object of epoch {epoch} could not be deleted"] if left else []
