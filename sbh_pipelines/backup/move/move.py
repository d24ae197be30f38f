"""The steps of a move, in an order in which every interruption is harmless, and the same call goes on.

    1. the target says that the tenant is on its way      its backups are not due there yet
    2. the repository is brought, but for its trail       as to a copy: keys first, wrapped anew; manifests last
    3. rows and files of the final backup are restored    in one transaction, proved before its commit; the mark names the backup
    4. both are proved, and the source says that the tenant went    under its lease: nothing is backed up there any more
    5. the target says that the tenant is there
    6. the target is backed up                            the first backup that builds on the history that came

Up to the fourth step the source is what it was and goes on being backed up, and the target makes no backup of the tenant, whose
id the source's next one might have. Whoever gives up there has lost nothing. From it on only the rest is left. Each trail has its
event before the write that the event tells of. Nothing at the source is ever removed, and a trail does not move: it is signed by
its region's catalog. The target's begins, or goes on, with where the source's ended.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from sbh_pipelines.backup.copies.copier.tenant_copy import copy_tenant
from sbh_pipelines.backup.copies.copier.transfer import Limiter, Transfers
from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.backup.move.plan import WHOLE, Ends, Stage
from sbh_pipelines.backup.move.proof import MoveProof, proof_of, prove_source, prove_target
from sbh_pipelines.backup.restore.restore import restore_in_place, target_of
from sbh_pipelines.backup.retain.holds import place_term
from sbh_pipelines.backup.retain.prune import lease_for
from sbh_pipelines.backup.site.moves import say_move, site_name
from sbh_pipelines.document import optional
from sbh_pipelines.model import BackupId, ProgressSink, timestamp
from sbh_pipelines.repository.catalog.moves import Move, MoveState
from sbh_pipelines.repository.documents import list_manifest_ids
from sbh_pipelines.settings import CopySettings

PURPOSE = "move"


@dataclass(frozen=True, slots=True)
class Moved:
    """A tenant that went to another site.

    Attributes:
        tenant_id: The tenant.
        from_site: The site that it left: its name, else its database.
        to_site: The site that has it now.
        place: Where its backups are there.
        backup_id: The final backup at the source.
        arrival_id: The first backup at the target.
        objects: Objects of the repository that this call brought.
        bytes: Their bytes.
        proof: What was found equal; null where an earlier call had proved it.
    """

    tenant_id: str
    from_site: str
    to_site: str
    place: str
    backup_id: str
    arrival_id: str
    objects: int
    bytes: int
    proof: MoveProof | None = optional()


@dataclass(frozen=True, slots=True)
class Brought:
    """What came of the repository.

    Attributes:
        backups: The backups that the source had before.
        objects: Objects that were stored.
        bytes: Their bytes.
    """

    backups: frozenset[BackupId] = frozenset()
    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Mover:
    """The steps, for one caller at each end.

    Attributes:
        ends: Both ends.
        source_user: Who does it, as the source's trail names them.
        target_user: As the target's does.
        progress: Takes notices.
    """

    ends: Ends
    source_user: str
    target_user: str
    progress: ProgressSink

    def begin(self, final: BackupId) -> None:
        """The first step; what the target says of a move that was begun before stays: its rows are of that backup."""
        ends = self.ends
        props = {"to": site_name(ends.target.settings), "place": ends.place_there, "backup_id": final}
        ends.source.track(ends.tenant, "tenant.move_started", self.source_user, props)
        if ends.stage is Stage.NEW:
            self._say_there(MoveState.ON_ITS_WAY, final)

    def bring(self, final: BackupId) -> Brought:
        """The repository. The final backup is kept at the target for some days, whatever the retention there says."""
        ends = self.ends
        backups = frozenset(list_manifest_ids(*ends.source.backup_store(ends.tenant)))
        place = CopyPlace(CopySettings(name=PURPOSE, to=ends.tenant.region), ends.source, ends.target)
        transfers = Transfers(place, self.progress, Limiter(None))
        objects, size = copy_tenant(place, ends.source.owners.housed(ends.tenant), transfers, trail=False)
        target, until = ends.target, ends.target.clock() + timedelta(days=ends.target.settings.restore.keep_safety_days)
        with target.repository(ends.tenant) as repository:
            place_term(repository, final, "the final backup before a move", self.target_user, target.clock, until)
        return Brought(backups, objects, size)

    def restore(self, final: BackupId) -> None:
        """Make the tenant at the target what the final backup has, whatever an earlier call left there."""
        target, tenant = self.ends.target, self.ends.tenant
        self._say_there(MoveState.ON_ITS_WAY, final)  # what is found there later is held against this one
        with target.repository(tenant) as repository:
            into = target_of(target, None, WHOLE)
            restore_in_place(
                target, repository, tenant, final, self.target_user, WHOLE, into, self.progress, names_others=True
            )

    def leave(self, final: BackupId, brought: Brought) -> MoveProof:
        """Prove both ends; the source then says that the tenant went. Raises MoveUnproven, LeaseHeld."""
        ends, source = self.ends, self.ends.source
        there, files = prove_target(ends, final, self.progress)
        with ExitStack() as stack:
            held = lease_for(source, ends.tenant, PURPOSE, stack)
            proof = proof_of(prove_source(ends, final, brought.backups, self.progress), there, files)
            held.renew()
            props = {"to": site_name(ends.target.settings), "place": ends.place_there}
            source.track(ends.tenant, "tenant.moved", self.source_user, {**props, **_proved(final, proof)})
            said = Move(MoveState.WENT, site_name(ends.target.settings), ends.place_there, final, self._now())
            say_move(source, ends.tenant, said, self.source_user)
        return proof

    def arrive(self, final: str, proof: MoveProof | None) -> None:
        """The fifth step."""
        ends = self.ends
        end = ends.source.trails.of(ends.tenant).read_head()
        props: dict[str, object] = {"from": site_name(ends.source.settings), "place": ends.place_here}
        if end is not None:
            props["trail_before"] = {"seq": end.seq, "hash": end.hash}
        props |= _proved(final, proof)
        ends.target.track(ends.tenant, "tenant.arrived", self.target_user, props)
        self._say_there(MoveState.HERE, final)  # over what the first step said: what could be written then can be now

    def result(self, final: str, arrival: str, brought: Brought, proof: MoveProof | None) -> Moved:
        """What the call did."""
        ends = self.ends
        names = site_name(ends.source.settings), site_name(ends.target.settings)
        return Moved(ends.tenant.id, *names, ends.place_there, final, arrival, brought.objects, brought.bytes, proof)

    def _say_there(self, state: MoveState, final: str) -> None:
        ends = self.ends
        said = Move(state, site_name(ends.source.settings), ends.place_here, final, self._now())
        say_move(ends.target, ends.tenant, said, self.target_user)

    def _now(self) -> str:
        return timestamp(self.ends.source.clock())


def _proved(final: str, proof: MoveProof | None) -> Mapping[str, object]:
    props: dict[str, object] = {"backup_id": final}
    if proof is not None:
        props["proof"] = {
            "rows": proof.rows,
            "files": proof.files,
            "source_as_of": proof.source_as_of,
            "target_as_of": proof.target_as_of,
        }
    return props
