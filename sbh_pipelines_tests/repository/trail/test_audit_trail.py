"""The audit trail: one order agreed upon by all writers, and every tampering found."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CorruptObject, ObjectExists, RequestError, StoreError, StoreUnavailable
from sbh_pipelines.repository.trail.check import TrailCheck, check_lines, check_trail
from sbh_pipelines.repository.trail.end import CREATED, POLICY, HeadSeen, TrailEnd
from sbh_pipelines.repository.trail.event import (
    PLATFORM,
    WITHHELD,
    AuditKey,
    Chain,
    Entry,
    entry_of,
    hash_of,
    line,
    parse_event,
)
from sbh_pipelines.repository.trail.reader import EventFilter, page
from sbh_pipelines.repository.trail.trail import DAMAGED, Trail
from sbh_pipelines.stores.base import ObjectStore
from sbh_pipelines.stores.local import open_local
from sbh_pipelines.stores.object_lock import LockedBucket
from sbh_pipelines_tests.stores.test_stores import s3
from sbh_pipelines_tests.stores.test_stores import secret as s3_secret
from sbh_pipelines_tests.support.audit_writer import ACME, KEY
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.fault_stores import Killed, Wrapped, nothing
from sbh_pipelines_tests.support.memory_store import MemoryStore

REGION = "eu-west-1"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def trail(
    store: Any, chain: Chain = ACME, key: AuditKey = KEY, create: Callable[[str, bytes], object] | None = None
) -> Trail:
    """A trail as one process has it open."""
    folder, head = f"files/{chain.tenant_id}/backups/audit/", f"_sbh-catalog/audit/heads/{chain.tenant_id}.json"
    return Trail(chain, store, folder, store, head, lambda: key, lambda: NOW, create)


def entry(number: int = 0, event: str = "thing.done", **props: Any) -> Entry:
    return entry_of(event, "ann", "backup", "python", {"number": number, **props})


def record(to: Trail, *entries: Entry) -> None:
    to.append(lambda _: entries)


def written(*sizes: int) -> tuple[MemoryStore, Trail]:
    """A trail of links with so many events each."""
    store, number = MemoryStore(), 0
    made = trail(store)
    for size in sizes:
        record(made, *(entry(number + nth) for nth in range(size)))
        number += size
    return store, made


def checked(store: Any, chain: Chain = ACME, expect: tuple[int, str] | None = None) -> TrailCheck:
    return check_trail(trail(store, chain), lambda _: None, expect)


def numbers(store: Any, chain: Chain = ACME) -> list[int]:
    """What was recorded, in order."""
    found: list[int] = []
    result = check_trail(trail(store, chain), lambda event: found.append(event.props["number"]))
    assert result.issues == []
    return found


# writing


def test_events_are_read_in_the_order_they_were_recorded() -> None:
    """With all fields, numbered from one, each with the hash of the one before."""
    store, made = written(1, 3, 2)
    assert numbers(store) == list(range(6))
    events = [event for link in (1, 2, 3) for event in made.read_link(link)]
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[0].prev == "0" * 64
    assert [event.prev for event in events[1:]] == [event.hash for event in events[:-1]]
    first = events[0]
    assert (first.at, first.event, first.tenant_id, first.user_id, first.source, first.via) == (
        "2026-03-01T12:00:00.000000Z",
        "thing.done",
        "acme",
        "ann",
        "backup",
        "python",
    )


def test_an_append_costs_at_most_three_small_requests() -> None:
    """Three for a process that appends for the first time, two for each further one, and no listing."""
    calls: list[str] = []
    store = Wrapped(MemoryStore(), lambda verb, _: calls.append(verb), nothing)
    record(trail(store), entry(0))
    calls.clear()
    again = trail(store)
    record(again, entry(1))
    assert calls == ["get_with_etag", "create", "replace"]
    calls.clear()
    record(again, entry(2))
    assert calls == ["create", "replace"]


def left(made: Trail) -> HeadSeen:
    """What a writer leaves for the next one, as it is stored."""
    seen = made.seen()
    assert seen is not None
    return HeadSeen.from_dict(json.loads(json.dumps(seen.as_dict())))


def test_who_remembers_the_head_does_not_read_it() -> None:
    """A process that was told of a later end than it is told of now knows better. The first event proves the end: its head lags not."""
    calls: list[str] = []
    store, made = written(1, 1)
    early = left(made)
    record(made, entry(2))
    again = trail(Wrapped(store, lambda verb, _: calls.append(verb), nothing))
    again.expect(left(made))
    again.expect(early)
    again._behind = lambda _: True
    again.append(lambda _: [entry(3)], may_lag=True)
    assert calls == ["create", "replace"]
    assert numbers(store) == [0, 1, 2, 3]
    assert (left(again).end.link, left(again).end.seq) == (4, 4)


@given(data=st.data())
@settings(max_examples=examples(60))
def test_a_remembered_head_never_forks_a_trail_and_never_skips(data: st.DataObject) -> None:
    """Several writers, each now and then with what some other left some time ago; heads that lag."""
    store, first = written(1)
    writers, remembered, expected = [first, trail(store), trail(store)], [left(first)], [0]
    for number in range(1, data.draw(st.integers(2, 12)) + 1):
        what = data.draw(st.sampled_from(["append", "append", "anew", "lag"]))
        nth = data.draw(st.integers(0, len(writers) - 1))
        if what == "anew":
            writers[nth] = trail(store)
            writers[nth].expect(data.draw(st.sampled_from(remembered)))
        key = "_sbh-catalog/audit/heads/acme.json"
        before = store.objects[key]
        record(writers[nth], entry(number))
        expected.append(number)
        if what == "lag":  # it was killed before it moved the head
            store.objects[key], writers[nth] = before, trail(store)
        elif (seen := writers[nth].seen()) is not None:
            remembered.append(seen)
    assert numbers(store) == expected


def test_events_that_were_taken_away_are_missed_whatever_a_writer_remembers() -> None:
    """It writes where the first of them was, finds the head further on, and goes on behind that: there is a gap for good."""
    store, made = written(1, 1)
    remembered = left(made)
    for number in range(2, 6):
        record(made, entry(number))
    for link in range(3, 7):
        del store.objects[made.link_key(link)]
    again = trail(store)
    again.expect(remembered)
    for number in range(6, 12):
        record(again, entry(number))
    found = checked(store)
    assert "Objects of the audit trail are missing" in {issue.what for issue in found.issues}
    assert "The audit trail lacks an event that was there" not in {issue.what for issue in found.issues}


def test_nobody_else_says_where_a_trail_ends() -> None:
    """Who can write the tenant's objects says of the head as it is that it is of an earlier link, and takes away what came since.

    Nor of another trail, where the tenant had the slug before, or has another region.
    """
    store, made = written(1, 1)
    early = left(made)
    for number in range(2, 6):
        record(made, entry(number))
    late = left(made)
    for link in range(3, 7):
        del store.objects[made.link_key(link)]
    again = trail(store)
    again.expect(HeadSeen(early.end, late.etag, early.signature))
    again.expect(HeadSeen(early.end, late.etag, "\xe9"))
    record(again, entry(6))
    assert "Objects of the audit trail are missing" in {issue.what for issue in checked(store).issues}
    for chain in (Chain("bolt", REGION), Chain("acme", "us-east-1")):
        assert not late.is_genuine(chain, KEY)
    assert late.is_genuine(ACME, KEY)


@pytest.mark.parametrize("fault", ["fails", "lags"])
def test_an_end_that_was_put_back_covers_nothing(fault: str) -> None:
    """What was left for the writer is older than the head, and the last link was taken away; the head could not be moved to the one
    that took its place, or was to be moved later.
    """
    store, made = written(1, 1)
    old = left(made)
    record(made, entry(2))
    del store.objects[made.link_key(3)]
    broken = [fault == "fails"]

    def breaks(verb: str, key: str) -> None:
        if broken[0] and "heads/" in key and verb == "replace":
            raise StoreUnavailable("no", on=key)

    again = trail(Wrapped(store, breaks, nothing))
    again._behind = lambda _: True
    again.expect(old)
    again.append(lambda _: [entry(3)], may_lag=fault == "lags")
    broken[0] = False
    record(again, entry(4))
    assert {issue.what for issue in checked(store).issues} & {
        "Objects of the audit trail are missing",
        "An audit event does not follow the one before it",
    }


def test_a_head_under_another_key_is_not_remembered() -> None:
    """Where the catalog's key was lost and made anew nothing of before is genuine: the links are looked at."""
    store, made = written(1, 1)
    other = trail(store, key=AuditKey.of(bytes(32)))
    other.expect(left(made))
    record(other, entry(2))
    assert other.read_link(3)[0].event == DAMAGED


