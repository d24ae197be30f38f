"""Where the chain ends, on which the next drain goes on: the newest incarnation, its end, and what its last directory says."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sbh_pipelines.errors import CorruptObject, ObjectMissing
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.directory import Coverage, FencePoint
from sbh_pipelines.repository.journal.segments.makeup import Makeup
from sbh_pipelines.repository.journal.segments.names import Incarnation, SegmentName

PUBLICATION = "publication"
"""Among the readings: which publication it was. No table has this name, as those have a schema."""


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """The end of the newest chain.

    Attributes:
        incarnation: Its incarnation.
        end: Up to there every region that has a chain has it.
        fence: The fence that ends there; None where no directory that says so opens: nothing can go on from it.
        readings: What each table was like before that fence; see `Survey`.
        coverage: Of the tables that were told up to the end.
        makeups: The tables' columns then, by the definition's fingerprint.
        regions: Those that have segments of the incarnation.
    """

    incarnation: Incarnation
    end: int
    fence: FencePoint | None
    readings: Mapping[str, str] = field(default_factory=dict)
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    makeups: Mapping[str, Makeup] = field(default_factory=dict)
    regions: tuple[str, ...] = ()

    @property
    def publication(self) -> int:
        """The oid of the publication; 0 where it is not known."""
        return int(self.readings.get(PUBLICATION, 0))


def read_chain(journals: Mapping[str, Journal], marked: Collection[str] = ()) -> ChainEnd | None:
    """None where nothing was ever drained. One listing a region, and a directory or two.

    `marked`: incarnations that are known to be ours, also where nothing opens of what there is of them.
    """
    listings = {region: journal.listing() for region, journal in journals.items()}
    names = [listing.incarnations[-1] for listing in listings.values() if listing.incarnations]
    names += [one.incarnation for listing in listings.values() for one in listing.segments if one.incarnation in marked]
    if not names or (incarnation := Incarnation.parse(max(names))) is None:
        return None
    last: dict[str, SegmentName] = {}
    for region, listing in listings.items():
        if segments := listing.of(incarnation.text):
            last[region] = max(segments, key=lambda name: (name.end, name.level))
    end = min(name.end for name in last.values())
    for region, listing in listings.items():
        for name in listing.of(incarnation.text):
            if name.end != end:
                continue
            try:
                facts = journals[region].directory(name).facts
            except (CorruptObject, ObjectMissing):
                continue
            coverage = {
                table: ranges[-1] for table, ranges in facts.coverage.items() if ranges and ranges[-1].end == end
            }
            fence = facts.fences[-1] if facts.fences else None
            return ChainEnd(incarnation, end, fence, facts.readings, coverage, facts.makeups, tuple(last))
    return ChainEnd(incarnation, end, None, regions=tuple(last))
