"""Seal and open: zstd, then AES-256-GCM, bound to tenant, kind and name.

A sealed piece is `version(1) · nonce(12) · ciphertext · tag(16)`; after the first key epoch the version is 2, and the
epoch follows it. The nonce is random; NIST SP 800-38D allows 2^32 random 96-bit nonces per key, which at 1 MiB a chunk is
4 PiB per tenant and key epoch.
"""

import hashlib
import hmac
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sbh_pipelines.errors import CorruptObject, FormatUnsupported
from sbh_pipelines.repository.compression import compress, compress_into, decompress
from sbh_pipelines.repository.format import (
    FIRST_EPOCH,
    MAX_CHUNK,
    SEAL_OVERHEAD,
    VALIDATE,
    seal_aad,
    seal_epoch,
    seal_head,
)
from sbh_pipelines.repository.journal.segments.block import open_block, public_of

CHUNK, DIRECTORY, INDEX, JOURNAL = b"C", b"D", b"I", b"J"
CATALOG, LEFT_ROWS, PRIVATE, REQUEST = b"K", b"L", b"P", b"Q"

_TAG = 16


@dataclass(frozen=True, slots=True)
class _EpochKeys:
    aead: AESGCM = field(repr=False)
    sign_key: bytes = field(repr=False)
    journal_key: bytes = field(repr=False)  # X25519, private

    @classmethod
    def of(cls, data_key: bytes) -> "_EpochKeys":
        aead = AESGCM(derive(data_key, b"sbh seal"))
        return cls(aead, derive(data_key, b"sbh manifest"), derive(data_key, b"sbh journal"))


class SealingSpace(threading.local):
    """Memory in which a thread seals chunks: it grows to the largest."""

    def __init__(self) -> None:
        self.packed, self.sealed = bytearray(), bytearray()


