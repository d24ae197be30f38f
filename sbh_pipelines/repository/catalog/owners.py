"""Whose a repository is: the tenant's key in the application, which stays when its slug is given away, as a tag.

A tag is an HMAC of the key under a key of the region's catalog, so that it shows nothing, cannot be made without the catalog's key,
and costs no call of the key service to look at. The object of the repository's first data key carries it: both are there together,
or neither. `home` is the name under which the repository lies: the slug, or `slug~2` and so on where earlier tenants had it.

A repository that was put aside has a mark in the catalog: `former/{home}.json` says whose it is, and that the slug's next tenant
begins elsewhere. A mark that is not genuine is not believed: its slug's repository then answers that it is another tenant's.
"""

import hmac
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sbh_pipelines.errors import CorruptObject, ObjectMissing, ObjectTooLarge
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.bounds import SMALL_BYTES
from sbh_pipelines.repository.format import canonical, parse_document, pretty
from sbh_pipelines.repository.seal import derive
from sbh_pipelines.stores.base import ObjectInfo, ObjectStore

FORMER = "former/"
_HOME = re.compile(r"(?P<slug>[^~/]+)(?:~(?P<number>[2-9]|[1-9]\d{1,3}))?")
MOST_OTHERS = 2000  # backups of others that a repository names, the newest ones: a key object is small
_OWNER, _ADOPTED, _MARK = b"owner", b"adopted", b"former"


class Ownership(StrEnum):
    """Whether a repository is a tenant's."""

    OWN = "own"
    OTHER = "other"
    UNKNOWN = "unknown"  # it does not say, or under a catalog key that is gone


@dataclass(frozen=True, slots=True)
class OwnerKey:
    """What makes tags: derived from the data key of the region's catalog. `id` names it and reveals nothing."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, data_key: bytes) -> "OwnerKey":
        return cls(derive(data_key, b"sbh owner id")[:4].hex(), derive(data_key, b"sbh owner"))

    def tag(self, kind: bytes, home: str, text: bytes) -> str:
        return hmac.digest(self.secret, b"\0".join((kind, home.encode(), text)), "sha256").hex()


@dataclass(frozen=True, slots=True)
class OwnerDocument:
    """What a repository says of its owner.

    Attributes:
        key_id: Names the catalog's key that made the tags.
        tag: Of the tenant's key.
        adopted: Of keys that the same tenant had before, as a platform administrator said.
        others: Backups in it that are of another tenant: they were there when the repository got its owner.
    """

    key_id: str
    tag: str
    adopted: Sequence[str] = ()
    others: Sequence[str] = ()

    @classmethod
    def of(
        cls, key: OwnerKey, home: str, tenant_key: str, adopted: Iterable[str] = (), others: Iterable[str] = ()
    ) -> "OwnerDocument":
        """`adopted`: keys in clear."""
        tags = sorted({key.tag(_ADOPTED, home, one.encode()) for one in adopted if one != tenant_key})
        return cls(key.id, key.tag(_OWNER, home, tenant_key.encode()), tags, sorted(others)[-MOST_OTHERS:])

    @classmethod
    def read(cls, document: object) -> "OwnerDocument | None":
        """What is stored as `document`; None where that is no such thing."""
        if not isinstance(document, dict):
            return None
        key_id, tag = document.get("key"), document.get("tag")
        lists = [document.get(name, []) for name in ("adopted", "others")]
        if not isinstance(key_id, str) or not isinstance(tag, str):
            return None
        if not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists):
            return None
        return cls(key_id, tag, *lists)

    def as_dict(self) -> dict[str, object]:
        found: dict[str, object] = {"key": self.key_id, "tag": self.tag}
        if self.adopted:
            found["adopted"] = list(self.adopted)
        if self.others:
            found["others"] = list(self.others)
        return found

    def says(self, key: OwnerKey | None, home: str, tenant_key: str) -> Ownership:
        if key is None or key.id != self.key_id:
            return Ownership.UNKNOWN
        same = hmac.compare_digest(
            key.tag(_OWNER, home, tenant_key.encode()).encode(), self.tag.encode("utf-8", "replace")
        )
        return Ownership.OWN if same or self.adopts(key, home, tenant_key) else Ownership.OTHER

    def adopts(self, key: OwnerKey | None, home: str, tenant_key: str) -> bool:
        """Whether this was a key of the same tenant before."""
        return (
            key is not None and key.id == self.key_id and key.tag(_ADOPTED, home, tenant_key.encode()) in self.adopted
        )


@dataclass(frozen=True, slots=True)
class FormerMark:
    """That a repository was put aside.

    Attributes:
        home: The name under which it lies.
        owners: Tags of the keys whose backups are in it.
    """

    home: str
    owners: frozenset[str]

    def is_of(self, key: OwnerKey, tenant_key: str) -> bool:
        return key.tag(_OWNER, self.home, tenant_key.encode()) in self.owners


def split_home(home: str) -> tuple[str, int] | None:
    """(slug, number) of a repository's name; None for what is no such name."""
    parts = _HOME.fullmatch(home)
    return (parts["slug"], int(parts["number"] or 1)) if parts else None


def home_name(slug: str, number: int) -> str:
    return slug if number == 1 else f"{slug}~{number}"


def former_key(home: str) -> str:
    return f"{FORMER}{home}.json"


def mark_body(key: OwnerKey, home: str, tenant_keys: Iterable[str], tags: Iterable[str], by: str, at: str) -> bytes:
    """What to store; `tags`: of owners whose keys nobody can tell any more."""
    owners = {key.tag(_OWNER, home, one.encode()) for one in tenant_keys} | set(tags)
    document: dict[str, object] = {"home": home, "key": key.id, "owners": sorted(owners), "put_aside_by": by, "at": at}
    return pretty({**document, "mac": key.tag(_MARK, home, canonical(document))})


def read_marks(
    store: ObjectStore,
    listed: Iterable[ObjectInfo],
    key: OwnerKey | None,
    prefix: str,
    known: Mapping[str, tuple[str | None, FormerMark | None]],
) -> Iterator[tuple[str, tuple[str | None, FormerMark | None]]]:
    """(key of the object, (its ETag, the mark; None for one that is not genuine)); `known`: what was read before."""
    for info in listed:
        before = known.get(info.key)
        if before is not None and before[0] == info.etag and before[1] is not None:
            yield info.key, before
            continue
        home = info.key[len(prefix + FORMER) :].removesuffix(".json")
        if key is None or split_home(home) is None:
            yield info.key, (info.etag, None)
            continue
        try:
            found = _mark(parse_document(store.get(info.key, most=SMALL_BYTES), store.url(info.key)), home, key)
        except (ObjectMissing, ObjectTooLarge, CorruptObject):
            found = None
        yield info.key, (info.etag, found)


def _mark(document: Mapping[str, Any], home: str, key: OwnerKey) -> FormerMark | None:
    bare = {name: value for name, value in document.items() if name != "mac"}
    mac, owners = document.get("mac"), document.get("owners")
    if document.get("home") != home or not isinstance(mac, str) or not isinstance(owners, list):
        return None
    if not hmac.compare_digest(key.tag(_MARK, home, canonical(bare)).encode(), mac.encode("utf-8", "replace")):
        return None
    return FormerMark(home, frozenset(str(tag) for tag in owners))


def slug_of(home: str) -> TenantId | None:
    """The slug whose repository has this name."""
    parts = split_home(home)
    return TenantId(parts[0]) if parts else None
