"""The application's server comes before the journal: a slot that holds too much of the log is dropped, whatever else fails.

A drain that cannot reach its stores reads nothing, and the log grows. The guard needs the database alone. The gap is recorded by
the next drain that can: the slot is gone then.
"""

from contextlib import suppress
from dataclasses import dataclass

from sbh_pipelines.backup.journal.chain import read_chain
from sbh_pipelines.backup.journal.slot_life import Break, check_known, check_own, find_break
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.journal.server import journal_session, read_life
from sbh_pipelines.database.journal.slot import SlotState, drop_slot, read_slot
from sbh_pipelines.database.session.targets import journal_database
from sbh_pipelines.errors import StoreError
from sbh_pipelines.settings import Settings

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the next drain would find.

    Attributes:
        bytes_behind: Of the server's log, written since the chain's end; None before the first drain.
        held_bytes: Of the server's log, that the slot holds back.
        limit_bytes: At which a slot is dropped.
        found: Why the chain could not go on; None where it could, or where there is none.
        slot: The slot; None where there is none.
    """

    bytes_behind: int | None
    held_bytes: int
    limit_bytes: int
    found: Break | None
    slot: SlotState | None = None


def most_held(settings: Settings) -> int:
    """How much of the server's log the slot may hold back, bytes."""
    return int(settings.journal.max_lag_gib * _GIB)


def home_region(site: Site) -> str:
    """The region in which the lease of drains lies, and the marks of slots."""
    settings = site.settings
    return settings.platform.region or settings.storage.regions[0]


def look_ahead(site: Site) -> Outlook:
    """For metrics and alerts. Changes nothing; raises the errors of source and stores."""
    settings = site.settings
    chain = read_chain({region: site.journal(region) for region in settings.storage.regions})
    limit = most_held(settings)
    with journal_session(journal_database(settings), "journal status") as connection:
        life, slot = read_life(connection), read_slot(connection, settings.journal.slot)
    return Outlook(
        max(0, life.flushed - chain.end) if chain is not None else None,
        slot.held_bytes if slot is not None else 0,
        limit,
        find_break(chain, slot, life, limit) if chain is not None else None,
        slot,
    )


def guard_slot(site: Site) -> bool:
    """Drop a slot of ours that holds more than it may; whether that was done. Raises SourceConflict while a session uses it.

    Raises SlotTrouble for one that the journal does not know. Where no store tells, the slot's name and database do.
    """
    settings = site.settings
    with journal_session(journal_database(settings), "journal guard") as connection:
        slot = read_slot(connection, settings.journal.slot)
        if slot is None or slot.held_bytes <= most_held(settings):
            return False
        life = read_life(connection)
        check_own(slot, life, settings.journal.slot)
        with suppress(StoreError):
            chain = read_chain({region: site.journal(region) for region in settings.storage.regions})
            marks = site.journal(home_region(site)).slot_marks.read()
            check_known(chain, slot, life, settings.journal.slot, marks)
        return drop_slot(connection, settings.journal.slot)
