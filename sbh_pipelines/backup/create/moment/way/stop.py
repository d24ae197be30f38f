"""Where the tenant's transactions end that are in: PostgreSQL's rule for a recovery target, applied to one tenant's commits.

Commits come in the order of the log. In are all before the first one that is beyond the target: for a time, the first whose commit
time is later (times are the server's clock, and do not always rise); for a transaction, that one; for a position, the first that
ends behind it. So a moment is a prefix, whatever the clock did, and what is in can be told from one position alone.
"""

from dataclasses import dataclass

from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.journal.window.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction's place.

    Attributes:
        lsn: Position of the end of its commit record.
        xid: Its 64-bit id.
        time: Its commit time, microseconds since 1970 UTC.
    """

    lsn: int
    xid: int
    time: int


class BaseTooLate(Exception):
    """The base shows a transaction that is beyond the stop: an older one is needed."""


class Prefix:
    """Goes through a tenant's commits in the order of the log, and says of each whether it is laid over the base."""

    def __init__(self, target: Target, snapshot: Snapshot) -> None:
        self._target, self._snapshot = target, snapshot
        self._stop: int | None = None
        self._time = target.microseconds
        self.last_in: Commit | None = None
        self.first_out: Commit | None = None
        self.laid = 0  # transactions laid over the base

    def stop_behind(self, position: int) -> None:
        """The log is beyond the target here, whatever the tenant did: commits behind it are out."""
        self._stop = position

    def takes(self, commit: Commit) -> bool:
        """Whether the transaction is laid over the base: it is in, and the base does not show it. It may come in pieces.

        Raises BaseTooLate.
        """
        if self.first_out is None and commit != self.last_in and self._is_beyond(commit):
            self.first_out = commit
        shown = self._snapshot.shows(commit.xid)
        if self.first_out is not None:
            if shown:
                raise BaseTooLate
            return False
        again = commit == self.last_in
        self.last_in = commit
        self.laid += not shown and not again
        return not shown

    def is_beyond(self, position: int) -> bool:
        """Whether a position is known to lie behind the moment, as far as the log has been gone through."""
        if self.first_out is not None or (self._stop is not None and position > self._stop):
            return True
        return self._target.lsn is not None and position > self._target.lsn

    def _is_beyond(self, commit: Commit) -> bool:
        if self._stop is not None and commit.lsn > self._stop:
            return True
        if self._time is not None:
            return commit.time > self._time
        if self._target.before is not None:
            return commit.xid == self._target.before
        assert self._target.lsn is not None
        return commit.lsn > self._target.lsn
