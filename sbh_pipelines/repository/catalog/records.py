"""What catalog objects say, and how it merges. No I/O.

The plaintext of a catalog object is lines: a JSON header; then blocks, each a JSON line with a recovery point and the
tenants recorded at it by backup, followed by `slug <tab> state` for those of its tenants whose state is known. States stay
text until somebody asks for them, so that merging ten thousand tenants parses none.

Merging takes, per tenant, the latest record and the latest state by what they say, never by where they were found. The
order of objects therefore means nothing, and an object that was merged already changes nothing.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import datetime
from typing import Any, Self

from sbh_pipelines.errors import CorruptObject, FormatUnsupported
from sbh_pipelines.model import BackupId, RecoveryPoint, TenantId, parse_timestamp

CATALOG_VERSION = 1
OBJECT_BYTES = 4 << 20  # of plaintext, after which an object is ended
_BLOCK_TENANTS = 1024
_BLOCK_BYTES = 1 << 20

# Time first: transaction ids begin anew in a restored or replaced cluster. `made` is false for an unchanged record.
_Key = tuple[datetime, int, int, tuple[Any, ...], bool]


@dataclass(frozen=True, slots=True)
class TenantState:
    """What the next tick compares a tenant with.

    Attributes:
        seed: Which seed the hashes of keys were made with.
        tables: Rows, key hash and definition of each table, by its full name.
        files: Fingerprint of the files; None where it does not tell.
        owner: The tenant's key in the application; None where the release did not record it.
        lease: ETag that the lease of the backup's writer has since it was released; None where it is not known.
        crowded: Whether one page of a listing was found not to hold the tenant's files and its repository.
    """

    seed: str | None
    tables: Mapping[str, Sequence[int | str | None]]
    files: str | None
    owner: str | None = None
    lease: str | None = None
    crowded: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError. What is missing compares with nothing."""
        fields = json.loads(text)
        seed, tables = fields.get("seed"), fields.get("tables", {})
        return cls(
            seed,
            tables,
            fields.get("files"),
            fields.get("owner"),
            fields.get("lease"),
            fields.get("crowded") is True,
        )


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """What the catalog says of a tenant.

    Attributes:
        tenant: The name of the tenant's repository, which is its slug unless earlier tenants had that.
        backup_id: The backup that describes it at `point`.
        point: The latest recovery point at which the two were known to be equal.
        state: What the next tick compares with; None where it is not known, and the tenant must be compared with its own
            repository.
        unchanged: Whether a tick found it unchanged and wrote no backup.
    """

    tenant: TenantId
    backup_id: BackupId
    point: RecoveryPoint
    state: TenantState | None
    unchanged: bool = False

    def may_be_of(self, tenant_key: str) -> bool:
        """Whether it does not say that it is of a tenant with another key."""
        owner = self.state.owner if self.state is not None else None
        return owner is None or not tenant_key or owner == tenant_key

    def is_surely_of(self, tenant_key: str) -> bool:
        return self.state is not None and self.state.owner == tenant_key


class MergedRecords:
    """The latest of everything added, per tenant. About a KiB of memory for each, most of it the state as text."""

    def __init__(self) -> None:
        self._points: dict[_Key, RecoveryPoint] = {}
        self._latest: dict[str, _Key] = {}
        self._backups: dict[str, str] = {}
        self._states: dict[str, tuple[_Key, str, str]] = {}  # (of which record, of which backup, JSON)
        self._newest: _Key | None = None

    def add(self, blocks: "Iterable[Block]") -> None:
        for block in blocks:
            self._add_tenants(block.key, block.point, block.tenants)
            for slug, text in block.states.items():
                state = (block.key, block.tenants[slug], text)
                if slug not in self._states or state > self._states[slug]:
                    self._states[slug] = state

    def _add_tenants(self, key: _Key, point: RecoveryPoint, tenants: Mapping[str, str]) -> None:
        if not tenants:
            return
        self._points[key] = point
        if self._newest is None or key > self._newest:  # nearly always: objects are added oldest first
            self._newest = key
            self._backups.update(tenants)
            self._latest.update(dict.fromkeys(tenants, key))
            return
        for slug, backup in tenants.items():
            if slug not in self._latest or (key, backup) > (self._latest[slug], self._backups[slug]):
                self._latest[slug], self._backups[slug] = key, backup

    def records(self, only: Collection[TenantId] | None = None, *, brief: bool = False) -> dict[TenantId, TenantRecord]:
        """By tenant; with `only`, of those tenants. `brief`: of a state no more than whose it is."""
        found = {}
        for slug in self._latest if only is None else only:
            if slug not in self._latest:
                continue
            key, text = self._latest[slug], self._state(slug)
            tenant, backup = TenantId(slug), BackupId(self._backups[slug])
            state = None if text is None else TenantState.parse(text)
            if brief and state is not None:
                state = TenantState(None, {}, None, state.owner)
            found[tenant] = TenantRecord(tenant, backup, self._points[key], state, unchanged=not key[-1])
        return found

    def blocks(self) -> "Iterator[Block]":
        """What was merged, as few blocks, oldest first."""
        groups: dict[_Key, dict[str, str]] = {}
        for slug, key in self._latest.items():
            groups.setdefault(key, {})[slug] = self._backups[slug]
        for key in sorted(groups):
            states = {slug: text for slug in groups[key] if (text := self._state(slug)) is not None}
            yield Block(key, self._points[key], groups[key], states)

    def knows(self, slug: str) -> bool:
        return slug in self._latest or slug in self._states

    def drop(self, slugs: Collection[str]) -> None:
        """Forget everything about these tenants."""
        for slug in slugs:
            for known in (self._latest, self._backups, self._states):
                known.pop(slug, None)

    def _state(self, slug: str) -> str | None:
        _, backup, text = self._states.get(slug, (None, None, None))
        return text if backup == self._backups[slug] else None