def test_a_head_that_is_behind_is_not_remembered() -> None:
    made = Trail(ACME, MemoryStore(), "a/", MemoryStore(), "head", lambda: KEY, lambda: NOW, behind=lambda _: True)
    assert made.seen() is None
    record(made, entry(0))
    assert left(made).end.link == 1
    made.append(lambda _: [entry(1)], may_lag=True)
    assert made.seen() is None
    made.catch_up()
    assert left(made).end.link == 2


def test_simultaneous_appends_of_one_process_share_a_link() -> None:
    """While one is being written, the others gather, and go into the next one together."""
    store = MemoryStore()
    begun, go_on = threading.Event(), threading.Event()

    def slow(key: str, body: bytes) -> None:
        store.create(key, body)
        begun.set()
        assert go_on.wait(120)

    made = trail(store, create=slow)
    threads = [threading.Thread(target=record, args=(made, entry(n))) for n in range(20)]
    threads[0].start()
    assert begun.wait(120)
    for thread in threads[1:]:
        thread.start()
    while len(made._waiting) < 19:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join()
    assert sorted(numbers(store)) == list(range(20))
    assert len([key for key in store.objects if key.endswith(".jsonl")]) == 2


def test_a_head_that_is_moved_behind_the_events_is_moved_once_for_all_of_them() -> None:
    """An event is durable when `append` returns; the first head of a trail is there then as well.

    So is that of an event which may not lag, and of any where nobody can be had to move it.
    """
    store, behind, room = MemoryStore(), list[Trail](), [True]

    def moves(trail: Trail) -> bool:
        behind.append(trail)
        return room[0]

    made = Trail(ACME, store, "a/", store, "head", lambda: KEY, lambda: NOW, behind=moves)
    other = Trail(ACME, store, "a/", store, "head", lambda: KEY, lambda: NOW)

    def end() -> int:
        head = other.read_head()
        return head.seq if head else 0

    def lagging(trail: Trail, number: int) -> None:
        trail.append(lambda _: [entry(number)], may_lag=True)

    lagging(made, 1)
    assert (end(), behind) == (1, [])
    lagging(made, 2)
    lagging(made, 3)
    assert (end(), behind) == (1, [made, made])
    assert check_trail(other, lambda _: None).events == 3  # and the head that is behind is no finding
    made.catch_up()
    assert end() == 3
    record(other, entry(4))
    lagging(made, 5)  # somebody else was faster, and moved the head
    made.catch_up()
    assert end() == 5
    record(made, entry(6))
    assert end() == 6
    room[0] = False
    lagging(made, 7)
    assert end() == 7
    assert check_trail(other, lambda _: None).issues == []


