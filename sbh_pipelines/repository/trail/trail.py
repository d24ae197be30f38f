"""The audit trail of a tenant, or of the platform in a region: appended to, never changed.

Events lie in numbered objects ("links"), each made by one create-only put: `audit/000000000001.jsonl`, … Several events may
share a link. The next link's number is what writers compete for; who loses reads what the winner wrote, chains to that, and
tries again. So there is one order, agreed upon by all processes, without a lock.

Where the end is, a small signed object tells, the *head*, in the catalog's place and not the tenant's: it costs a writer one
request to find the end and one to move the head. It is a hint: a create-only put proves or refutes it. But as it only ever
moves on, a trail that ends before its head was cut. A writer that remembers the head of its last event begins there without
reading it (`expect`); where somebody was faster, it is read then. Who serves many requests has heads moved behind the answers
(`catch_up`), a moment after the events are durable, and once for all that came meanwhile.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from sbh_pipelines.errors import CorruptObject, ObjectChanged, ObjectExists, ObjectMissing, SbhError, StoreUnavailable
from sbh_pipelines.model import Clock
from sbh_pipelines.repository.bounds import HEAD_BYTES, all_below, most_bytes
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.trail.end import HeadSeen, TrailEnd
from sbh_pipelines.repository.trail.event import (
    AUDIT_REMEDY,
    PLATFORM,
    VERSION,
    AuditEvent,
    AuditKey,
    Chain,
    Entry,
    body_of,
    chained,
    entry_of,
    line,
    read_events,
)
from sbh_pipelines.stores.base import ObjectStore

DAMAGED = "audit.damaged"
_GROUP = 256  # most calls that share a link
_MOST_DAMAGED = 1000  # links in a row that are not genuine
_LISTED_FROM = 4096  # links beyond the known end, from which on it is looked whether there is a gap among them
_TRIES = 500  # each lost one is somebody else's event written

Build = Callable[[TrailEnd], Sequence[Entry]]


class _Append:
    """One caller's events, waiting to be written with those of others."""

    __slots__ = ("build", "done", "error", "may_lag")

    def __init__(self, build: Build, may_lag: bool) -> None:
        self.build, self.may_lag, self.done = build, may_lag, False
        self.error: BaseException | None = None


