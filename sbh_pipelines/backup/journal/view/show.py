"""What was done to a tenant's rows, transaction by transaction: so that people find the one that should not have been.

The newest come first to mind and are read first; nothing older is read than what is shown. Of a transaction counts are kept, and
some rows where they are asked for: one of a million changes takes no more memory than one of ten.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sbh_pipelines.backup.contents.copy_text import fields_of
from sbh_pipelines.backup.journal.view.chains import Part, read_back
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.session.encodings import parsable, printable, to_utf8
from sbh_pipelines.errors import CorruptObject, InvalidId, SbhError, UnknownBackup
from sbh_pipelines.model import Tenant, timestamp
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.reading import read_transactions
from sbh_pipelines.repository.journal.segments.changes import (
    UNCHANGED,
    Change,
    Layout,
    Op,
    Transaction,
    lsn_text,
    microseconds_of,
    moment_text,
)
from sbh_pipelines.repository.journal.segments.directory import TenantBlocks
from sbh_pipelines.repository.seal import Sealer

MASKED = "***"
MOST_TRANSACTIONS = 10_000
_LONGEST = 200  # characters of a value
_INCARNATION_STARTS = "%Y%m%dT%H%M%SZ"
_NAMES = {Op.INSERT: "inserted", Op.UPDATE: "updated", Op.DELETE: "deleted"}


@dataclass(frozen=True, slots=True)
class ShowRequest:
    """What of a tenant's transactions is asked for.

    Attributes:
        since: No transaction before this moment; None: as far back as the journal goes.
        until: None after this moment; None: up to now.
        tables: Only changes of these tables, as `schema.table` or `table`; empty: of all.
        samples: Rows shown of each table and kind of change in a transaction.
        show_sensitive: Whether values that `restore.sensitive` masks are shown.
        limit: The newest so many transactions.
    """

    since: datetime | None = None
    until: datetime | None = None
    tables: Sequence[str] = ()
    samples: int = 0
    show_sensitive: bool = False
    limit: int = 50


@dataclass(frozen=True, slots=True)
class TableCounts:
    """What a transaction did to a table.

    Attributes:
        inserted: Rows that came.
        updated: Rows that changed.
        deleted: Rows that went.
    """

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def lost(self) -> int:
        """Rows of which something is gone."""
        return self.updated + self.deleted


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row that a transaction changed.

    Attributes:
        table: Its table.
        change: inserted, updated or deleted.
        key: Values of the primary key as text, by column, before the change.
        columns: Values after it, by column: without those that it left as they were and that the server did not send.
    """

    table: str
    change: str
    key: Mapping[str, str | None]
    columns: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class ShownTransaction:
    """A transaction of the tenant, or its part of one.

    Attributes:
        time: When it was committed, by the server's clock, ISO 8601 UTC to the microsecond.
        xid: Its 64-bit transaction id; None for users of the tenant, whom it would tell how much others do.
        position: Of its commit in the server's log; None likewise.
        tables: What it did to each table.
        samples: Some of the rows.
        before: The last moment before it: what a restore to `@` this brings back.
    """

    time: str
    xid: int | None
    position: str | None
    tables: Mapping[str, TableCounts]
    samples: Sequence[ChangedRow]
    before: str

    @property
    def lost(self) -> int:
        """Rows of which something is gone."""
        return sum(counts.lost for counts in self.tables.values())


@dataclass(frozen=True, slots=True)
class ShownEvent:
    """Something that rows do not tell, e.g. that a table was emptied.

    Attributes:
        time: When it was committed; None where no transaction of the stream did it.
        xid: Of that transaction; None likewise, and for users of the tenant.
        position: Where it is in the server's log; None for users of the tenant.
        kind: What it is.
        table: The table.
        why: For people.
        before: The last moment before it; None where its time is not known.
    """

    time: str | None
    xid: int | None
    position: str | None
    kind: str
    table: str
    why: str
    before: str | None


