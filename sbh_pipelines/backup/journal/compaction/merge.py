"""Writes a merged segment: the sealed blocks of its sources, copied byte for byte, a tenant's blocks side by side.

No tenant's key is needed. In memory are the directories of the sources, which the plan bounds, and some MiB of blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.journal.compaction.facts import MergedFacts, Renumbered
from sbh_pipelines.backup.journal.compaction.plan import Group
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.directory import BlockRef, Directory
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter

_BATCH_BYTES = 16 << 20  # of blocks in memory
_BATCH_BLOCKS = 4_000


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged segment.

    Attributes:
        name: Its name.
        dropped: Blocks of erased tenants that were left out.
    """

    name: SegmentName
    dropped: int


@dataclass(frozen=True, slots=True)
class _Source:
    directory: Directory
    renumbered: Renumbered


@dataclass(frozen=True, slots=True)
class _Copy:
    """A block on its way: which source it is in, where, and what it is in the merged segment."""

    tenant_key: str
    source: int
    there: BlockRef
    here: BlockRef


def merge(journal: Journal, group: Group, is_erased: Callable[[str], bool], renew: Callable[[], None]) -> Merged:
    """Write the segment and read it back. `is_erased` is asked by homes; `renew` is called now and then.

    Raises CorruptObject where a source is damaged, ObjectMissing where one is gone, JournalError, and the store's errors.
    """
    facts, sources = MergedFacts(), list[_Source]()
    for one in group.sources:
        directory = journal.directory(one.stretch.segment)
        sources.append(_Source(directory, facts.add(one.stretch, directory)))
    incarnation = group.sources[0].stretch.segment.incarnation
    dropped = 0
    with SegmentWriter(journal.region, incarnation, group.start, group.end, level=group.level) as writer:
        for batch in _batches(_copies(sources)):
            renew()
            kept = [copy for copy in batch if not is_erased(copy.here.home)]
            dropped += len(batch) - len(kept)
            for copy, sealed in zip(kept, _read(journal, sources, kept), strict=True):
                writer.copy_block(copy.tenant_key, copy.here, sealed)
        renew()
        return Merged(journal.write(writer, facts.facts()), dropped)


def _copies(sources: Sequence[_Source]) -> Iterator[_Copy]:
    """Tenant by tenant, each one's blocks in the order of the log."""
    for tenant_key in sorted({key for source in sources for key in source.directory.tenants}):
        for number, source in enumerate(sources):
            if tenant_key not in source.directory.tenants:
                continue
            for ref in source.directory.tenants[tenant_key].blocks:
                taken = source.renumbered.taken(ref)
                if taken is not None:
                    yield _Copy(tenant_key, number, ref, taken)


def _batches(copies: Iterator[_Copy]) -> Iterator[list[_Copy]]:
    batch, size = list[_Copy](), 0
    for copy in copies:
        if batch and (size + copy.there.length > _BATCH_BYTES or len(batch) == _BATCH_BLOCKS):
            yield batch
            batch, size = [], 0
        batch.append(copy)
        size += copy.there.length
    if batch:
        yield batch


def _read(journal: Journal, sources: Sequence[_Source], batch: Sequence[_Copy]) -> list[bytes]:
    """The sealed blocks of a batch; each source is read in the order in which they lie."""
    found = [b""] * len(batch)
    for number, source in enumerate(sources):
        wanted = sorted(
            (at for at, copy in enumerate(batch) if copy.source == number), key=lambda at: batch[at].there.offset
        )
        if wanted:
            read = journal.blocks(source.directory.name, [batch[at].there for at in wanted])
            for at, (_, sealed) in zip(wanted, read, strict=True):
                found[at] = sealed
    return found
