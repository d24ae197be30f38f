"""Directories: everything that a segment says comes back, whatever its names are; what is no directory is damage."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.errors import CorruptObject, FormatUnsupported
from sbh_pipelines.repository.journal.segments.block import BlockFacts, Origin
from sbh_pipelines.repository.journal.segments.changes import Layout
from sbh_pipelines.repository.journal.segments.directory import (
    BlockRef,
    Coverage,
    Event,
    FencePoint,
    SegmentFacts,
    digest_of,
    pack_directory,
    tenant_line,
    unpack_directory,
)
from sbh_pipelines.repository.journal.segments.makeup import MadeColumn, Makeup
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines_tests.repository.journal.journals import INCARNATION, REGION, facts_of

_TEXT = st.text(max_size=12)
_NUMBERS = st.integers(0, 2**64 - 1)
_TIMES = st.integers(-(2**62), 2**62)
_LAYOUTS = st.builds(
    Layout,
    table=_TEXT,
    columns=st.lists(_TEXT, max_size=3).map(tuple),
    key=st.lists(_TEXT, max_size=2).map(tuple),
    definition=_TEXT,
    encoding=_TEXT,
)
_COLUMNS = st.builds(MadeColumn)
_FACTS = st.builds(
    SegmentFacts,
    fences=st.lists(st.builds(FencePoint, _NUMBERS, _NUMBERS, _NUMBERS, _TIMES), max_size=3).map(tuple),
    layouts=st.lists(_LAYOUTS, max_size=3).map(tuple),
    coverage=st.dictionaries(_TEXT, st.lists(st.builds(Coverage, _NUMBERS, _NUMBERS, _TEXT), max_size=2).map(tuple)),
    events=st.lists(
        st.builds(
            Event,
            _NUMBERS,
            _TEXT,
            _TEXT,
            st.none() | st.lists(_TEXT, max_size=2).map(tuple),
            _TEXT,
            _NUMBERS,
            _TIMES,
        ),
        max_size=3,
    ).map(tuple),
    skipped=st.dictionaries(_TEXT, st.tuples(_NUMBERS, _NUMBERS), max_size=3),
    numberings=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), max_size=2).map(tuple),
    readings=st.dictionaries(_TEXT, _TEXT, max_size=2),
    makeups=st.dictionaries(
        _TEXT, st.builds(Makeup, _TEXT, _NUMBERS, columns=st.lists(_COLUMNS, max_size=2).map(tuple)), max_size=2
    ),
)
_REFS = st.builds(
    BlockRef,
    home=st.sampled_from(["acme", "acme~2"]),
    epoch=st.integers(1, 255),
    offset=_NUMBERS,
    length=st.integers(0, 2**32),
    sha256=st.binary(min_size=32, max_size=32),
    facts=st.builds(BlockFacts, _NUMBERS, _NUMBERS, _TIMES, _TIMES, _NUMBERS, _NUMBERS, _NUMBERS),
    origin=st.builds(Origin, _NUMBERS, _NUMBERS, st.integers(0, 2**32 - 1)),
    after=_NUMBERS,
    numbering=st.integers(0, 9),
)
NAME = SegmentName(INCARNATION, 0, 100, 0, "", REGION)


def _lines(tenants: dict[str, list[BlockRef]]) -> dict[str, str]:
    lines = {}
    for key, refs in tenants.items():
        blocks: dict[tuple[str, int], list[str]] = {}
        for ref in refs:
            blocks.setdefault((ref.home, ref.epoch), []).append(ref.as_text())
        lines[key] = tenant_line(blocks)
    return lines


@given(_FACTS, st.dictionaries(_TEXT, st.lists(_REFS, min_size=1, max_size=4), max_size=4))
def test_what_was_packed_is_unpacked(facts: SegmentFacts, tenants: dict[str, list[BlockRef]]) -> None:
    """Names with tabs, line feeds, quotes and other alphabets; a tenant with blocks of two homes and several epochs."""
    plain = pack_directory(NAME, facts, _lines(tenants))
    found = unpack_directory(plain, replace(NAME, digest=digest_of(plain)), "d")
    assert found.facts == facts
    assert set(found.tenants) == set(tenants)
    for key, refs in tenants.items():
        blocks = found.tenants[key].blocks
        assert sorted(map(repr, blocks)) == sorted(map(repr, refs))
        counting = [max(ref.facts.first, ref.after + 1) for ref in blocks]
        assert counting == sorted(counting)


def test_a_directory_under_another_name_is_damage() -> None:
    """Also where its seal would open: the digest in the name is that of one plaintext."""
    plain = pack_directory(NAME, facts_of(0, 100), {})
    name = replace(NAME, digest=digest_of(plain))
    unpack_directory(plain, name, "d")
    for other in (replace(name, end=101), replace(name, digest="0" * 16), replace(name, region="us-east-1")):
        with pytest.raises(CorruptObject):
            unpack_directory(plain, other, "d")


@pytest.mark.parametrize("plain", [b"", b"{}", b"\xff", b"[]", b"null", b"[" * 100_000])
def test_what_is_no_directory_is_damage(plain: bytes) -> None:
    """And no other error."""
    with pytest.raises(CorruptObject):
        unpack_directory(plain, NAME, "d")


def test_a_newer_directory_says_so() -> None:
    """An old release does not take it for damage."""
    head = json.loads(pack_directory(NAME, facts_of(0, 100), {}))
    with pytest.raises(FormatUnsupported):
        unpack_directory(json.dumps({**head, "version": 2}).encode(), NAME, "d")


@pytest.mark.parametrize("blocks", ["", "[1]", '[["acme",1,[[1,2]]]]', '[["acme",1,[["a"]]]]', "[" * 100_000])
def test_a_tenants_line_that_is_none_is_damage(blocks: str) -> None:
    """Of that tenant: the others are read."""
    plain = pack_directory(NAME, facts_of(0, 100), {"17": blocks, "18": "[]"})
    found = unpack_directory(plain, replace(NAME, digest=digest_of(plain)), "d")
    assert found.tenants["18"].blocks == ()
    with pytest.raises(CorruptObject):
        found.tenants["17"]