@dataclass(frozen=True, slots=True)
class Block:
    """Records of one recovery point and kind.

    Attributes:
        key: By which blocks are ordered, the latest last.
        point: The recovery point.
        tenants: The backup of each tenant.
        states: The states of some of them, as JSON.
    """

    key: _Key
    point: RecoveryPoint
    tenants: Mapping[str, str]
    states: Mapping[str, str]


def blocks_of(
    made: Iterable[TenantRecord], unchanged: Mapping[TenantId, BackupId], point: RecoveryPoint | None
) -> Iterator[Block]:
    groups: dict[tuple[RecoveryPoint, bool], tuple[dict[str, str], dict[str, str]]] = {}
    for record in made:
        tenants, states = groups.setdefault((record.point, not record.unchanged), ({}, {}))
        tenants[record.tenant] = record.backup_id
        if record.state is not None:
            states[record.tenant] = json.dumps(
                _state_fields(record.state), separators=(",", ":"), sort_keys=True, allow_nan=False
            )
    if unchanged:
        if point is None:
            raise ValueError("unchanged tenants need the recovery point at which they were found so")
        tenants, _ = groups.setdefault((point, False), ({}, {}))
        tenants.update({str(slug): str(backup) for slug, backup in unchanged.items()})
    for (at, is_made), (tenants, states) in groups.items():
        yield Block(_key(at, is_made), at, tenants, states)


def _state_fields(state: TenantState) -> dict[str, Any]:
    optional = ("owner", "lease", "crowded")
    return {name: value for name, value in asdict(state).items() if name not in optional or value not in (None, False)}


def pack_blocks(blocks: Iterable[Block], region: str) -> Iterator[bytes]:
    """Plaintexts of catalog objects that together say all of it."""
    header = json.dumps({"version": CATALOG_VERSION, "region": region})
    lines, size = [header], 0
    for block in blocks:
        for part in _parts(block):
            lines += part
            size += sum(map(len, part))
            if size >= OBJECT_BYTES:
                yield "\n".join(lines).encode()
                lines, size = [header], 0
    if size:
        yield "\n".join(lines).encode()


def _parts(block: Block) -> Iterator[list[str]]:
    """The lines of a block, or of several where it is large."""
    tenants: dict[str, str] = {}
    states: list[str] = []
    size = 0
    for slug, backup in block.tenants.items():
        tenants[slug] = backup
        if slug in block.states:
            states.append(f"{slug}\t{block.states[slug]}")
            size += len(states[-1])
        if len(tenants) >= _BLOCK_TENANTS or size >= _BLOCK_BYTES:
            yield [_head(block, tenants), *states]
            tenants, states, size = {}, [], 0
    if tenants:
        yield [_head(block, tenants), *states]


def _head(block: Block, tenants: Mapping[str, str]) -> str:
    recorded = "backup" if block.key[-1] else "unchanged"
    backups: dict[str, list[str]] = {}
    for slug, backup in tenants.items():
        backups.setdefault(backup, []).append(slug)
    document = {"point": asdict(block.point), "recorded": recorded, "backups": backups}
    return json.dumps(document, separators=(",", ":"))


def unpack_blocks(plain: bytes, region: str, on: str) -> list[Block]:
    """Raises CorruptObject, FormatUnsupported; all of an object is believed, or nothing."""
    try:
        head, *lines = plain.decode("ascii").split("\n")
        header = json.loads(head)
        if header["version"] > CATALOG_VERSION:
            raise FormatUnsupported("A catalog object is of a newer format", on=on)
        if header["region"] != region:
            raise ValueError("region")
        blocks: list[Block] = []
        tenants: dict[str, str] = {}
        states: dict[str, str] = {}
        for line in lines:
            if line.startswith("{"):
                document = json.loads(line)
                point = RecoveryPoint.from_dict(document["point"])
                key = _key(point, {"backup": True, "unchanged": False}[document["recorded"]])
                if not blocks or blocks[-1].key != key:  # else: another part of the block before
                    tenants, states = {}, {}
                    blocks.append(Block(key, point, tenants, states))
                for backup, slugs in document["backups"].items():
                    tenants.update(dict.fromkeys(slugs, backup))
            else:
                slug, state = line.split("\t")
                if slug not in tenants:
                    raise ValueError("a state without its tenant")
                states[slug] = state
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"its content is not that of a catalog: {type(error).__name__}"
        raise CorruptObject("A catalog object is damaged", on=on, why=why) from None
    return blocks


def _key(point: RecoveryPoint, made: bool) -> _Key:
    moment, (xmin, xmax, _) = parse_timestamp(point.time), point.snapshot.split(":", 2)
    if moment.tzinfo is None:
        raise ValueError("a recovery point without a time zone")
    return (moment, int(xmin), int(xmax), astuple(point), made)
