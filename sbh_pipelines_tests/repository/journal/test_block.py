"""Blocks: what goes in comes out, and only for who has the key and says what it is."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.errors import CorruptObject, FormatUnsupported
from sbh_pipelines.repository.compression import compress
from sbh_pipelines.repository.journal.segments.block import (
    BLOCK_OVERHEAD,
    BlockBuffer,
    Origin,
    decode_transactions,
    encode_transactions,
    open_block,
    public_of,
    seal_block,
)
from sbh_pipelines.repository.journal.segments.changes import UNCHANGED, Change, Op, Transaction
from sbh_pipelines.repository.seal import Sealer

_POSITIONS = st.integers(0, 2**64 - 1)
_TIMES = st.integers(-(2**62), 2**62)
_CHANGES = st.builds(
    Change,
    layout=st.integers(0, 65535),
    op=st.sampled_from(Op),
    key=st.binary(max_size=40),
    row=st.one_of(st.binary(max_size=300), st.just(b"1\t" + UNCHANGED + b"\t\\N")),
)
_TRANSACTIONS = st.builds(
    Transaction,
    commit=_POSITIONS,
    time=_TIMES,
    xid=_POSITIONS,
    changes=st.lists(_CHANGES, max_size=6),
    last=st.booleans(),
)
_ORIGIN = Origin(100, 200, 3)
_AAD = _ORIGIN.aad("17", "20260115T143207Z-1-1-0a1b2c3d")


@given(st.lists(_TRANSACTIONS, max_size=8))
def test_what_was_encoded_is_decoded(transactions: list[Transaction]) -> None:
    """Every transaction, with positions and ids of 64 bits, empty ones too."""
    assert list(decode_transactions(encode_transactions(transactions), on="b")) == transactions


@given(st.lists(_TRANSACTIONS, min_size=1, max_size=3), st.data())
def test_a_block_that_was_cut_is_refused_or_ends_with_a_whole_transaction(
    transactions: list[Transaction], data: st.DataObject
) -> None:
    """No change is ever made up from half of one."""
    plain = encode_transactions(transactions)
    cut = plain[: data.draw(st.integers(0, len(plain) - 1))]
    found = list[Transaction]()
    try:
        found.extend(decode_transactions(cut, on="b"))
    except CorruptObject:
        assert found == transactions[: len(found)]
    else:
        assert found == transactions[: len(found)]
        assert len(found) < len(transactions)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.lists(_CHANGES, min_size=1, max_size=5)), max_size=8),
    st.integers(1, 400),
)
def test_a_buffer_gives_the_transactions_in_pieces(work: list[tuple[int, list[Change]]], block_bytes: int) -> None:
    """However small the blocks: put together they say what was added; exactly the last piece of each says that it is."""
    buffer, blocks, commit, expected = BlockBuffer(), [], 0, []
    for step, changes in work:
        commit += step
        expected.append((commit, -commit, 1000 - commit, changes))
        for change in changes:
            buffer.add(commit, -commit, 1000 - commit, change)
            if len(buffer) >= block_bytes and (found := buffer.take(more=True)):
                blocks.append(found)
    if found := buffer.take():
        blocks.append(found)
    assert buffer.take() is None
    together = list[tuple[int, int, int, list[Change]]]()
    whole = True
    for plain, facts in blocks:
        pieces = list(decode_transactions(plain, on="b"))
        assert (facts.first, facts.last) == (pieces[0].commit, pieces[-1].commit)
        assert (facts.greatest_time, facts.least_time) == (-facts.first, -facts.last)
        assert (facts.greatest_xid, facts.least_xid) == (1000 - facts.first, 1000 - facts.last)
        assert facts.changes == sum(len(piece.changes) for piece in pieces)
        for piece in pieces:
            if whole:
                together.append((piece.commit, piece.time, piece.xid, []))
            assert (piece.commit, piece.time, piece.xid) == together[-1][:3]
            together[-1][3].extend(piece.changes)
            whole = piece.last
    assert whole
    assert together == expected


@given(st.binary(max_size=5000))
def test_a_block_opens_with_the_private_key(plain: bytes) -> None:
    """And is larger than what is in it by the overhead at most, but for what does not compress."""
    private = os.urandom(32)
    sealed = seal_block(plain, public_of(private), _AAD)
    assert open_block(sealed, private, _AAD, on="b") == plain
    assert len(sealed) == BLOCK_OVERHEAD + len(compress(plain))


def test_a_block_opens_with_no_other_key() -> None:
    """Not with another tenant's, nor with another epoch's, nor with the public key."""
    keys = {1: os.urandom(32), 2: os.urandom(32)}
    sealer = Sealer(keys[1], "acme", read_key=keys.__getitem__)
    sealed = seal_block(b"rows", sealer.journal_public(), _AAD)
    assert sealer.open_block(sealed, 1, _AAD, on="b") == b"rows"
    assert sealer.journal_public(2) != sealer.journal_public(1)
    with pytest.raises(CorruptObject, match="does not open"):
        sealer.open_block(sealed, 2, _AAD, on="b")
    with pytest.raises(CorruptObject, match="does not open"):
        Sealer(os.urandom(32), "acme").open_block(sealed, 1, _AAD, on="b")
    with pytest.raises(CorruptObject, match="does not open"):
        open_block(sealed, sealer.journal_public(), _AAD, on="b")


@pytest.mark.parametrize(
    "other",
    [
        _ORIGIN.aad("18", "20260115T143207Z-1-1-0a1b2c3d"),
        _ORIGIN.aad("17", "20260115T143207Z-1-1-0a1b2c3e"),
        replace(_ORIGIN, start=99).aad("17", "20260115T143207Z-1-1-0a1b2c3d"),
        replace(_ORIGIN, end=201).aad("17", "20260115T143207Z-1-1-0a1b2c3d"),
        replace(_ORIGIN, number=2).aad("17", "20260115T143207Z-1-1-0a1b2c3d"),
    ],
)
def test_a_block_opens_only_as_what_it_is(other: bytes) -> None:
    """Tenant, incarnation, range and number are bound to it."""
    private = os.urandom(32)
    with pytest.raises(CorruptObject, match="does not open"):
        open_block(seal_block(b"rows", public_of(private), _AAD), private, other, on="b")


def test_what_a_block_is_bound_to_is_not_ambiguous() -> None:
    """A tenant's key that ends as an incarnation begins is another tenant's."""
    assert _ORIGIN.aad("1", "72026") != _ORIGIN.aad("17", "2026")


@given(st.data())
def test_no_bit_of_a_block_can_change(data: st.DataObject) -> None:
    """The version, the ephemeral key (of which X25519 itself does not look at one bit), the content, the tag."""
    private = os.urandom(32)
    sealed = bytearray(seal_block(b"rows of a tenant", public_of(private), _AAD))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((CorruptObject, FormatUnsupported)):
        open_block(bytes(sealed), private, _AAD, on="b")


@pytest.mark.parametrize("ephemeral", [bytes(32), b"\x01" + bytes(31)])
def test_a_weak_public_key_is_refused(ephemeral: bytes) -> None:
    """One whose secret everybody knows, in a block and as a recipient's."""
    private = os.urandom(32)
    with pytest.raises(CorruptObject, match="does not open"):
        open_block(b"\x01" + ephemeral + bytes(40), private, _AAD, on="b")
    with pytest.raises(ValueError, match="shared key"):
        seal_block(b"rows", ephemeral, _AAD)


def test_a_block_too_short_or_of_a_newer_format_says_so() -> None:
    """An old release does not take a new block for a damaged one."""
    with pytest.raises(CorruptObject, match="too short"):
        open_block(b"\x01" + bytes(40), os.urandom(32), _AAD, on="b")
    with pytest.raises(FormatUnsupported):
        open_block(b"\x02" + bytes(80), os.urandom(32), _AAD, on="b")


def test_a_sealer_shows_no_key_of_the_journal() -> None:
    """Neither private nor public: its repr names the tenant only."""
    assert repr(Sealer(bytes(32), "acme")) == "Sealer(acme)"