def test_one_caller_s_error_does_not_touch_the_others_of_its_link() -> None:
    """Nor does it leave a hole."""
    store = MemoryStore()
    made = trail(store)
    held = threading.Event()

    def waits(_: TrailEnd) -> list[Entry]:
        held.wait(120)
        return [entry(0)]

    def fails(_: TrailEnd) -> list[Entry]:
        raise RequestError("no")

    errors: list[Exception] = []

    def failing() -> None:
        try:
            made.append(fails)
        except RequestError as error:
            errors.append(error)

    threads = [threading.Thread(target=made.append, args=(waits,)), threading.Thread(target=failing)]
    threads += [threading.Thread(target=record, args=(made, entry(1)))]
    for thread in threads:
        thread.start()
    held.set()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert sorted(numbers(store)) == [0, 1]


def test_several_processes_append_at_once(tmp_path: Path) -> None:
    """Nothing is lost, nothing is there twice, each one's own order is kept, and the chain holds."""
    command = [sys.executable, "-m", "sbh_pipelines_tests.support.audit_writer", str(tmp_path)]
    processes = [subprocess.Popen([*command, str(who), "25"]) for who in range(3)]
    for process in processes:
        assert process.wait(300) == 0
    found = numbers(open_local(tmp_path))
    assert sorted(found) == sorted(who * 1000 + n for who in range(3) for n in range(25))
    for who in range(3):
        assert [n for n in found if n // 1000 == who] == [who * 1000 + n for n in range(25)]


def test_writers_on_an_s3_server_lose_nothing(embedded_stack: Stack) -> None:
    """Its create-only put is what keeps them apart."""
    store = s3(embedded_stack)
    chain = Chain(f"acme-{datetime.now(UTC):%H%M%S%f}", REGION)
    writers = [trail(store, chain) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda w=w, who=who: [record(w, entry(who * 10 + n)) for n in range(5)])
        for who, w in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(store, chain)) == sorted(who * 10 + n for who in range(3) for n in range(5))


