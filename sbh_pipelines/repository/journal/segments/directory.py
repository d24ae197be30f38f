"""A segment's directory: what the segment says of its range, and where whose blocks are. No I/O.

Its plaintext is lines of ASCII: JSON with what concerns the whole segment, then a line for each tenant, which stays text until
somebody asks for that tenant: the directory of a day holds some hundred thousand blocks.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sbh_pipelines.errors import CorruptObject, FormatUnsupported
from sbh_pipelines.repository.journal.segments.block import BlockFacts, Origin
from sbh_pipelines.repository.journal.segments.changes import Layout
from sbh_pipelines.repository.journal.segments.makeup import Makeup
from sbh_pipelines.repository.journal.segments.names import SegmentName

DIRECTORY_VERSION = 1
_KEYS = re.compile(r'\[("[^"]*"),(\d+),\[')  # in a tenant's line: home and epoch; no home has a quotation mark
_BLOCKS = re.compile(r"\[\d")  # where a block begins in it


@dataclass(frozen=True, slots=True)
class FencePoint:
    """A transaction of our own that a drain placed in the log.

    Attributes:
        xid: Its 64-bit transaction id: everything that began later has a greater one.
        before: Position up to which the log was flushed before it began.
        after: Position up to which it was flushed once it had committed.
        time: When it committed, microseconds since 1970 UTC, by the server's clock.
    """

    xid: int
    before: int
    after: int
    time: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """A range in which the stream says all about a table.

    Attributes:
        start: Its start; a commit there is not in it.
        end: Its end; a commit there is in it.
        definition: The table's fingerprint in it.
    """

    start: int
    end: int
    definition: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that rows do not tell.

    Attributes:
        position: The commit with which it happened.
        kind: What it is, e.g. `truncate`.
        table: The table's full name.
        tenants: Keys of the tenants that it concerns; None for all of them.
        why: For people.
        xid: 64-bit id of the transaction that did it; 0 where none of the stream did.
        time: When that was committed, microseconds since 1970 UTC; 0 where none did.
    """

    position: int
    kind: str
    table: str
    tenants: tuple[str, ...] | None
    why: str
    xid: int = 0
    time: int = 0


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What a segment says besides its blocks.

    Attributes:
        fences: In the order of the log; the last one ends the range.
        layouts: How rows are written.
        coverage: Of each table by its full name, in the order of the log.
        events: In the order of the log.
        skipped: Of each tenant of which something is not here, by its key: how many changes, and the greatest transaction id.
            They were dropped for want of a public key, or are in the segment of another region.
        numberings: What a change's layout number means: each block names one of these, whose items are numbers of
            `layouts`. Without any, the numbers are those of `layouts`.
        readings: What each table was like before the last fence, as a digest: what the next drain compares it with.
        makeups: Columns of the tables under each definition that layouts and coverage name, by its fingerprint.
    """

    fences: Sequence[FencePoint]
    layouts: Sequence[Layout]
    coverage: Mapping[str, Sequence[Coverage]]
    events: Sequence[Event] = ()
    skipped: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    numberings: Sequence[Sequence[int]] = ()
    readings: Mapping[str, str] = field(default_factory=dict)
    makeups: Mapping[str, Makeup] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlockRef:
    """Where a block is, and what it holds.

    Attributes:
        home: Name of the repository whose key opens it.
        epoch: Key epoch of that key.
        offset: Where it begins in the segment.
        length: Its bytes, sealed.
        sha256: Of those bytes.
        facts: What it holds.
        origin: Where it was made.
        after: Of its commits only those behind this position count: the others are in a block before.
        numbering: Number of its numbering in the directory.
    """

    home: str
    epoch: int
    offset: int
    length: int
    sha256: bytes
    facts: BlockFacts
    origin: Origin
    after: int
    numbering: int = 0

    def as_text(self) -> str:
        """JSON, without `home` and `epoch`, which many blocks share."""
        facts, origin = self.facts, self.origin
        return json.dumps(
            [
                self.offset,
                self.length,
                self.sha256.hex(),
                facts.first,
                facts.last,
                facts.least_time,
                facts.greatest_time,
                facts.changes,
                facts.least_xid,
                facts.greatest_xid,
                origin.start,
                origin.end,
                origin.number,
                self.after,
                self.numbering,
            ],
            separators=(",", ":"),
        )

    @classmethod
    def of(cls, home: str, epoch: int, items: Sequence[Any]) -> "BlockRef":
        """Raises ValueError."""
        offset, length, digest, *numbers = items
        if not all(type(number) is int for number in (epoch, offset, length, *numbers)):
            raise ValueError("not a number")
        (first, last, least, greatest, changes, least_xid, greatest_xid, *more) = numbers
        start, end, number, after, numbering = more
        facts = BlockFacts(first, last, least, greatest, changes, least_xid, greatest_xid)
        origin = Origin(start, end, number)
        return cls(home, epoch, offset, length, bytes.fromhex(digest), facts, origin, after, numbering)


@dataclass(frozen=True, slots=True)
class TenantBlocks:
    """A tenant's blocks in a segment.

    Attributes:
        blocks: In the order of the commits; one transaction's pieces in the order in which they were made.
    """

    blocks: tuple[BlockRef, ...]


class TenantLines(Mapping[str, TenantBlocks]):
    """The tenants of a directory, by key; each is read when it is asked for."""

    def __init__(self, lines: Mapping[str, str], on: str) -> None:
        self._lines, self._on = lines, on

    def __getitem__(self, tenant_key: str) -> TenantBlocks:
        """Raises KeyError, and CorruptObject."""
        line = self._lines[tenant_key]
        try:
            found = [BlockRef.of(home, epoch, items) for home, epoch, blocks in json.loads(line) for items in blocks]
        except (ValueError, TypeError, RecursionError) as error:
            raise _damaged(self._on, error) from None
        # By the first commit that counts: of a block that overlaps an earlier one the first ones do not.
        found.sort(key=lambda ref: (max(ref.facts.first, ref.after + 1), ref.origin.start, ref.origin.number))
        return TenantBlocks(tuple(found))

    @property
    def block_count(self) -> int:
        """Of all tenants; told without reading any line."""
        return sum(sum(1 for _ in _BLOCKS.finditer(line)) for line in self._lines.values())

    def sealed_to(self) -> set[tuple[str, int]]:
        """(home, epoch) of every key that opens a block of it."""
        return {(json.loads(home), int(epoch)) for line in self._lines.values() for home, epoch in _KEYS.findall(line)}

    def __contains__(self, tenant_key: object) -> bool:
        return tenant_key in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


@dataclass(frozen=True, slots=True)
class Directory:
    """What a segment says.

    Attributes:
        name: The segment's.
        facts: Of the whole segment.
        tenants: Blocks of each tenant, by key.
    """

    name: SegmentName
    facts: SegmentFacts
    tenants: Mapping[str, TenantBlocks]

    @property
    def block_count(self) -> int:
        """How many blocks it has."""
        if isinstance(self.tenants, TenantLines):
            return self.tenants.block_count
        return sum(len(found.blocks) for found in self.tenants.values())

    def sealed_to(self) -> set[tuple[str, int]]:
        """(home, epoch) of every key that opens a block of it."""
        if isinstance(self.tenants, TenantLines):
            return self.tenants.sealed_to()
        return {(ref.home, ref.epoch) for found in self.tenants.values() for ref in found.blocks}

    def layouts_of(self, ref: BlockRef) -> Sequence[Layout]:
        """What the layout numbers of a block's changes mean. Raises CorruptObject."""
        if not self.facts.numberings:
            return self.facts.layouts
        try:
            return [self.facts.layouts[number] for number in self.facts.numberings[ref.numbering]]
        except IndexError as error:
            raise _damaged(self.name.below, error) from None


