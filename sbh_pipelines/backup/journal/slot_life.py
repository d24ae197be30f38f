"""Whether the chain goes on, or a new one has to begin: what became of slot and server since the last drain.

A slot is believed only if it cannot have passed over anything: it is at the chain's end or before it, on the server and the
timeline of the chain. All else is a gap, which is recorded before anything is changed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sbh_pipelines.backup.journal.chain import ChainEnd
from sbh_pipelines.database.journal.server import ServerLife
from sbh_pipelines.database.journal.slot import PLUGIN, SlotState
from sbh_pipelines.errors import SlotTrouble
from sbh_pipelines.model import Clock
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.changes import lsn_text
from sbh_pipelines.repository.journal.slot_marks import SlotMark

_SYSTEM_ID = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class Break:
    """Why a chain ends.

    Attributes:
        kind: Of the gap.
        why: For people.
    """

    kind: str
    why: str


def check_own(slot: SlotState, life: ServerLife, name: str) -> None:
    """Raises SlotTrouble where a slot of this name is somebody else's: nothing is done to it."""
    if slot.plugin != PLUGIN or slot.database != life.database:
        raise SlotTrouble(
            "The replication slot is another's",
            on=name,
            why=f"it is of the plugin {slot.plugin or 'none'} and the database {slot.database or 'none'}",
            remedy='name another one under [journal]: slot = "..."',
        )


def check_known(
    chain: ChainEnd | None, slot: SlotState, life: ServerLife, name: str, marks: Collection[SlotMark]
) -> None:
    """Raises SlotTrouble where nothing says that we made a slot of this name on this server: nothing is done to it.

    It may be the one of another installation, or of another program. That of a drain which was killed before it stored
    anything has a mark.
    """
    system_id = life.system_id & _SYSTEM_ID
    if chain is not None and chain.incarnation.system_id == system_id:
        return
    if any(mark.is_of(name, system_id, life.database) for mark in marks):
        return
    use = f"used by process {slot.active_pid}" if slot.active else "not used now"
    raise SlotTrouble(
        "The replication slot is not known to this journal",
        on=name,
        why=f"nothing was drained from it here: it may be another's. It is at {lsn_text(slot.confirmed_flush)}, holds"
        f" {slot.held_bytes >> 20:,} MiB of the log, and is {use}",
        remedy='name another one under [journal]: slot = "..."; or, where nobody needs it,'
        f" `sbh journal drop --confirm {name}`, then drain again",
    )


def find_break(chain: ChainEnd | None, slot: SlotState | None, life: ServerLife, most_bytes: int) -> Break | None:
    """Why what there is cannot go on; None where it can. `most_bytes`: of the log that the slot may hold."""
    if chain is None:
        return None if slot is None else Break("slot_unknown", "a drain was killed before it stored its first segment")
    incarnation = chain.incarnation
    if (incarnation.system_id, incarnation.timeline) != (life.system_id & _SYSTEM_ID, life.timeline):
        same = incarnation.system_id == life.system_id & _SYSTEM_ID
        why = f"timeline {life.timeline} instead of {incarnation.timeline}" if same else "another server"
        return Break("server_changed", f"{why}: a standby was promoted, or a backup of the server restored")
    if chain.fence is None:
        return Break(
            "chain_damaged", "the newest segment is damaged: nothing says that the log is still the one it told of"
        )
    if slot is None:
        return Break("slot_missing", "the slot is gone")
    if slot.lost:
        return Break("slot_lost", f"the server gave the slot up: {slot.invalidation_reason or slot.wal_status}")
    if slot.confirmed_flush > chain.end:
        return Break(
            "slot_ahead",
            f"the slot is at {lsn_text(slot.confirmed_flush)}, the chain ends at {lsn_text(chain.end)}: it was made anew, or"
            " advanced by somebody else",
        )
    if chain.end > life.flushed:
        return Break("server_back", f"the server's log ends at {lsn_text(life.flushed)}, before the chain")
    if slot.held_bytes > most_bytes:
        return Break(
            "too_far_behind",
            f"the slot held {slot.held_bytes >> 20:,} MiB of the log, and journal.max_lag_gib allows {most_bytes >> 20:,}",
        )
    return None


def record_break(journals: Mapping[str, Journal], chain: ChainEnd, found: Break, clock: Clock) -> None:
    """In every region that has the chain, unless it is recorded already."""
    time = int(clock().astimezone(UTC).timestamp() * 1_000_000)
    gap = Gap(chain.incarnation.text, found.kind, None, None, chain.end, time, found.why)
    for region in chain.regions:
        journal = journals.get(region)
        if journal is None:
            continue
        known = {(one.incarnation, one.position) for one in journal.gaps() if one.table is None and one.tenant is None}
        if (gap.incarnation, gap.position) not in known:
            journal.record_gap(gap)


def moment(microseconds: int) -> datetime:
    """A server's time as a moment."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)
