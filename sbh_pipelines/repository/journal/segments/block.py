"""A block: some transactions of one tenant, sealed so that whoever wrote it cannot read it.

Its plaintext is transactions, one after the other, each followed by its changes (docs/format.md, *Change journal*). The seal is
`version(1) · ephemeral public key(32) · ciphertext · tag(16)`: zstd, then AES-256-GCM under a key that HKDF-SHA256 derives from the
X25519 secret of the two keys, bound to both of them (as RFC 9180 does). The key is used once, so the nonce is constant.

A seal does not say who made it: anybody who knows the public key can make one. A block is therefore believed only where a
segment's directory names its digest.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sbh_pipelines.errors import CorruptObject, FormatUnsupported
from sbh_pipelines.repository.compression import compress, decompress
from sbh_pipelines.repository.format import MAX_CHUNK
from sbh_pipelines.repository.journal.segments.changes import Change, Op, Transaction

BLOCK_BYTES = 1 << 20  # of plaintext, after which a block is ended
BLOCK_OVERHEAD = 1 + 32 + 16  # version, ephemeral public key, tag
PUBLIC_BYTES = 32
_VERSION = 1
_INFO = b"sbh journal block\x01"
_NONCE = bytes(12)

_TRANSACTION = struct.Struct(">QqQBI")  # commit, time, xid, whether it is the last piece, number of changes
_CHANGE = struct.Struct(">HcII")  # layout, op, length of the key, length of the row
_OPS = {op.value.encode(): op for op in Op}
_OP_BYTES = {op: text for text, op in _OPS.items()}
_REMEDY = "take another backup of the tenant; recover to a time after it, or to the backup before the block"


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """What a directory says of a block's content.

    Attributes:
        first: Commit of its first transaction.
        last: Commit of its last transaction.
        least_time: Least commit time in it, microseconds since 1970 UTC: commits are not in the order of their times.
        greatest_time: Greatest commit time in it.
        changes: Number of changes.
        least_xid: Least transaction id in it: commits are not in the order of their ids either.
        greatest_xid: Greatest transaction id in it. What a snapshot sees is decided by ids, never by positions.
    """

    first: int
    last: int
    least_time: int
    greatest_time: int
    changes: int
    least_xid: int
    greatest_xid: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a block was made; it stays what it is when the block is copied into another segment.

    Attributes:
        start: Start of the range of the segment that it was sealed for.
        end: End of that range.
        number: Of the tenant's blocks in that segment, from 0 on.
    """

    start: int
    end: int
    number: int

    def aad(self, tenant_key: str, incarnation: str) -> bytes:
        """What the seal of the block is bound to besides the tenant's key."""
        texts = b"".join(struct.pack(">I", len(one)) + one for one in (tenant_key.encode(), incarnation.encode()))
        return texts + struct.pack(">QQI", self.start, self.end, self.number)


class BlockBuffer:
    """Gathers one tenant's changes, in the order of the commits, until they are a block. Not thread-safe.

    A transaction that goes on in the next block is written as pieces; the last of them says so, if need be without a change.
    """

    __slots__ = ("_body", "_changes", "_current", "_facts", "_head")

    def __init__(self) -> None:
        self._body = bytearray()
        self._facts: list[int] = []  # in the order of BlockFacts
        self._current: tuple[int, int, int] | None = None  # commit, time, xid of what is not yet ended
        self._head = -1  # where its piece in this block begins
        self._changes = 0  # in that piece

    def __len__(self) -> int:
        """Bytes gathered."""
        return len(self._body)

    def add(self, commit: int, time: int, xid: int, change: Change) -> None:
        self.append((commit, time, xid), change.layout, _OP_BYTES[change.op], change.key, change.row)

    def append(self, transaction: tuple[int, int, int], layout: int, op: bytes, key: bytes, row: bytes) -> int:
        """A change, without an object for it. `transaction`: commit, time, xid. How many bytes there are now."""
        if self._current != transaction:
            self._end()
            self._current = transaction
        if self._head < 0:
            self._begin()
        body = self._body
        body += _CHANGE.pack(layout, op, len(key), len(row))
        body += key
        body += row
        self._changes += 1
        return len(body)

    def take(self, *, more: bool = False) -> tuple[bytes, BlockFacts] | None:
        """(plaintext, facts) of what was gathered, and begin anew; None where there is nothing.

        `more`: the transaction that was added to last may get further changes.
        """
        if more:
            self._close(last=False)
        else:
            self._end()
        if not self._body:
            return None
        plain, facts = bytes(self._body), BlockFacts(*self._facts)
        self._body, self._facts = bytearray(), []
        return plain, facts

    def _begin(self) -> None:
        assert self._current is not None
        commit, time, xid = self._current
        facts = self._facts
        if facts:
            _, _, least, greatest, _, least_xid, greatest_xid = facts
            facts[1] = commit
            facts[2], facts[3] = min(least, time), max(greatest, time)
            facts[5], facts[6] = min(least_xid, xid), max(greatest_xid, xid)
        else:
            self._facts = [commit, commit, time, time, 0, xid, xid]
        self._head, self._changes = len(self._body), 0
        self._body += bytes(_TRANSACTION.size)

    def _close(self, *, last: bool) -> None:
        """Write the head of the piece that is open."""
        if self._head < 0:
            return
        assert self._current is not None
        _TRANSACTION.pack_into(self._body, self._head, *self._current, last, self._changes)
        self._facts[4] += self._changes
        self._head = -1

    def _end(self) -> None:
        if self._current is not None and self._head < 0:
            self._begin()  # its pieces are in blocks before, and none of them is the last
        self._close(last=True)
        self._current = None


