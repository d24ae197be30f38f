"""Which rows of a backup a table has lost, by what the sums of its buckets lack."""

from collections.abc import Mapping, Sequence

import numpy
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.backup.restore.rows.buckets import LostRows, RowBuckets
from sbh_pipelines.database.merge.untouched import Lost
from sbh_pipelines.database.schema.key_hash import INTEGER, TEXT, bucket_of, integer_hashes

_BITS, _SEED = 4, 77


def _text(keys: Sequence[int]) -> bytes:
    return b"".join(b"%d\trow %d\n" % (key, key) for key in keys)


def _lost(keys: Sequence[int]) -> Mapping[int, Lost]:
    hashes = integer_hashes(numpy.array(keys, dtype=numpy.int64), _SEED).tolist()
    found = dict[int, Lost]()
    for key, value in zip(keys, hashes, strict=True):
        bucket = bucket_of(INTEGER, [b"%d" % key]) & (1 << _BITS) - 1
        before = found.get(bucket, Lost(0, 0))
        found[bucket] = Lost(before.rows + 1, before.key_hash ^ value)
    return found


@given(st.sets(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=60), st.data())
def test_a_bucket_that_lost_one_row_gives_that_one(keys: set[int], data: st.DataObject) -> None:
    """Of one that lost more, all rows; of others, none. All lost rows are among those that are given."""
    gone = data.draw(st.lists(st.sampled_from(sorted(keys)), unique=True))
    lost = _lost(gone)
    picked = LostRows(RowBuckets(INTEGER, [0], _BITS), lost, _SEED)
    rows = sorted(keys)
    pieces = [_text(rows[: len(rows) // 2]), _text(rows[len(rows) // 2 :])]
    expected = [
        key
        for key in rows
        if (bucket := bucket_of(INTEGER, [b"%d" % key]) & (1 << _BITS) - 1) in lost
        and (lost[bucket].rows > 1 or key in gone)
    ]
    assert b"".join(picked.chosen(iter(pieces))) == _text(expected)
    assert picked.unfound == []
    assert picked.whole == sum(what.rows > 1 for what in lost.values())


def test_a_hash_that_no_row_has_is_told() -> None:
    """Then the bucket is to be read whole: a server may work out its hashes in another way."""
    bucket = bucket_of(INTEGER, [b"5"]) & (1 << _BITS) - 1
    picked = LostRows(RowBuckets(INTEGER, [0], _BITS), {bucket: Lost(1, 12345)}, _SEED)
    assert b"".join(picked.chosen(iter([_text(range(100))]))) == b""
    assert picked.unfound == [bucket]


def test_other_keys_are_given_by_whole_buckets() -> None:
    """Their hashes only the server can work out."""
    bucket = bucket_of(TEXT, [b"5"]) & (1 << _BITS) - 1
    picked = LostRows(RowBuckets(TEXT, [0], _BITS), {bucket: Lost(1, 12345)}, _SEED)
    same = [key for key in range(100) if bucket_of(TEXT, [b"%d" % key]) & (1 << _BITS) - 1 == bucket]
    assert b"".join(picked.chosen(iter([_text(range(100))]))) == _text(same)
    assert picked.unfound == []
    assert picked.whole == 1