class Trail:
    """Use `append`. Thread-safe: simultaneous calls share one link. `create` stores a link, perhaps under a lock."""

    def __init__(
        self,
        chain: Chain,
        store: ObjectStore,
        folder: str,
        heads: ObjectStore,
        head_key: str,
        key: Callable[[], AuditKey],
        clock: Clock,
        create: Callable[[str, bytes], object] | None = None,
        behind: Callable[["Trail"], bool] | None = None,
    ) -> None:
        """`behind` is told that the head is behind, and says whether `catch_up` will be called soon; else an append moves it."""
        self.chain, self.store, self.folder = chain, store, folder
        self._heads, self._head_key = heads, head_key
        self._key, self._clock = key, clock
        self._create = create or store.create
        self._behind = behind
        self._waiting: list[_Append] = []
        self._turn = threading.Condition()
        self._writing = False  # one of the callers is at it, for all that waited when it began
        self._end: TrailEnd | None = None
        self._head_etag: str | None = None
        self._head_link = 0  # which link the head of this ETag names
        self._unproved = False  # the end is what another process left, and the head was neither read nor replaced since
        self._damaged: tuple[Entry, ...] = ()  # what the next link is to say of links that cannot be read

    @property
    def key(self) -> AuditKey:
        return self._key()

    def link_key(self, link: int) -> str:
        return f"{self.folder}{link:012d}.jsonl"

    # writing

    def seen(self) -> HeadSeen | None:
        """What is known of the head, for the next writer; None where it is behind the trail, or not known."""
        with self._turn:
            end, etag = self._end, self._head_etag
            if self._writing or end is None or etag is None or end.link != self._head_link or self._damaged:
                return None
        return HeadSeen.of(self.chain, end, etag, self.key)

    def expect(self, head: HeadSeen) -> None:
        """Begin where another process left off, unless this one knows a later end.

        Only where the store is known to refuse a replacement whose condition does not hold: by that it shows that somebody moved
        the head since. Until then the head moves with each event, and is read where it could not be moved.
        """
        if not head.is_genuine(self.chain, self.key):
            return
        with self._turn:
            self._turn.wait_for(lambda: not self._writing)
            known = self._end.link if self._end is not None else 0
            if head.end.link > known and not self._damaged:
                self._end, self._head_etag, self._head_link = head.end, head.etag, head.end.link
                self._unproved = True

    def append(self, build: Build, *, may_lag: bool = False) -> None:
        """Record what `build` returns; durable when it returns. `may_lag`: the head may be moved a moment later.

        `build` is given the true end of the trail and may be called again if somebody else is faster; [] writes nothing.
        Raises the store's and the key provider's errors: then nothing was recorded.
        """
        call = _Append(build, may_lag)
        with self._turn:
            self._waiting.append(call)
            while True:
                self._turn.wait_for(lambda: call.done or not self._writing)
                if call.done:  # the writer before took it along
                    break
                group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
                self._writing = True
                self._turn.release()
                try:
                    self._write_group(group)
                finally:
                    self._turn.acquire()
                    self._writing = False
                    self._turn.notify_all()
        if call.error is not None:
            raise call.error

    def catch_up(self) -> None:
        """Move the head to where the trail ends; appends wait meanwhile. Raises the store's errors."""
        with self._turn:
            self._turn.wait_for(lambda: not self._writing)
            self._writing = True
        try:
            if self._end is not None and not self._damaged:  # what is damaged is told of first
                self._move_head(self._end)
        finally:
            with self._turn:
                self._writing = False
                self._turn.notify_all()

    def _write_group(self, group: list[_Append]) -> None:
        try:
            self._write(group)
        except BaseException as error:
            for call in group:
                call.error = call.error or error
        finally:
            for call in group:
                call.done = True

    def _write(self, group: list[_Append]) -> None:
        for _ in range(_TRIES):
            events, end = self._events(group, self._end or self._begin_at(*self._told()))
            if not events:
                return
            body, key = body_of(events), self.link_key(end.link)
            try:
                self._create(key, body)
            except ObjectExists:
                if not self._is_ours(key, body):
                    self._go_on()
                    continue
            except StoreUnavailable:
                if not self._is_there(key, body):
                    raise
            # An end that nothing proved holds once the head could be moved to it.
            self._end, self._damaged = None if self._unproved else end, ()
            # The events are written. A head that lags is brought up to date by the next append.
            # Two links without any head look cut.
            may_lag = self._end is not None and self._head_etag is not None and all(call.may_lag for call in group)
            if may_lag and self._behind is not None and self._behind(self):
                return
            with suppress(SbhError):
                self._move_head(end)
            return
        raise StoreUnavailable("The audit trail could not be appended to", on=str(self.chain), why="others were faster")

    def _events(self, group: list[_Append], end: TrailEnd) -> tuple[list[AuditEvent], TrailEnd]:
        events: list[AuditEvent] = []
        end, key, now = replace(end, link=end.link + 1), self.key, self._clock()

        def add(entry: Entry) -> None:
            nonlocal end
            event = chained(entry, self.chain, key, end.seq + 1, end.hash, now)
            end = end.after(event)
            events.append(event)

        for damaged in self._damaged:
            add(damaged)
        first = len(events)
        for call in group:
            if call.error is None:
                try:
                    for entry in call.build(end):
                        add(entry)
                except Exception as error:
                    call.error = error
        return (events, end) if len(events) > first else ([], end)

    def _is_ours(self, key: str, body: bytes) -> bool:
        """The answer to our own put was lost, and it was repeated."""
        try:
            return self.store.get(key, most_bytes(Keys.AUDIT)) == body
        except (ObjectMissing, CorruptObject):  # the second: far larger than any of ours
            return False

    def _is_there(self, key: str, body: bytes) -> bool:
        """A put that was reported as failed took effect all the same."""
        try:
            return self._is_ours(key, body)
        except SbhError:
            return False

    def _go_on(self) -> None:
        """Somebody wrote after the end that was known: go to where the head is, or else to what links there are beyond it."""
        assert self._end is not None
        told, etag = self._told()
        if told.link > self._end.link:  # one request, however many links others wrote meanwhile
            self._begin_at(told, etag)
        else:
            self._end, self._unproved = self._caught_up(self._end), False

    def _caught_up(self, end: TrailEnd) -> TrailEnd:
        """The end as it is now: there is a link after `end`. Reads the links after it, back to what `end` has to know."""
        last = self._last_link(end.link + 1)
        damaged: list[int] = []
        mark, found = "", end
        platform = self.chain.tenant_id == PLATFORM
        for link in range(last, end.link, -1):
            try:
                events = self.read_link(link)
            except (CorruptObject, ObjectMissing):
                if found is end:
                    damaged.append(link)
                    if len(damaged) == _MOST_DAMAGED:  # put there to be read for ever: go on behind them all
                        break
                continue
            reached = TrailEnd()
            for event in events:
                reached = reached.after(event)
            if found is end:
                found = reached
            mark = mark or (reached.policy if platform else reached.backups_to)
            if mark:
                break
        self._damaged = tuple(
            entry_of(DAMAGED, "sbh", "backup", "trail", {"object": self.link_key(link)}) for link in sorted(damaged)
        )
        backups_to, policy = (end.backups_to, mark or end.policy) if platform else (mark or end.backups_to, end.policy)
        return TrailEnd(last, found.seq, found.hash, backups_to, policy)

    def _last_link(self, known: int) -> int:
        """The greatest number of the links that follow one another from `known`, which is there."""
        first, step = known, 1
        while self._exists(known + step):
            known += step
            step *= 2
        while step > 1:
            step //= 2
            if self._exists(known + step):
                known += step
        return known if known - first < _LISTED_FROM else self._last_of_a_row(first)

    def _last_of_a_row(self, first: int) -> int:
        """The same by a listing: a few objects at chosen numbers look like a long row to who asks for some of them only."""
        numbers = sorted(number for _, number in self.numbers() if number is not None and number >= first)
        return next(
            (first + at - 1 for at, number in enumerate(numbers) if number != first + at), first + len(numbers) - 1
        )

    def _exists(self, link: int) -> bool:
        try:
            self.store.head(self.link_key(link))
        except ObjectMissing:
            return False
        return True

    # the head

    def _begin_at(self, told: TrailEnd, etag: str | None) -> TrailEnd:
        self._end, self._head_etag, self._head_link, self._unproved = told, etag, told.link, False
        return told

    def read_head(self) -> TrailEnd | None:
        """What the head says; None where there is none. Raises CorruptObject for one that is not genuine."""
        try:
            data = self._heads.get(self._head_key, HEAD_BYTES)
        except ObjectMissing:
            return None
        return self._parse_head(data)

    def _told(self) -> tuple[TrailEnd, str | None]:
        try:
            data, etag = self._heads.get_with_etag(self._head_key, HEAD_BYTES)
        except ObjectMissing:
            return TrailEnd(), None
        except CorruptObject:  # far larger than any of ours
            return TrailEnd(), self._heads.head(self._head_key).etag
        try:
            return self._parse_head(data), etag
        except CorruptObject:  # as good as none: the links tell
            return TrailEnd(), etag

    def _parse_head(self, data: bytes) -> TrailEnd:
        place = self._heads.url(self._head_key)
        try:
            head = json.loads(data)
            signature = head.pop("signature")
            genuine = self.key.signed(b"head", line(head), signature)
            end = TrailEnd(head["link"], head["seq"], head["hash"], head["backups_to"], head["policy"])
            ours = (head["tenant_id"], head["region"]) == (self.chain.tenant_id, self.chain.region)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            genuine = ours = False
        if not (genuine and ours):
            raise CorruptObject(
                "The head of an audit trail is not genuine", on=place, why="changed or forged", remedy=AUDIT_REMEDY
            )
        return end

    def _move_head(self, end: TrailEnd) -> None:
        head = {
            "v": VERSION,
            "tenant_id": self.chain.tenant_id,
            "region": self.chain.region,
            "link": end.link,
            "seq": end.seq,
            "hash": end.hash,
            "backups_to": end.backups_to,
            "policy": end.policy,
            "key": self.key.id,
        }
        body = line({**head, "signature": self.key.sign(b"head", line(head))}) + b"\n"
        etag, self._head_etag = self._head_etag, None
        for _ in range(8):
            try:
                if etag is None:
                    self._head_etag = self._heads.create(self._head_key, body)
                else:
                    self._head_etag = self._heads.replace(self._head_key, body, etag)
                self._end, self._head_link, self._unproved = end, end.link, False
                return
            except (ObjectExists, ObjectChanged, ObjectMissing):
                theirs, etag = self._told()
                if theirs.link >= end.link:
                    # Another process is further. Or links were taken away, and one of ours stands where another was: going on
                    # behind the head, and never in front of it, leaves a gap that tells.
                    self._begin_at(theirs, etag)
                    return

    # reading

    def read_link(self, link: int) -> list[AuditEvent]:
        """The events of a link, oldest first. Raises ObjectMissing, CorruptObject."""
        key = self.link_key(link)
        return read_events(self.store.get(key, most_bytes(Keys.AUDIT)), self.chain, self.key, self.store.url(key))

    def last_link(self) -> int:
        """The number of the newest link; 0 where there is none."""
        told, _ = self._told()
        if told.link and not self._exists(told.link):  # cut, or a head of something else
            told = TrailEnd()
        return self._last_link(told.link) if told.link else self._first_or_none()

    def _first_or_none(self) -> int:
        return self._last_link(1) if self._exists(1) else 0

    def numbers(self) -> Iterator[tuple[str, int | None]]:
        """(key, number) of every object below the folder; None for one that is no link."""
        for info in all_below(self.store, self.folder):
            name = info.key[len(self.folder) :]
            digits = name.removesuffix(".jsonl")
            ours = len(digits) == 12 and digits.isascii() and digits.isdigit() and name != digits
            yield info.key, int(digits) if ours else None
