"""Bytes of packs, indexes and documents: a round trip each, and CorruptObject for everything else."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.format import (
    MAX_CHUNK,
    PACK_TRAILER_BYTES,
    Entry,
    IndexedPack,
    canonical,
    checksum,
    pack_entries,
    pack_index,
    pack_trailer,
    parse_document,
    pretty,
    unpack_entries,
    unpack_index,
    unpack_trailer,
)
from sbh_pipelines_tests.support.effort import examples

ids = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, MAX_CHUNK)
entries = st.builds(Entry, ids, st.integers(0, 2**63 - 1), sizes, sizes)
packs = st.tuples(ids, st.integers(0, 2**63 - 1), st.integers(1, 255), st.lists(entries, max_size=6))
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4))
documents = st.dictionaries(st.text(max_size=10), values, max_size=6)


def packed(listed: list[tuple[bytes, int, int, list[Entry]]]) -> bytes:
    return pack_index(IndexedPack(pack, size, pack_entries(held), epoch) for pack, size, epoch, held in listed)


def only_corrupt(parse: Callable[[], object]) -> None:
    try:
        parse()
    except CorruptObject as error:
        assert "the place" in str(error)  # noqa: PT017  damage may also go unnoticed by the parser: raising is not a must


@given(st.lists(entries, max_size=20))
def test_entries_come_back(listed: list[Entry]) -> None:
    assert list(unpack_entries(pack_entries(listed), "the place")) == listed


@given(st.lists(packs, max_size=6))
def test_an_index_comes_back(listed: list[tuple[bytes, int, int, list[Entry]]]) -> None:
    found = [(pack, size, epoch, list(held)) for pack, size, epoch, held in unpack_index(packed(listed), "the place")]
    assert found == listed


@settings(max_examples=examples(100))
@given(st.lists(packs, min_size=1, max_size=4), st.data())
def test_a_shortened_index_is_corrupt_or_ends_at_a_pack(
    listed: list[tuple[bytes, int, int, list[Entry]]], data: st.DataObject
) -> None:
    body = packed(listed)
    body = body[: data.draw(st.integers(0, len(body) - 1))]
    try:
        found = [(pack, size, epoch, list(held)) for pack, size, epoch, held in unpack_index(body, "the place")]
    except CorruptObject:
        return
    assert found == listed[: len(found)]


@settings(max_examples=examples(130))
@given(st.binary(max_size=400), st.integers(0, 2**64))
def test_garbage_is_corrupt_and_nothing_else(garbage: bytes, size: int) -> None:
    only_corrupt(lambda: list(unpack_entries(garbage, "the place")))
    only_corrupt(lambda: [list(held) for *_, held in unpack_index(garbage, "the place")])
    only_corrupt(lambda: unpack_trailer(garbage, size, "the place"))
    only_corrupt(lambda: unpack_trailer(garbage[:PACK_TRAILER_BYTES], size, "the place"))
    only_corrupt(lambda: parse_document(garbage, "the place"))


@given(st.integers(0, 2**40), st.integers(0, 2**31), st.integers(-50, 50).filter(bool))
def test_a_trailer_fits_its_pack_and_no_other(offset: int, length: int, more: int) -> None:
    trailer = pack_trailer(offset, length)
    assert len(trailer) == PACK_TRAILER_BYTES
    whole = offset + length + PACK_TRAILER_BYTES
    assert unpack_trailer(trailer, whole, "the place") == (offset, length)
    with pytest.raises(CorruptObject):
        unpack_trailer(trailer, whole + more, "the place")


def test_an_impossible_length_is_damage() -> None:
    for entry in (Entry(bytes(32), 0, MAX_CHUNK + 1, 1), Entry(bytes(32), 0, 1, MAX_CHUNK + 1)):
        with pytest.raises(CorruptObject):
            list(unpack_entries(pack_entries([entry]), "the place"))


@given(documents)
def test_documents_come_back_and_keep_their_checksum(document: dict[str, object]) -> None:
    """However they are laid out, and whatever checksum they carry themselves."""
    stored = parse_document(pretty(document), "the place")
    assert stored == document
    assert checksum(stored) == checksum(document)
    assert checksum({**document, "checksum": "other", "signature": {}}) == checksum(
        {k: v for k, v in document.items() if k not in ("checksum", "signature")}
    )
    assert canonical(json.loads(canonical(document))) == canonical(document)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{}{}", b"[" * 100_000, b'{"a": 1}x']
)
def test_what_is_no_document_is_corrupt(body: bytes) -> None:
    with pytest.raises(CorruptObject, match="the place"):
        parse_document(body, "the place")


def test_half_a_character_has_a_checksum() -> None:
    """JSON can hold one; a document that does must end as a wrong signature, not as an error of Python's."""
    document = parse_document(b'{"a": "\\ud800", "\\udfff": 1}', "the place")
    assert checksum(document).startswith("sha256:")
