"""Row groups: the cutter against a naive one, for random streams, write sizes and plans."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from fastcdc.fastcdc_cy import fastcdc_cy
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.database.capture import row_groups as groups
from sbh_pipelines.database.capture.row_groups import GroupCutter
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


def naive(rows: list[bytes]) -> list[Group]:
    """The rows cut where FastCDC says, moved on to the row's end."""
    stream = b"".join(rows)
    own: list[Group] = []
    at = 0
    while at < len(stream):
        size = next(fastcdc_cy(stream[at : at + SMALL[2]], *SMALL)).length
        stop = stream.index(b"\n", at + size - 1) + 1
        own.append((stream[at:stop], stream[at:stop].count(b"\n")))
        at = stop
    return own


def cut(rows: list[bytes], sizes: Iterator[int], plan: list[int] | None = None) -> list[Group]:
    found: list[Group] = []
    cutter = GroupCutter(lambda text, n: found.append((text, n)), iter(plan) if plan is not None else None)
    stream = b"".join(rows)
    at = 0
    while at < len(stream):
        size = next(sizes)
        assert cutter.write(memoryview(stream)[at : at + size]) == min(size, len(stream) - at)
        at += size
    cutter.finish()
    assert (cutter.bytes, cutter.rows) == (len(stream), len(rows))
    return found


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], Any]:
    """(rows, sizes of the writes); rows from empty to several times the largest group."""
    # Drawn from a seed: shrinking gets little out of the bytes of rows, and drawing them one by one takes long.
    noise = random.Random(draw(st.integers(0, 2**32)))
    longest = draw(st.sampled_from([0, 40, 400, 1025, 5000]))
    alphabet = draw(st.sampled_from([b"a", b"ab", bytes(range(32, 127))]))
    rows = [
        bytes(noise.choices(alphabet, k=noise.randrange(longest + 1))) + b"\n" for _ in range(draw(st.integers(0, 120)))
    ]
    least = 1 if longest <= 40 else 200  # long streams byte by byte take minutes
    writes = draw(st.lists(st.integers(least, 3000), min_size=1, max_size=6))
    return rows, lambda: iter(lambda: noise.choice(writes), None)


@settings(max_examples=examples(80))
@given(streams())
def test_groups_are_those_of_a_naive_cutter(stream: tuple[list[bytes], Any]) -> None:
    rows, sizes = stream
    assert cut(rows, sizes()) == naive(rows)


@settings(max_examples=examples(40))
@given(streams())
def test_nothing_is_lost_and_every_group_ends_with_a_row(stream: tuple[list[bytes], Any]) -> None:
    rows, sizes = stream
    found = cut(rows, sizes())
    assert b"".join(text for text, _ in found) == b"".join(rows)
    assert all(text.endswith(b"\n") and text.count(b"\n") == n > 0 for text, n in found)


@settings(max_examples=examples(40))
@given(streams(), st.lists(st.integers(1, 50), max_size=6))
def test_a_plan_is_followed(stream: tuple[list[bytes], Any], wild: list[int]) -> None:
    """Reading back with the numbers of rows of each group gives the same groups; any other plan, other groups of the same rows."""
    rows, sizes = stream
    own = cut(rows, sizes())
    assert cut(rows, sizes(), [n for _, n in own]) == own
    found = cut(rows, sizes(), wild)
    assert b"".join(text for text, _ in found) == b"".join(rows)
    assert all(n == wanted for (_, n), wanted in zip(found[:-1], wild, strict=False))


def test_unchanged_rows_give_the_same_groups_again() -> None:
    """An insertion, a deletion and a change in ten thousand rows leave all but a few groups as they were."""
    noise = random.Random(4)
    rows = [noise.randbytes(40).hex().encode() + b"\n" for _ in range(10_000)]
    before = {text for text, _ in cut(rows, iter(lambda: 999, None))}
    changed = [*rows[:2000], b"inserted\n", *rows[2000:5000], *rows[5001:8000], b"changed\n", *rows[8001:]]
    after = {text for text, _ in cut(changed, iter(lambda: 1000, None))}
    assert len(before) > 1000
    assert len(after - before) <= 12


def test_the_real_sizes_are_about_a_mebibyte() -> None:
    assert (ROW_GROUPS.least, ROW_GROUPS.most) == (512 << 10, 4 << 20)
