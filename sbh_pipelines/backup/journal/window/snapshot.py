"""What a backup's snapshot shows: which transactions are in it. Positions of the log do not tell: commits show in another order."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`pg_current_snapshot()` of a backup's recovery point.

    Attributes:
        xmin: All transactions before this one had ended.
        xmax: None from this one on had.
        running: Those in between that had not.
    """

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))

    def shows(self, xid: int) -> bool:
        """Whether it shows what the transaction did, if that was committed at all."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)

    @property
    def of_standby(self) -> bool:
        """Whether it was taken on a standby, which does not list the transactions that were running."""
        return self.xmin < self.xmax and not self.running
