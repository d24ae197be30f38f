"""Which objects are copied, by their names, in the order in which they are brought.

What has no name of the format is somebody else's and stays where it is. Not copied either: leases, the listing, records of
restores, drills, approvals and failures, what a prune retired and what was found damaged.
"""

import re
from enum import IntEnum

_BACKUP = r"backup_\d{8}_\d{4}(?:_\d{2,4})?"


class Kind(IntEnum):
    """Of an object of a repository; what comes later may need what comes before."""

    PACK = 1
    INDEX = 2
    DOCUMENT = 3
    EVENT = 4
    HOLD = 5
    MANIFEST = 6


_REPOSITORY = {
    Kind.PACK: re.compile(r"packs/[0-9a-f]{64}"),
    Kind.INDEX: re.compile(rf"index/(?:{_BACKUP}|prune_)[A-Za-z0-9_.-]*-[0-9a-f]{{16}}"),
    Kind.DOCUMENT: re.compile(rf"[a-z][a-z-]*/{_BACKUP}\.json"),
    Kind.EVENT: re.compile(r"audit/\d{12}\.jsonl"),
    Kind.HOLD: re.compile(r"holds/(?:pin-|legal-|until-)[A-Za-z0-9_-]+\.json"),
    Kind.MANIFEST: re.compile(rf"manifests/{_BACKUP}\.json"),
}
DOCUMENTS = {"database", "files", "config", "pre-data", "post-data", "shared", "no-tenant"}


def repository_kind(name: str) -> Kind | None:
    """The kind of an object by its key below the prefix of a repository; None for what is not copied."""
    for kind, pattern in _REPOSITORY.items():
        if pattern.fullmatch(name):
            if kind is Kind.DOCUMENT and name.partition("/")[0] not in DOCUMENTS:
                continue
            return kind
    return None


class RegionKind(IntEnum):
    """Of an object of a region's catalog or journal, in the order in which they are brought."""

    FORMER = 1
    MOVE = 2
    CERTIFICATE = 3
    READMITTED = 4
    ERASED = 5
    RECORD = 6
    EVENT = 7
    GAP = 8
    PUBLIC_KEY = 9
    SLOT = 10
    SEGMENT = 11


_STAMP = r"\d{8}T\d{12}Z-[0-9a-f]{16}"
_HOME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:~\d+)?"
_ERASURE = r"erase_\d{8}_\d{6}_[0-9a-f]{6}"
_CATALOG = {
    RegionKind.FORMER: re.compile(rf"former/{_HOME}\.json"),
    RegionKind.MOVE: re.compile(rf"moves/{_HOME}\.json"),
    RegionKind.CERTIFICATE: re.compile(rf"certificates/{_HOME}/{_ERASURE}\.json"),
    RegionKind.READMITTED: re.compile(rf"readmitted/{_HOME}/{_ERASURE}\.json"),
    RegionKind.ERASED: re.compile(rf"erased/{_HOME}\.json"),
    RegionKind.RECORD: re.compile(rf"records/{_STAMP}"),
}
_EVENTS = {RegionKind.EVENT: re.compile(r"events/\d{12}\.jsonl")}
_JOURNAL = {
    RegionKind.GAP: re.compile(rf"gaps/{_STAMP}"),
    RegionKind.PUBLIC_KEY: re.compile(rf"keys/{_STAMP}"),
    RegionKind.SLOT: re.compile(rf"slots/{_STAMP}"),
    RegionKind.SEGMENT: re.compile(
        r"\d{8}T\d{6}Z-[0-9a-f]{1,16}-[0-9a-f]{1,8}-[0-9a-f]{8}/\d{1,2}/[0-9A-F]{16}-[0-9A-F]{16}-[0-9a-f]{16}"
    ),
}


def catalog_kind(name: str) -> RegionKind | None:
    """Of a key below a catalog's prefix. Not copied: its key, which is wrapped anew; marks of key epochs, see `tenant_copy`."""
    return _kind(_CATALOG, name)


def trail_kind(name: str) -> RegionKind | None:
    """Of a key below the prefix of a region's audit trail."""
    return _kind(_EVENTS, name)


def journal_kind(name: str) -> RegionKind | None:
    """Of a key below a journal's prefix."""
    return _kind(_JOURNAL, name)


def _kind(kinds: dict[RegionKind, re.Pattern[str]], name: str) -> RegionKind | None:
    return next((kind for kind, pattern in kinds.items() if pattern.fullmatch(name)), None)
