"""What waited for a row that came: found whatever happens to the rows in the window, and nothing else taken for it."""

from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.journal.routing.arrivals import Arrival, Arrivals
from sbh_pipelines.backup.journal.routing.departures import find_orphans
from sbh_pipelines.backup.journal.routing.followers import CountRows, Followers
from sbh_pipelines.backup.journal.routing.records import DELETE, INSERT, UPDATE, Record
from sbh_pipelines.backup.journal.routing.router import note_first
from sbh_pipelines.backup.journal.routing.routes import Index, Key, Link, Route, plan_routes
from sbh_pipelines.backup.journal.routing.states import States
from sbh_pipelines_tests.backup.journal.routing.journal_model import MAPPED
from sbh_pipelines_tests.support.effort import examples

PLAN = plan_routes(MAPPED)
PROJECTS, TASKS = 0, 1
KEYS = [b"1", b"2", b"3"]
(INDEX,) = [index for index in PLAN.indexes if index.route == PROJECTS]

ROWS = st.dictionaries(st.sampled_from([b"1", b"2", b"3", b"4"]), st.sampled_from(KEYS))
TRANSACTION = st.lists(
    st.tuples(st.booleans(), st.sampled_from(KEYS), st.sampled_from([*KEYS, None]), st.sampled_from(KEYS)), max_size=4
)


class Application:
    """Projects by id, and tasks with the project that they refer to; no foreign key holds."""

    def __init__(self, projects: set[bytes], tasks: dict[bytes, bytes]) -> None:
        self.projects, self.tasks = {*projects}, {**tasks}

    def project(self, at: int, key: bytes) -> Record:
        if key in self.projects:
            self.projects.remove(key)
            return Record(at, PROJECTS, 0, DELETE, key, b"", key, (b"7",), None, ((key,),), ())
        self.projects.add(key)
        return Record(at, PROJECTS, 0, INSERT, b"", key, b"", None, (b"7",), (), ((key,),))

    def task(self, at: int, key: bytes, link: bytes | None) -> Record | None:
        before = self.tasks.pop(key, None)
        if link is not None:
            self.tasks[key] = link
        if before is None:
            return None if link is None else Record(at, TASKS, 0, INSERT, b"", key, b"", None, (link,), (), (None,))
        if link is None:
            return Record(at, TASKS, 0, DELETE, key, b"", key, (before,), None, (None,), ())
        return Record(at, TASKS, 0, UPDATE, b"", key, key, (before,), (link,), (None,), (None,))


def counting(tasks: Mapping[bytes, bytes]) -> CountRows:
    def count(route: Route, index: Index, keys: Sequence[Key], within_s: float) -> Mapping[Key, int]:
        found = {key: sum((link,) == key for link in tasks.values()) for key in keys} if route.number == TASKS else {}
        return {key: number for key, number in found.items() if number}

    return count


def waited(records: Sequence[Record], followers: Followers, seen: int, most: int = 1000) -> list[Arrival]:
    def lookup(index: Index, keys: Sequence[Key]) -> Mapping[Key, Link]:
        return {}

    with States() as firsts:
        arrivals = Arrivals(PLAN, firsts, most)
        for record in records:
            note_first(PLAN, firsts, record)
            arrivals.note(record)
        return list(arrivals.waited_for(records, followers, lambda at: at < seen, lookup, set()))


@given(
    projects=st.sets(st.sampled_from(KEYS)),
    tasks=ROWS,
    window=st.lists(TRANSACTION, min_size=1, max_size=5),
    data=st.data(),
    most=st.sampled_from([1, 1000]),
)
@settings(max_examples=examples(300), deadline=None)
def test_a_row_that_waited_is_found_and_no_other(
    projects: set[bytes], tasks: dict[bytes, bytes], window: list, data: st.DataObject, most: int
) -> None:
    application, records = Application(projects, tasks), []
    states, first, ever = [application.tasks.copy()], {}, set(tasks.values())
    needed, allowed = set(), set()
    for at, transaction in enumerate(window):
        for of_project, key, link, project in transaction:
            if not of_project:
                record = application.task(at, key, link)
            else:
                record = application.project(at, project)
                if project not in first:
                    first[project] = at
                    if record.op == INSERT:
                        needed |= {project} if project in states[at].values() else set()
                        allowed |= {project} if project in ever else set()
            records += [record] if record is not None else []
        states.append(application.tasks.copy())
        ever |= {record.after[0] for record in records if record.table == TASKS and record.after is not None}
    seen = data.draw(st.integers(0, len(window)))
    found = waited(records, Followers(PLAN, counting(states[seen])), seen, most)
    assert len(needed) <= len(found) <= len(allowed)
    assert {first[key] for key in needed} <= {one.transaction for one in found} <= {first[key] for key in allowed}
    assert all(one.table == PROJECTS and one.owners == {b"7"} for one in found)


def test_what_cannot_be_found_out_in_time_is_believed() -> None:
    """A table that the server does not answer for is not asked for again; one of no index is not asked for what waited."""
    asked = []

    def slow(route: Route, index: Index, keys: Sequence[Key], within_s: float) -> None:
        asked.append((route.number, within_s))

    application = Application(set(), {})
    came = [application.project(0, b"1"), application.project(1, b"2")]
    assert [one.transaction for one in waited(came, Followers(PLAN, slow), 2)] == [0, 1]
    followers = Followers(PLAN, slow)
    for _ in range(2):
        assert find_orphans(INDEX, [(b"1",)], lambda *_: {}, followers) == {(b"1",)}
    assert asked == [(TASKS, 60.0)] * 2
    without = plan_routes(MAPPED, lambda table: not table.hops)
    assert not any(index.loose for index in without.indexes)
    assert Followers(without, slow, quick_only=True).tables(INDEX.number) == []
    assert find_orphans(INDEX, [(b"1",)], lambda *_: {}, Followers(without, slow)) == {(b"1",)}
    assert asked[-1] == (TASKS, 5.0)
