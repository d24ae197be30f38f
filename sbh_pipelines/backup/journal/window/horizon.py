"""Which fence lies behind all that a snapshot shows: the one place that decides it.

A transaction shows once its commit is in the log, so what a snapshot shows lies before every fence that *began* after it. That a
fence had not ended when the snapshot was taken is not enough: its own commit may have been in the log already, and waited for the
disk, while another one that did not wait was logged behind it and showed at once.
"""

from typing import Self

from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.model import RecoveryPoint
from sbh_pipelines.repository.journal.segments.changes import parse_lsn
from sbh_pipelines.repository.journal.segments.directory import FencePoint


class Horizon:
    """Of one snapshot. Not thread-safe."""

    def __init__(self, snapshot: Snapshot, written: int) -> None:
        """`written`: up to where the log was written when the snapshot was taken, or some time after; 0 where it is not known."""
        self._snapshot, self._written = snapshot, written
        self._first: int | None = None  # the first fence that had not ended

    @classmethod
    def of(cls, point: RecoveryPoint) -> Self:
        """That of a backup's recovery point. Raises ValueError."""
        return cls(Snapshot.parse(point.snapshot), parse_lsn(point.lsn))

    def is_before(self, fence: FencePoint) -> bool:
        """Whether all that the snapshot shows was committed before the fence; where it is not sure, False.

        To be asked of the fences of one chain, in their order. A fence began after the snapshot if more of the log was flushed
        before it than was written at the snapshot. So it did if one before it had not ended at the snapshot: a drain goes on from
        a segment that was written when the fence in it had ended.
        """
        if fence.xid < self._snapshot.xmax:
            return False
        if self._first is None:
            self._first = fence.xid
        return fence.xid > self._first or 0 < self._written < fence.before
