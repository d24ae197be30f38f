"""Segments on an S3 server and in a directory: parts, ranges at the end, and objects that shrink between two requests."""

import random
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CorruptObject, ObjectMissing
from sbh_pipelines.repository.journal.journal import Journal, open_journal
from sbh_pipelines.repository.journal.segments.block import BlockBuffer
from sbh_pipelines.repository.journal.segments.segment import WHOLE_BYTES, SegmentWriter
from sbh_pipelines.stores.local import open_local
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines_tests.repository.journal.journals import (
    INCARNATION,
    NOW,
    REGION,
    CatalogKeyInMemory,
    TenantKeys,
    facts_of,
    insert,
    transactions,
    written,
)
from sbh_pipelines_tests.stores.test_stores import s3

ACME = TenantKeys("acme", "17")


@pytest.fixture(params=["s3", "local"])
def store(request: pytest.FixtureRequest, embedded_stack: Stack, tmp_path: Path) -> Store:
    return s3(embedded_stack) if request.param == "s3" else open_local(tmp_path / "bucket")


@pytest.fixture
def journal(store: Store) -> Journal:
    prefix = f"suite/{uuid.uuid4().hex}/{REGION}/"
    return open_journal(store, prefix, REGION, CatalogKeyInMemory(), lambda: NOW)


def test_segments_of_any_size_are_written_and_read(journal: Journal) -> None:
    """A small one, and one that goes up in parts."""
    written(journal, 0, 10, {ACME.public(): [1, 10]})
    with SegmentWriter(REGION, INCARNATION, 10, 20) as writer:
        for number in range(11, 21):
            buffer = BlockBuffer()
            buffer.add(number, 0, number, replace(insert(number), row=random.Random(number).randbytes(2 << 20)))
            found = buffer.take()
            assert found is not None
            writer.add_block(ACME.public(), *found)
        name = journal.write(writer, facts_of(10, 20))
    assert name.size > 2 * WHOLE_BYTES
    assert [one.size for one in journal.segments(INCARNATION)][1] == name.size
    found_ones, holes = transactions(journal, ACME, INCARNATION, 0, 20)
    assert [one.commit for one in found_ones] == [1, 10, *range(11, 21)]
    assert holes == ()


def test_an_object_that_shrank_is_damage_and_one_that_is_gone_is_missing(journal: Journal, store: Store) -> None:
    """Whatever the server answers to a range beyond the end."""
    name = written(journal, 0, 10, {ACME.public(): [1, 10]})
    directory, key = journal.directory(name), journal.prefix + name.below
    whole = store.get(key)
    for length in (0, 1, 19, len(whole) - 1):
        store.put(key, whole[:length])
        with pytest.raises(CorruptObject):
            journal.directory(name)
        with pytest.raises(CorruptObject):
            journal.directory(replace(name, size=0))
    for length in (0, 1):
        store.put(key, whole[:length])
        with pytest.raises(CorruptObject):
            list(journal.blocks(directory.name, directory.tenants["17"].blocks))
    journal.delete([name])
    with pytest.raises(ObjectMissing):
        journal.directory(name)


def test_keys_and_gaps_lie_beside_the_segments(journal: Journal) -> None:
    """And are no segments."""
    journal.public_keys.register([ACME.public()])
    name = written(journal, 0, 10, {ACME.public(): [1]})
    assert journal.listing().segments == (name,)
    assert journal.listing().odd == ()
    assert journal.public_keys.read() == {"17": ACME.public()}
