"""Is a trail whole? Every link is read, every event checked, and the end compared with what the head says.

Found are events that were removed (also the newest), changed, put in another order, inserted, or copied from another trail.
What is not found: a trail whose newest links *and* head were put back to an earlier state together, by somebody who can write
to both places and kept an old head. Object lock prevents that, and a note of an earlier end (`expect`) tells it.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import AuditBroken, CorruptObject, ObjectMissing
from sbh_pipelines.repository.bounds import EVENTS, most_bytes
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.trail.end import TrailEnd
from sbh_pipelines.repository.trail.event import (
    AUDIT_REMEDY,
    GENESIS,
    AuditEvent,
    Chain,
    distrust,
    hash_of,
    parse_event,
)
from sbh_pipelines.repository.trail.trail import Trail

_AHEAD = 16  # links asked for at once
_MOST_ISSUES = 100

EventSink = Callable[[AuditEvent], None]


@dataclass
class TrailCheck:
    """What is known of a trail once it was read.

    Attributes:
        chain: Whose trail.
        events: How many genuine events it has.
        links: How many objects.
        late: How many events were recorded late.
        seq: Number of the last genuine event.
        hash: Its hash.
        first_at: Time of the first event, UTC, ISO 8601.
        last_at: Time of the last event, UTC, ISO 8601.
        broken: How much is wrong.
        issues: What is wrong, the first hundred.
    """

    chain: Chain
    events: int = 0
    links: int = 0
    late: int = 0
    seq: int = 0
    hash: str = GENESIS
    first_at: str | None = None
    last_at: str | None = None
    broken: int = 0
    issues: list[AuditBroken] = field(default_factory=list)

    def found(self, what: str, why: str, *, seq: int | None = None, on: str = "") -> None:
        self.broken += 1
        if len(self.issues) < _MOST_ISSUES:
            place = ", ".join(p for p in (str(self.chain), f"seq {seq}" if seq is not None else "", on) if p)
            self.issues.append(AuditBroken(what, on=place, why=why, remedy=AUDIT_REMEDY))

    def take(self, event: AuditEvent, why: str) -> None:
        """The next event; `why` it is not to be believed by itself, if it is not."""
        seq = event.seq
        if why:
            self.found("An audit event is not genuine", why, seq=seq)
            return  # what follows is held against the last genuine one
        expected = self.seq + 1
        if seq > expected:
            gone = f"{expected}" if seq == expected + 1 else f"{expected} to {seq - 1}"
            self.found("Audit events are missing", f"{gone}: removed, or not genuine", seq=expected)
        elif seq < expected:
            self.found("An audit event is out of its place", "it comes after a later one: moved, or inserted", seq=seq)
            return
        elif event.prev != self.hash:
            self.found("An audit event does not follow the one before it", "that one was exchanged", seq=seq)
        self.seq, self.hash = seq, event.hash
        self.events += 1
        self.late += bool(event.props.get("late"))
        self.first_at, self.last_at = self.first_at or event.at, event.at


def check_trail(trail: Trail, seen: EventSink, expect: tuple[int, str] | None = None) -> TrailCheck:
    """Read all of it; `seen` is given each genuine event in order. `expect`: an event (seq, hash) noted earlier.

    Raises the store's and the key provider's errors; what is wrong with the trail is in the result.
    """
    result = TrailCheck(trail.chain)
    head = _head(trail, result)  # before the links are listed: those that come later are beyond it
    numbers = _numbers(trail, result)
    noted = {expect[0]: expect[1]} if expect else {}
    if not numbers and head is None and not noted:
        return result  # and its key is not made for this
    key = trail.key
    if head is not None and head.seq:
        noted.setdefault(head.seq, head.hash)
    met: set[int] = set()
    before = 0
    for number, body in _bodies(trail, numbers):
        place = trail.link_key(number)
        if number != before + 1:
            gone = f"{before + 1}" if number == before + 2 else f"{before + 1} to {number - 1}"
            result.found("Objects of the audit trail are missing", f"number {gone}: removed", on=place)
        before = number
        if body is None:
            result.found("An object of the audit trail is missing", "removed while it was read", on=place)
            continue
        if isinstance(body, CorruptObject):
            result.found(body.what, body.why, on=place)
            continue
        result.links += 1
        for event in _events(body, place, result):
            why = distrust(event, trail.chain, key)
            last = result.seq
            result.take(event, why)
            if result.seq > last and result.hash == event.hash:
                seen(event)
                if event.seq in noted:
                    met.add(event.seq)
                    if noted[event.seq] != event.hash:
                        result.found("An audit event is another than it was", "its hash was noted", seq=event.seq)
    for seq in sorted(noted.keys() - met):
        why = f"the trail ends at {result.seq}: cut" if seq > result.seq else "removed"
        result.found("The audit trail lacks an event that was there", why, seq=seq)
    if head is None and len(numbers) > 1:  # a writer that is killed at the first link leaves that one alone
        result.found("The head of the audit trail is gone", "removed: the newest events may be as well")
    return result


def check_lines(lines: Iterator[bytes], seen: EventSink) -> TrailCheck:
    """An exported trail, without any key: whether each event's hash is right and follows the one before."""
    result: TrailCheck | None = None
    for text in lines:
        event = parse_event(text, "the file")
        if result is None:
            result = TrailCheck(event.chain)
            result.seq, result.hash = event.seq - 1, event.prev  # an export may begin anywhere
        why = distrust_without_key(event, result.chain)
        result.take(event, why)
        seen(event)
    if result is None:
        raise CorruptObject("No audit events", on="the file", remedy="export it again: `sbh audit export`")
    return result


def distrust_without_key(event: AuditEvent, chain: Chain) -> str:
    """Why the event is not to be believed, its signature not looked at; '' where nothing speaks against it."""
    if hash_of(event) != event.hash:
        return "its content does not match its hash: changed"
    return "" if event.chain == chain else "of another trail"


def _head(trail: Trail, result: TrailCheck) -> TrailEnd | None:
    try:
        return trail.read_head()
    except CorruptObject as error:
        result.found(error.what, error.why, on=error.on)
        return TrailEnd()


def _numbers(trail: Trail, result: TrailCheck) -> Sequence[int]:
    found = array("Q")
    for key, number in trail.numbers():
        if number is None or number == 0:
            result.found("Not an object of the audit trail", "inserted", on=ascii(key[-200:])[1:-1])
        else:
            found.append(number)
    return array("Q", sorted(found))


def _bodies(trail: Trail, numbers: Sequence[int]) -> Iterator[tuple[int, bytes | CorruptObject | None]]:
    """In order, some asked for ahead; None for one that is gone by now, an error for one that was not read."""

    def get(number: int) -> bytes | CorruptObject | None:
        try:
            return trail.store.get(trail.link_key(number), most_bytes(Keys.AUDIT))
        except ObjectMissing:
            return None
        except CorruptObject as error:  # far larger than any of ours
            return error

    return zip(numbers, streamed(get, numbers, name="audit", threads=_AHEAD, ahead=_AHEAD + 1), strict=True)


def _events(body: bytes, place: str, result: TrailCheck) -> Iterator[AuditEvent]:
    if body.count(b"\n") > EVENTS:
        result.found("An object of the audit trail has too many lines", "overwritten", on=place)
        return
    lines = body.splitlines()
    if not lines:
        result.found("An object of the audit trail is empty", "overwritten", on=place)
    for text in lines:
        try:
            yield parse_event(text, place)
        except CorruptObject as error:
            result.found(error.what, error.why, on=place)
