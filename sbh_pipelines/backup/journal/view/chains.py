"""Reads what the journal of a region says of a time: the facts of its segments, put together to chains. Of blocks nothing is read.

A segment that is damaged, or that was taken away meanwhile, is a hole where no other covers its range, and is told.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sbh_pipelines.backup.journal.view.windows import Chain
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError
from sbh_pipelines.repository.journal.journal import Journal, Listing
from sbh_pipelines.repository.journal.segments.cover import Stretch, plan_cover
from sbh_pipelines.repository.journal.segments.directory import Directory, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import Incarnation, SegmentName

_FIRST, _MOST = 2, 32  # directories that are read at once: few, for who wants the newest only, then more and more


@dataclass(frozen=True, slots=True)
class Chains:
    """What the journal of a region says.

    Attributes:
        chains: Oldest first.
        issues: What could not be read.
    """

    chains: Sequence[Chain]
    issues: Sequence[SbhError]


@dataclass(frozen=True, slots=True)
class Part:
    """A segment's part in a chain.

    Attributes:
        stretch: The part.
        directory: Of its segment, which says more than of the part; with the blocks of one tenant, or none.
    """

    stretch: Stretch
    directory: Directory


def read_chains(journal: Journal, since: int = 0) -> Chains:
    """The chains of all incarnations, back to `since` (microseconds since 1970 UTC) and a segment further.

    Raises the store's errors.
    """
    issues: list[SbhError] = []
    listing = journal.listing()
    chains: list[Chain] = []
    for name in reversed(listing.incarnations):
        incarnation = Incarnation.parse(name)
        if incarnation is None:
            continue
        found = [(part.stretch, part.directory.facts) for part in read_back(journal, listing, name, since, issues)]
        chains[:0] = _put_together(incarnation, found[::-1])
        if found and _is_before(found[-1][1], since):
            break
    for gap in journal.gaps():
        for chain in chains:
            if gap.incarnation == chain.incarnation.text and (gap.table is not None or gap.tenant is not None):
                chain.gaps.append(gap)
    return Chains(chains, issues)


def read_back(
    journal: Journal,
    listing: Listing,
    incarnation: str,
    since: int,
    issues: list[SbhError],
    tenant_key: str | None = None,
) -> Iterator[Part]:
    """The segments that together say all there is of an incarnation, the newest first, back to the first that ends before `since`.

    What cannot be read is added to `issues`, and what else there is of its range is read in its place.
    """
    segments = listing.of(incarnation)
    if not segments:
        return
    upto = max(one.end for one in segments)
    without: set[SegmentName] = set()
    at_once = _FIRST
    while True:
        remaining = [one for one in segments if one not in without]
        cover = plan_cover(remaining, min(one.start for one in segments), upto)
        batch = cover.stretches[-at_once:][::-1]
        at_once = min(2 * at_once, _MOST)
        if not batch:
            return
        read = side_by_side(lambda one: _directory(journal, one, tenant_key), batch, name="journal")
        for stretch, directory in zip(batch, read, strict=True):
            if isinstance(directory, SbhError):
                issues.append(directory)
                without.add(stretch.segment)
                break  # what was behind it is planned anew
            yield Part(stretch, directory)
            upto = stretch.start
            if _is_before(directory.facts, since):
                return


def _directory(journal: Journal, stretch: Stretch, tenant_key: str | None) -> Directory | SbhError:
    """With the blocks of one tenant only: those of all tenants of many segments are too much to keep."""
    try:
        directory = journal.directory(stretch.segment)
        wanted = [key for key in (tenant_key,) if key is not None and key in directory.tenants]
        return replace(directory, tenants={key: directory.tenants[key] for key in wanted})
    except (CorruptObject, ObjectMissing) as error:
        return error


def _is_before(facts: SegmentFacts, since: int) -> bool:
    return bool(facts.fences) and facts.fences[-1].time < since


def _put_together(incarnation: Incarnation, parts: Sequence[tuple[Stretch, SegmentFacts]]) -> list[Chain]:
    chains: list[Chain] = []
    for stretch, facts in parts:
        if not chains or chains[-1].end != stretch.start:
            chains.append(Chain(incarnation, stretch.start, stretch.start))
        chains[-1].add(facts, stretch.start, stretch.end)
    return chains
