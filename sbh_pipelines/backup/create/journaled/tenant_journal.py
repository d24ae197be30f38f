"""What the change journal tells of one tenant since the backup it builds on: covered tables, and what happened to their keys."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.backup.journal.fold import KeyResult, Merge
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.errors import JournalGap
from sbh_pipelines.repository.journal.segments.changes import Layout, Transaction

CONTRADICTS = "the journal contradicts itself"


@dataclass
class TenantJournal:
    """One tenant's.

    Attributes:
        key: The tenant's key.
        parent: What the backup it builds on shows, or the later point until which it was found unchanged.
        since: Covered tables -> the snapshot since which what happened to them is merged: that one, or an older one of its base.
        reasons: Other tables -> why the journal cannot tell what happened to them.
        merge: Of the whole batch.
        changed: Covered tables to which something happened since `parent`.
    """

    key: str
    parent: Snapshot | None
    since: dict[str, Snapshot]
    reasons: dict[str, str]
    merge: Merge = field(repr=False)
    changed: set[str] = field(default_factory=set)

    def covers(self, table: str) -> bool:
        return table in self.since

    def results(self, table: str) -> Iterator[KeyResult]:
        """What became of the keys of a covered table."""
        return self.merge.results((self.key, table))

    def take(self, layouts: Sequence[Layout], transaction: Transaction, definitions: Mapping[str, str]) -> None:
        """Merge what a transaction did to covered tables. A table whose changes do not fit together is not covered any more."""
        xid, parent = transaction.xid, self.parent
        assert parent is not None
        fresh = not parent.shows(xid)
        for change in transaction.changes:
            layout = layouts[change.layout]
            table = layout.table
            since = self.since.get(table)
            if since is None or (since is not parent and since.shows(xid)):
                continue
            if fresh:
                self.changed.add(table)
            elif since is parent:
                continue
            if layout.definition != definitions[table]:
                self.lose(table, "its definition changed")
                continue
            try:
                self.merge.add((self.key, table), layout, change)
            except JournalGap:
                self.lose(table, CONTRADICTS)

    def lose(self, table: str, why: str) -> None:
        """A table is to be looked through after all."""
        if self.since.pop(table, None) is not None:
            self.reasons[table] = why
            self.changed.discard(table)

    def lose_all(self, why: str) -> None:
        for table in list(self.since):
            self.lose(table, why)

    def settle(self) -> None:
        """All was taken. What came and went again, or was none of the tenant's, has changed nothing."""
        for table, since in self.since.items():
            if since is self.parent and table in self.changed and next(self.results(table), None) is None:
                self.changed.discard(table)
