"""Drains of a real server: what they tell is what the tables hold, whenever they are killed and whatever becomes of the slot."""

import shutil
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from sbh_pipelines.backup.journal.drain import drain
from sbh_pipelines.backup.journal.giving_up import give_up
from sbh_pipelines.backup.journal.guard import look_ahead
from sbh_pipelines.database.journal.fence import place_fence
from sbh_pipelines.errors import JournalGap, SlotTrouble, SourceConflict, StoreUnavailable
from sbh_pipelines.repository.journal.segments.block import public_of
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines_tests.support.effort import either
from sbh_pipelines_tests.support.journal import QUERIES, SCHEMA, Journaled, Rows, journal_of, logical_server
from sbh_pipelines_tests.support.own_server import OwnServer, wait_for


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as made:
        yield made


@pytest.fixture
def journaled(server: OwnServer, tmp_path: Path) -> Iterator[Journaled]:
    """Drained once: the chain has begun."""
    with journal_of(server, tmp_path) as made:
        yield made


def test_the_first_drain_begins_a_chain_that_covers_every_table(journaled: Journaled) -> None:
    """From its fence on; in every region, also where nothing happened."""
    for region in ("eu-west-1", "us-east-1"):
        (directory,) = journaled.directories(region)
        fence = directory.facts.fences[-1]
        assert fence.after == directory.name.end
        assert set(directory.facts.coverage) == set(QUERIES)
        assert {one.start for ranges in directory.facts.coverage.values() for one in ranges} == {fence.before}


def test_what_was_changed_is_told_to_the_byte(journaled: Journaled) -> None:
    """Inserts, updates, deletes with their cascades, new keys, a rollback, a savepoint, values that must be escaped."""
    start = {tenant: journaled.rows(tenant) for tenant in (1, 2, 3)}
    journaled.run(
        r"INSERT INTO projects VALUES (100, 1, E'tab\t new\n back\\ ü', NULL)",
        "INSERT INTO items VALUES (100, 100, NULL), (101, 1, '')",
        "UPDATE items SET title = title || '!' WHERE id < 20",
        "DELETE FROM projects WHERE id = 4",
        "UPDATE items SET id = id + 1000 WHERE id IN (7, 8)",
        "BEGIN; DELETE FROM items; ROLLBACK",
        "BEGIN; INSERT INTO items VALUES (102, 2, 'kept'); SAVEPOINT a; DELETE FROM comments; ROLLBACK TO a; COMMIT",
        "UPDATE tenants SET tier = 'critical'",
        "UPDATE comments SET item_id = NULL WHERE id = 5",
    )
    result = journaled.drain()
    assert not result.events
    assert set(result.covered) == set(QUERIES)
    for tenant in (1, 2, 3):
        assert journaled.applied(tenant, start[tenant]) == journaled.rows(tenant)


class Killed(Exception):
    """The process is gone."""


class Mortal:
    """A store that lets `left[0]` writes pass. The next one kills: before it takes effect, or right after."""

    def __init__(self, inner: Any, left: list[int], after: bool) -> None:
        self._inner, self._left, self._after = inner, left, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in ("put", "create", "replace", "delete"):
            return method

        def write(key: Any, *arguments: Any) -> Any:
            if self._left[0] < 0:
                raise Killed
            self._left[0] -= 1
            if self._left[0] < 0 and not self._after:
                raise Killed
            done = method(key, *arguments)
            if self._left[0] < 0:
                raise Killed
            return done

        return write


CHANGES = (
    "INSERT INTO projects VALUES (100, 1, 'a', NULL), (101, 2, 'b', NULL); INSERT INTO items VALUES (100, 100, 'i'), (101, 101, 'j')",
    "UPDATE items SET title = 'again' WHERE id < 12; DELETE FROM comments WHERE id % 7 = 0",
    "UPDATE projects SET body = 'x'; DELETE FROM items WHERE id = 100",
)