@pytest.mark.parametrize("nth", range(1, 7))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_writer_killed_at_any_write_leaves_a_whole_trail(nth: int, *, after: bool) -> None:
    """What it was told to be written is there, and the next process goes on."""
    store = MemoryStore()
    begun = [0]

    def die(verb: str, key: str) -> None:
        if verb in ("create", "replace", "put"):
            begun[0] += 1
            if begun[0] >= nth:
                raise Killed

    dying = trail(Wrapped(store, nothing if after else die, die if after else nothing))
    done: list[int] = []

    def work() -> None:
        for number in range(10):
            record(dying, entry(number))
            done.append(number)

    with pytest.raises(Killed):
        work()
    there = numbers(store) if nth > 1 or after else []
    assert there[: len(done)] == done
    assert len(there) <= len(done) + 1
    record(trail(store), entry(100))
    assert numbers(store) == [*there, 100]


def test_an_answer_that_was_lost_is_not_written_twice() -> None:
    """The store has the link, the writer was told of a failure, the driver repeats the put and is refused."""
    store = MemoryStore()

    def twice(key: str, body: bytes) -> None:
        store.create(key, body)
        raise ObjectExists("it is there", on=key)

    record(trail(store, create=twice), entry(7))
    assert numbers(store) == [7]


def test_a_lost_forged_or_old_head_costs_requests_and_nothing_else() -> None:
    """It is a hint: the links tell where the end is, in the logarithm of their number."""
    head = "_sbh-catalog/audit/heads/acme.json"
    store, made = written(*[1] * 40)
    old = dict(store.objects)
    record(made, entry(40, CREATED, backup_id="backup_20260101_0000"), entry(41))
    for number in range(42, 60):
        record(made, entry(number))
    forged = json.loads(store.objects[head]) | {"seq": 3, "link": 3}
    for body in (None, json.dumps(forged).encode(), b"\xff", b"[]", old[head]):
        if body is None:
            del store.objects[head]
        else:
            store.objects[head] = body
        calls: list[str] = []
        ends: list[TrailEnd] = []
        other = trail(Wrapped(store, lambda verb, _, calls=calls: calls.append(verb), nothing))
        other.append(lambda end, ends=ends: ends.append(end) or [entry(0)])
        assert len(calls) < 45, calls
        assert calls.count("get") <= 30
        assert "list" not in calls
        assert ends[-1].backups_to == "backup_20260101_0000"
    assert checked(store).issues == []


def test_the_trail_goes_on_behind_an_object_that_somebody_put_in_its_way() -> None:
    """It says so, and the intruder stays found for ever. Backups must not be stopped by it."""
    store, made = written(2, 1)
    store.objects[made.link_key(3)] = b"junk\n"
    record(trail(store), entry(9))
    last = trail(store).read_link(4)
    assert [event.event for event in last] == [DAMAGED, "thing.done"]
    assert last[0].props == {"object": made.link_key(3)}
    found = checked(store)
    assert [issue.what for issue in found.issues] == ["Not an audit event"]
    assert found.events == 5


