"""What happened to tenants between two snapshots, as a region's journal tells it, or why it cannot tell.

Which transactions lie between is decided by their ids and the two snapshots: what the later one shows and the earlier one does not.
Positions of the log only say where to look. Everything that the earlier snapshot does not show has an id of its xmin or above, and
so comes after any fence of a lesser id; everything that the later one shows was committed before any fence that began after it.
Between the two the chain must have no hole, and each table must be covered all the way.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.backup.journal.window.tail import Piece, Tail
from sbh_pipelines.errors import JournalGap, SbhError
from sbh_pipelines.model import RecoveryPoint
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.block import decode_transactions
from sbh_pipelines.repository.journal.segments.changes import Layout, Transaction
from sbh_pipelines.repository.journal.segments.directory import BlockRef, Coverage, Directory, Event
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines.repository.seal import Sealer

_READ_BYTES = 8 << 20  # sealed blocks in memory

NOT_JOURNALED = "the journal does not cover it"
TOO_SHORT = "the journal does not reach back to the backup it builds on"
BEGAN_ANEW = "the journal has a gap: it began anew since the backup it builds on"
NOT_DRAINED = "the journal was not drained up to this backup"
NO_JOURNAL = "the region has no journal yet"
OTHER_SERVER = "the journal is of another server, or of a time before it was promoted"
STANDBY = "a snapshot of a standby does not say which transactions were running"
DEFINITION = "its definition changed"
NOT_KEPT = (
    "changes of the tenant are not in the region's journal: its key was not known yet, or it was in another region"
)
DAMAGED = "the journal is damaged"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the journal says of a tenant between two snapshots.

    Attributes:
        reasons: Table -> why the journal cannot tell what happened to it. All other tables are covered.
        changed: Whether something may have happened to covered tables; where not, nothing did.
        since: The earlier snapshot.
        start: Where in the log to begin to read what happened.
    """

    reasons: Mapping[str, str]
    changed: bool = False
    since: Snapshot | None = None
    start: int = 0


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom changes are read.

    Attributes:
        since: What the tenant has seen already.
        start: Where in the log to begin.
        home: Name of its repository.
        sealer: With the repository's keys.
    """

    since: Snapshot
    start: int
    home: str
    sealer: Sealer = field(repr=False)


class Window:
    """A region's journal up to one snapshot. Thread-safe."""

    def __init__(
        self,
        journal: Journal,
        point: RecoveryPoint,
        behind: int,
        directories: Callable[[SegmentName], Directory] | None = None,
    ) -> None:
        """`behind`: id of a fence behind all that `point` shows, as `drain_until` gives it; `directories` as of a Tail.

        Raises the store's errors, and CorruptObject.
        """
        self._behind = behind
        self._upto, self._tail = Snapshot.parse(point.snapshot), Tail(journal, directories)
        self._why = self._why_nothing(point)
        self._newest: list[Piece] = []
        if self._why is None:
            self._skip_later()
            self._gaps = [gap for gap in journal.gaps() if gap.incarnation == self._incarnation]
        self._covered: dict[tuple[int, str, str], str | None] = {}

    @property
    def _incarnation(self) -> str:
        return self._tail.incarnation.text if self._tail.incarnation else ""

    def _why_nothing(self, point: RecoveryPoint) -> str | None:
        incarnation = self._tail.incarnation
        if incarnation is None:
            return NO_JOURNAL
        if (str(incarnation.system_id), incarnation.timeline) != (point.system_identifier, point.timeline):
            return OTHER_SERVER
        if self._upto.of_standby:
            return STANDBY
        return None

    def _skip_later(self) -> None:
        """Of what others drained since, nothing is needed: the newest piece is that of the fence behind the snapshot."""
        for piece in self._tail.backwards():
            if piece.last_fence < self._behind:
                break
            self._newest = [piece]
        if not self._newest:
            self._why = NOT_DRAINED

    def ask(self, tenant_key: str, since: str, definitions: Mapping[str, str]) -> Answer:
        """What happened since the snapshot to tables whose definitions (by full name) are what they were then.

        Raises the store's errors, and CorruptObject.
        """
        snapshot = Snapshot.parse(since)
        why = self._why or (STANDBY if snapshot.of_standby else None)
        fence = None if why else self._tail.fence_below(snapshot.xmin)
        if fence is None:
            why = why or (BEGAN_ANEW if self._tail.began_anew else TOO_SHORT)
            return Answer(dict.fromkeys(definitions, why))
        pieces = self._pieces(fence.before)
        if why := self._why_not_all(tenant_key, snapshot, fence.before, pieces):
            return Answer(dict.fromkeys(definitions, why))
        found = {
            table: self._event(tenant_key, snapshot, table, fence.before, pieces)
            or self._coverage(fence.before, table, definition)
            or self._own_gap(tenant_key, table, fence.before)
            for table, definition in definitions.items()
        }
        reasons = {table: reason for table, reason in found.items() if reason}
        changed = any(next(self._refs(piece, tenant_key, snapshot), None) for piece in pieces)
        return Answer(reasons, changed, snapshot, fence.before)

    def _pieces(self, start: int) -> list[Piece]:
        """What lies behind a position, up to the snapshot; oldest first. It has been read."""
        newest = self._newest[0].stretch.end
        return [piece for piece in reversed(self._tail.known) if start < piece.stretch.end <= newest]

    def _why_not_all(self, tenant_key: str, since: Snapshot, start: int, pieces: Sequence[Piece]) -> str | None:
        for piece in pieces:
            _, xid = piece.directory.facts.skipped.get(tenant_key, (0, 0))
            if xid >= since.xmin:
                return NOT_KEPT
        for gap in self._gaps:
            if gap.table is None and gap.tenant in (None, tenant_key) and gap.position > start:
                return f"the journal has a gap: {gap.why}"
        return None

    def _coverage(self, start: int, table: str, definition: str) -> str | None:
        """Why the stream does not say all of the table from a position on. The same for all tenants."""
        asked = start, table, definition
        if asked not in self._covered:
            self._covered[asked] = self._uncovered(start, table, definition)
        return self._covered[asked]

    def _uncovered(self, start: int, table: str, definition: str) -> str | None:
        at = start
        for piece in self._pieces(start):
            ranges = piece.directory.facts.coverage.get(table, ())
            if not ranges and at == start:
                return NOT_JOURNALED
            while at < piece.stretch.end:
                further = max((one for one in ranges if one.start <= at < one.end), key=_end, default=None)
                if further is None:
                    return "the journal's coverage of it ended, or began, since"
                if further.definition != definition:
                    return DEFINITION
                at = further.end
        for gap in self._gaps:
            if gap.table == table and gap.tenant is None and gap.position > start:
                return f"the journal has a gap: {gap.why}"
        return None

    def _own_gap(self, tenant_key: str, table: str, start: int) -> str | None:
        for gap in self._gaps:
            if gap.table == table and gap.tenant == tenant_key and gap.position > start:
                return f"the journal has a gap: {gap.why}"
        return None

    def _event(self, tenant_key: str, since: Snapshot, table: str, start: int, pieces: Sequence[Piece]) -> str | None:
        for piece in pieces:
            for event in piece.directory.facts.events:
                if event.table == table and self._concerns(event, tenant_key, since, start):
                    return f"{event.kind}: {event.why}"
        return None

    def _concerns(self, event: Event, tenant_key: str, since: Snapshot, start: int) -> bool:
        if event.tenants is not None and tenant_key not in event.tenants:
            return False
        if event.xid:
            return self._upto.shows(event.xid) and not since.shows(event.xid)
        return event.position > start

    def _refs(self, piece: Piece, tenant_key: str, since: Snapshot) -> Iterator[BlockRef]:
        """The tenant's blocks in a piece in which something may lie between the snapshots."""
        if tenant_key not in piece.directory.tenants:
            return
        for ref in piece.directory.tenants[tenant_key].blocks:
            facts, floor = ref.facts, max(piece.stretch.start, ref.after)
            if facts.last <= floor or facts.first > piece.stretch.end:
                continue
            if facts.greatest_xid >= since.xmin and facts.least_xid < self._upto.xmax:
                yield ref

    def changes(self, tenant_key: str, since: Snapshot) -> int:
        """At most so many changes of the tenant lie between; `ask` has been asked. Only to know how much there is to read."""
        return sum(ref.facts.changes for piece in self._tail.known for ref in self._refs(piece, tenant_key, since))

    def start(self, since: Snapshot) -> int:
        """Where in the log to begin, for a snapshot that `ask` was asked for. Raises JournalGap where there is no such place."""
        fence = self._tail.fence_below(since.xmin)
        if fence is None:
            raise JournalGap("The journal does not reach back to a snapshot", on=self._tail.journal.region)
        return fence.before

    def gap(self, kind: str, tenant_key: str, table: str, since: Snapshot, read: Snapshot, time: int, why: str) -> Gap:
        """One of all that lies between, where `ask` was asked for `since`: it is not known what of it is wrong.

        `read`: when the table was last read, and not made of what the journal told. No backup as old as `since` leads across the
        gap. One of the later snapshot does, if a fence came between the two; else one that comes after the next fence. Raises
        JournalGap.
        """
        start, fence, first = (
            self.start(since),
            self._tail.fence_below(self._upto.xmin),
            self._tail.fence_below(read.xmin),
        )
        position = max(start + 1, fence.before if fence else 0)
        begin = min(start, first.before if first else self._tail.known[-1].stretch.start)
        return Gap(self._incarnation, kind, table, tenant_key, position, time, why, begin)

    def read(
        self, readers: Mapping[str, Reader], failed: Callable[[str, SbhError], object]
    ) -> Iterator[tuple[str, Sequence[Layout], Transaction]]:
        """(tenant key, what the layout numbers of the changes mean, transaction) of all that lies between.

        Each tenant's come in the order of the commits; a large one in pieces. Some MiB are in memory. What cannot be read of a
        tenant goes to `failed`, and nothing more of the tenant comes.
        """
        out: set[str] = set()
        start = min((one.start for one in readers.values()), default=0)
        for piece in self._pieces(start) if readers else ():
            wanted = [
                (key, ref)
                for key, one in readers.items()
                if one.start < piece.stretch.end and key not in out
                for ref in self._refs(piece, key, one.since)
            ]
            for key, ref, sealed in self._bodies(piece, wanted, out):
                if key in out:
                    continue
                try:
                    if isinstance(sealed, SbhError):
                        raise sealed
                    for layouts, transaction in self._opened(piece, key, readers[key], ref, sealed):
                        yield key, layouts, transaction
                except SbhError as error:
                    out.add(key)
                    failed(key, error)

    def _bodies(
        self, piece: Piece, wanted: Sequence[tuple[str, BlockRef]], out: Collection[str]
    ) -> Iterator[tuple[str, BlockRef, bytes | SbhError]]:
        journal, name = self._tail.journal, piece.directory.name
        for part in _parts(wanted):
            refs = [ref for key, ref in part if key not in out]
            try:
                read = {ref.offset: sealed for ref, sealed in journal.blocks(name, sorted(refs, key=_offset))}
            except SbhError:
                read = {}
            for key, ref in part:
                sealed: bytes | SbhError | None = read.get(ref.offset)
                if sealed is None and key not in out:  # one of them is damaged: it is to be known which
                    try:
                        ((_, sealed),) = journal.blocks(name, [ref])
                    except SbhError as error:
                        sealed = error
                if sealed is not None:
                    yield key, ref, sealed

    def _opened(
        self, piece: Piece, tenant_key: str, reader: Reader, ref: BlockRef, sealed: bytes
    ) -> Iterator[tuple[Sequence[Layout], Transaction]]:
        directory, place = piece.directory, self._tail.journal.url(piece.directory.name)
        if ref.home != reader.home:
            raise JournalGap("The journal is sealed for another repository of the tenant", on=place)
        aad = ref.origin.aad(tenant_key, directory.name.incarnation)
        plain = reader.sealer.open_block(sealed, ref.epoch, aad, on=place)
        layouts, floor = directory.layouts_of(ref), max(piece.stretch.start, ref.after)
        for transaction in decode_transactions(plain, on=place):
            if not floor < transaction.commit <= piece.stretch.end:
                continue
            if self._upto.shows(transaction.xid) and not reader.since.shows(transaction.xid):
                yield layouts, transaction


def _end(coverage: Coverage) -> int:
    return coverage.end


def _offset(ref: BlockRef) -> int:
    return ref.offset


def _parts(wanted: Sequence[tuple[str, BlockRef]]) -> Iterator[list[tuple[str, BlockRef]]]:
    part: list[tuple[str, BlockRef]] = []
    size = 0
    for one in wanted:
        if part and size + one[1].length > _READ_BYTES:
            yield part
            part, size = [], 0
        part.append(one)
        size += one[1].length
    if part:
        yield part
