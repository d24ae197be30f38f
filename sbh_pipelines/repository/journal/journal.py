"""The journal of a region: finds segments by one listing, opens their directories, reads blocks, stores new segments and gaps.

It believes nothing that the catalog's key did not seal under that very name, and no block whose digest is not the directory's. It
cannot read blocks: `reading.py` does, with the tenants' keys.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sbh_pipelines.errors import (
    CorruptObject,
    FormatUnsupported,
    JournalError,
    ObjectExists,
    ObjectMissing,
    SbhError,
    StoreDenied,
    StoreError,
)
from sbh_pipelines.model import Clock
from sbh_pipelines.repository.bounds import MOST_SEGMENTS, all_below, too_many
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.public_keys import PublicKeys
from sbh_pipelines.repository.journal.sealed_objects import CatalogKey, SealedObjects
from sbh_pipelines.repository.journal.segments.cover import Cover, plan_cover
from sbh_pipelines.repository.journal.segments.directory import (
    SEGMENT_REMEDY,
    BlockRef,
    Directory,
    SegmentFacts,
    unpack_directory,
)
from sbh_pipelines.repository.journal.segments.names import GAPS, KEYS, SLOTS, SegmentName
from sbh_pipelines.repository.journal.segments.segment import TRAILER_BYTES, WHOLE_BYTES, SegmentWriter, unpack_trailer
from sbh_pipelines.repository.journal.slot_marks import SlotMarks
from sbh_pipelines.repository.seal import JOURNAL
from sbh_pipelines.stores.base import ObjectStore

_TAIL_BYTES = 64 << 10  # asked for at the end of a segment: mostly all of its directory
_TRIED = 8  # segments at either end of an incarnation, of which one has to open
_READ_BYTES = 8 << 20  # of blocks that are asked for at once


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is, as one listing told it.

    Attributes:
        segments: In the order of incarnations and ranges.
        odd: Keys that are not of this program.
        strange: Incarnations behind the current one that nobody began who has the catalog's key: none of their directories opens.
    """

    segments: tuple[SegmentName, ...]
    odd: tuple[str, ...]
    strange: frozenset[str] = field(default=frozenset())

    @property
    def incarnations(self) -> list[str]:
        """Oldest first, without the strange ones; the last one is the current one."""
        return sorted({name.incarnation for name in self.segments} - self.strange)

    def of(self, incarnation: str) -> list[SegmentName]:
        """Segments of an incarnation, of all levels."""
        return [name for name in self.segments if name.incarnation == incarnation]


