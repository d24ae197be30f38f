"""How large an object of each kind can be, how many there can be under a prefix, and how much JSON a document can hold.

Whoever may write to a bucket may put anything there. What is read before it is believed is bounded here, generously for what
this program writes and narrowly for a process that works for two hundred tenants: past a bound the object is damage of its
own tenant, and nothing of it was read.
"""

import json
from array import array
from collections.abc import Iterator
from typing import Any

from sbh_pipelines.errors import StoreError, TooManyObjects
from sbh_pipelines.stores.base import ODD_KEY, ObjectInfo, ObjectStore

_MIB = 1 << 20
SMALL_BYTES = _MIB  # of a document that is neither of the kinds below
_KINDS = {  # by how the name below the tenant's prefix begins
    "keys/": 64 << 10,
    "lease.json": 64 << 10,
    "manifests/": 16 * _MIB,  # names the index objects of its backup, and why tables were reread
    "database/": 32 * _MIB,  # thousands of tables
    "files/": 32 * _MIB,
    "config/": 32 * _MIB,
    "index/retired-": 64 * _MIB,  # names every pack that a prune retired
    "index/": 64 * _MIB,  # earlier releases wrote one for a whole step
    "listing.json": 32 * _MIB,  # a line for each backup
    "copy.json": 8 * _MIB,  # an id for each backup that a copy forgot
    "holds/": SMALL_BYTES,
    "failures/": SMALL_BYTES,
    "approvals/": SMALL_BYTES,
    "drills/": 8 * _MIB,
    "restores/": 32 * _MIB,
    "audit/": 20 * _MIB,  # 256 events of 64 KiB
}
HEAD_BYTES = 64 << 10  # of the head of an audit trail
ERASED_BYTES = SMALL_BYTES  # of the record of an erasure
CERTIFICATE_BYTES = 4 * _MIB
RECORDS_BYTES = 16 * _MIB  # of an object of the catalog, which ends at 4 MiB of plaintext
MOST_RECORDS = 50_000  # objects of the catalog that are read, the newest; a compaction leaves a few
DIRECTORY_BYTES = 16 * _MIB  # of a pack's directory: 8,192 entries, far more in packs of earlier releases
LEFT_ROWS_BYTES = 1200 * _MIB  # some MiB of rows, and one row may have a GiB
SEGMENT_DIRECTORY_BYTES = 64 * _MIB  # of the journal, sealed: some 100 bytes a block
MOST_SEGMENTS = 100_000  # of the journal of a region: one each quarter of a minute for two weeks, none of them merged
JOURNAL_OBJECT_BYTES = 8 * _MIB  # of public keys or of a gap, sealed
MOST_JOURNAL_OBJECTS = 50_000  # of these, in a folder
UNNAMED_PACKS = 20_000  # packs that no index names and whose directories are opened: what killed writers left
EVENTS = 100_000  # lines of one object of the audit trail

_CONTAINERS, _VALUES = 500_000, 2_000_000  # of one document: objects and lists in it, and commas

_COUNTS = {  # keys under a folder of a tenant's prefix
    "manifests/": 200_000,  # one an hour for twenty years
    "packs/": 2_000_000,  # 32 TB in packs of 16 MiB
    "index/": 400_000,
    "holds/": 100_000,
    "failures/": 200_000,
    "approvals/": 200_000,
    "restores/": 200_000,
    "drills/": 200_000,
    "keys/": 1_000,
}


def most_bytes(name: str) -> int:
    """The most bytes that an object of this name below a tenant's prefix can have."""
    return next((most for kind, most in _KINDS.items() if name.startswith(kind)), SMALL_BYTES)


def most_objects(folder: str) -> int:
    """The most objects that a folder of a tenant's prefix can have."""
    return _COUNTS[folder]


def all_below(store: ObjectStore, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
    """What lies below a prefix, but for keys that no key of ours looks like; `after`: what has a greater key than this.

    Some of those end the driver's listing. It is taken up by the exact one, so that nobody who may put one object keeps a
    tenant's work from being done.
    """
    seen = array("q")  # 8 bytes a key: by the hash of this process
    try:
        for info in store.list(prefix, after):
            seen.append(hash(info.key))
            yield info
        return
    except StoreError as error:
        exactly = getattr(store, "list_exactly", None)
        if type(error) is not StoreError or exactly is None:
            raise
    known = frozenset(seen)
    new = (info for info in exactly(prefix) if not ODD_KEY.search(info.key) and hash(info.key) not in known)
    yield from (info for info in new if info.key > after)


def listed(store: ObjectStore, prefix: str, folder: str) -> Iterator[ObjectInfo]:
    """`all_below` in a folder of a tenant's prefix. Raises TooManyObjects instead of the one that is too many."""
    most = _COUNTS[folder]
    for number, info in enumerate(all_below(store, prefix + folder)):
        if number == most:
            raise too_many(store.url(prefix + folder), most)
        yield info


def too_many(on: str, most: int) -> TooManyObjects:
    return TooManyObjects(
        "There are more objects than there can be of their kind",
        on=on,
        why=f"more than {most:,}: put there by somebody else",
        remedy="see who can write to the bucket, and delete what is not of this program: docs/format.md names its keys",
    )


def parse_json(data: bytes) -> Any:
    """Like `json.loads`. Raises ValueError also for what is nested too deeply, or would take far more memory than its bytes."""
    if data.count(b"{") + data.count(b"[") > _CONTAINERS or data.count(b",") > _VALUES:
        raise ValueError("too much of it")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
