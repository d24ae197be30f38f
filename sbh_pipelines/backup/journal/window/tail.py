"""The end of a region's chain, read backwards as far as somebody needs it: stretches of the log, and what their directories say."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.cover import Stretch, plan_cover
from sbh_pipelines.repository.journal.segments.directory import Directory, FencePoint
from sbh_pipelines.repository.journal.segments.names import Incarnation, SegmentName


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the chain.

    Attributes:
        stretch: Which part of the log it is.
        directory: Of its segment; it may say more than the stretch is taken for.
    """

    stretch: Stretch
    directory: Directory

    @property
    def last_fence(self) -> int:
        """The greatest transaction id of a fence in it; 0 where it has none."""
        return max((fence.xid for fence in self.directory.facts.fences), default=0)


class Tail:
    """The newest incarnation's stretches up to its end, without a hole. One listing, then a directory at a time. Thread-safe."""

    def __init__(self, journal: Journal, directories: Callable[[SegmentName], Directory] | None = None) -> None:
        """`directories` gives a segment's directory, perhaps one that was read before. Raises the store's errors."""
        self.journal, self._directory = journal, directories or journal.directory
        listing = journal.listing()
        incarnations = listing.incarnations
        self.incarnation = Incarnation.parse(incarnations[-1]) if incarnations else None
        self.began_anew = len(incarnations) > 1
        names = listing.of(incarnations[-1]) if incarnations else []
        cover = plan_cover(names, min(one.start for one in names), max(one.end for one in names)) if names else None
        behind = cover.holes[-1][1] if cover and cover.holes else 0
        self._waiting = [one for one in cover.stretches if one.start >= behind] if cover else []  # oldest first
        self._read: list[Piece] = []  # newest first
        self._lock = threading.Lock()

    @property
    def known(self) -> list[Piece]:
        """What was read so far, newest first."""
        with self._lock:
            return list(self._read)

    def backwards(self) -> Iterator[Piece]:
        """All pieces, newest first. Raises CorruptObject, and the store's errors."""
        at = 0
        while True:
            with self._lock:
                if at == len(self._read):
                    if not self._waiting:
                        return
                    stretch = self._waiting[-1]
                    piece = Piece(stretch, self._directory(stretch.segment))
                    self._waiting.pop()
                    self._read.append(piece)
                piece = self._read[at]
            yield piece
            at += 1

    def fence_below(self, xid: int) -> FencePoint | None:
        """The newest fence with a lesser id than `xid`: what has `xid`, or a greater one, was written behind its `before`.

        The chain is read back to there. None where it does not reach as far.
        """
        found: FencePoint | None = None
        for piece in self.backwards():
            below = [fence for fence in piece.directory.facts.fences if fence.xid < xid]
            found = found or max(below, key=lambda fence: fence.xid, default=None)
            if found is not None and piece.stretch.start <= found.before:
                return found
        return None