def told_exactly(journaled: Journaled, start: dict[int, Rows]) -> None:
    for tenant in (1, 2, 3):
        assert journaled.applied(tenant, start[tenant]) == journaled.rows(tenant)
        commits = [(one.commit, len(one.changes)) for _, one in journaled.transactions(tenant) if one.last]
        assert len({commit for commit, _ in commits}) == len(commits)  # each once


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_the_next_drain_heals(journaled: Journaled, after: bool) -> None:
    """Nothing is lost, nothing is told twice: the cover counts each commit once, in every region."""
    start = {tenant: journaled.rows(tenant) for tenant in (1, 2, 3)}
    survived = False
    for writes in range(12):
        for statement in CHANGES:
            journaled.run(statement.replace("100", str(1000 + 2 * writes)).replace("101", str(1001 + 2 * writes)))
        left = [writes]
        try:
            journaled.drain(lambda store, place, left=left: Mortal(store, left, after))  # type: ignore[misc]
            survived = True
        except Killed:
            pass
        journaled.forget_lease()
        if survived:
            break
    assert survived
    journaled.drain()
    told_exactly(journaled, start)
    assert not [gap for region in ("eu-west-1", "us-east-1") for gap in journaled.site().journal(region).gaps()]


def test_killed_before_the_slot_advances_nothing_is_told_twice(
    journaled: Journaled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segments are there, the slot is behind: it gives all of it again."""
    start = {tenant: journaled.rows(tenant) for tenant in (1, 2, 3)}
    journaled.run(*CHANGES)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("sbh_pipelines.backup.journal.drain.advance_slot", killed)
        with pytest.raises(Killed):
            journaled.drain()
    journaled.run("INSERT INTO projects VALUES (200, 3, 'c', NULL)")
    result = journaled.drain()
    assert result.changes == 1
    told_exactly(journaled, start)


def test_a_slot_that_a_crash_put_back_is_believed(tmp_path: Path) -> None:
    """After it the server gives again what was told; and the last fence is where it was."""
    with logical_server() as own, journal_of(own, tmp_path) as journaled:
        start = {tenant: journaled.rows(tenant) for tenant in (1, 2, 3)}
        journaled.run("CHECKPOINT")
        for number in range(3):
            journaled.run(f"INSERT INTO projects VALUES ({300 + number}, 1, 'a', NULL)")
            journaled.drain()
        own.stop("immediate")
        own.start()
        journaled.settings = journaled.configured()
        journaled.run("INSERT INTO projects VALUES (400, 1, 'a', NULL)")
        result = journaled.drain()
        assert (result.gap, result.changes) == (None, 1)
        told_exactly(journaled, start)


def test_a_slot_that_is_gone_is_a_gap_and_a_new_incarnation(journaled: Journaled) -> None:
    """Said in every region; what follows is told from a new chain."""
    before = journaled.site().journal("eu-west-1").incarnations()
    journaled.run("SELECT pg_drop_replication_slot('sbh_journal')", *CHANGES)
    result = journaled.drain()
    assert result.gap
    assert result.incarnation > before[-1]
    for region in ("eu-west-1", "us-east-1"):
        (gap,) = journaled.site().journal(region).gaps()
        assert (gap.kind, gap.incarnation, gap.table) == ("slot_missing", before[-1], None)
    start = {tenant: journaled.rows(tenant) for tenant in (1, 2, 3)}
    journaled.run("INSERT INTO projects VALUES (200, 3, 'c', NULL)")
    assert journaled.drain().gap is None
    told_exactly(journaled, start)


def test_a_slot_made_anew_under_the_same_name_is_found_out(journaled: Journaled) -> None:
    """It is further than the chain, so it may have passed over something."""
    journaled.run(
        "SELECT pg_drop_replication_slot('sbh_journal')",
        CHANGES[0],
        "SELECT pg_create_logical_replication_slot('sbh_journal', 'pgoutput')",
    )
    assert "made anew" in str(journaled.drain().gap)


def test_a_slot_that_somebody_advanced_is_found_out(journaled: Journaled) -> None:
    """What it passed over nobody told."""
    journaled.run(CHANGES[0], "SELECT pg_replication_slot_advance('sbh_journal', pg_current_wal_flush_lsn())")
    assert journaled.drain().gap
    assert [gap.kind for gap in journaled.site().journal("eu-west-1").gaps()] == ["slot_ahead"]


def test_a_slot_of_another_database_is_left_alone(journaled: Journaled, server: OwnServer) -> None:
    """It is somebody else's."""
    journaled.run("SELECT pg_drop_replication_slot('sbh_journal')")
    other = server.database("postgres")
    other.run("SELECT pg_create_logical_replication_slot('sbh_journal', 'pgoutput')")
    try:
        with pytest.raises(SlotTrouble, match="another's"):
            journaled.drain()
        with pytest.raises(SlotTrouble, match="another's"):
            give_up(journaled.site())
        assert other.ask("SELECT database FROM pg_replication_slots WHERE slot_name = 'sbh_journal'") == [("postgres",)]
    finally:
        other.run("SELECT pg_drop_replication_slot('sbh_journal')")


def test_another_server_is_a_gap(journaled: Journaled, tmp_path: Path) -> None:
    """A chain is of one system identifier."""
    with logical_server() as other, journal_of(other, tmp_path, drained=False) as elsewhere:
        elsewhere.directory = journaled.directory
        elsewhere.settings = elsewhere.configured()
        result = elsewhere.drain()
    assert "another server" in str(result.gap)


def test_a_slot_that_holds_too_much_is_dropped(journaled: Journaled) -> None:
    """Production comes before the journal."""
    journaled.sections = {"journal": {"enabled": True, "dsn": "user=sbh_admin", "max_lag_gib": 0.001}}
    journaled.settings = journaled.configured()
    journaled.run("CREATE TABLE bulk AS SELECT repeat('x', 500) FROM generate_series(1, 6000)")
    journaled.run("DROP TABLE bulk")
    assert "held" in str(journaled.drain().gap)


def test_a_fence_that_does_not_come_by_is_an_error(journaled: Journaled, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is taken from the slot."""

    def another(connection: Any, note: str) -> Any:
        return replace(place_fence(connection, note), mark="another")

    (before,) = journaled.database.ask("SELECT confirmed_flush_lsn FROM pg_replication_slots")
    with monkeypatch.context() as patched:
        patched.setattr("sbh_pipelines.backup.journal.drain.place_fence", another)
        with pytest.raises(SlotTrouble):
            journaled.drain()
    assert journaled.database.ask("SELECT confirmed_flush_lsn FROM pg_replication_slots") == [before]


def test_truncate_is_an_event_of_all_tenants(journaled: Journaled) -> None:
    """No row says that it went."""
    journaled.run("TRUNCATE comments")
    journaled.drain()
    for tenant in (1, 2):
        (event,) = journaled.events(tenant)
        assert (event.kind, event.table, event.tenants) == ("truncated", "public.comments", None)


def test_a_moved_parent_is_an_event_of_both_tenants_alone(journaled: Journaled) -> None:
    """Its followers changed hands without a change of their own: the third tenant's are told as before."""
    journaled.run("UPDATE projects SET tenant_id = 2 WHERE id = 3")  # it was tenant 1's
    journaled.drain()
    assert not journaled.events(3)
    for tenant in (1, 2):
        assert {(event.kind, event.table) for event in journaled.events(tenant)} == {
            ("moved", "public.items"),
            ("moved", "public.comments"),
        }
        assert all(event.tenants == (str(tenant),) for event in journaled.events(tenant))


def test_a_changed_definition_ends_coverage_and_begins_another(journaled: Journaled) -> None:
    """Of the table, whose rows were written anew, and of what follows it; of no other."""
    journaled.run("ALTER TABLE items ALTER id TYPE bigint", "INSERT INTO items VALUES (500, 1, 'x')")
    journaled.drain()
    before, after = journaled.directories("eu-west-1")[-2:]
    for table in ("public.projects", "public.tenants"):
        assert after.facts.coverage[table][0].start == before.name.end
    for table in ("public.items", "public.comments"):
        (covered,) = after.facts.coverage[table]
        assert (covered.start, covered.end) == (after.facts.fences[-1].before, after.name.end)
    journaled.run("INSERT INTO items VALUES (501, 1, 'y')")
    journaled.drain()
    (covered,) = journaled.directories("eu-west-1")[-1].facts.coverage["public.items"]
    assert covered.start == after.name.end


def test_an_identity_that_was_another_for_a_while_is_an_event(journaled: Journaled) -> None:
    """There and back between two drains: the stream itself says it. What follows its rows is not told in the whole window."""
    journaled.run(
        "ALTER TABLE items REPLICA IDENTITY DEFAULT",
        "UPDATE items SET title = 'lost' WHERE id = 3",
        "ALTER TABLE items REPLICA IDENTITY FULL",
        "UPDATE items SET title = 'told' WHERE id = 3",
    )
    result = journaled.drain()
    kinds = {(event.kind, event.table) for event in journaled.events(1)}
    assert result.events
    assert ("changed", "public.items") in kinds
    assert {"public.projects", "public.items"} <= set(result.covered)
    assert "public.comments" in result.not_covered


def test_a_table_that_cannot_be_told_is_left_out_with_what_follows_it(journaled: Journaled) -> None:
    """And is published no more, so that it stays writable."""
    journaled.run("ALTER TABLE items REPLICA IDENTITY DEFAULT", "DELETE FROM items WHERE id = 3")
    result = journaled.drain()
    assert set(result.left_out) == {"public.items", "public.comments"}
    assert set(result.covered) == {"public.tenants", "public.projects"}
    assert {name for (name,) in journaled.database.ask("SELECT tablename FROM pg_publication_tables")} == {
        "tenants",
        "projects",
    }


def test_changes_of_a_tenant_without_a_key_are_counted_and_dropped(journaled: Journaled) -> None:
    """It is told in every region, and is a loss in its own."""
    journaled.run(
        "INSERT INTO tenants VALUES (4, 'dodo', 'us-east-1', 'standard')",
        "INSERT INTO projects VALUES (600, 4, 'x', NULL), (601, 4, 'y', NULL)",
    )
    result = journaled.drain()
    assert result.changes == 0
    assert journaled.directories("us-east-1")[-1].facts.skipped["4"][0] == 3
    assert journaled.directories("eu-west-1")[-1].facts.skipped["4"][0] == 3
    assert {one.region: one.skipped for one in result.regions} == {"eu-west-1": 0, "us-east-1": 3}


def test_no_block_leaves_its_tenants_region(journaled: Journaled) -> None:
    """Each region's segment has its own tenants, and events name no others. Of others it has a number of changes alone."""
    journaled.run(*CHANGES, "UPDATE projects SET tenant_id = 2 WHERE id = 3")
    journaled.drain()
    for region, tenants in (("eu-west-1", {"1", "3"}), ("us-east-1", {"2"})):
        directory = journaled.directories(region)[-1]
        assert set(directory.tenants) == tenants
        assert {name for event in directory.facts.events for name in event.tenants or ()} <= tenants
        assert set(directory.facts.skipped) == {"1", "2", "3"} - tenants


def test_a_tenant_that_was_in_another_region_for_a_while(journaled: Journaled) -> None:
    """What happened to it there the first region knows to be elsewhere; once it is back, the other one does."""
    key = PublicKey("slug-1", "1", 1, public_of(journaled.private[1]))
    journaled.site().journal("us-east-1").public_keys.register([key])
    steps = (
        "UPDATE tenants SET region = 'us-east-1' WHERE id = 1",
        "UPDATE projects SET title = 'away' WHERE tenant_id = 1",
        "UPDATE tenants SET region = 'eu-west-1' WHERE id = 1",
    )
    skipped = []
    for step in steps:
        journaled.run(step)
        fence = journaled.drain().fence
        skipped.append(
            [journaled.directories(region)[-1].facts.skipped.get("1") for region in ("eu-west-1", "us-east-1")]
        )
        assert all(one is None or one[1] < fence for one in skipped[-1])
    assert [[one and one[0] for one in both] for both in skipped] == [[1, None], [3, None], [None, 1]]


def test_where_a_tenant_is_the_primary_says(journaled: Journaled, server: OwnServer) -> None:
    """What backups read may be behind."""
    server.create_database(name := f"{journaled.database.name}_behind").run(SCHEMA)
    try:
        journaled.sections = {
            "database": {"dsn": server.database(name).dsn},
            "journal": {"enabled": True, "dsn": f"user=sbh_admin dbname={journaled.database.name}"},
        }
        journaled.settings = journaled.configured()
        journaled.run("UPDATE tenants SET region = 'us-east-1' WHERE id = 1")
        journaled.drain()
        assert journaled.directories("eu-west-1")[-1].facts.skipped["1"][0] == 1
    finally:
        server.drop_database(name)


def test_unsent_values_are_filled_from_the_row_before(journaled: Journaled) -> None:
    """With identity FULL nothing stays open, also where a row goes to another tenant."""
    journaled.run(
        "ALTER TABLE projects ALTER body SET STORAGE EXTERNAL",
        "UPDATE projects SET body = repeat('long', 2000) WHERE id IN (2, 3)",
    )
    journaled.drain()
    start = {tenant: journaled.rows(tenant) for tenant in (1, 2, 3)}
    end = journaled.directories("eu-west-1")[-1].name.end
    journaled.run(
        "UPDATE projects SET title = 'short' WHERE id IN (2, 3)", "UPDATE projects SET tenant_id = 3 WHERE id = 3"
    )
    journaled.drain()
    assert not [event for tenant in (1, 2, 3) for event in journaled.events(tenant) if event.kind == "incomplete"]
    for tenant in (1, 2, 3):
        told = journaled.applied(tenant, start[tenant], end)
        assert told["public.projects"] == journaled.rows(tenant)["public.projects"]


def test_a_large_transaction_takes_little_memory(journaled: Journaled) -> None:
    """Rows of several tenants, parents and children, in one transaction; `make soak` has a million of them."""
    parents = either(10_000, 250_000)
    last = 10_000 + parents - 1
    journaled.run(
        f"BEGIN; INSERT INTO projects SELECT n, 1 + n % 3, 'p', NULL FROM generate_series(10000, {last}) n;"
        f" INSERT INTO items SELECT n, n, repeat('i', 80) FROM generate_series(10000, {last}) n;"
        f" INSERT INTO comments SELECT n, 10000 + n % {parents}, repeat('c', 80)"
        f" FROM generate_series(10000, {10_000 + 2 * parents - 1}) n; COMMIT"
    )
    site = journaled.site()
    tracemalloc.start()
    try:
        result = drain(site)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.changes == 4 * parents
    assert peak < either(40, 96) << 20
    told = {tenant: sum(len(one.changes) for _, one in journaled.transactions(tenant)) for tenant in (1, 2, 3)}
    assert sum(told.values()) == 4 * parents
    assert all([one.last for _, one in journaled.transactions(tenant)][-1] for tenant in (1, 2, 3))


def test_a_slot_is_dropped_in_time_also_where_no_store_answers(journaled: Journaled) -> None:
    """The application's server comes first; the next drain that can says that there is a gap."""
    journaled.sections = {"journal": {"enabled": True, "dsn": "user=sbh_admin", "max_lag_gib": 0.001}}
    journaled.settings = journaled.configured()
    journaled.run("CREATE TABLE bulk AS SELECT repeat('x', 500) FROM generate_series(1, 6000)")
    journaled.run("DROP TABLE bulk")

    class Away:
        def __getattr__(self, name: str) -> Any:
            raise StoreUnavailable("The object store does not answer")

    outlook = look_ahead(journaled.site())
    assert outlook.held_bytes > outlook.limit_bytes
    assert outlook.found is not None
    with pytest.raises(StoreUnavailable):
        journaled.drain(lambda store, place: Away())
    assert not journaled.database.ask("SELECT FROM pg_replication_slots WHERE slot_name = 'sbh_journal'")
    assert journaled.drain().gap == "the slot is gone"


def test_a_table_that_is_not_mapped_does_not_keep_the_log(journaled: Journaled) -> None:
    """Backups stop at it; the journal goes on with what it knows."""
    journaled.run("CREATE TABLE strangers (id int PRIMARY KEY)", CHANGES[0])
    assert journaled.drain().changes


@pytest.fixture
def partitioned(server: OwnServer, tmp_path: Path) -> Iterator[Journaled]:
    """A table in two partitions, whose columns one of them has in another order."""
    with journal_of(server, tmp_path, drained=False) as made:
        made.run(
            "CREATE TABLE logs (id int, tenant_id int NOT NULL, day int, text text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
            "CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE logs_2 (text text, day int NOT NULL, tenant_id int NOT NULL, id int NOT NULL, PRIMARY KEY (id, day))",
            "ALTER TABLE logs ATTACH PARTITION logs_2 FOR VALUES FROM (10) TO (20)",
            "ALTER TABLE logs_1 REPLICA IDENTITY FULL",
            "ALTER TABLE logs_2 REPLICA IDENTITY FULL",
        )
        made.drain()
        yield made


def test_partitions_are_told_as_their_root(partitioned: Journaled) -> None:
    """Rows go from one to the other; columns are matched by name."""
    partitioned.run(
        "INSERT INTO logs VALUES (1, 1, 5, 'a'), (2, 1, 15, 'b')",
        "UPDATE logs SET day = 12 WHERE id = 1",
        "UPDATE logs SET text = 'c' WHERE id = 2",
    )
    result = partitioned.drain()
    assert "public.logs" in result.covered
    assert not result.events
    rows: dict[bytes, bytes] = {}
    for layouts, transaction in partitioned.transactions(1):
        for change in transaction.changes:
            assert layouts[change.layout].table == "public.logs"
            key = change.key.split(b"\t")[0] or change.row.split(b"\t")[0]
            rows.pop(key, None)
            if change.row:
                rows[key] = change.row
    assert sorted(rows.values()) == partitioned.database.copy("SELECT * FROM logs ORDER BY id").split(b"\n")[:-1]


def test_truncate_of_a_partition_is_an_event_of_its_root(partitioned: Journaled) -> None:
    partitioned.run("INSERT INTO logs VALUES (1, 1, 5, 'a')", "TRUNCATE logs_1")
    partitioned.drain()
    assert [(event.kind, event.table) for event in partitioned.events(1)] == [("truncated", "public.logs")]


@pytest.mark.parametrize(
    "surgery",
    [
        "ALTER TABLE logs DETACH PARTITION logs_1",
        "DROP TABLE logs_1",
        "ALTER TABLE logs DETACH PARTITION logs_1; ALTER TABLE logs ATTACH PARTITION logs_1 FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE logs_3 PARTITION OF logs FOR VALUES FROM (20) TO (30)",
    ],
)
def test_partition_surgery_ends_coverage(partitioned: Journaled, surgery: str) -> None:
    """Also there and back between two drains: nothing of it is in the stream."""
    partitioned.run(surgery)
    partitioned.drain()
    before, after = partitioned.directories("eu-west-1")[-2:]
    covered = after.facts.coverage.get("public.logs", ())
    assert all(one.start > before.name.end for one in covered)
    assert after.facts.coverage["public.tenants"][0].start == before.name.end


def test_a_partition_that_came_and_went_is_an_event(partitioned: Journaled) -> None:
    """Rows moved into it are gone with it, and the tables look as before."""
    partitioned.run("INSERT INTO logs VALUES (1, 1, 5, 'a')")
    partitioned.drain()
    partitioned.run(
        "CREATE TABLE logs_3 PARTITION OF logs FOR VALUES FROM (20) TO (30)",
        "ALTER TABLE logs_3 REPLICA IDENTITY FULL",
        "UPDATE logs SET day = 25",
        "DROP TABLE logs_3",
    )
    partitioned.drain()
    assert ("changed", "public.logs") in {(event.kind, event.table) for event in partitioned.events(1)}


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made_anew"])
def test_a_publication_that_was_dropped_is_a_gap(journaled: Journaled, again: bool) -> None:
    """What was changed without one is not in the stream: it must not look like nothing."""
    journaled.run("DROP PUBLICATION sbh_journal", "INSERT INTO projects VALUES (900, 1, 'unseen', NULL)")
    if again:
        journaled.run("CREATE PUBLICATION sbh_journal FOR TABLE tenants, projects, items, comments")
    assert journaled.drain().gap == "the publication was gone"
    journaled.run("INSERT INTO projects VALUES (901, 1, 'seen', NULL)")
    assert journaled.drain().changes == 1
    assert set(journaled.directories("eu-west-1")[-1].facts.coverage) == set(QUERIES)


def test_a_commit_that_waits_for_a_standby_is_waited_for(journaled: Journaled, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the log and nobody sees it: lookups of the next drain would not either. Nothing is written until it is seen."""
    monkeypatch.setattr("sbh_pipelines.backup.journal.drain._SETTLE_S", 0.5)
    database = journaled.database
    database.run("ALTER SYSTEM SET synchronous_standby_names = 'away'", "SELECT pg_reload_conf()")
    try:
        with closing(database.connect()) as waiting:
            wait_for(lambda: database.ask("SHOW synchronous_standby_names") == [("away",)], "the setting")
            thread = Thread(target=swallow, args=(waiting, "INSERT INTO projects VALUES (950, 1, 'late', NULL)"))
            thread.start()
            wait_for(lambda: database.ask("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"), "the wait")
            with pytest.raises(SourceConflict, match="standby"):
                journaled.drain()
            database.run("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
            thread.join()
    finally:
        database.run("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    assert journaled.drain().changes == 1


def swallow(connection: Any, statement: str) -> None:
    with suppress(Exception):
        connection.cursor().execute(statement)


@pytest.mark.parametrize("history", ["shorter", "longer", "silent"])
def test_a_server_put_back_to_an_earlier_state_is_found_out(tmp_path: Path, history: str) -> None:
    """As from a snapshot of its disk: same server, same timeline, another history. The last fence is not in it.

    `silent`: up to the chain's end it has nothing that the stream tells.
    """
    with logical_server() as own, journal_of(own, tmp_path) as journaled:
        journaled.run("CREATE TABLE junk (n int, t text)")
        own.stop()
        subprocess.run(["cp", "-a", own.data, tmp_path / "earlier"], check=True)
        own.start()
        journaled.settings = journaled.configured()
        for number in range(2):
            journaled.run(f"INSERT INTO projects VALUES ({300 + number}, 1, 'forgotten', NULL)")
            journaled.drain()
        own.stop()
        shutil.rmtree(own.data)
        subprocess.run(["cp", "-a", tmp_path / "earlier", own.data], check=True)
        own.start()
        journaled.settings = journaled.configured()
        if history == "silent":
            for _ in range(60):
                journaled.run("INSERT INTO junk SELECT n, 'other' FROM generate_series(1, 200) n")
        for number in range(0 if history == "shorter" else 100):
            journaled.run(f"INSERT INTO projects VALUES ({500 + number}, 2, 'other', NULL)")
        if history == "shorter":
            assert "before the chain" in str(journaled.drain().gap)
        else:
            with pytest.raises(JournalGap, match="earlier state"):
                journaled.drain()
            assert journaled.drain().gap
        assert [gap.kind for gap in journaled.site().journal("eu-west-1").gaps()] == ["server_back"]
