"""Names, numbers and byte layouts of format version 2. docs/format.md is the prose; this file is what runs.

A change here that old readers would misread needs a new version, and the old fixture repository must stay restorable.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.bounds import parse_json

FORMAT_VERSION = 2  # 1: full backups only; still read

DATABASE, FILES, CONFIG = "database", "files", "config"
COMPONENTS = (DATABASE, FILES, CONFIG)  # of a tenant's backup, in the order in which a manifest names them

SEAL_VERSION = 1  # of key epoch 1
SEAL_VERSION_EPOCH = 2  # of later key epochs: the epoch follows the version
SEAL_OVERHEAD = 1 + 12 + 16  # version, nonce, tag
FIRST_EPOCH, LAST_EPOCH = 1, 255  # of the data key: an epoch is one byte

PACK_MAGIC = b"SBHPACK1"
_TRAILER = struct.Struct(">QI8s")  # offset of the sealed directory, its length, magic
PACK_TRAILER_BYTES = _TRAILER.size
_ENTRY = struct.Struct(">32sQII")  # chunk id, offset, stored length, plain length
_INDEX_PACK = struct.Struct(">32sQBBH")  # pack id, size, key epoch less one, number of entries (high byte, low bytes)

MAX_CHUNK = 1 << 31  # a row may be 1 GB; a length beyond this is damage, not data


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one sealed chunk lies in its pack."""

    chunk: bytes  # 32
    offset: int
    length: int  # stored bytes
    plain: int  # bytes of plaintext


@dataclass(frozen=True, slots=True)
class IndexedPack:
    """What an index object says of a pack. All chunks of a pack, and its directory, are sealed in one key epoch."""

    id: bytes
    size: int
    entries: bytes  # as `pack_entries` gives them
    epoch: int = FIRST_EPOCH


class Keys:
    """Object keys below the tenant's prefix."""

    MANIFESTS, PACKS, INDEX, KEYS = "manifests/", "packs/", "index/", "keys/"
    FAILURES, RESTORES = "failures/", "restores/"
    DAMAGED, RETIRED = "index/damaged-", "index/retired-"
    PRUNED = "index/prune_"  # an index object written by a prune
    LEASE, LISTING = "lease.json", "listing.json"
    COPYING = "copying/"  # of a copy only: below it the lease of who brings something
    COPY = "copy.json"  # of a copy only: what its own retention remembers
    HOLDS = "holds/"
    AUDIT = "audit/"
    DRILLS = "drills/"
    RESTORES = "restores/"

    @staticmethod
    def manifest(backup_id: str) -> str:
        return f"manifests/{backup_id}.json"

    @staticmethod
    def component(name: str, backup_id: str) -> str:
        return f"{name}/{backup_id}.json"

    @staticmethod
    def pack(pack_id: bytes) -> str:
        return f"packs/{pack_id.hex()}"

    @staticmethod
    def index(backup_id: str, stage: str, digest: str) -> str:
        return f"index/{backup_id}-{stage}-{digest}"

    @staticmethod
    def damaged(pack_id: bytes) -> str:
        return f"{Keys.DAMAGED}{pack_id.hex()}"

    @staticmethod
    def retired(prune_id: str, digest: str) -> str:
        return f"{Keys.RETIRED}{prune_id}-{digest}"

    @staticmethod
    def data_key(epoch: int) -> str:
        return f"keys/{epoch:04d}.json"

    @staticmethod
    def failure(backup_id: str) -> str:
        return f"failures/{backup_id}.json"

    @staticmethod
    def hold(hold_id: str) -> str:
        return f"holds/{hold_id}.json"

    @staticmethod
    def restore(restore_id: str) -> str:
        return f"{Keys.RESTORES}{restore_id}.json"

    @staticmethod
    def left_rows(restore_id: str, number: int) -> str:
        return f"{Keys.RESTORES}{restore_id}.rows-{number:04d}"

    @staticmethod
    def drill(drill_id: str) -> str:
        return f"drills/{drill_id}.json"


def pack_id_of(name: str) -> bytes | None:
    """The pack id that 64 hex digits spell; None for any other name."""
    return bytes.fromhex(name) if len(name) == 64 and not name.strip("0123456789abcdef") else None


def seal_aad(kind: bytes, tenant: str, name: bytes, epoch: int = FIRST_EPOCH) -> bytes:
    """Associated data of a sealed piece: format, epoch (but for the first), kind, tenant (length-prefixed), name."""
    slug = tenant.encode()
    return seal_head(epoch, b"sbh") + kind + struct.pack(">H", len(slug)) + slug + name