class Journal:
    """Use `open_journal`. Thread-safe. `prefix` ends with the region's folder; the lease of drains lies there."""

    def __init__(self, store: ObjectStore, prefix: str, region: str, catalog: CatalogKey, clock: Clock) -> None:
        self.store, self.prefix, self.region = store, prefix, region
        self.damages: list[SbhError] = []
        """What the last `gaps` did not believe."""
        self._catalog = catalog
        self._gaps = SealedObjects(store, prefix, region, GAPS, catalog, clock)
        self.public_keys = PublicKeys(SealedObjects(store, prefix, region, KEYS, catalog, clock))
        self.slot_marks = SlotMarks(SealedObjects(store, prefix, region, SLOTS, catalog, clock))
        self._genuine, self._closed = set[str](), set[SegmentName]()

    # segments

    def listing(self) -> Listing:
        """All segments, by one listing. Raises TooManyObjects.

        Anybody who may write to the bucket can give an object a segment's name. So the current incarnation is the newest of which
        a directory opens, which is looked at once; the older ones decide nothing.
        """
        found, odd = list[SegmentName](), list[str]()
        for info in all_below(self.store, self.prefix):
            below = info.key[len(self.prefix) :]
            if below.startswith((GAPS, KEYS, SLOTS)) or "/" not in below:
                continue
            name = SegmentName.parse(self.region, below, info.size, info.modified)
            if name is None:
                odd.append(below)
            else:
                found.append(name)
            if len(found) + len(odd) > MOST_SEGMENTS:
                raise too_many(self.store.url(self.prefix), MOST_SEGMENTS)
        segments = tuple(sorted(found))
        return Listing(segments, tuple(odd), self._strange(segments))

    def incarnations(self) -> list[str]:
        """Oldest first; the last one is the current one."""
        return self.listing().incarnations

    def strange(self, listing: Listing) -> list[SbhError]:
        """What is to be said of the incarnations that are not believed."""
        return [
            CorruptObject(
                "An incarnation of the journal is not believed",
                on=self.store.url(self.prefix + incarnation),
                why="none of its directories opens: they are damaged, or somebody else put them there",
                remedy="delete what is below it, after a look at who can write to the bucket",
            )
            for incarnation in sorted(listing.strange)
        ]

    def segments(self, incarnation: str) -> list[SegmentName]:
        """Of all levels, in the order of their ranges."""
        return self.listing().of(incarnation)

    def cover(self, incarnation: str, start: int, end: int, without: Collection[SegmentName] = ()) -> Cover:
        """What there is of (start, end], from any level; `without`: segments that were found to be damaged."""
        return plan_cover((one for one in self.segments(incarnation) if one not in without), start, end)

    def directory(self, name: SegmentName) -> Directory:
        """Two requests, for a large one three. Raises CorruptObject, ObjectMissing and FormatUnsupported."""
        name, plain = self._opened(name)
        return unpack_directory(plain, name, self.url(name))

    def _opened(self, name: SegmentName) -> tuple[SegmentName, bytes]:
        """(the name with its size, the plaintext of its directory)."""
        key, place = self.prefix + name.below, self.url(name)
        if not self._catalog.has_key:
            raise CorruptObject(
                "A segment of the journal cannot be read",
                on=place,
                why="the catalog's key is gone",
                remedy="put the catalog's key object back from the bucket's older version",
            )
        name = replace(name, size=name.size or self.store.head(key).size)
        tail = self._range(name, max(0, name.size - _TAIL_BYTES), min(name.size, _TAIL_BYTES))
        offset, length = unpack_trailer(tail, name.size, place)
        sealed = tail[max(0, len(tail) - TRAILER_BYTES - length) : len(tail) - TRAILER_BYTES]
        if missing := length - len(sealed):
            sealed = self._range(name, offset, missing) + sealed
        return name, self._catalog.sealer.open(sealed, name.bound, JOURNAL, on=place)

    def _strange(self, segments: Sequence[SegmentName]) -> frozenset[str]:
        if not self._catalog.has_key:
            return frozenset()  # nothing opens, and nobody can tell
        strange = set[str]()
        for incarnation in sorted({name.incarnation for name in segments}, reverse=True):
            if incarnation in self._genuine:
                break
            of = sorted(
                (one for one in segments if one.incarnation == incarnation), key=lambda one: one.end, reverse=True
            )
            if any(map(self._opens, of[:_TRIED] + of[_TRIED:][-_TRIED:])):
                self._genuine.add(incarnation)
                break
            strange.add(incarnation)
        return frozenset(strange)

    def _opens(self, name: SegmentName) -> bool:
        """Whether the catalog's key sealed its directory under this name, also one of a later release."""
        if name in self._closed:
            return False
        try:
            self._opened(name)
        except ObjectMissing:
            return False
        except (CorruptObject, FormatUnsupported):
            self._closed.add(name)
            return False
        return True

    def blocks(self, name: SegmentName, refs: Sequence[BlockRef]) -> Iterator[tuple[BlockRef, bytes]]:
        """(ref, the sealed block) in the order of `refs`; neighbours come by one request. Raises CorruptObject."""
        for group in _groups(refs):
            parts = self._ranges(name, [(ref.offset, ref.length) for ref in group])
            for ref, sealed in zip(group, parts, strict=True):
                if hashlib.sha256(sealed).digest() != ref.sha256:
                    raise self._not_whole(name, "a block is not the one that its directory names")
                yield ref, sealed

    def content(self, name: SegmentName) -> Iterator[bytes]:
        """All bytes of a segment, of which nothing is checked but the size."""
        for at in range(0, name.size, _READ_BYTES):
            yield self._range(name, at, min(_READ_BYTES, name.size - at))

    def write(self, writer: SegmentWriter, facts: SegmentFacts) -> SegmentName:
        """Store a segment and read it back. Raises JournalError where it is not there as it was written."""
        with writer.finished(facts, self._catalog.sealer) as (name, body):
            key = self.prefix + name.below
            if isinstance(body, bytes):
                with suppress(ObjectExists):  # nobody else has this digest: it was our own put, and its answer was lost
                    self.store.create(key, body)
            else:
                self.store.put(key, body)
            for at in range(0, len(body), WHOLE_BYTES):
                part = body[at : at + WHOLE_BYTES]
                if self._range(name, at, len(part)) != part:
                    raise JournalError(
                        "A segment of the journal is not as it was written",
                        on=self.url(name),
                        why=f"it differs after {at:,} bytes",
                        remedy="run the drain again; if it happens again, see what the object store does",
                    )
        return name

    def delete(self, names: Sequence[SegmentName]) -> None:
        """Take segments away; those that are not there are no error."""
        self.store.delete([self.prefix + name.below for name in names])

    def url(self, name: SegmentName) -> str:
        """For people: where the segment is."""
        return self.store.url(self.prefix + name.below)

    # gaps

    def gaps(self) -> list[Gap]:
        """In the order in which they were recorded; what cannot be believed is in `damages`."""
        return [gap for _, gap in self.named_gaps()]

    def named_gaps(self) -> list[tuple[str, Gap]]:
        """`gaps`, each with the name that `delete_gaps` takes."""
        damages, found = list[SbhError](), list[tuple[str, Gap]]()
        for name, plain in self._gaps.read(self._gaps.names(damages)):
            try:
                if isinstance(plain, SbhError):
                    raise plain
                found.append((name, Gap.parse(plain, self._gaps.url(name))))
            except (CorruptObject, ObjectMissing) as error:
                damages.append(error)
        self.damages = damages
        return found

    def delete_gaps(self, names: Sequence[str]) -> None:
        self._gaps.delete(list(names))

    def record_gap(self, gap: Gap) -> None:
        self._gaps.add(gap.as_bytes())

    def _range(self, name: SegmentName, start: int, length: int) -> bytes:
        return self._ranges(name, [(start, length)])[0] if length else b""

    def _ranges(self, name: SegmentName, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        key = self.prefix + name.below
        try:
            parts = self.store.get_ranges(key, ranges)
        except (ObjectMissing, StoreDenied):
            raise
        except StoreError:
            # What a server answers to a range beyond the end of an object is its own affair.
            if name.size and self.store.head(key).size != name.size:
                raise self._not_whole(name, "it is not as large as it was") from None
            raise
        if any(len(part) != length for part, (_, length) in zip(parts, ranges, strict=True)):
            raise self._not_whole(name, "it ends before its directory says so")
        return parts

    def _not_whole(self, name: SegmentName, why: str) -> CorruptObject:
        return CorruptObject("A segment of the journal is damaged", on=self.url(name), why=why, remedy=SEGMENT_REMEDY)


def _groups(refs: Sequence[BlockRef]) -> Iterator[Sequence[BlockRef]]:
    """Refs that are asked for at once. The driver also fetches what lies between near ones, so all of that counts."""
    group: list[BlockRef] = []
    low = high = 0
    for ref in refs:
        below, above = min(low, ref.offset), max(high, ref.offset + ref.length)
        if group and above - below > _READ_BYTES:
            yield group
            group = []
        if not group:
            below, above = ref.offset, ref.offset + ref.length
        group.append(ref)
        low, high = below, above
    if group:
        yield group


def open_journal(store: ObjectStore, prefix: str, region: str, catalog: CatalogKey, clock: Clock) -> Journal:
    """The journal of a region below `prefix` (ends with `/`). Does no I/O."""
    return Journal(store, prefix, region, catalog, clock)
