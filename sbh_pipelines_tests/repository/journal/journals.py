"""A journal on a store in memory, its catalog's key, and tenants with keys."""

import os
from datetime import UTC, datetime

from sbh_pipelines.model import Clock
from sbh_pipelines.repository.journal.journal import Journal, open_journal
from sbh_pipelines.repository.journal.reading import read_transactions
from sbh_pipelines.repository.journal.segments.block import BlockBuffer
from sbh_pipelines.repository.journal.segments.changes import Change, Layout, Op, Transaction
from sbh_pipelines.repository.journal.segments.directory import Coverage, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter
from sbh_pipelines.repository.seal import Sealer
from sbh_pipelines.stores.base import ObjectStore

REGION = "eu-west-1"
PREFIX = f"_sbh-journal/{REGION}/"
INCARNATION = "20260115T143207Z-00000000deadbeef-1-0a1b2c3d"
LATER = "20260116T080000Z-00000000deadbeef-2-0a1b2c3d"
LAYOUT = Layout("public.tasks", ("id", "title"), ("id",), "d1", "UTF8")
NOW = datetime(2026, 1, 15, 15, 0, tzinfo=UTC)
BASE = 1_768_487_527_000_000  # microseconds since 1970


class CatalogKeyInMemory:
    """As `Catalog` gives it; `lose` is what happens when its key object is deleted."""

    def __init__(self) -> None:
        self.sealer, self.has_key = Sealer(os.urandom(32), "_catalog"), True


class TenantKeys:
    """A tenant's data keys, and its public key in each epoch."""

    def __init__(self, home: str, tenant_key: str) -> None:
        self.home, self.tenant_key = home, tenant_key
        self.data_keys = {1: os.urandom(32), 2: os.urandom(32)}
        self.sealer = Sealer(self.data_keys[1], home, read_key=self.data_keys.__getitem__)

    def public(self, epoch: int = 1) -> PublicKey:
        return PublicKey(self.home, self.tenant_key, epoch, self.sealer.journal_public(epoch))


def journal_on(
    store: ObjectStore, catalog: CatalogKeyInMemory, region: str = REGION, *, clock: Clock = lambda: NOW
) -> Journal:
    return open_journal(store, f"_sbh-journal/{region}/", region, catalog, clock)


def insert(number: int, size: int = 10) -> Change:
    return Change(0, Op.INSERT, b"", b"%d\t%s" % (number, b"x" * size))


def facts_of(start: int, end: int) -> SegmentFacts:
    covered = {"public.tasks": (Coverage(start, end, "d1"),)}
    return SegmentFacts((FencePoint(end, start, end, BASE),), (LAYOUT,), covered)


def written(
    journal: Journal,
    start: int,
    end: int,
    commits: dict[PublicKey, list[int]],
    *,
    incarnation: str = INCARNATION,
    level: int = 0,
    facts: SegmentFacts | None = None,
) -> SegmentName:
    """A segment in which each tenant inserted a row with each of its commits, which is the row's number."""
    with SegmentWriter(journal.region, incarnation, start, end, level=level) as writer:
        for tenant, numbers in commits.items():
            buffer = BlockBuffer()
            for number in numbers:
                buffer.add(number, BASE + number, number, insert(number))
            if found := buffer.take():
                writer.add_block(tenant, *found)
        return journal.write(writer, facts or facts_of(start, end))


def transactions(
    journal: Journal, tenant: TenantKeys, incarnation: str, start: int, end: int
) -> tuple[list[Transaction], tuple[tuple[int, int], ...]]:
    """(what the journal says of a tenant in a range, its holes)."""
    cover = journal.cover(incarnation, start, end)
    found = [
        transaction
        for stretch in cover.stretches
        for _, transaction in read_transactions(
            journal,
            journal.directory(stretch.segment),
            tenant.tenant_key,
            lambda _: tenant.sealer,
            stretch.start,
            stretch.end,
        )
    ]
    return found, cover.holes