def pack_directory(name: SegmentName, facts: SegmentFacts, tenants: Mapping[str, str]) -> bytes:
    """The plaintext. `name`: its digest does not count. `tenants`: the line of each, from `tenant_line`."""
    head = {
        "version": DIRECTORY_VERSION,
        "region": name.region,
        "incarnation": name.incarnation,
        "level": name.level,
        "start": name.start,
        "end": name.end,
        "fences": [[fence.xid, fence.before, fence.after, fence.time] for fence in facts.fences],
        "layouts": [asdict(layout) for layout in facts.layouts],
        "coverage": {
            table: [[one.start, one.end, one.definition] for one in ranges] for table, ranges in facts.coverage.items()
        },
        "events": [
            [one.position, one.kind, one.table, one.tenants, one.why, one.xid, one.time] for one in facts.events
        ],
        "skipped": facts.skipped,
        "numberings": facts.numberings,
        "readings": facts.readings,
        "makeups": {definition: makeup.as_list() for definition, makeup in facts.makeups.items()},
    }
    lines = [json.dumps(head, separators=(",", ":"))]
    lines += (f"{json.dumps(key)}\t{tenants[key]}" for key in sorted(tenants))
    return "\n".join(lines).encode()


def tenant_line(blocks: Mapping[tuple[str, int], Sequence[str]]) -> str:
    """A tenant's blocks as text; `blocks`: texts of blocks by home and epoch."""
    parts = (f"[{json.dumps(home)},{epoch},[{','.join(texts)}]]" for (home, epoch), texts in blocks.items())
    return f"[{','.join(parts)}]"


