"""Between two definitions a row's fields are told by name: what is not refused is of the right columns, whatever was done."""

from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sbh_pipelines.repository.journal.segments.makeup import MadeColumn, Makeup, between, goes_on, places

KEY = MadeColumn(1, "id", 20, -1, "bigint", "k20", "", True, "", None, True)
NAMES, TYPES = ("a", "b", "c"), (23, 25)


def column(number: int, name: str, kind: int) -> MadeColumn:
    return MadeColumn(number, name, kind, -1, str(kind), f"k{kind}", "", False, "", f"given {number}", True)


def applied(table: Makeup, what: str, which: int, name: str, kind: int) -> Makeup:
    """The table after a statement; as it was where the server refuses it."""
    others = table.columns[1:]
    if what == "add" and name not in {one.name for one in others}:
        number = table.attributes + 1
        return replace(table, attributes=number, columns=(*table.columns, column(number, name, kind)))
    if what == "drop" and others:
        gone = others[which % len(others)]
        return replace(table, columns=tuple(one for one in table.columns if one is not gone))
    if what == "rename" and others and name not in {one.name for one in others}:
        old = others[which % len(others)]
        return replace(table, columns=tuple(replace(one, name=name) if one is old else one for one in table.columns))
    return table


START = Makeup("frame", 4, ("id",), (KEY, column(2, "a", 23), column(4, "b", 25)), True)
STATEMENTS = st.tuples(
    st.sampled_from(("add", "drop", "rename")),
    st.integers(0, 3),
    st.sampled_from((*NAMES, "d")),
    st.sampled_from(TYPES),
)


@given(st.lists(STATEMENTS, min_size=1, max_size=7))
@example([("drop", 0, "a", 23), ("add", 0, "a", 23), ("rename", 1, "c", 23)])
@example([("drop", 1, "b", 25), ("add", 0, "b", 25), ("rename", 1, "c", 25)])
@example([("rename", 0, "c", 23), ("rename", 1, "a", 23), ("rename", 0, "b", 23)])
@example([("add", 0, "c", 23), ("rename", 2, "d", 23), ("add", 0, "c", 23)])
@settings(max_examples=400, deadline=None)
def test_what_is_not_refused_is_right(statements: list[tuple[str, int, str, int]]) -> None:
    states = [START]
    for statement in statements:
        states.append(applied(states[-1], *statement))
    last = states[-1]
    if not goes_on(START, last):
        return
    for state in states:
        found = between(START, last, [(one.name, one.type, one.modifier) for one in state.columns])
        if found is not None:
            assert [(c.number, c.name) for c in found.stored] == [(c.number, c.name) for c in state.columns]
            where = places(found, last)
            assert where is not None
            values = [f"value {one.number}" for one in state.columns]
            row = [values[place] if isinstance(place, int) else place for place in where]
            there = {one.number for one in state.columns}
            assert row == [f"value {c.number}" if c.number in there else c.given for c in last.columns]


def test_each_of_one_kind_of_statement_is_told() -> None:
    """All that is common: what is refused is the exception."""
    for statements in (
        [("add", 0, "c", 23), ("add", 0, "d", 25)],
        [("drop", 0, "", 0)],
        [("rename", 0, "c", 0)],
        [("add", 0, "c", 25), ("drop", 0, "", 0), ("rename", 0, "d", 0)],
    ):
        states = [START]
        for statement in statements:
            states.append(applied(states[-1], *statement))
        assert goes_on(START, states[-1])
        for state in (START, states[-1]):
            fields = [(one.name, one.type, one.modifier) for one in state.columns]
            assert between(START, states[-1], fields) is state


def test_another_kind_a_column_that_came_and_went_and_an_unknown_value_do_not_go_on() -> None:
    wider = replace(START, columns=(*START.columns[:-1], replace(START.columns[-1], kind="other")))
    came_and_went = replace(START, attributes=5)
    unknown = applied(START, "add", 0, "c", 23)
    unknown = replace(unknown, columns=(*unknown.columns[:-1], replace(unknown.columns[-1], certain=False)))
    key_anew = replace(START, attributes=5, columns=(*START.columns[1:], replace(KEY, number=5)))
    for other in (wider, came_and_went, unknown, key_anew, replace(START, frame="other")):
        assert not goes_on(START, other)
    assert Makeup.from_list(START.as_list()) == START
