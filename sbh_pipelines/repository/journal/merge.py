"""Merge segments that follow one another into one of a higher level. Blocks are copied byte for byte: no tenant's key is needed.

In the merged segment a tenant's blocks lie beside one another, so that who reads a day of one tenant asks for one range. The
sources stay where they are; a merge that is killed leaves nothing.
"""

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.changes import Layout
from sbh_pipelines.repository.journal.segments.cover import Stretch
from sbh_pipelines.repository.journal.segments.directory import SEGMENT_REMEDY, Coverage, Directory, Event, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines.repository.journal.segments.room import room
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter


@dataclass(frozen=True, slots=True)
class _Source:
    """A stretch, its directory, and a local copy of its segment's blocks."""

    stretch: Stretch
    directory: Directory
    copy: IO[bytes]


def merge(
    journal: Journal, stretches: Sequence[Stretch], *, level: int, leave_out: Collection[str] = ()
) -> SegmentName:
    """Write the segment of these stretches, read back; `leave_out`: homes of tenants of whom nothing may be kept.

    The stretches are of one incarnation, without a hole between them, and each goes to the end of its segment. Raises ValueError
    where they are not so, CorruptObject and ObjectMissing where a source cannot be read whole.
    """
    _check(stretches, level)
    first, last = stretches[0], stretches[-1]
    sources = list[_Source]()
    try:
        for stretch in stretches:
            directory = journal.directory(stretch.segment)
            size = stretch.segment.size
            with room(size):
                copy = tempfile.TemporaryFile()  # what is sealed to tenants, as it is in the store
            sources.append(_Source(stretch, directory, copy))
            for piece in journal.content(directory.name):
                with room(size):
                    copy.write(piece)
            with room(size):
                copy.flush()
        layouts = _Layouts()
        numberings = [layouts.numberings_of(source.directory) for source in sources]
        gone = set[str]()
        with SegmentWriter(journal.region, first.segment.incarnation, first.start, last.end, level=level) as writer:
            for tenant_key in sorted({key for source in sources for key in source.directory.tenants}):
                kept = False
                for source, numbers in zip(sources, numberings, strict=True):
                    kept |= _copy(journal, source, tenant_key, numbers, writer, leave_out)
                if not kept:
                    gone.add(tenant_key)
            return journal.write(writer, _facts(sources, layouts, gone if leave_out else ()))
    finally:
        for source in sources:
            with suppress(OSError):
                source.copy.close()


def _check(stretches: Sequence[Stretch], level: int) -> None:
    if not stretches:
        raise ValueError("no segment to merge")
    for one, next_one in zip(stretches, [*stretches[1:], None], strict=True):
        if one.end != one.segment.end or one.segment.incarnation != stretches[0].segment.incarnation:
            raise ValueError("a stretch does not go to the end of its segment, or is of another incarnation")
        if next_one is not None and next_one.start != one.end:
            raise ValueError("there is a hole between two segments")
        if one.segment.level >= level:
            raise ValueError("a segment is not of a lower level")


def _copy(
    journal: Journal,
    source: _Source,
    tenant_key: str,
    numberings: Sequence[int],
    writer: SegmentWriter,
    leave_out: Collection[str],
) -> bool:
    """Whether a tenant has a block that is not of a home to be left out, of commits of this stretch."""
    if tenant_key not in source.directory.tenants:
        return False
    kept = False
    for ref in source.directory.tenants[tenant_key].blocks:
        after = max(ref.after, source.stretch.start)
        if ref.home in leave_out or ref.facts.last <= after:
            continue
        source.copy.seek(ref.offset)
        sealed = source.copy.read(ref.length)
        if hashlib.sha256(sealed).digest() != ref.sha256 or ref.numbering >= len(numberings):
            raise CorruptObject(
                "A segment of the journal is damaged",
                on=journal.url(source.directory.name),
                why="a block is not the one that its directory names",
                remedy=SEGMENT_REMEDY,
            )
        writer.copy_block(tenant_key, replace(ref, after=after, numbering=numberings[ref.numbering]), sealed)
        kept = True
    return kept


class _Layouts:
    """Layouts and numberings of the merged segment: each that differs, once."""

    def __init__(self) -> None:
        self._layouts: dict[Layout, int] = {}
        self._numberings: dict[tuple[int, ...], int] = {}

    def numberings_of(self, directory: Directory) -> list[int]:
        """For each numbering of a source, its number in the merged segment."""
        facts = directory.facts
        found = []
        for numbering in facts.numberings or (range(len(facts.layouts)),):
            numbers = tuple(self._layouts.setdefault(facts.layouts[number], len(self._layouts)) for number in numbering)
            found.append(self._numberings.setdefault(numbers, len(self._numberings)))
        return found

    @property
    def layouts(self) -> tuple[Layout, ...]:
        return tuple(self._layouts)

    @property
    def numberings(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self._numberings)


def _facts(sources: Sequence[_Source], layouts: _Layouts, gone: Collection[str]) -> SegmentFacts:
    """What the sources say of their stretches; nothing of the tenants in `gone`."""
    first = sources[0].stretch
    # By id, because two sources may both have one: what the second says again is in the range of the first. Of the first source,
    # where only the end of it counts, those are left out of which it is not certain that they are in that.
    fences = {
        fence.xid: fence
        for source in sources
        for fence in source.directory.facts.fences
        if source.stretch is not first or first.start == first.segment.start or fence.before >= first.start
    }
    coverage: dict[str, list[Coverage]] = {}
    skipped: dict[str, tuple[int, int]] = {}
    for source in sources:
        for table, ranges in source.directory.facts.coverage.items():
            for one in ranges:
                start = max(one.start, source.stretch.start)
                if start < one.end:
                    _cover(coverage.setdefault(table, []), replace(one, start=start))
        for tenant_key, (count, xid) in source.directory.facts.skipped.items():
            counted, greatest = skipped.get(tenant_key, (0, 0))
            if tenant_key not in gone:
                skipped[tenant_key] = counted + count, max(greatest, xid)
    return SegmentFacts(
        fences=tuple(sorted(fences.values(), key=lambda fence: fence.xid)),
        layouts=layouts.layouts,
        coverage={table: tuple(ranges) for table, ranges in coverage.items()},
        events=tuple(
            event
            for source in sources
            for event in _without(source.directory.facts.events, gone)
            if event.position > source.stretch.start
        ),
        skipped=skipped,
        numberings=layouts.numberings,
        readings=sources[-1].directory.facts.readings,
        makeups={name: one for source in sources for name, one in source.directory.facts.makeups.items()},
    )


def _cover(ranges: list[Coverage], new: Coverage) -> None:
    """Append a range, or make the last one longer where it goes on."""
    if ranges and ranges[-1].end == new.start and ranges[-1].definition == new.definition:
        new = replace(new, start=ranges.pop().start)
    ranges.append(new)


def _without(events: Iterable[Event], gone: Collection[str]) -> Iterator[Event]:
    for event in events:
        if event.tenants is None or not gone:
            yield event
        elif kept := tuple(tenant for tenant in event.tenants if tenant not in gone):
            yield replace(event, tenants=kept)
