"""Gives the journal up on the server: no slot holds its log back any more, and nothing is published. What was drained stays."""

from contextlib import suppress
from dataclasses import dataclass

from sbh_pipelines.backup.journal.chain import read_chain
from sbh_pipelines.backup.journal.guard import home_region
from sbh_pipelines.backup.journal.slot_life import check_own
from sbh_pipelines.backup.journal.view.status import SlotFacts, read_slot_facts
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.journal.publication import drop_publication, is_ours
from sbh_pipelines.database.journal.server import journal_session, read_life
from sbh_pipelines.database.journal.slot import drop_slot, read_slot
from sbh_pipelines.database.session.targets import journal_database
from sbh_pipelines.errors import StoreError
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.segments.changes import microseconds_of

DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What was there before.

    Attributes:
        slot: The slot that was dropped; None where there was none.
        publication: The publication's name.
        left: Whether it was left, as it is another's.
        regions: Whose journals have a gap from then on.
    """

    slot: SlotFacts | None
    publication: str
    regions: tuple[str, ...]
    left: bool = False


def give_up(site: Site) -> GivenUp:
    """Drop slot and publication, where that is the journal's, and record the gap where something was journaled. May be repeated.

    Raises SlotTrouble where the slot is of another database or plugin, SourceConflict while a session uses it, PrivilegeMissing.
    """
    settings = site.settings.journal
    slot = read_slot_facts(site)
    with journal_session(journal_database(site.settings), "journal drop") as connection:
        found = read_slot(connection, settings.slot)
        if found is not None:  # two applications of one cluster may have chosen one name
            check_own(found, read_life(connection), settings.slot)
        drop_slot(connection, settings.slot)
        known = 0
        with suppress(StoreError):  # the server comes first; the comment tells as well
            chain = read_chain({region: site.journal(region) for region in site.settings.storage.regions})
            known = chain.publication if chain is not None else 0
        left = is_ours(connection, settings.publication, known) is False
        if not left:
            drop_publication(connection, settings.publication)
    site.journal(home_region(site)).slot_marks.clear()
    now, ended = microseconds_of(site.clock()), list[str]()
    for region in site.settings.storage.regions:
        journal = site.journal(region)
        listing = journal.listing()
        if slot is None or not listing.incarnations:
            continue
        newest = listing.of(listing.incarnations[-1])
        end = max(name.end for name in newest)
        journal.record_gap(
            Gap(listing.incarnations[-1], DROPPED, None, None, end, now, "the slot was dropped on purpose")
        )
        ended.append(region)
    return GivenUp(slot, settings.publication, tuple(ended), left)
