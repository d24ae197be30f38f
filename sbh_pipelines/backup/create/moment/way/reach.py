"""What to say where a moment is out of reach: why, and what is within it."""

from datetime import timedelta

from sbh_pipelines.backup.create.moment.way.base import Base
from sbh_pipelines.backup.create.moment.way.lay import Unreached
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.errors import MomentOutOfReach, SbhError
from sbh_pipelines.model import Tenant, parse_timestamp
from sbh_pipelines.repository.journal.segments.changes import commit_time


def unreached(
    tenant: Tenant, target: Target, short: Unreached, copy: str | None, trouble: SbhError | None = None
) -> MomentOutOfReach:
    """The log that was read ends before the moment. `copy`: whose journal it is; None for that of the place it is drained to."""
    last = commit_time(short.fence.time) - timedelta(microseconds=1)
    latest = last.isoformat().replace("+00:00", "Z")
    if short.over:
        why = f"the journal{_of(copy)} has a gap after {latest}: what happened in it is not known"
    elif target.before is not None:
        why = f"the tenant has no such transaction in what the journal{_of(copy)} tells up to {latest}"
    else:
        why = f"the journal{_of(copy)} tells up to {latest}"
    if trouble is not None:
        why += f", and it cannot be brought up to now: {trouble}"
    remedies = []
    if short.settled and last >= parse_timestamp(short.base.point.time):
        command = f"sbh backup create {tenant.id} --at {latest}" if copy is None else _diff(f"@{latest}", tenant, copy)
        remedies.append(f"the latest one within reach: `{command}`")
    else:
        why += f", and the newest backup before it is of {short.base.point.time}"
        remedies.append(f"what that backup holds: `{_diff(short.base.manifest.id, tenant, copy)}`")
    if short.over and copy is not None:
        remedies.append(f"later ones can be reached from a later backup on: `sbh backup list {tenant.id}{_from(copy)}`")
    elif copy is not None:
        remedies.append(f"bring over what was drained since, where there is still something: `sbh copies run {copy}`")
    elif short.over:
        remedies.append(f"later ones can be reached from a new backup on: `sbh backup create {tenant.id}`")
    else:
        remedies.append("bring the journal up to now: `sbh journal drain`")
    return MomentOutOfReach(
        "The moment is out of reach", on=f"{tenant.id}, {target.words}", why=why, remedy="; or ".join(remedies)
    )


def out_of_reach(tenant: Tenant, target: Target, newest: Base | None, copy: str | None) -> MomentOutOfReach:
    """No backup leads to the moment. `newest`: the newest one before it; `copy`: whose backups they are."""
    windows = f"sbh tenants recovery-points {tenant.id} --pitr{_from(copy)}"
    if newest is None:
        why = "the tenant has no sound backup from before it that a moment can be put together from"
        remedy = f"see what there is: `sbh backup list {tenant.id}{_from(copy)}`, `{windows}`"
    else:
        why = (
            f"the journal{_of(copy)} does not tell what happened between a backup and the moment: it began later, had a gap, or"
            " is of another server"
        )
        remedy = (
            f"the newest backup before it is of {newest.point.time}: `{_diff(newest.manifest.id, tenant, copy)}`;"
            f" `{windows}` shows which moments are within reach"
        )
    return MomentOutOfReach("The moment is out of reach", on=f"{tenant.id}, {target.words}", why=why, remedy=remedy)


def _of(copy: str | None) -> str:
    return "" if copy is None else f" at the copy {copy}"


def _from(copy: str | None) -> str:
    return "" if copy is None else f" --from-copy {copy}"


def _diff(backup: str, tenant: Tenant, copy: str | None) -> str:
    return f"sbh restore diff {backup} -t {tenant.id}{_from(copy)}"