def test_a_process_that_slept_catches_up_by_the_head_and_not_link_by_link() -> None:
    """Others wrote a hundred links meanwhile: that costs a few requests, and nothing is lost."""
    store, calls = MemoryStore(), list[str]()
    asleep, awake = trail(Wrapped(store, lambda verb, _: calls.append(verb), nothing)), trail(store)
    record(asleep, entry(0))
    for number in range(1, 101):
        record(awake, entry(number))
    calls.clear()
    record(asleep, entry(101))
    assert numbers(store) == list(range(102))
    assert len(calls) < 6


def test_what_depends_on_the_end_is_asked_again_when_somebody_else_was_faster() -> None:
    """So a digest of the policy is recorded once, whoever comes first."""
    store = MemoryStore()
    chain = Chain(PLATFORM, REGION)

    def policy(end: TrailEnd) -> list[Entry]:
        return [] if end.policy == "d1" else [entry(1, POLICY, digest="d1")]

    first, second = trail(store, chain), trail(store, chain)
    record(second, entry(0))  # knows an end that is out of date in a moment
    first.append(policy)
    second.append(policy)
    assert numbers(store, chain) == [0, 1]


def test_without_the_store_nothing_is_recorded_and_the_caller_is_told() -> None:
    """And once it is back, the trail goes on without a hole."""
    store = MemoryStore()
    down = [True]

    def fail(verb: str, key: str) -> None:
        if down[0]:
            raise StoreUnavailable("Cannot put an object")

    made = trail(Wrapped(store, fail, nothing))
    with pytest.raises(StoreUnavailable):
        record(made, entry(0))
    down[0] = False
    record(made, entry(1))
    assert numbers(store) == [1]


# what an event may hold


def test_values_under_the_name_of_a_secret_are_withheld() -> None:
    """At any depth."""
    made = entry_of(
        "thing.done", "ann", "s", "v", {"a": {"db_password": "x", "Token": ["y"]}, "list": [{"api_key": 1}]}
    )
    assert made.props == {"a": {"db_password": WITHHELD, "Token": WITHHELD}, "list": [{"api_key": WITHHELD}]}


