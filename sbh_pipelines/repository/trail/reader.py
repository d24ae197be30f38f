"""The newest events first, link by link: what lists and reports read. A link that cannot be believed is told, not hidden."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError
from sbh_pipelines.model import parse_timestamp
from sbh_pipelines.repository.trail.event import AuditEvent
from sbh_pipelines.repository.trail.trail import Trail

_AHEAD = 8
CLOCKS = timedelta(hours=1)  # machines' clocks may differ by this: so far beyond `since` a reader still looks


@dataclass(frozen=True, slots=True)
class Link:
    """One object of a trail.

    Attributes:
        number: Its number.
        events: Its events, oldest first.
        error: Why it cannot be believed; then there are no events.
    """

    number: int
    events: Sequence[AuditEvent]
    error: SbhError | None = None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are asked for.

    Attributes:
        event: Pattern of names: `restore.*`.
        since: Only events recorded at this time or later.
        until: Only events recorded before this time.
        user: Only what this user did.
    """

    event: str = "*"
    since: datetime | None = None
    until: datetime | None = None
    user: str | None = None

    def fits(self, event: AuditEvent) -> bool:
        if self.user is not None and event.user_id != self.user:
            return False
        at = parse_timestamp(event.at)
        if (self.since and at < self.since) or (self.until and at >= self.until):
            return False
        return fnmatchcase(event.event, self.event)

    def over(self, link: Link) -> bool:
        """Whether nothing wanted can come any more, going back from this link."""
        if self.since is None or not link.events:
            return False
        return parse_timestamp(link.events[-1].at) < self.since - CLOCKS


def backwards(trail: Trail, start: int | None = None) -> Iterator[Link]:
    """All links from number `start`, or the newest, down to the first."""
    last = trail.last_link()
    if start is not None:  # comes from outside, and may be any number
        last = min(last, start)

    def read(number: int) -> Link:
        try:
            return Link(number, trail.read_link(number))
        except (CorruptObject, ObjectMissing) as error:
            return Link(number, [], error)

    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="audit") as pool:
        ahead: deque[Future[Link]] = deque()
        next_number, window = last, 1  # a reader that needs the newest only asks for little more
        while next_number > 0 or ahead:
            while next_number > 0 and len(ahead) < window:
                ahead.append(pool.submit(read, next_number))
                next_number -= 1
            window = min(window * 2, _AHEAD)
            yield ahead.popleft().result()


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events of a trail, the newest first.

    Attributes:
        events: The events.
        following: Where the next page begins, (link, seq); None on the last one.
        damages: Why links were left out.
    """

    events: Sequence[AuditEvent]
    following: tuple[int, int] | None
    damages: Sequence[SbhError]


def page(trail: Trail, wanted: EventFilter, limit: int, cursor: tuple[int, int] | None) -> EventPage:
    """At most `limit` events, from `cursor` on."""
    found: list[AuditEvent] = []
    damages: list[SbhError] = []
    for link in backwards(trail, cursor[0] if cursor else None):
        if link.error is not None:
            damages.append(link.error)
        for event in reversed(link.events):
            if cursor and event.seq >= cursor[1]:
                continue
            if wanted.fits(event):
                if len(found) == limit:
                    return EventPage(found, (link.number, found[-1].seq), damages)
                found.append(event)
        if wanted.over(link):
            break
    return EventPage(found, None, damages)