def encode_transactions(transactions: Iterable[Transaction]) -> bytes:
    """The plaintext of a block with these transactions."""
    body = bytearray()
    for one in transactions:
        body += _TRANSACTION.pack(one.commit, one.time, one.xid, one.last, len(one.changes))
        for change in one.changes:
            body += _CHANGE.pack(change.layout, _OP_BYTES[change.op], len(change.key), len(change.row))
            body += change.key
            body += change.row
    return bytes(body)


def decode_transactions(plain: bytes, *, on: str) -> Iterator[Transaction]:
    """The transactions of a block, one at a time. Raises CorruptObject."""
    at, end = 0, len(plain)
    try:
        while at < end:
            commit, time, xid, last, count = _TRANSACTION.unpack_from(plain, at)
            at += _TRANSACTION.size
            changes = list[Change]()
            for _ in range(count):
                layout, op, key_length, row_length = _CHANGE.unpack_from(plain, at)
                key_at = at + _CHANGE.size
                row_at = key_at + key_length
                at = row_at + row_length
                if at > end:
                    raise ValueError("it ends in the middle of a change")
                changes.append(Change(layout, _OPS[op], plain[key_at:row_at], plain[row_at:at]))
            yield Transaction(commit, time, xid, changes, bool(last))
    except (struct.error, KeyError, ValueError) as error:
        why = f"its content is not that of a block: {type(error).__name__}"
        raise CorruptObject("A block of the journal is damaged", on=on, why=why, remedy=_REMEDY) from None


def public_of(private: bytes) -> bytes:
    """The public key of a private one, 32 bytes each."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def seal_block(plain: bytes | bytearray | memoryview, public: bytes, aad: bytes) -> bytes:
    """Seal to a public key, so that only the owner of the private one opens it. Raises ValueError where that is no key."""
    ephemeral = X25519PrivateKey.generate()
    own = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    return bytes([_VERSION]) + own + _aead(shared, own, public).encrypt(_NONCE, compress(plain), aad)


def open_block(sealed: bytes | memoryview, private: bytes, aad: bytes, *, on: str) -> bytes:
    """The plaintext. Raises CorruptObject, and FormatUnsupported."""
    if len(sealed) < BLOCK_OVERHEAD:
        raise CorruptObject("A block of the journal is too short", on=on, why="truncated", remedy=_REMEDY)
    if sealed[0] != _VERSION:
        raise FormatUnsupported(
            "A block of the journal is of another format",
            on=on,
            why=f"version {sealed[0]}: written by a newer release, or damaged",
            remedy="read it with a newer release",
        )
    ours = X25519PrivateKey.from_private_bytes(private)
    theirs = bytes(sealed[1 : 1 + PUBLIC_BYTES])
    try:
        shared = ours.exchange(X25519PublicKey.from_public_bytes(theirs))
        aead = _aead(shared, theirs, ours.public_key().public_bytes_raw())
        return decompress(aead.decrypt(_NONCE, sealed[1 + PUBLIC_BYTES :], aad), MAX_CHUNK)
    except (InvalidTag, ValueError):
        raise CorruptObject(
            "A block of the journal does not open",
            on=on,
            why="damaged, swapped with another, or of another tenant",
            remedy=_REMEDY,
        ) from None


def _aead(shared: bytes, ephemeral: bytes, public: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, None, _INFO + ephemeral + public).derive(shared))