@dataclass(frozen=True, slots=True)
class JournalListing:
    """What the journal tells of a tenant.

    Attributes:
        tenant_id: The tenant.
        told_from: The moment from which on it was read; None where the journal is empty.
        told_until: Up to which moment it is drained; None likewise.
        transactions: In the order of their commits.
        events: Likewise.
        more: Whether earlier transactions were left out.
        gaps: Where nothing is told, for people.
        issues: What could not be read.
    """

    tenant_id: str
    told_from: str | None
    told_until: str | None
    transactions: Sequence[ShownTransaction]
    events: Sequence[ShownEvent]
    more: bool
    gaps: Sequence[str]
    issues: Sequence[SbhError]

    def without_server(self) -> "JournalListing":
        """The same without what tells how much others of the same server do."""
        return replace(
            self,
            transactions=[replace(one, xid=None, position=None) for one in self.transactions],
            events=[replace(event, xid=None, position=None) for event in self.events],
        )


@dataclass(slots=True)
class _Gathered:
    """A transaction whose pieces are counted."""

    commit: int
    time: int
    xid: int
    counts: dict[str, dict[Op, int]] = field(default_factory=dict)
    samples: list[ChangedRow] = field(default_factory=list)


def show(site: Site, tenant: Tenant, request: ShowRequest) -> JournalListing:
    """The newest transactions that match. Raises InvalidId, the store's and the keys' errors."""
    if request.since and request.until and request.since > request.until:
        raise InvalidId(
            "The range is empty", on=f"{request.since} to {request.until}", remedy="give the earlier one as --since"
        )
    return _Reader(site, tenant, request).read()


class _Reader:
    """Reads back, segment by segment, until there is enough."""

    def __init__(self, site: Site, tenant: Tenant, request: ShowRequest) -> None:
        self._tenant, self._request = tenant, request
        self._masked = (lambda _: set[str]()) if request.show_sensitive else site.settings.restore.masked_columns
        self._journal: Journal = site.journal(tenant.region)
        self._site = site
        self._since = microseconds_of(request.since) if request.since else 0
        self._until = microseconds_of(request.until) if request.until else 1 << 62
        self._limit = max(1, min(request.limit, MOST_TRANSACTIONS))
        self._issues: list[SbhError] = []
        self._gaps: list[str] = []
        self._sealers: dict[str, Sealer] = {}

    def read(self) -> JournalListing:
        """The answer, oldest first."""
        found: list[_Gathered] = []
        events: list[ShownEvent] = []
        parts, more = 0, False
        newest = oldest = 0
        for part in self._parts():
            parts += 1
            times = [fence.time for fence in part.directory.facts.fences]
            newest = max([newest, *times])
            oldest = min([oldest or newest, *times])
            events[:0] = self._events(part)
            found[:0] = self._newest(part)
            if len(found) > self._limit:
                found, more = found[-self._limit :], True
                break
        shown = [_shown(one) for one in found]
        if more:
            events = [event for event in events if event.time is None or event.time >= shown[0].time]
        return JournalListing(
            tenant_id=self._tenant.id,
            told_from=moment_text(oldest) if parts else None,
            told_until=moment_text(newest) if parts else None,
            transactions=shown,
            events=events,
            more=more,
            gaps=self._gaps[::-1],
            issues=self._issues,
        )

    def _parts(self) -> Iterator[Part]:
        """The newest first, through all incarnations; what lies between two of them is a gap."""
        listing = self._journal.listing()
        later = ""
        for incarnation in reversed(listing.incarnations):
            if later:
                self._gaps.append(f"before {_begins(later)}: the slot or the server began anew")
            later = incarnation
            following: Part | None = None
            for part in read_back(self._journal, listing, incarnation, self._since, self._issues, self._tenant.key):
                if following is not None and part.stretch.end < following.stretch.start:
                    self._gaps.append(f"between {_ends(part)} and {_ends(following)}: no segment covers all of it")
                following = part
                yield part
                if any(fence.time < self._since for fence in part.directory.facts.fences[-1:]):
                    return

    def _newest(self, part: Part) -> Sequence[_Gathered]:
        """Those of a part that match, one more than are shown at most."""
        found = deque[_Gathered](maxlen=self._limit + 1)
        try:
            found.extend(self._transactions(part))
        except (CorruptObject, UnknownBackup) as error:
            self._issues.append(error)
        return found

    def _transactions(self, part: Part) -> Iterator[_Gathered]:
        """Those of a segment's part that match, in the order of their commits."""
        directory = part.directory
        mine = directory.tenants.get(self._tenant.key)
        if mine is None:
            return
        wanted = [
            ref for ref in mine.blocks if ref.facts.greatest_time >= self._since and ref.facts.least_time <= self._until
        ]
        if not wanted:
            return
        directory = replace(directory, tenants={self._tenant.key: TenantBlocks(tuple(wanted))})
        pieces = read_transactions(
            self._journal, directory, self._tenant.key, self._sealer, part.stretch.start, part.stretch.end
        )
        now: _Gathered | None = None
        for layouts, piece in pieces:
            if not self._since <= piece.time <= self._until:
                continue
            if now is None or now.commit != piece.commit:
                if now is not None and now.counts:
                    yield now
                now = _Gathered(piece.commit, piece.time, piece.xid)
            self._count(now, layouts, piece)
        if now is not None and now.counts:
            yield now

    def _count(self, gathered: _Gathered, layouts: Sequence[Layout], piece: Transaction) -> None:
        for change in piece.changes:
            layout = layouts[change.layout]
            if not self._is_wanted(layout.table):
                continue
            counts = gathered.counts.setdefault(layout.table, dict.fromkeys(Op, 0))
            counts[change.op] += 1
            if counts[change.op] <= self._request.samples:
                gathered.samples.append(_changed_row(layout, change, self._masked(layout.table)))

    def _events(self, part: Part) -> list[ShownEvent]:
        start, end = part.stretch.start, part.stretch.end
        return [
            ShownEvent(
                time=moment_text(event.time) if event.time else None,
                xid=event.xid or None,
                position=lsn_text(event.position),
                kind=event.kind,
                table=event.table,
                why=event.why,
                before=moment_text(event.time - 1) if event.time else None,
            )
            for event in part.directory.facts.events
            if start < event.position <= end
            and (event.tenants is None or self._tenant.key in event.tenants)
            and (not event.time or self._since <= event.time <= self._until)
            and self._is_wanted(event.table)
        ]

    def _is_wanted(self, table: str) -> bool:
        chosen = self._request.tables
        return not chosen or table in chosen or table.partition(".")[2] in chosen

    def _sealer(self, home: str) -> Sealer:
        """The keys of the tenant's repository of this name."""
        if home not in self._sealers:
            with self._site.opened(self._tenant, home) as repository:
                self._sealers[home] = repository.sealer
        return self._sealers[home]