@pytest.mark.parametrize(
    "name", ["", "created", "Backup.created", "backup.created\n", "a." + "b" * 40, "../x.y", "ä.b"]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    """Names are what people filter by."""
    with pytest.raises(RequestError):
        entry_of(name, "ann", "s", "v", {})


def test_props_that_are_not_json_or_too_large_are_refused() -> None:
    """And odd text goes in and comes out as it is."""
    for props in ({"x": float("nan")}, {"x": "y" * 70_000}):
        with pytest.raises(RequestError):
            entry_of("thing.done", "ann", "s", "v", props)
    store = MemoryStore()
    record(trail(store), entry(0, text="\0'\"\n\u2028ü\ud800"))
    (event,) = trail(store).read_link(1)
    assert event.props["text"] == "\0'\"\n\u2028ü\ud800"
    assert checked(store).issues == []


# tampering


def _links(store: MemoryStore) -> list[str]:
    return sorted(key for key in store.objects if key.endswith(".jsonl"))


def _events(store: MemoryStore) -> list[tuple[str, bytes]]:
    return [(key, text) for key in _links(store) for text in store.objects[key].splitlines()]


def _put_back(store: MemoryStore, events: list[tuple[str, bytes]]) -> None:
    for key in _links(store):
        store.objects[key] = b"".join(text + b"\n" for k, text in events if k == key)
        if not store.objects[key]:
            del store.objects[key]


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@given(sizes=sizes, data=st.data())
@settings(max_examples=examples(60))
def test_an_event_that_is_removed_or_moved_is_found(sizes: list[int], data: st.DataObject) -> None:
    """Any one, also the first and the last; any two exchanged, also across objects; any one repeated anywhere."""
    store, _ = written(*sizes)
    events = _events(store)
    one = data.draw(st.integers(0, len(events) - 1))
    what = data.draw(st.sampled_from(["remove", "swap", "repeat"]))
    if what == "remove":
        del events[one]
    elif what == "swap":
        other = data.draw(st.integers(0, len(events) - 1).filter(lambda n: n != one)) if len(events) > 1 else one
        (a, x), (b, y) = events[one], events[other]
        events[one], events[other] = (a, y), (b, x)
        if one == other:
            return
    else:
        at = data.draw(st.integers(0, len(events)))
        where = events[min(at, len(events) - 1)][0]
        events.insert(at, (where, events[one][1]))
    _put_back(store, events)
    assert checked(store).broken > 0, what


@given(sizes=sizes, data=st.data())
@settings(max_examples=examples(60))
def test_a_field_that_is_changed_is_found_with_its_number(sizes: list[int], data: st.DataObject) -> None:
    """Also by somebody who makes the hash anew: the signature needs the catalog's key."""
    store, _ = written(*sizes)
    events = _events(store)
    one = data.draw(st.integers(0, len(events) - 1))
    event = json.loads(events[one][1])
    name = data.draw(
        st.sampled_from(["at", "user_id", "event", "props", "source", "via", "region", "id", "prev", "tenant_id"])
    )
    event[name] = {"number": 99} if name == "props" else f"{event[name]}x"
    if data.draw(st.booleans()):
        event["hash"] = hash_of(parse_event(line(event), ""))
    if data.draw(st.booleans()):
        event["signature"] = AuditKey.of(bytes(32)).sign(b"event", event["hash"].encode())
    events[one] = (events[one][0], line(event))
    _put_back(store, events)
    found = checked(store)
    assert any(f"seq {one + 1}" in issue.on for issue in found.issues)


@given(sizes=sizes, data=st.data())
@settings(max_examples=examples(60))
def test_a_byte_that_is_changed_anywhere_is_found(sizes: list[int], data: st.DataObject) -> None:
    """In any object of the trail; its head included."""
    store, _ = written(*sizes)
    key = data.draw(st.sampled_from(sorted(store.objects)))
    body = bytearray(store.objects[key])
    at = data.draw(st.integers(0, len(body) - 2))  # the last line feed says nothing
    body[at] ^= data.draw(st.integers(1, 255))
    store.objects[key] = bytes(body)
    assert checked(store).broken > 0


@given(sizes=sizes, data=st.data())
@settings(max_examples=examples(60))
def test_an_object_that_is_removed_moved_inserted_or_cut_off_is_found(sizes: list[int], data: st.DataObject) -> None:
    """The newest ones as well: the head is further on."""
    store, _ = written(*sizes)
    links = _links(store)
    one = data.draw(st.integers(0, len(links) - 1))
    what = data.draw(st.sampled_from(["remove", "cut", "copy", "insert"]))
    if what == "remove":
        del store.objects[links[one]]
    elif what == "cut":
        for key in links[one:]:
            del store.objects[key]
    elif what == "copy":
        store.objects[trail(store).link_key(len(links) + data.draw(st.integers(1, 9)))] = store.objects[links[one]]
    else:
        name = data.draw(
            st.sampled_from(["000000000000.jsonl", "x", "1.jsonl", "00000000000a.jsonl", "000000000001.jsonl.bak"])
        )
        store.objects[trail(store).folder + name] = store.objects[links[one]]
    assert checked(store).broken > 0, what


def test_what_is_missing_is_named() -> None:
    """The numbers of events, and of objects."""
    store, made = written(1, 1, 1, 1)
    del store.objects[made.link_key(2)]
    del store.objects[made.link_key(3)]
    said = [(issue.what, issue.on, issue.why) for issue in checked(store).issues]
    assert said == [
        ("Objects of the audit trail are missing", f"acme in eu-west-1, {made.link_key(4)}", "number 2 to 3: removed"),
        ("Audit events are missing", "acme in eu-west-1, seq 2", "2 to 3: removed, or not genuine"),
    ]


def test_genuine_events_of_two_futures_do_not_make_one_trail() -> None:
    """Somebody put an old state back, something else was recorded, and the later objects of before came back as well."""
    store, made = written(1, 1)
    before = dict(store.objects)
    record(made, entry(2))
    record(made, entry(3))
    later = store.objects
    store.objects = dict(before)
    record(trail(store), entry(99))
    store.objects |= {key: body for key, body in later.items() if key not in store.objects or "heads/" in key}
    assert [(issue.what, issue.on) for issue in checked(store).issues] == [
        ("An audit event does not follow the one before it", "acme in eu-west-1, seq 4")
    ]


def test_events_of_another_tenant_are_found_though_they_are_genuine() -> None:
    """They are signed by the same key; the tenant is inside."""
    store, _ = written(1)
    bolt = Chain("bolt", REGION)
    record(trail(store, bolt), entry(1), entry(2))
    store.objects[trail(store).link_key(1)] = store.objects[trail(store, bolt).link_key(1)]
    found = checked(store)
    assert "copied from there" in found.issues[0].why
    assert "bolt" in found.issues[0].why


def test_an_event_signed_by_somebody_without_the_key_is_no_event() -> None:
    """Who can write to the bucket can follow the chain, and still not append to it."""
    store, _ = written(2)
    record(trail(store, key=AuditKey.of(bytes(32))), entry(5))
    found = checked(store)
    assert found.broken
    assert found.events == 2


def test_what_was_put_back_to_an_old_state_with_its_head_is_found_by_a_note() -> None:
    """This is what remains possible without object lock; an event that was noted elsewhere tells it."""
    store, made = written(1, 1)
    before = dict(store.objects)
    record(made, entry(2))
    note = checked(store)
    store.objects = before
    assert checked(store).issues == []
    found = checked(store, expect=(note.seq, note.hash))
    assert "cut" in found.issues[0].why
    assert checked(store, expect=(2, "f" * 64)).issues[0].what == "An audit event is another than it was"


def test_a_head_that_was_removed_is_found() -> None:
    """Whoever cuts the newest events would remove it as well."""
    store, _ = written(1, 1)
    del store.objects["_sbh-catalog/audit/heads/acme.json"]
    assert [issue.what for issue in checked(store).issues] == ["The head of the audit trail is gone"]


def test_the_head_never_goes_back() -> None:
    """A slow writer brings its end after a faster one brought a later one."""
    store = MemoryStore()
    slow, fast = trail(store), trail(store)

    def overtaken(verb: str, key: str) -> None:
        if "heads/" in key and verb in ("create", "replace") and fast._end is None:
            record(fast, entry(1))
            record(fast, entry(2))

    slow._heads = Wrapped(store, overtaken, nothing)  # type: ignore[assignment]
    record(slow, entry(0))
    head = fast.read_head()
    assert head is not None
    assert (head.seq, numbers(store)) == (3, [0, 1, 2])


def test_a_head_that_lags_is_no_finding() -> None:
    """A process that was killed between its event and the head leaves that."""
    store, made = written(1, 1)
    head = store.objects["_sbh-catalog/audit/heads/acme.json"]
    record(made, entry(2))
    store.objects["_sbh-catalog/audit/heads/acme.json"] = head
    assert checked(store).issues == []


def test_an_export_is_checked_without_a_key() -> None:
    """It may begin anywhere; a gap, a change and another order are found."""
    store, _ = written(3, 3)
    lines = [text for _, text in _events(store)]
    assert check_lines(iter(lines[2:]), lambda _: None).issues == []
    for bad in (lines[:2] + lines[3:], [lines[1], lines[0]], [lines[0].replace(b"ann", b"bob"), lines[1]]):
        assert check_lines(iter(bad), lambda _: None).broken
    with pytest.raises(CorruptObject):
        check_lines(iter([]), lambda _: None)


# reading


def test_pages_go_back_from_the_newest_and_hold_each_event_once() -> None:
    """Across links, with a pattern, and while others append."""
    store, made = written(3, 1, 4, 2)
    seen: list[int] = []
    cursor = None
    while True:
        found = page(trail(store), EventFilter("thing.*"), 3, cursor)
        assert found.damages == []
        seen += [event.props["number"] for event in found.events]
        cursor = found.following
        record(made, entry(77))
        if cursor is None:
            break
    assert seen == list(range(9, -1, -1))
    assert page(trail(store), EventFilter("other.*"), 3, None).events == []
    assert page(trail(store), EventFilter(user="bob"), 3, None).events == []


def test_a_cursor_beyond_the_end_begins_at_the_end() -> None:
    """It comes from whoever asks, and must not make us look for links that never were."""
    store, made = written(1, 1, 1)
    calls: list[str] = []
    reading = trail(Wrapped(store, lambda verb, _: calls.append(verb), nothing))
    found = page(reading, EventFilter(), 10, (10**30, 10**5))
    assert ([event.seq for event in found.events], found.following, found.damages) == ([3, 2, 1], None, [])
    assert len(calls) < 12
    assert made.last_link() == 3


def test_times_bound_what_is_read() -> None:
    """Links older than the beginning, with a margin for clocks, are not asked for."""
    calls: list[str] = []
    store = MemoryStore()
    moment = [NOW]
    made = Trail(ACME, store, "a/", store, "head", lambda: KEY, lambda: moment[0])
    for number in range(30):
        record(made, entry(number))
        moment[0] += timedelta(hours=1)
    reader = Trail(
        ACME,
        Wrapped(store, lambda verb, key: calls.append(key), nothing),
        "a/",
        store,
        "head",
        lambda: KEY,
        lambda: NOW,
    )
    wanted = EventFilter(since=NOW + timedelta(hours=27), until=NOW + timedelta(hours=29))
    assert [event.props["number"] for event in page(reader, wanted, 100, None).events] == [28, 27]
    assert len({key for key in calls if key.endswith(".jsonl")}) < 20


def test_a_damaged_link_is_told_and_not_hidden() -> None:
    """The others are shown."""
    store, made = written(1, 1, 1)
    store.objects[made.link_key(2)] = b"{}\n"
    found = page(trail(store), EventFilter(), 10, None)
    assert [event.seq for event in found.events] == [3, 1]
    assert [type(damage) for damage in found.damages] == [CorruptObject]


# object lock


@pytest.fixture
def client(embedded_stack: Stack) -> Any:
    return boto3.client(
        "s3",
        region_name=REGION,
        endpoint_url=embedded_stack.s3_endpoint,
        aws_access_key_id=object_server.ACCESS_KEY,
        aws_secret_access_key=s3_secret(embedded_stack),
    )


def test_events_under_object_lock_cannot_be_deleted(embedded_stack: Stack, client: Any) -> None:
    """The version stays whoever asks; a second put of the same name is refused; and the chain verifies."""
    bucket: ObjectStore = s3(embedded_stack, bucket=object_server.LOCKED_BUCKET)
    locked = LockedBucket(lambda: client, object_server.LOCKED_BUCKET, "compliance")
    chain = Chain(f"locked-{datetime.now(UTC):%H%M%S%f}", REGION)
    until = datetime.now(UTC) + timedelta(minutes=10)
    made = trail(bucket, chain, create=lambda key, body: locked.create(key, body, until))
    record(made, entry(0))
    record(trail(bucket, chain, create=lambda key, body: locked.create(key, body, until)), entry(1))
    assert numbers(bucket, chain) == [0, 1]
    key = made.link_key(1)
    head = client.head_object(Bucket=object_server.LOCKED_BUCKET, Key=key)
    assert head["ObjectLockMode"] == "COMPLIANCE"
    assert abs((head["ObjectLockRetainUntilDate"] - until).total_seconds()) < 2
    with pytest.raises(ClientError) as refused:
        client.delete_object(Bucket=object_server.LOCKED_BUCKET, Key=key, VersionId=head["VersionId"])
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    with pytest.raises(ObjectExists):
        locked.create(key, b"something else", until)
    assert numbers(bucket, chain) == [0, 1]


def test_a_bucket_without_object_lock_is_told_of(embedded_stack: Stack, client: Any) -> None:
    """Events must not be written without the lock that the settings ask for."""
    locked = LockedBucket(lambda: client, "sbh-files-eu-west-1", "governance")
    with pytest.raises(StoreError) as refused:
        locked.create(f"audit/{datetime.now(UTC):%H%M%S%f}", b"x", datetime.now(UTC) + timedelta(minutes=1))
    assert "audit.object_lock_days" in refused.value.remedy
