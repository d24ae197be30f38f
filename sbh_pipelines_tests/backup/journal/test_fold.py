"""Changes merged per key say of every row what applying them one after the other does."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.backup.journal.fold import KeyResult, Merge, Told, filled, merge_changes
from sbh_pipelines.errors import JournalGap
from sbh_pipelines.repository.journal.segments.changes import UNCHANGED, Change, Layout, Op, Transaction

LAYOUT = Layout("public.docs", ("n", "body", "name", "extra"), ("name", "n"), "f00d", "UTF8")
Key = tuple[bytes, bytes]
Row = tuple[bytes, bytes]

KEYS = st.tuples(st.sampled_from([b"a", b"b\\t", b"\\\\N"]), st.sampled_from([b"1", b"2"]))
VALUES = st.sampled_from([b"", b"\\N", b"text", b"\\\\u", b"u", b"\\n"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["insert", "update", "delete", "rekey"]), KEYS, KEYS, VALUES, VALUES, st.booleans()),
    max_size=40,
)


def _line(key: Key, row: Row) -> bytes:
    name, n = key
    return b"\t".join([n, row[0], name, row[1]])


@dataclass
class Model:
    """A table as a dictionary. Makes the change that a server would send for what is done to it."""

    rows: dict[Key, Row]
    changes: list[Change] = field(default_factory=list)

    def do(self, step: str, key: Key, other: Key, new: Row, *, told: bool) -> None:
        """What cannot be done is left out. `told`: values that stay as they are, are sent all the same."""
        if step == "insert" and key not in self.rows:
            self.rows[key] = new
            self.changes.append(Change(0, Op.INSERT, b"", _line(key, new)))
        elif step == "delete" and key in self.rows:
            del self.rows[key]
            self.changes.append(Change(0, Op.DELETE, b"\t".join(key), b""))
        elif step in ("update", "rekey") and key in self.rows:
            after = other if step == "rekey" else key
            if after != key and after in self.rows:
                return
            before = self.rows.pop(key)
            sent = [value if told or value != then else UNCHANGED for value, then in zip(new, before, strict=True)]
            self.rows[after] = new
            old = b"\t".join(key) if after != key else b""
            self.changes.append(Change(0, Op.UPDATE, old, _line(after, (sent[0], sent[1]))))


def _told(changes: list[Change], size: int) -> Iterator[Told]:
    for nth in range(0, len(changes), size):
        yield [LAYOUT], Transaction(nth, 0, nth, changes[nth : nth + size])


def _results(changes: list[Change], most_bytes: int | None = None, size: int = 3) -> dict[bytes, KeyResult]:
    with closing(Merge(most_bytes)) as merge:
        merge_changes(_told(changes, size), merge)
        found = list(merge.results(LAYOUT.table))
    assert len({result.key for result in found}) == len(found)
    return {result.key: result for result in found}


@given(st.dictionaries(KEYS, st.tuples(VALUES, VALUES)), STEPS, st.sampled_from([None, 0, 700]), st.integers(1, 5))
def test_the_results_lead_from_the_rows_before_to_the_rows_after(
    before: dict[Key, Row],
    steps: list[tuple[str, Key, Key, bytes, bytes, bool]],
    most_bytes: int | None,
    size: int,
) -> None:
    """As a recovery applies them: open values are those of the row of the origin, in memory or through the file."""
    model = Model(dict(before))
    for step, key, other, one, two, told in steps:
        model.do(step, key, other, (one, two), told=told)
    old = {b"\t".join(key): _line(key, row) for key, row in before.items()}
    after = dict(old)
    for key, result in _results(model.changes, most_bytes, size).items():
        assert result.existed == (key in old)
        after.pop(key, None)
        if result.exists:
            after[key] = filled(result.row, old[result.origin]) if result.is_open else result.row
    assert after == {b"\t".join(key): _line(key, row) for key, row in model.rows.items()}


def test_a_value_of_the_window_is_not_asked_for_again() -> None:
    """An INSERT and an UPDATE that left a column: the value is the INSERT's, though the row had another before the window."""
    key = (b"a", b"1")
    model = Model({key: (b"old", b"old")})
    model.do("delete", key, key, (b"", b""), told=False)
    model.do("insert", key, key, (b"new", b"x"), told=False)
    model.do("update", key, key, (b"new", b"y"), told=False)
    (result,) = _results(model.changes).values()
    assert (result.existed, result.exists, result.is_open) == (True, True, False)
    assert result.row == _line(key, (b"new", b"y"))


def test_a_row_that_changed_its_key_takes_its_open_values_along() -> None:
    """Two rows change their keys, over a third one: the open values are those of the keys that the rows had before."""
    one, two, away = (b"a", b"1"), (b"a", b"2"), (b"b", b"2")
    model = Model({one: (b"ONE", b""), two: (b"TWO", b"")})
    for key, other, body in ((one, away, b"ONE"), (two, one, b"TWO"), (away, two, b"ONE")):
        model.do("rekey", key, other, (body, b"x"), told=False)
    found = _results(model.changes)
    assert set(found) == {b"a\t1", b"a\t2"}
    assert {result.origin for result in found.values()} == {b"a\t1", b"a\t2"}
    assert all(
        result.existed and result.exists and result.is_open and result.origin != key for key, result in found.items()
    )


def test_what_came_and_went_in_the_window_leaves_nothing() -> None:
    model = Model({})
    model.do("insert", (b"a", b"1"), (b"a", b"1"), (b"", b""), told=True)
    model.do("rekey", (b"a", b"1"), (b"b", b"1"), (b"", b""), told=True)
    model.do("delete", (b"b", b"1"), (b"a", b"1"), (b"", b""), told=True)
    assert _results(model.changes) == {}


ROW = _line((b"a", b"1"), (b"", b""))
INSERTED, UPDATED = Change(0, Op.INSERT, b"", ROW), Change(0, Op.UPDATE, b"", ROW)
DELETED = Change(0, Op.DELETE, b"a\t1", b"")


@pytest.mark.parametrize(
    "changes",
    [
        [INSERTED, INSERTED],
        [UPDATED, INSERTED],
        [DELETED, DELETED],
        [DELETED, UPDATED],
        [INSERTED, DELETED, UPDATED],
        [Change(0, Op.INSERT, b"", b"1\t2")],
    ],
    ids=["twice", "over a row", "deleted twice", "changed when gone", "changed when gone again", "too few columns"],
)
def test_changes_that_cannot_follow_on_each_other_are_refused(changes: list[Change]) -> None:
    """What is read twice or out of order must not become a backup."""
    with pytest.raises(JournalGap):
        _results(changes)


def test_other_columns_are_refused() -> None:
    other = Layout(LAYOUT.table, ("n", "name", "body", "extra"), LAYOUT.key, "beef", "UTF8")
    with closing(Merge()) as merge, pytest.raises(JournalGap):
        merge_changes([([LAYOUT, other], Transaction(1, 0, 1, [INSERTED, Change(1, Op.UPDATE, b"", ROW)]))], merge)


def test_only_the_tables_asked_for_are_merged() -> None:
    other = Layout("public.other", LAYOUT.columns, LAYOUT.key, "beef", "UTF8")
    told: list[Told] = [([other, LAYOUT], Transaction(1, 0, 1, [INSERTED, Change(1, Op.INSERT, b"", ROW)]))]
    with closing(Merge()) as merge:
        merge_changes(told, merge, [LAYOUT.table])
        assert merge.layout("public.other") is None
        assert [result.key for result in merge.results(LAYOUT.table)] == [b"a\t1"]
