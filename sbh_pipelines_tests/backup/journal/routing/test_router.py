"""Whose a change is, against a model that knows it: rows inserted, moved and deleted at every level, before, in and after a window."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.journal.routing.decoding import Decoder
from sbh_pipelines.backup.journal.routing.events import EventKind, Happening, Happenings
from sbh_pipelines.backup.journal.routing.records import DELETE, INSERT, Record, Routed
from sbh_pipelines.backup.journal.routing.router import Router, note_first
from sbh_pipelines.backup.journal.routing.routes import Index, Key, Link, plan_routes
from sbh_pipelines.backup.journal.routing.spool import Spool
from sbh_pipelines.backup.journal.routing.states import State, States
from sbh_pipelines.database.journal.messages import Delete, Insert, Update
from sbh_pipelines.repository.journal.segments.changes import Op
from sbh_pipelines_tests.backup.journal.routing.journal_model import MAPPED, Model, Row
from sbh_pipelines_tests.support.effort import examples

PLAN = plan_routes(MAPPED)
DEFINITIONS = {table.full_name: "d" for table in MAPPED}

ids = st.sampled_from([b"1", b"2", b"3"])
tenants = st.sampled_from([b"7", b"8", None])
operations = st.lists(
    st.tuples(st.sampled_from("IUUD"), st.integers(0, 2), ids, ids, st.one_of(ids, st.none()), tenants), max_size=4
)
transactions = st.lists(operations, min_size=1, max_size=6)


def apply(model: Model, done: list[tuple[str, int, bytes, bytes, bytes | None, bytes | None]]) -> None:
    for number, (op, nth, key, other, link, tenant) in enumerate(done):
        row: Row = (key, tenant if nth == 0 else link, b"t%d" % number)
        if op == "I":
            model.insert(nth, row)
        elif op == "U":
            model.update(nth, key, (other if number % 2 else key, *row[1:]))
        else:
            model.delete(nth, key)


def routed(
    model: Model, start: int, seen: list[dict[bytes, Row]], most: int
) -> tuple[list[Routed], list[Happening], Decoder]:
    def lookup(index: Index, keys: Sequence[Key]) -> Mapping[Key, Link]:
        rows = seen[index.route]
        return {key: (rows[key[0]][1],) for key in keys if key[0] in rows}

    happenings = Happenings()
    decoder = Decoder(PLAN, model.identities(), DEFINITIONS, happenings, start=start, widen=lambda xid: xid)
    with Spool(frame_bytes=200) as spool, States(most) as firsts, States(most) as lasts:
        for record in decoder.decode(iter([*model.relations(), *model.messages])):
            note_first(PLAN, firsts, record)
            spool.append(record, 1)
        router = Router(PLAN, firsts, lasts, lookup, happenings)
        found = [Routed(*one) for one in router.route(spool)]
    return found, list(happenings), decoder


@given(before=operations, window=transactions, data=st.data(), full=st.booleans())
@settings(max_examples=examples(100), deadline=None)
def test_each_tenant_has_at_each_commit_what_the_model_says(
    before: list, window: list, data: st.DataObject, full: bool
) -> None:
    """What an event names is read again; all else follows from the changes alone."""
    model = Model(full=full)
    model.begin()
    for key, tenant, link in ((b"1", b"7", b"2"), (b"2", b"8", b"1"), (b"3", b"7", b"3")):
        model.insert(0, (key, tenant, b"p"))
        model.insert(1, (key, key, b"t"))
        model.insert(2, (key, link, b"c"))
    model.commit()
    model.begin()
    apply(model, before)
    model.commit()
    start, have = model.lsn, model.by_tenant()
    snapshots, states = [model.copied()], {}
    for done in window:
        model.begin()
        apply(model, done)
        states[model.commit()] = model.by_tenant()
        snapshots.append(model.copied())
    seen = data.draw(st.sampled_from(snapshots))
    most = data.draw(st.sampled_from([1, 1000]))
    found, happenings, decoder = routed(model, start, seen, most)
    assert list(decoder.transactions.commits) == list(states)
    assert not [one for one in happenings if one.kind is not EventKind.MOVED]
    waiting = list(found)
    for number, (_, expected) in enumerate(states.items()):
        while waiting and waiting[0].transaction == number:
            one = waiting.pop(0)
            nth = [table.full_name for table in MAPPED].index(decoder.layouts[one.change.layout].table)
            rows = have.setdefault((nth, one.tenant), {})
            fields = one.change.row.split(b"\t")
            if one.change.op is not Op.INSERT:
                rows.pop(one.change.key or fields[0], None)
            if one.change.op is not Op.DELETE:
                rows[fields[0]] = one.change.row
        for event in happenings:
            if event.transaction == number:
                for tenant in event.tenants if event.tenants is not None else (b"7", b"8"):
                    have[event.table, tenant] = dict(expected.get((event.table, tenant), {}))
        assert {of: rows for of, rows in have.items() if rows} == expected
    assert not waiting


def test_a_parent_that_moves_takes_its_followers_along_as_an_event() -> None:
    """Rows that changed hands without a change of their own are named: table, and both tenants."""
    model = Model()
    model.begin()
    model.insert(0, (b"1", b"7", b"p"))
    model.insert(1, (b"1", b"1", b"t"))
    start, seen = model.commit(), model.copied()
    model.begin()
    model.update(0, b"1", (b"1", b"8", b"p"))
    model.commit()
    found, happenings, _ = routed(model, start, seen, 1000)
    assert [(one.tenant, one.change.op) for one in found] == [(b"7", Op.DELETE), (b"8", Op.INSERT)]
    assert {(one.kind, one.table, one.tenants) for one in happenings} == {
        (EventKind.MOVED, 1, frozenset({b"7", b"8"})),
        (EventKind.MOVED, 2, frozenset({b"7", b"8"})),
    }


def test_a_row_whose_parent_is_nowhere_is_an_event_and_not_silence() -> None:
    """A lookup that finds nothing ends what can be told of the table."""
    model = Model()
    model.begin()
    model.insert(0, (b"1", b"7", b"p"))
    model.insert(1, (b"1", b"1", b"t"))
    start = model.commit()
    model.begin()
    model.update(1, b"1", (b"1", b"1", b"u"))
    model.commit()
    found, happenings, _ = routed(model, start, [{}, {}, {}], 1000)
    assert not found
    assert (EventKind.UNROUTED, 1, None) in {(one.kind, one.table, one.tenants) for one in happenings}


def test_what_was_told_before_is_passed_over() -> None:
    """A slot that went back gives transactions again: those up to the start are not told twice."""
    model = Model()
    model.begin()
    model.insert(0, (b"1", b"7", b"p"))
    start = model.commit()
    model.begin()
    model.insert(0, (b"2", b"7", b"q"))
    model.commit()
    found, _, decoder = routed(model, start, model.copied(), 1000)
    assert [one.change.row for one in found] == [b"2\t7\tq"]
    assert len(decoder.transactions) == 1


def test_too_many_events_leave_a_table_untold() -> None:
    """Bounded memory: instead of the events the table is named once, for the whole window."""
    happenings = Happenings(most=3)
    for number in range(5):
        happenings.add(number, EventKind.MOVED, 1, [b"7"], "")
    assert happenings.untold == {1}
    assert list(happenings) == []


@pytest.mark.parametrize("most", [1, 10_000])
def test_states_are_the_same_from_memory_and_from_disk(most: int) -> None:
    """Whatever is moved to the file comes back as it was, and the last one put counts."""

    with States(most) as states:
        for number in range(50):
            states.put(0, (b"k%d" % (number % 20),), State(True, (b"v%d" % number, None), number))
        states.put_first(0, (b"k1",), State(False, (), 0))
        assert states.get(0, (b"k1",)) == State(True, (b"v41", None), 41)
        assert states.get(1, (b"k1",)) is None


def test_a_parent_exchanged_in_one_transaction_is_an_event() -> None:
    """As a restore does it, with foreign keys off: what follows the old row follows the new one from then on."""
    model = Model()
    model.begin()
    model.insert(0, (b"1", b"7", b"p"))
    model.insert(1, (b"1", b"1", b"t"))
    start, seen = model.commit(), model.copied()
    model.begin()
    model.messages += [Delete(1, "O", (b"1", b"7", b"p")), Insert(1, (b"1", b"8", b"p"))]
    model.commit()
    _, happenings, _ = routed(model, start, seen, 1000)
    assert {(one.kind, one.table, one.tenants) for one in happenings} == {
        (EventKind.MOVED, 1, frozenset({b"7", b"8"})),
        (EventKind.MOVED, 2, frozenset({b"7", b"8"})),
    }


def test_a_child_before_its_parent_is_the_parents_tenants_within_a_transaction() -> None:
    """As a restore does it; in a later transaction it would be an event."""
    model = Model()
    start = model.lsn
    model.begin()
    model.messages += [Insert(2, (b"1", b"1", b"t")), Insert(1, (b"1", b"8", b"p"))]
    model.commit()
    found, happenings, _ = routed(model, start, [{}, {}, {}], 1000)
    assert [one.tenant for one in found] == [b"8", b"8"]
    assert not happenings
    later = Model()
    for messages in ([Insert(2, (b"1", b"1", b"t"))], [Insert(1, (b"1", b"8", b"p"))]):
        later.begin()
        later.messages += messages
        later.commit()
    _, happenings, _ = routed(later, start, [{}, {}, {}], 1000)
    assert (EventKind.UNROUTED, 1, None) in {(one.kind, one.table, one.tenants) for one in happenings}


def test_where_the_server_lets_rows_dangle_a_parents_coming_is_an_event() -> None:
    """A row that refers to nothing belongs to nobody, until what it refers to comes."""
    loose = tuple(replace(table, table=replace(table.table, foreign_keys=())) for table in MAPPED)
    plan = plan_routes(loose)
    assert [index.loose for index in plan.indexes] == [True, True]
    happenings = Happenings()
    with States() as firsts, States() as lasts:
        router = Router(plan, firsts, lasts, lambda index, keys: {}, happenings)
        came = Record(0, 0, 0, INSERT, b"", b"1\t8\tp", b"", None, (b"8",), (), ((b"1",),))
        note_first(plan, firsts, came)
        assert [Routed(*one).tenant for one in router.route([came])] == [b"8"]
    assert {(one.kind, one.table, one.tenants) for one in happenings} == {
        (EventKind.MOVED, 1, frozenset({b"8"})),
        (EventKind.MOVED, 2, frozenset({b"8"})),
    }


@pytest.mark.parametrize("orphaned", [False, True])
def test_what_a_row_left_behind_is_an_event(orphaned: bool) -> None:
    """Foreign keys do not hold for a session that turns their triggers off; who sees none left behind keeps what is told."""
    happenings, asked = Happenings(), []

    def orphans(index: Index, keys: Sequence[Key]) -> Sequence[Key]:
        asked.extend(keys)
        return keys if orphaned else []

    with States() as firsts, States() as lasts:
        router = Router(PLAN, firsts, lasts, lambda index, keys: {}, happenings, orphans)
        went = Record(0, 0, 0, DELETE, b"1", b"", b"1", (b"8",), None, ((b"1",),), ())
        note_first(PLAN, firsts, went)
        assert [Routed(*one).tenant for one in router.route([went])] == [b"8"]
    assert asked == [(b"1",)]
    expected = {(EventKind.MOVED, number, frozenset({b"8"})) for number in (1, 2)} if orphaned else set()
    assert {(one.kind, one.table, one.tenants) for one in happenings} == expected


def test_a_table_is_left_out_with_what_follows_it() -> None:
    """No way leads over a table that is not journaled."""
    plan = plan_routes([MAPPED[0], MAPPED[2]])
    assert [route.name for route in plan.routes] == ["public.projects"]
    assert set(plan.left_out) == {"public.comments"}


@pytest.mark.parametrize("parent_goes", [False, True], ids=["moves", "goes"])
def test_a_row_is_whose_its_parent_was_at_this_change_and_not_after_it(parent_goes: bool) -> None:
    """Even where the lookups see only what became of the parent later."""
    model = Model()
    model.begin()
    model.insert(0, (b"1", b"7", b"p"))
    model.insert(1, (b"1", b"1", b"t"))
    start = model.commit()
    model.begin()
    model.update(1, b"1", (b"1", b"1", b"u"))
    model.commit()
    model.begin()
    if parent_goes:
        model.delete(0, b"1")
    else:
        model.update(0, b"1", (b"1", b"8", b"p"))
    model.commit()
    found, happenings, _ = routed(model, start, model.copied(), 1000)
    assert (found[0].transaction, found[0].tenant, found[0].change.row) == (0, b"7", b"1\t1\tu")
    assert EventKind.UNROUTED not in {one.kind for one in happenings}


def test_what_comes_to_a_parent_that_went_before_is_an_event() -> None:
    """As with foreign keys off: it is nobody's, and not the tenant's whose the parent was."""
    model = Model()
    model.begin()
    model.insert(0, (b"1", b"7", b"p"))
    start, seen = model.commit(), model.copied()
    for message in (Delete(1, "O", (b"1", b"7", b"p")), Insert(2, (b"1", b"1", b"t"))):
        model.begin()
        model.messages.append(message)
        model.commit()
    found, happenings, _ = routed(model, start, seen, 1000)
    assert [(one.tenant, one.change.op) for one in found] == [(b"7", Op.DELETE)]
    assert (EventKind.UNROUTED, 1, None) in {(one.kind, one.table, one.tenants) for one in happenings}


def test_a_new_key_in_place_of_an_empty_one_is_an_event() -> None:
    """A change with an empty key says that the key stayed."""
    model = Model()
    start = model.lsn
    model.begin()
    model.messages.append(Update(1, "O", (b"", b"7", b"p"), (b"1", b"7", b"p")))
    model.commit()
    found, happenings, _ = routed(model, start, [{}, {}, {}], 1000)
    assert not found
    assert (EventKind.IDENTITY, 0, None) in {(one.kind, one.table, one.tenants) for one in happenings}


def test_states_that_are_read_in_batches_are_those_read_one_by_one() -> None:
    """Prepared or not, first or last, moved or not: what was put first stays, what is put replaces."""
    with States(10) as firsts, States(10) as lasts:
        keys = [(b"k%d" % number,) for number in range(60)]
        for round_ in range(2):
            for number, key in enumerate(keys[: 50 + round_]):
                firsts.put_first(0, key, State(True, (b"%d" % number,), round_))
                lasts.put(0, key, State(True, (b"%d" % number,), round_))
        for states in (firsts, lasts):
            states.prepare(0, keys)
        lasts.put(0, keys[3], State(False, (b"new",), 9))
        assert [one.transaction for key in keys[:50] if (one := firsts.get(0, key))] == [0] * 50
        assert [one.transaction for key in keys[:51] if (one := lasts.get(0, key))] == [1] * 3 + [9] + [1] * 47
        assert firsts.get(0, keys[50]) == State(True, (b"50",), 1)
        assert firsts.get(0, keys[59]) is lasts.get(0, keys[59]) is None
