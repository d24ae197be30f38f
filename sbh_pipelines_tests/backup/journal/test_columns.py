"""Columns that come, go and are renamed between two drains: rows keep the definition that they were written under."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines_tests.support.journal import Journaled, journal_of, logical_server
from sbh_pipelines_tests.support.own_server import OwnServer

ITEMS, FOLLOWER = "public.items", "public.comments"


@pytest.fixture(scope="module", params=[18, 15])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with logical_server(request.param) as made:
        yield made


@pytest.fixture
def journaled(server: OwnServer, tmp_path: Path) -> Iterator[Journaled]:
    with journal_of(server, tmp_path) as made:
        yield made


def goes_on(journaled: Journaled, table: str) -> bool:
    before, after = journaled.directories("eu-west-1")[-2:]
    ranges = after.facts.coverage.get(table, ())
    return bool(ranges) and (ranges[0].start, ranges[-1].end) == (before.name.end, after.name.end)


def columns_of(journaled: Journaled, table: str) -> list[tuple[str, ...]]:
    """Of each change's layout since the last drain but one, by commit; each of them is known by number, too."""
    directory = journaled.directories("eu-west-1")[-1]
    found = []
    for layouts, transaction in journaled.transactions(1, directory.name.start):
        for change in transaction.changes:
            layout = layouts[change.layout]
            if layout.table == table:
                stored = directory.facts.makeups[layout.definition].stored
                assert tuple(column.name for column in stored) == layout.columns
                found.append(layout.columns)
    return found


@pytest.mark.parametrize(
    "altering",
    [
        ["ADD COLUMN extra text"],
        ["ADD COLUMN extra int DEFAULT 7"],
        ["ADD COLUMN extra int DEFAULT 7", "ADD COLUMN more text DEFAULT 'x, \"y\" {z}'"],
        ["DROP COLUMN title"],
        ["RENAME title TO name"],
        ["ALTER title SET NOT NULL", "ALTER title SET STATISTICS 10"],
        ["ADD COLUMN extra int", "RENAME title TO name"],
    ],
    ids=" then ".join,
)
def test_a_table_and_what_follows_it_are_told_on(journaled: Journaled, altering: list[str]) -> None:
    journaled.run("UPDATE items SET title = 'before' WHERE id = 2; UPDATE comments SET title = 'before' WHERE id = 1")
    for one in altering:
        journaled.run(f"ALTER TABLE items {one}", "UPDATE items SET id = id WHERE id = 2")
    journaled.run("UPDATE comments SET title = 'after' WHERE id = 1")
    result = journaled.drain()
    assert not result.events
    assert not result.not_covered
    assert goes_on(journaled, ITEMS)
    assert goes_on(journaled, FOLLOWER)
    told = columns_of(journaled, ITEMS)
    assert told[0] == ("id", "project_id", "title")
    assert len(told) == 1 + len(altering)
    now = journaled.database.copy(
        "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'items'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    assert told[-1] == tuple(now.decode().strip().split(","))


@pytest.mark.parametrize(
    "altering",
    [
        "ALTER TABLE items ALTER title TYPE varchar(500)",
        "ALTER TABLE items ADD COLUMN at timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE items ADD COLUMN n serial",
        "ALTER TABLE items ADD COLUMN gone int; ALTER TABLE items DROP COLUMN gone",
        "ALTER TABLE items RENAME id TO number",
    ],
)
def test_any_other_change_of_its_definition_ends_what_is_told(journaled: Journaled, altering: str) -> None:
    journaled.run(altering)
    journaled.drain()
    assert not goes_on(journaled, ITEMS)


def test_columns_that_change_places_are_not_mistaken(journaled: Journaled) -> None:
    """A name that is of one column before and of another after says nothing of a row; without rows nothing is lost."""
    again = "ALTER TABLE items DROP COLUMN title; ALTER TABLE items ADD COLUMN title text"
    journaled.run(again)
    journaled.drain()
    assert goes_on(journaled, ITEMS)
    journaled.run("UPDATE items SET title = 'x' WHERE id = 9", again)
    result = journaled.drain()
    assert {(event.table, event.tenants) for event in journaled.events(1)} == {(ITEMS, None)}
    assert FOLLOWER in result.not_covered


def test_another_parents_column_ends_nothing(journaled: Journaled) -> None:
    journaled.run(
        "ALTER TABLE projects ADD COLUMN extra int DEFAULT 7",
        "UPDATE projects SET extra = 8 WHERE id = 9",
        "UPDATE items SET title = 'x' WHERE project_id = 9",
    )
    assert not journaled.drain().events
    assert all(goes_on(journaled, table) for table in ("public.projects", ITEMS, FOLLOWER))


@pytest.mark.parametrize("aligned", [True, False], ids=["in the root's order", "in another order"])
def test_partitions_are_told_on_where_their_columns_are_in_the_roots_order(
    server: OwnServer, tmp_path: Path, aligned: bool
) -> None:
    """Of another order nothing says which column is which while they change: an event."""
    columns = "id int NOT NULL, tenant_id int NOT NULL, day int NOT NULL, text text"
    if not aligned:
        columns = ", ".join(reversed(columns.split(", ")))
    with journal_of(server, tmp_path, drained=False) as made:
        made.run(
            "CREATE TABLE logs (id int, tenant_id int NOT NULL, day int, text text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
            f"CREATE TABLE logs_1 ({columns}, PRIMARY KEY (id, day))",
            "ALTER TABLE logs ATTACH PARTITION logs_1 FOR VALUES FROM (0) TO (10)",
            "ALTER TABLE logs_1 REPLICA IDENTITY FULL",
            "INSERT INTO logs VALUES (1, 1, 5, 'a')",
        )
        made.drain()
        made.run("ALTER TABLE logs ADD COLUMN extra int DEFAULT 7", "UPDATE logs SET text = 'b'")
        result = made.drain()
        assert bool(result.events) is not aligned
        if aligned:
            assert goes_on(made, "public.logs")
            (column,) = [
                one
                for makeup in made.directories("eu-west-1")[-1].facts.makeups.values()
                for one in makeup.columns
                if one.name == "extra"
            ]
            assert (column.given, column.certain) == ("7", True)
