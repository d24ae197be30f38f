"""Events of an audit trail as bytes: one line of JSON each, chained by hashes, signed under a key that no bucket holds.

An event's `hash` is SHA-256 over the line without `hash` and `signature`; its `prev` is the hash of the event before it, and
its `signature` is an HMAC over the hash. The lines alone suffice to follow the chain, and only the catalog's data key
makes a line that is believed. docs/format.md, *Audit trail*, is the prose.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from sbh_pipelines.document import optional
from sbh_pipelines.errors import CorruptObject, RequestError
from sbh_pipelines.repository.bounds import EVENTS, parse_json
from sbh_pipelines.repository.seal import derive

VERSION = 1
GENESIS = "0" * 64  # `prev` of the first event
PLATFORM = "*"  # the tenant of events that belong to none
AT_COPY = "*@"  # and a copy's name: the tenant of events of what was done at that copy
INNER = "backup"  # the source of events that this program records itself
MAX_PROPS = 64 << 10  # bytes of one event's props, as JSON
_LONGEST_USER = 256
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}(\.[a-z][a-z0-9_]{0,31}){1,3}")
_SECRET = re.compile(r"passw|secret|token|authorization|credential|dsn|api_?key|private_?key", re.IGNORECASE)
WITHHELD = "(withheld)"


def trail_name(tenant_id: str) -> str:
    """Whose trail it is, in words."""
    if tenant_id.startswith(AT_COPY):
        return f"work at the copy {tenant_id.removeprefix(AT_COPY)}"
    return "the platform" if tenant_id == PLATFORM else tenant_id


@dataclass(frozen=True, slots=True)
class Chain:
    """Whose events these are. The region is part of it: a trail does not move.

    Attributes:
        tenant_id: The tenant; `*` for the platform; `*@NAME` for what was done at the copy of that name.
        region: Where the trail lies; of a copy's, the region whose copy it is.
    """

    tenant_id: str
    region: str

    def __str__(self) -> str:
        return f"{trail_name(self.tenant_id)} in {self.region}"


@dataclass(frozen=True, slots=True)
class AuditKey:
    """What signs events: derived from the catalog's data key of the region. `id` names it and reveals nothing."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, data_key: bytes) -> "AuditKey":
        return cls(derive(data_key, b"sbh audit id")[:4].hex(), derive(data_key, b"sbh audit"))

    def sign(self, kind: bytes, message: bytes) -> str:
        return hmac.new(self.secret, kind + b"\0" + message, hashlib.sha256).hexdigest()

    def signed(self, kind: bytes, message: bytes, signature: str) -> bool:
        return signature.isascii() and hmac.compare_digest(self.sign(kind, message), signature)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be recorded; sequence, time and chain come when it is written.

    Attributes:
        event: Its name, noun.verb.
        user_id: Who did it.
        source: What did it: `backup` is this program.
        via: Through which face: python, cli, api, console, dagster.
        props: What else is to be known of it; JSON.
    """

    event: str
    user_id: str
    source: str
    via: str
    props: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event as it is stored; the fields are in the order of the stored line.

    Attributes:
        at: Time at which it was recorded, UTC, ISO 8601 with microseconds.
        event: Its name, noun.verb.
        hash: Hex SHA-256 over all of it but `hash` and `signature`.
        id: Random, 16 hex digits.
        key: Names the key that signed it.
        prev: Hash of the event before it.
        props: What else is to be known of it.
        region: The region of its trail.
        seq: Its number in the trail, from 1.
        signature: HMAC over the hash.
        source: What did it: `backup` is this program.
        tenant_id: The tenant of its trail; `*` is the platform.
        user_id: Who did it.
        v: Version of the format.
        via: Through which face: python, cli, api, console, dagster, analytics.
        unknown: Fields that this release does not know; no genuine event has any.
    """

    at: str
    event: str
    hash: str
    id: str
    key: str
    prev: str
    props: Mapping[str, Any]
    region: str
    seq: int
    signature: str
    source: str
    tenant_id: str
    user_id: str
    v: int
    via: str
    unknown: Mapping[str, object] | None = optional()

    @property
    def chain(self) -> Chain:
        """The trail that it says it is of."""
        return Chain(self.tenant_id, self.region)

    @property
    def inner(self) -> bool:
        """Whether this program recorded it of itself; else it is the application's word."""
        return self.source == INNER and self.via != "analytics"

    def document(self) -> dict[str, object]:
        """What its line says."""
        return {**{name: getattr(self, name) for name in _TYPES}, **(self.unknown or {})}


