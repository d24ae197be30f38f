"""Which segments become one: neighbours of the same hour, later those of the same day. No I/O.

Merged are only neighbours without a hole between them, of one incarnation. An hour that may still get segments is left alone. Hours
are those of the server's clock, by the last fence of each segment; where that clock went back there are more groups, no wrong ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.repository.journal.segments.cover import Stretch

HOUR, DAY = 1, 2  # levels: what a drain wrote is of level 0
LAST_LEVEL = 99  # as the names of segments have two digits for it
MOST_BLOCKS = 250_000  # of a merged segment: some 40 MB of memory while it is made
MOST_BYTES = 2 << 30  # of a merged segment: it lies in a temporary file while it is made
_MICROSECONDS = {HOUR: 3_600_000_000, DAY: 86_400_000_000}


@dataclass(frozen=True, slots=True)
class Source:
    """A part of the chain that may be merged.

    Attributes:
        stretch: The segment, and which part of the log it is taken for.
        time: When its last fence was committed, microseconds since 1970 UTC.
        blocks: How many blocks it has.
        erased: Whether it has blocks of an erased tenant.
    """

    stretch: Stretch
    time: int
    blocks: int
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """What becomes one segment.

    Attributes:
        level: The segment's level.
        sources: In the order of the log, without a hole.
    """

    level: int
    sources: Sequence[Source]

    @property
    def start(self) -> int:
        return self.sources[0].stretch.start

    @property
    def end(self) -> int:
        return self.sources[-1].stretch.end


def plan_groups(level: int, chain: Sequence[Source], *, upto: int | None) -> list[Group]:
    """What to merge to segments of a level; `chain` in the order of the log, perhaps with holes.

    `upto`: hours or days that end later may still get segments, microseconds since 1970 UTC; None where nothing comes any more. A
    single source is merged, to itself, only to be rid of an erased tenant's blocks.
    """
    groups, run = list[Group](), list[Source]()
    for at, source in enumerate(chain):
        if source.stretch.segment.level >= level:
            run = []
            continue
        if run and not _belongs(level, run, source):
            run = []
        run.append(source)
        following = chain[at + 1] if at + 1 < len(chain) else None
        if following is not None and following.stretch.segment.level < level and _belongs(level, run, following):
            continue
        is_over = following is not None or upto is None or (_period(level, source) + 1) * _MICROSECONDS[level] <= upto
        if is_over and (len(run) > 1 or source.erased):
            groups.append(Group(level, tuple(run)))
        run = []
    return groups


def plan_cleaning(chain: Sequence[Source]) -> list[Group]:
    """Segments of the highest levels that are written anew without the blocks of erased tenants."""
    return [
        Group(source.stretch.segment.level + 1, (source,))
        for source in chain
        if source.erased and DAY <= source.stretch.segment.level < LAST_LEVEL
    ]


def _belongs(level: int, run: Sequence[Source], source: Source) -> bool:
    """Whether a source is of the same segment as those before it."""
    return (
        run[-1].stretch.end == source.stretch.start
        and _period(level, run[-1]) == _period(level, source)
        and sum(one.blocks for one in run) + source.blocks <= MOST_BLOCKS
        and sum(one.stretch.segment.size for one in run) + source.stretch.segment.size <= MOST_BYTES
    )


def _period(level: int, source: Source) -> int:
    return source.time // _MICROSECONDS[level]
