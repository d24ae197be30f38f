"""Sealed pieces: what goes in comes out, and nothing else opens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.errors import CorruptObject, FormatUnsupported
from sbh_pipelines.repository.format import SEAL_OVERHEAD, seal_aad
from sbh_pipelines.repository.seal import CHUNK, DIRECTORY, INDEX, Sealer, SealingSpace
from sbh_pipelines_tests.support.effort import examples

KEY = bytes(range(32))
ACME = Sealer(KEY, "acme")
plaintexts = st.one_of(st.binary(max_size=2000), st.integers(0, 300_000).map(lambda n: b"abc" * n))
kinds = st.sampled_from([CHUNK, DIRECTORY, INDEX])


def name_for(sealer: Sealer, kind: bytes, plain: bytes) -> bytes:
    return sealer.name(plain) if kind == CHUNK else b""


@given(plaintexts, kinds)
def test_what_was_sealed_opens(plain: bytes, kind: bytes) -> None:
    name = name_for(ACME, kind, plain)
    assert ACME.open(ACME.seal(plain, name, kind), name, kind, on="x") == plain


@given(st.lists(plaintexts, max_size=5))
def test_chunks_are_sealed_one_after_another_in_the_same_memory(plains: list[bytes]) -> None:
    """Larger and smaller ones: of each all is there, and nothing of another."""
    space = SealingSpace()
    for plain in plains:
        name = ACME.name(plain)
        assert ACME.open(bytes(ACME.seal_chunk(plain, name, space)), name, on="x") == plain


@given(plaintexts)
def test_sealing_twice_gives_different_bytes(plain: bytes) -> None:
    """Nonces are fresh: equal plaintexts cannot be told by their ciphertexts."""
    name = ACME.name(plain)
    assert ACME.seal(plain, name) != ACME.seal(plain, name)


@settings(max_examples=examples(100))
@given(st.binary(max_size=300), kinds, st.data())
def test_any_changed_bit_is_found(plain: bytes, kind: bytes, data: st.DataObject) -> None:
    """Wherever it is: version, nonce, ciphertext, tag."""
    name = name_for(ACME, kind, plain)
    sealed = bytearray(ACME.seal(plain, name, kind))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((CorruptObject, FormatUnsupported)):
        ACME.open(bytes(sealed), name, kind, on="x")


@given(st.binary(max_size=300), st.data())
def test_any_other_length_is_found(plain: bytes, data: st.DataObject) -> None:
    name = ACME.name(plain)
    sealed = ACME.seal(plain, name)
    for other in (sealed[: data.draw(st.integers(0, len(sealed) - 1))], sealed + b"\0", b""):
        with pytest.raises(CorruptObject):
            ACME.open(other, name, on="x")


@settings(max_examples=examples(100))
@given(st.binary(max_size=200))
def test_garbage_is_corrupt_and_nothing_else(garbage: bytes) -> None:
    for body in (garbage, b"\x01" + garbage):
        with pytest.raises((CorruptObject, FormatUnsupported)):
            ACME.open(body, bytes(32), on="the place")


@given(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: b + b"!"))
def test_a_piece_is_bound_to_its_name_its_kind_its_tenant_and_its_key(plain: bytes, other: bytes) -> None:
    """Moved under another name, passed off as another kind, copied to another tenant, or under another key: it does not open."""
    name = ACME.name(plain)
    sealed = ACME.seal(plain, name)
    namesake, locksmith = Sealer(KEY, "bolt"), Sealer(KEY[::-1], "acme")
    strangers = [
        (ACME, ACME.name(plain + other), CHUNK),
        (ACME, name, DIRECTORY),
        (ACME, name, INDEX),
        (ACME, b"", INDEX),
        (namesake, name, CHUNK),
        (locksmith, name, CHUNK),
    ]
    for sealer, called, kind in strangers:
        with pytest.raises(CorruptObject) as caught:
            sealer.open(sealed, called, kind, on="packs/1")
        assert "packs/1" in str(caught.value)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_names_say_equal_content_inside_a_key_only(one: bytes, other: bytes) -> None:
    assert (ACME.name(one) == ACME.name(other)) == (one == other)
    assert ACME.name(one) != Sealer(KEY[::-1], "acme").name(one)
    assert len(ACME.name(one)) == 32


@given(st.text(max_size=20), st.binary(max_size=40), st.text(max_size=20), st.binary(max_size=40))
def test_associated_data_of_different_pieces_differ(slug: str, name: bytes, slug2: str, name2: bytes) -> None:
    """The tenant's length comes before it, so that no tenant and name run together as another's."""
    same = (slug, name) == (slug2, name2)
    slug, slug2 = (s.encode("utf-8", "surrogatepass").hex() for s in (slug, slug2))
    assert (seal_aad(CHUNK, slug, name) == seal_aad(CHUNK, slug2, name2)) == same


def test_a_sealed_piece_is_as_small_as_documented() -> None:
    assert len(ACME.seal(b"", ACME.name(b""))) <= SEAL_OVERHEAD + 16
    assert len(ACME.seal(b"a" * 1_000_000, ACME.name(b"a" * 1_000_000))) < 1000


def test_a_newer_format_is_told_from_damage() -> None:
    name = ACME.name(b"x")
    sealed = ACME.seal(b"x", name)
    for version in (0, 3, 255):
        with pytest.raises(FormatUnsupported, match=f"version {version}"):
            ACME.open(bytes([version]) + sealed[1:], name, on="x")


def test_a_repr_shows_no_key() -> None:
    assert repr(ACME) == "Sealer(acme)"
