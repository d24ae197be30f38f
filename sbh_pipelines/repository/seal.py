"""Seal and open: zstd, then AES-256-GCM, bound to tenant, kind and name.

A sealed piece is `version(1) · nonce(12) · ciphertext · tag(16)`. The nonce is random; NIST SP 800-38D allows 2^32
random 96-bit nonces per key, which at 1 MiB a chunk is 4 PiB per tenant and key epoch.
"""

import hashlib
import hmac
import os
import threading

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sbh_pipelines.errors import CorruptObject, FormatUnsupported
from sbh_pipelines.repository.format import MAX_CHUNK, SEAL_OVERHEAD, SEAL_VERSION, VALIDATE, seal_aad

CHUNK, DIRECTORY, INDEX, CATALOG = b"C", b"D", b"I", b"K"

_local = threading.local()


class Sealer:
    """The keys of one tenant and epoch, derived from its data key. Thread-safe; repr shows nothing secret."""

    __slots__ = ("_aead", "_compression_level", "_name_key", "_sign_key", "tenant")

    def __init__(self, data_key: bytes, tenant: str, compression_level: int = 1) -> None:
        self.tenant = tenant
        self._compression_level = compression_level
        self._aead = AESGCM(derive(data_key, b"sbh seal"))
        self._name_key = derive(data_key, b"sbh chunk name")
        self._sign_key = derive(data_key, b"sbh manifest")

    def __repr__(self) -> str:
        return f"Sealer({self.tenant})"

    def name(self, plain: bytes | bytearray | memoryview) -> bytes:
        """The chunk's id: equal content has equal ids inside a tenant, and unrelated ones across tenants."""
        return hmac.digest(self._name_key, plain, "sha256")

    def seal(self, plain: bytes | bytearray | memoryview, name: bytes, kind: bytes = CHUNK) -> bytes:
        packed = _compressor(self._compression_level).compress(plain)
        nonce = os.urandom(12)
        return bytes([SEAL_VERSION]) + nonce + self._aead.encrypt(nonce, packed, seal_aad(kind, self.tenant, name))

    def open(self, sealed: bytes | memoryview, name: bytes, kind: bytes = CHUNK, *, on: str) -> bytes:
        """The plaintext. Raises CorruptObject (with `on` as the place) and FormatUnsupported."""
        if len(sealed) < SEAL_OVERHEAD:
            raise CorruptObject("A sealed piece is too short", on=on, why="truncated", remedy=VALIDATE)
        if sealed[0] != SEAL_VERSION:
            raise FormatUnsupported(
                "A sealed piece is of another format",
                on=on,
                why=f"version {sealed[0]}: written by a newer release, or damaged",
                remedy=f"read it with a newer release, or {VALIDATE}",
            )
        try:
            packed = self._aead.decrypt(bytes(sealed[1:13]), sealed[13:], seal_aad(kind, self.tenant, name))
            plain = _decompressor().decompress(packed, max_output_size=MAX_CHUNK)
        except (InvalidTag, zstandard.ZstdError):
            raise CorruptObject(
                "A sealed piece does not open",
                on=on,
                why="damaged, swapped with another, or of another tenant",
                remedy=VALIDATE,
            ) from None
        if kind == CHUNK and not hmac.compare_digest(self.name(plain), name):
            raise CorruptObject("A chunk's content does not match its name", on=on, remedy=VALIDATE)
        return plain

    def sign(self, message: bytes) -> str:
        return hmac.new(self._sign_key, message, hashlib.sha256).hexdigest()

    def signed(self, message: bytes, signature: str) -> bool:
        return hmac.compare_digest(self.sign(message), signature)


def derive(data_key: bytes, purpose: bytes) -> bytes:
    """32 bytes for one purpose, unrelated to those for another."""
    # The data key is uniformly random, so HKDF's expand step alone is sound (RFC 5869, section 3.3).
    return HKDFExpand(SHA256(), 32, purpose).derive(data_key)


def _compressor(level: int) -> zstandard.ZstdCompressor:
    # zstd contexts are costly to make and not thread-safe: one per thread and level.
    made: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    return made[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    if "decompressor" not in _local.__dict__:
        _local.decompressor = zstandard.ZstdDecompressor()
    made: zstandard.ZstdDecompressor = _local.decompressor
    return made