_TYPES = {of.name: {"props": dict, "seq": int, "v": int}.get(of.name, str) for of in fields(AuditEvent)[:-1]}


def entry_of(event: str, user_id: str, source: str, via: str, props: Mapping[str, object]) -> Entry:
    """An entry whose props are JSON and hold no value under a name that smells of a secret. Raises RequestError."""
    if not _NAME.fullmatch(event):
        raise RequestError("Not the name of an event", on=ascii(event)[:64], remedy="noun.verb, e.g. backup.created")
    try:
        plain = json.loads(json.dumps(_withheld(props), default=str, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError("The props of an event are not JSON", on=event, why=str(error)[:200]) from None
    if len(line(plain)) > MAX_PROPS:
        raise RequestError("The props of an event are too large", on=event, remedy=f"at most {MAX_PROPS:,} bytes")
    return Entry(event, str(user_id)[:_LONGEST_USER], str(source)[:64], str(via)[:64], plain)


def _withheld(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): WITHHELD if _SECRET.search(str(k)) else _withheld(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_withheld(v) for v in value]
    return value


def line(document: Any) -> bytes:
    """Sorted keys, no white space, ASCII only, so that every language makes the same bytes of it."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def chained(entry: Entry, chain: Chain, key: AuditKey, seq: int, prev: str, at: datetime) -> AuditEvent:
    """The event as it is stored."""
    event = AuditEvent(
        at=at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        event=entry.event,
        hash="",
        id=secrets.token_hex(8),
        key=key.id,
        prev=prev,
        props=dict(entry.props),
        region=chain.region,
        seq=seq,
        signature="",
        source=entry.source,
        tenant_id=chain.tenant_id,
        user_id=entry.user_id,
        v=VERSION,
        via=entry.via,
    )
    digest = hash_of(event)
    return replace(event, hash=digest, signature=key.sign(b"event", digest.encode()))


def hash_of(event: AuditEvent) -> str:
    """Hex SHA-256 over the event without its hash and signature."""
    document = event.document()
    return hashlib.sha256(line({k: v for k, v in document.items() if k not in ("hash", "signature")})).hexdigest()


def parse_event(text: bytes, on: str) -> AuditEvent:
    """An event of the right shape, nothing of it believed yet. Raises CorruptObject."""
    try:
        document = parse_json(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or any(type(document.get(name)) is not kind for name, kind in _TYPES.items()):
        raise CorruptObject("Not an audit event", on=on, why="overwritten or cut short", remedy=AUDIT_REMEDY)
    known = {name: document.pop(name) for name in _TYPES}
    return AuditEvent(**known, unknown=document or None)


def distrust(event: AuditEvent, chain: Chain, key: AuditKey) -> str:
    """Why the event is not to be believed, taken by itself; '' where it is genuine."""
    if event.v != VERSION:
        return f"it is of version {event.v}: changed, or written by a newer release"
    try:
        genuine = hmac.compare_digest(hash_of(event), event.hash)
    except (TypeError, ValueError):  # not ASCII: no hash of ours
        genuine = False
    if not genuine:
        return "its content does not match its hash: changed"
    if event.key != key.id:
        return (
            f"it was signed with the key {event.key[:16]!r}, and the catalog's is {key.id}: forged, or the key is lost"
        )
    if not key.signed(b"event", event.hash.encode(), event.signature):
        return "its signature is wrong: forged"
    if event.chain != chain:
        return f"it is an event of {Chain(event.tenant_id[:128], event.region[:64])}: copied from there"
    return ""


def read_events(body: bytes, chain: Chain, key: AuditKey, on: str) -> list[AuditEvent]:
    """The genuine, consecutive events of one object. Raises CorruptObject."""
    if body.count(b"\n") > EVENTS:
        raise CorruptObject("An object of the audit trail has too many lines", on=on, remedy=AUDIT_REMEDY)
    events = [parse_event(text, on) for text in body.splitlines()]
    if not events:
        raise CorruptObject("An object of the audit trail is empty", on=on, remedy=AUDIT_REMEDY)
    last: AuditEvent | None = None
    for event in events:
        why = distrust(event, chain, key)
        if not why and last is not None and (event.seq, event.prev) != (last.seq + 1, last.hash):
            why = "it does not follow the event before it"
        if why:
            raise CorruptObject("An audit event is not genuine", on=f"{on}, seq {event.seq}", why=why)
        last = event
    return events


def body_of(events: Sequence[AuditEvent]) -> bytes:
    return b"".join(line(event.document()) + b"\n" for event in events)


AUDIT_REMEDY = "see who can write to the bucket, and look for the object's older versions; run `sbh audit verify`"