class Sealer:
    """The keys of one tenant, derived from its data keys. Thread-safe; repr shows nothing secret.

    Seals and signs in the newest key epoch; opens and verifies pieces of any, whose data key `read_key` fetches when the
    first of it comes. Names of chunks are of one key for good, so that what is stored is found in every epoch.
    """

    __slots__ = ("_compression_level", "_epochs", "_lock", "_name_key", "_read_key", "epoch", "tenant")

    def __init__(
        self,
        data_key: bytes,
        tenant: str,
        compression_level: int = 1,
        *,
        epoch: int = FIRST_EPOCH,
        name_key: bytes | None = None,
        read_key: Callable[[int], bytes] | None = None,
    ) -> None:
        self.tenant, self.epoch = tenant, epoch
        self._compression_level = compression_level
        self._name_key = name_key or name_key_of(data_key)
        self._read_key = read_key
        self._lock = threading.Lock()
        self._epochs = {epoch: _EpochKeys.of(data_key)}

    def __repr__(self) -> str:
        return f"Sealer({self.tenant})"

    def _keys(self, epoch: int, on: str) -> _EpochKeys:
        """Raises CorruptObject where there is no key of this epoch, and the key provider's errors."""
        known = self._epochs.get(epoch)
        if known is not None:
            return known
        if self._read_key is None:
            raise CorruptObject(
                "A sealed piece is of a key epoch that has no key",
                on=on,
                why=f"epoch {epoch}",
                remedy="restore keys/ from the bucket's older version",
            )
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = _EpochKeys.of(self._read_key(epoch))
            return self._epochs[epoch]

    def name(self, plain: bytes | bytearray | memoryview) -> bytes:
        """The chunk's id: equal content has equal ids inside a tenant, and unrelated ones across tenants."""
        return hmac.digest(self._name_key, plain, "sha256")

    def seal(self, plain: bytes | bytearray | memoryview, name: bytes, kind: bytes = CHUNK) -> bytes:
        packed = compress(plain, self._compression_level)
        nonce = os.urandom(12)
        aad = seal_aad(kind, self.tenant, name, self.epoch)
        return seal_head(self.epoch) + nonce + self._epochs[self.epoch].aead.encrypt(nonce, packed, aad)

    def seal_chunk(self, plain: bytes | bytearray | memoryview, name: bytes, space: "SealingSpace") -> memoryview:
        """`seal` of a chunk, in `space`, where the next one takes its place: a chunk is large, and fresh memory dear."""
        nonce = os.urandom(12)
        head = seal_head(self.epoch) + nonce
        aad = seal_aad(CHUNK, self.tenant, name, self.epoch)
        packed = compress_into(space.packed, plain, self._compression_level)
        size = len(head) + packed + _TAG
        if len(space.sealed) < size:
            space.sealed = bytearray(size)
        sealed = memoryview(space.sealed)[:size]
        sealed[: len(head)] = head
        with memoryview(space.packed) as view:
            self._epochs[self.epoch].aead.encrypt_into(nonce, view[:packed], aad, sealed[len(head) :])
        return sealed

    def open(self, sealed: bytes | memoryview, name: bytes, kind: bytes = CHUNK, *, on: str) -> bytes:
        """The plaintext. Raises CorruptObject (with `on` as the place) and FormatUnsupported."""
        if len(sealed) < SEAL_OVERHEAD:
            raise CorruptObject("A sealed piece is too short", on=on, why="truncated", remedy=VALIDATE)
        epoch = seal_epoch(sealed)
        if not epoch:
            raise FormatUnsupported(
                "A sealed piece is of another format",
                on=on,
                why=f"version {sealed[0]}: written by a newer release, or damaged",
                remedy=f"read it with a newer release, or {VALIDATE}",
            )
        aead, at = self._keys(epoch, on).aead, len(seal_head(epoch))
        try:
            aad = seal_aad(kind, self.tenant, name, epoch)
            packed = aead.decrypt(bytes(sealed[at : at + 12]), sealed[at + 12 :], aad)
            plain = decompress(packed, MAX_CHUNK)
        except (InvalidTag, ValueError):
            raise CorruptObject(
                "A sealed piece does not open",
                on=on,
                why="damaged, swapped with another, or of another tenant",
                remedy=VALIDATE,
            ) from None
        if kind == CHUNK and not hmac.compare_digest(self.name(plain), name):
            raise CorruptObject("A chunk's content does not match its name", on=on, remedy=VALIDATE)
        return plain

    def sign(self, message: bytes, epoch: int | None = None) -> str:
        """In hex, under the newest epoch's key unless another is named."""
        keys = self._keys(epoch or self.epoch, f"a signature of {self.tenant}")
        return hmac.new(keys.sign_key, message, hashlib.sha256).hexdigest()

    def signed(self, message: bytes, signature: str) -> bool:
        return hmac.compare_digest(self.sign(message), signature)

    def journal_public(self, epoch: int | None = None) -> bytes:
        """32 bytes, X25519: what the journal's blocks of this tenant are sealed to. Of the newest epoch unless another is named."""
        return public_of(self._keys(epoch or self.epoch, f"the journal of {self.tenant}").journal_key)

    def open_block(self, sealed: bytes | memoryview, epoch: int, aad: bytes, *, on: str) -> bytes:
        """The plaintext of a block of the journal. Raises CorruptObject and FormatUnsupported."""
        return open_block(sealed, self._keys(epoch, on).journal_key, aad, on=on)


def name_key_of(data_key: bytes) -> bytes:
    """What names the chunks of a repository whose first data key this is."""
    return derive(data_key, b"sbh chunk name")


def derive(data_key: bytes, purpose: bytes) -> bytes:
    """32 bytes for one purpose, unrelated to those for another."""
    # The data key is uniformly random, so HKDF's expand step alone is sound (RFC 5869, section 3.3).
    return HKDFExpand(SHA256(), 32, purpose).derive(data_key)