def seal_head(epoch: int, before: bytes = b"") -> bytes:
    """How a sealed piece of an epoch begins."""
    return before + (bytes([SEAL_VERSION]) if epoch == FIRST_EPOCH else bytes([SEAL_VERSION_EPOCH, epoch]))


def seal_epoch(sealed: bytes | memoryview) -> int:
    """The key epoch that a sealed piece says it is of, from its first two bytes; 0 for one of an unknown version."""
    if len(sealed) >= 2 and sealed[0] == SEAL_VERSION_EPOCH and sealed[1] > FIRST_EPOCH:
        return sealed[1]
    return FIRST_EPOCH if len(sealed) >= 2 and sealed[0] == SEAL_VERSION else 0


def pack_entries(entries: Iterable[Entry]) -> bytes:
    return b"".join(_ENTRY.pack(e.chunk, e.offset, e.length, e.plain) for e in entries)


def unpack_entries(body: bytes, on: str) -> Iterator[Entry]:
    """Raises CorruptObject."""
    if len(body) % _ENTRY.size:
        raise CorruptObject("A directory of chunks has a wrong length", on=on, remedy=VALIDATE)
    for fields in _ENTRY.iter_unpack(body):
        entry = Entry(*fields)
        if entry.plain > MAX_CHUNK or entry.length > MAX_CHUNK:
            raise CorruptObject("A directory of chunks has an impossible length", on=on, remedy=VALIDATE)
        yield entry


def pack_trailer(offset: int, length: int) -> bytes:
    return _TRAILER.pack(offset, length, PACK_MAGIC)


def unpack_trailer(trailer: bytes, pack_size: int, on: str) -> tuple[int, int]:
    """(offset, length) of the sealed directory. Raises CorruptObject."""
    if len(trailer) == _TRAILER.size:
        offset, length, magic = _TRAILER.unpack(trailer)
        if magic == PACK_MAGIC and offset + length + _TRAILER.size == pack_size:
            return offset, length
    raise CorruptObject(
        "Not a whole pack", on=on, why="its trailer is missing or wrong: truncated or overwritten", remedy=VALIDATE
    )


def pack_index(packs: "Iterable[IndexedPack]") -> bytes:
    """The body of an index object: for each pack its id, size, key epoch, and entries."""

    def head(pack: IndexedPack) -> bytes:
        high, low = divmod(len(pack.entries) // _ENTRY.size, 1 << 16)
        return _INDEX_PACK.pack(pack.id, pack.size, pack.epoch - FIRST_EPOCH, high, low)

    return b"".join(head(pack) + pack.entries for pack in packs)


def unpack_index(body: bytes, on: str) -> Iterator[tuple[bytes, int, int, Iterator[Entry]]]:
    """(pack id, size, key epoch, entries) of each pack. Raises CorruptObject."""
    at = 0
    while at < len(body):
        if at + _INDEX_PACK.size > len(body):
            raise CorruptObject("An index ends in the middle", on=on, remedy=VALIDATE)
        pack_id, size, later, high, low = _INDEX_PACK.unpack_from(body, at)
        count = (high << 16) + low
        at += _INDEX_PACK.size
        end = at + count * _ENTRY.size
        if end > len(body):
            raise CorruptObject("An index ends in the middle", on=on, remedy=VALIDATE)
        yield pack_id, size, FIRST_EPOCH + later, unpack_entries(body[at:end], on)
        at = end


VALIDATE = "run `sbh backup validate --deep` and take another backup of the tenant"


def canonical(document: Mapping[str, object]) -> bytes:
    """JSON with sorted keys and no white space: what checksums and signatures are computed over."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")  # a damaged document may hold half a character


def checksum(document: Mapping[str, object]) -> str:
    """`sha256:` + hex over the canonical document without its `checksum` and `signature`."""
    bare = {k: v for k, v in document.items() if k not in ("checksum", "signature")}
    return "sha256:" + hashlib.sha256(canonical(bare)).hexdigest()


def compact(document: Mapping[str, object]) -> bytes:
    """How documents are stored that no person reads."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def pretty(document: Mapping[str, object]) -> bytes:
    """How documents are stored that people read; the same bytes for the same content."""
    return json.dumps(document, indent=1, sort_keys=False, ensure_ascii=False).encode() + b"\n"


def parse_document(data: bytes, on: str) -> dict[str, Any]:
    """A stored JSON object. Raises CorruptObject."""
    try:
        document = parse_json(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CorruptObject("A document is not JSON", on=on, why="truncated or overwritten", remedy=VALIDATE)
    return document