def _ends(part: Part) -> str:
    fences = part.directory.facts.fences
    return moment_text(fences[-1].time) if fences else "?"


def _begins(incarnation: str) -> str:
    return timestamp(datetime.strptime(incarnation[:16] + "+0000", f"{_INCARNATION_STARTS}%z"))


def _changed_row(layout: Layout, change: Change, masked: set[str]) -> ChangedRow:
    names = layout.key
    key_fields = _values(layout, change.key, names, masked) if change.key else {}
    columns: dict[str, str | None] = {}
    if change.row:
        fields = change.row.split(b"\t")
        told = [name for name, field in zip(layout.columns, fields, strict=True) if field != UNCHANGED]
        row = b"\t".join(field for field in fields if field != UNCHANGED)
        columns = _values(layout, row, told, masked)
        key_fields = key_fields or {name: columns[name] for name in names}
    return ChangedRow(layout.table, _NAMES[change.op], key_fields, columns)


def _values(layout: Layout, line: bytes, names: Iterable[str], masked: set[str]) -> dict[str, str | None]:
    return {
        name: None if value is None else MASKED if name in masked else _text(value, layout.encoding)
        for name, value in zip(names, fields_of(line), strict=True)
    }


def _text(value: bytes, encoding: str) -> str:
    text = printable(parsable(to_utf8(value, encoding)))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _shown(one: _Gathered) -> ShownTransaction:
    tables = {
        table: TableCounts(counts[Op.INSERT], counts[Op.UPDATE], counts[Op.DELETE])
        for table, counts in sorted(one.counts.items())
    }
    return ShownTransaction(
        moment_text(one.time), one.xid, lsn_text(one.commit), tables, tuple(one.samples), moment_text(one.time - 1)
    )