def digest_of(plain: bytes) -> str:
    """What a segment's name says of its directory."""
    return hashlib.sha256(plain).hexdigest()[:16]


def unpack_directory(plain: bytes, name: SegmentName, on: str) -> Directory:
    """Raises CorruptObject, also where the directory is not that of this name, and FormatUnsupported."""
    try:
        first, *lines = plain.decode("ascii").split("\n")
        head = json.loads(first)
        if head["version"] > DIRECTORY_VERSION:
            raise FormatUnsupported(
                "A segment of the journal is of a newer format", on=on, remedy="read it with a newer release"
            )
        said = (head["region"], head["incarnation"], head["level"], head["start"], head["end"], digest_of(plain))
        if said != (name.region, name.incarnation, name.level, name.start, name.end, name.digest):
            raise ValueError("its name is that of another")
        tenants = {}
        for line in lines:
            key, blocks = line.split("\t")
            tenants[json.loads(key)] = blocks
        return Directory(name, _facts(head), TenantLines(tenants, on))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(on, error) from None


def _facts(head: Mapping[str, Any]) -> SegmentFacts:
    return SegmentFacts(
        fences=tuple(FencePoint(*numbers) for numbers in head["fences"]),
        layouts=tuple(_layout(item) for item in head["layouts"]),
        coverage={table: tuple(Coverage(*one) for one in ranges) for table, ranges in head["coverage"].items()},
        events=tuple(
            Event(position, kind, table, None if tenants is None else tuple(tenants), why, xid, time)
            for position, kind, table, tenants, why, xid, time in head["events"]
        ),
        skipped={key: (count, xid) for key, (count, xid) in head["skipped"].items()},
        numberings=tuple(tuple(numbers) for numbers in head["numberings"]),
        readings=head["readings"],
        makeups={name: Makeup.from_list(items) for name, items in head.get("makeups", {}).items()},
    )


def _layout(item: Mapping[str, Any]) -> Layout:
    return Layout(item["table"], tuple(item["columns"]), tuple(item["key"]), item["definition"], item["encoding"])


def _damaged(on: str, error: Exception) -> CorruptObject:
    return CorruptObject(
        "The directory of a segment of the journal is damaged",
        on=on,
        why=f"its content is not that of one: {type(error).__name__}",
        remedy=SEGMENT_REMEDY,
    )


SEGMENT_REMEDY = (
    "put the object back from the bucket's older version; what it covers is lost to the journal otherwise, and the next backup"
    " of each tenant closes the gap"
)
