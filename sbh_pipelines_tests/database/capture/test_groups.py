"""Row groups: the cutter against a naive one, for random streams, write sizes, tenants and plans."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from fastcdc.fastcdc_cy import fastcdc_cy
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.database.capture import row_groups as groups
from sbh_pipelines.database.capture.row_groups import GroupCutter, Segment
from sbh_pipelines.repository.chunking import ROW_GROUPS, ChunkSizes
from sbh_pipelines_tests.support.effort import examples

SMALL = (64, 256, 1024)  # the least that FastCDC's library takes; the same code at a size that can be tried often
Group = tuple[bytes, int]


@pytest.fixture(autouse=True, scope="module")
def small_groups() -> Iterator[None]:
    kept = groups.ROW_GROUPS, groups._SCAN
    groups.ROW_GROUPS = ChunkSizes(*SMALL)
    groups._SCAN = 100
    yield
    groups.ROW_GROUPS, groups._SCAN = kept


def naive(tenants: list[list[bytes]]) -> list[list[Group]]:
    """Each tenant's rows cut where FastCDC says, moved on to the row's end; a tenant's last group ends with it."""
    stream = b"".join(row for rows in tenants for row in rows)
    cut, at = [], 0
    for rows in tenants:
        own: list[Group] = []
        end = at + sum(map(len, rows))
        while at < end:
            size = next(fastcdc_cy(stream[at : at + SMALL[2]], *SMALL)).length
            stop = min(stream.index(b"\n", at + size - 1) + 1, end)
            own.append((stream[at:stop], stream[at:stop].count(b"\n")))
            at = stop
        cut.append(own)
    return cut


def cut(tenants: list[list[bytes]], sizes: Iterator[int], plans: list[list[int]] | None = None) -> list[list[Group]]:
    found: list[list[Group]] = [[] for _ in tenants]
    segments = (
        Segment(len(rows), lambda text, n, own=found[at]: own.append((text, n)), iter(plans[at]) if plans else None)  # type: ignore[misc]
        for at, rows in enumerate(tenants)
    )
    cutter = GroupCutter(segments)
    stream = b"".join(row for rows in tenants for row in rows)
    at = 0
    while at < len(stream):
        size = next(sizes)
        assert cutter.write(memoryview(stream)[at : at + size]) == min(size, len(stream) - at)
        at += size
    cutter.finish()
    assert cutter.bytes == len(stream)
    return found


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[list[bytes]], Any]:
    """(rows of each tenant, sizes of the writes); rows from empty to several times the largest group."""
    # Drawn from a seed: shrinking gets little out of the bytes of rows, and drawing them one by one takes long.
    noise = random.Random(draw(st.integers(0, 2**32)))
    longest = draw(st.sampled_from([0, 40, 400, 1025, 5000]))
    alphabet = draw(st.sampled_from([b"a", b"ab", bytes(range(32, 127))]))
    rows = [
        [
            bytes(noise.choices(alphabet, k=noise.randrange(longest + 1))) + b"\n"
            for _ in range(draw(st.integers(0, 40)))
        ]
        for _ in range(draw(st.integers(0, 5)))
    ]
    least = 1 if longest <= 40 else 200  # long streams byte by byte take minutes
    writes = draw(st.lists(st.integers(least, 3000), min_size=1, max_size=6))
    return rows, lambda: iter(lambda: noise.choice(writes), None)


@settings(max_examples=examples(50))
@given(streams())
def test_groups_are_those_of_a_naive_cutter(stream: tuple[list[list[bytes]], Any]) -> None:
    tenants, sizes = stream
    assert cut(tenants, sizes()) == naive(tenants)


@settings(max_examples=examples(50))
@given(streams())
def test_a_tenants_groups_do_not_depend_on_the_others(stream: tuple[list[list[bytes]], Any]) -> None:
    """A batch and a backup of one tenant give the same chunks, else nothing would be reused between them."""
    tenants, sizes = stream
    together = cut(tenants, sizes())
    assert together == [cut([rows], sizes())[0] for rows in tenants]


@settings(max_examples=examples(40))
@given(streams())
def test_nothing_is_lost_and_every_group_ends_with_a_row(stream: tuple[list[list[bytes]], Any]) -> None:
    tenants, sizes = stream
    for rows, own in zip(tenants, cut(tenants, sizes()), strict=True):
        assert b"".join(text for text, _ in own) == b"".join(rows)
        assert sum(n for _, n in own) == len(rows)
        assert all(text.endswith(b"\n") and text.count(b"\n") == n > 0 for text, n in own)


@settings(max_examples=examples(40))
@given(streams(), st.data())
def test_a_plan_is_followed(stream: tuple[list[list[bytes]], Any], data: st.DataObject) -> None:
    """Reading back with the numbers of rows of each group gives the same groups; any other plan, other groups of the same rows."""
    tenants, sizes = stream
    own = cut(tenants, sizes())
    assert cut(tenants, sizes(), [[n for _, n in groups_] for groups_ in own]) == own
    wild = [data.draw(st.lists(st.integers(1, 50), max_size=6)) for _ in tenants]
    for rows, found in zip(tenants, cut(tenants, sizes(), wild), strict=True):
        assert b"".join(text for text, _ in found) == b"".join(rows)


@settings(max_examples=examples(40))
@given(streams(), st.integers(-3, 3).filter(bool))
def test_a_stream_of_another_length_is_told(stream: tuple[list[list[bytes]], Any], more: int) -> None:
    """One row too few or too many for what was counted on the same snapshot."""
    tenants, _ = stream
    rows = [row for own in tenants for row in own]
    if len(rows) + more < 0:
        return
    cutter = GroupCutter([Segment(len(rows) + more, lambda text, n: None)])
    cutter.write(b"".join(rows))
    with pytest.raises(ValueError, match="number of rows"):
        cutter.finish()


def test_unchanged_rows_give_the_same_groups_again() -> None:
    """An insertion, a deletion and a change in ten thousand rows leave all but a few groups as they were."""
    noise = random.Random(4)
    rows = [noise.randbytes(40).hex().encode() + b"\n" for _ in range(10_000)]
    before = {text for text, _ in cut([rows], iter(lambda: 999, None))[0]}
    changed = [*rows[:2000], b"inserted\n", *rows[2000:5000], *rows[5001:8000], b"changed\n", *rows[8001:]]
    after = {text for text, _ in cut([changed], iter(lambda: 1000, None))[0]}
    assert len(before) > 1000
    assert len(after - before) <= 12


def test_the_real_sizes_are_about_a_mebibyte() -> None:
    assert (ROW_GROUPS.least, ROW_GROUPS.most) == (512 << 10, 4 << 20)
