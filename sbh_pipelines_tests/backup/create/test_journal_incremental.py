"""Incremental backups by the change journal are those that a scan makes, and look through no table that it covers."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.create import snapshot_view, table_delta, tenant_capture
from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines.backup.create.tenant_capture import LOOKED_THROUGH, NO_KEY
from sbh_pipelines.backup.journal.window.window import BEGAN_ANEW, DAMAGED, NOT_KEPT
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.folding import Folding
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer
from sbh_pipelines_tests.support.values import DEFINITIONS, OWN, PLAIN

BOTH = ("acme", "bolt")
SCHEMA = """
CREATE TYPE mood AS ENUM ('calm', 'glad');
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL, tier text);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'critical'), (2, 'bolt', 'eu-west-1', 'critical');
CREATE TABLE docs (id bigint PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text, feeling mood,
    upper_body text GENERATED ALWAYS AS (upper(left(body, 40))) STORED);
CREATE TABLE tokens (id uuid PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text, large text);
CREATE TABLE grid (name text, n int, tenant_id int NOT NULL REFERENCES tenants, body text, large text, PRIMARY KEY (n, name));
CREATE TABLE tasks (id int PRIMARY KEY, doc_id bigint NOT NULL REFERENCES docs ON DELETE CASCADE, body text, large text);
CREATE TABLE events (id bigint, part int, tenant_id int NOT NULL, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE events_0 PARTITION OF events FOR VALUES IN (0);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
ALTER TABLE docs REPLICA IDENTITY FULL;
CREATE UNIQUE INDEX tokens_whose ON tokens (tenant_id, id); ALTER TABLE tokens REPLICA IDENTITY USING INDEX tokens_whose;
CREATE UNIQUE INDEX grid_whose ON grid (tenant_id, n, name); ALTER TABLE grid REPLICA IDENTITY USING INDEX grid_whose;
CREATE UNIQUE INDEX tasks_whose ON tasks (doc_id, id); ALTER TABLE tasks REPLICA IDENTITY USING INDEX tasks_whose;
ALTER TABLE events_0 REPLICA IDENTITY FULL; ALTER TABLE events_1 REPLICA IDENTITY FULL;
INSERT INTO docs SELECT n, 1 + n % 2, E'doc\\t\\\\ ' || n, 'calm' FROM generate_series(1, 400) n;
INSERT INTO tokens SELECT md5('token' || n)::uuid, 1 + n % 2, 'token ' || n, NULL FROM generate_series(1, 400) n;
INSERT INTO grid SELECT E'row\\t' || n % 23, n / 23, 1 + n % 2, 'cell ' || n, NULL FROM generate_series(0, 399) n;
INSERT INTO tasks SELECT n, 1 + n % 400, 'task ' || n, NULL FROM generate_series(1, 600) n;
INSERT INTO events SELECT n, n % 2, 1 + n / 2 % 2, 'event ' || n FROM generate_series(1, 500) n;
"""
TABLES = {"public.tenants", "public.docs", "public.tokens", "public.grid", "public.tasks", "public.events"}


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as made:
        made.create_database("folding_template").run(SCHEMA)
        yield made


@pytest.fixture
def folding(server: OwnServer, tmp_path: Path) -> Iterator[Folding]:
    """With a full backup of both tenants, and drained before and after it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    made = Folding.of(server.create_database(name, "folding_template"), tmp_path)
    try:
        made.drain()
        made.back_up(BOTH, "full")
        made.drain()
        made.back_up(BOTH)  # the chain has a fence before it; and it finds nothing changed
        yield made
    finally:
        made.drop_slot()
        server.drop_database(name)


@pytest.fixture
def no_scan(folding: Folding, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, looking through a table for changes fails the test."""
    assert folding

    def scan(*_: Any) -> Any:
        raise AssertionError("a table is looked through")

    monkeypatch.setattr(snapshot_view, "totals", scan)
    monkeypatch.setattr(table_delta, "sums", scan)


CHANGES = (
    "INSERT INTO docs VALUES (1000, 1, 'new', NULL), (1001, 2, E'\\n\\\\N', 'glad')",
    "UPDATE docs SET body = body || '!' WHERE id % 29 = 0; DELETE FROM docs WHERE id IN (7, 8)",
    "UPDATE docs SET id = id + 5000 WHERE id IN (SELECT d.id FROM docs d LEFT JOIN tasks t ON t.doc_id = d.id WHERE t IS NULL LIMIT 3)",
    "DELETE FROM tokens WHERE left(id::text, 1) = 'a'; INSERT INTO tokens VALUES (md5('x')::uuid, 1, 'x', NULL)",
    "UPDATE grid SET n = n + 1000 WHERE n IN (3, 4); UPDATE grid SET name = name || ' ' WHERE n = 5",
    "UPDATE tasks SET body = 'done' WHERE id % 31 = 0; DELETE FROM tasks WHERE id % 37 = 0",
    "UPDATE events SET part = 1 - part WHERE id % 41 = 0; DELETE FROM events WHERE id % 43 = 0",
    "BEGIN; DELETE FROM docs; ROLLBACK",
    "BEGIN; INSERT INTO docs VALUES (2000, 1, 'a', NULL); SAVEPOINT s; DELETE FROM docs; ROLLBACK TO s; COMMIT",
)


@pytest.mark.usefixtures("no_scan")
def test_what_changed_comes_from_the_journal(folding: Folding) -> None:
    """Again and again, over each other: the rows to the byte, the sums, and nothing said of tables that were read otherwise."""
    for nth in range(3):
        for change in CHANGES:
            folding.database.run(
                change.replace("1000", str(10000 + nth))
                .replace("1001", str(11000 + nth))
                .replace("2000", str(20000 + nth))
                .replace("'x'", f"'x{nth}'")
            )
        for draft in folding.back_up(BOTH):
            assert draft.status is not DraftStatus.UNCHANGED
            assert draft.reread == {}
            assert draft.type == "incremental"


@pytest.mark.usefixtures("no_scan")
def test_a_tenant_to_which_nothing_happened_is_unchanged(folding: Folding) -> None:
    """Whatever happened to others, was rolled back, or happened before its last backup; and no table is looked at."""
    folding.database.run(
        "INSERT INTO docs VALUES (1000, 1, 'new', NULL)", "BEGIN; DELETE FROM docs WHERE tenant_id = 2; ROLLBACK"
    )
    acme, bolt = folding.back_up(BOTH)
    assert (acme.status, bolt.status) == (DraftStatus.COMPLETED, DraftStatus.UNCHANGED)
    assert [draft.status for draft in folding.back_up(BOTH)] == [DraftStatus.UNCHANGED] * 2
    assert {draft.unchanged_since for draft in folding.back_up(["acme"])} == {acme.backup_id}


@pytest.mark.usefixtures("no_scan")
def test_large_values_that_an_update_left_are_read_by_their_keys(folding: Folding) -> None:
    """The journal does not have them where the identity does not: of a row that is there, and of one that changed its key."""
    big = "(SELECT string_agg(md5(g::text || {}), '') FROM generate_series(1, 400) g)"
    folding.database.run(
        f"UPDATE tokens SET large = {big.format('id')} WHERE id::text < '2'; UPDATE tasks SET large = {big.format('id')} WHERE id < 50",
        f"INSERT INTO grid SELECT 'big', g, 1, 'b', {big.format('1')} FROM generate_series(500, 510) g",
    )
    folding.back_up(BOTH)
    folding.database.run(
        "UPDATE tokens SET body = 'left' WHERE id::text < '1'",
        "UPDATE tasks SET id = id + 1000 WHERE id < 20; UPDATE tasks SET body = 'again' WHERE id BETWEEN 1010 AND 1015",
        "UPDATE grid SET body = 'x', n = n + 100 WHERE name = 'big'; DELETE FROM grid WHERE name = 'big' AND n = 605",
        f"UPDATE grid SET large = {big.format('2')} WHERE name = 'big' AND n = 606; UPDATE grid SET body = 'y' WHERE n = 606",
    )
    for draft in folding.back_up(BOTH):
        assert draft.reread == {}


def test_a_scan_and_the_journal_take_turns(folding: Folding) -> None:
    """What the one left the other goes on from."""
    journaled = folding.settings
    plain = journaled.model_copy(update={"journal": journaled.journal.model_copy(update={"enabled": False})})
    for nth, change in enumerate(CHANGES):
        folding.settings = plain if nth % 3 == 1 else journaled
        folding.database.run(change)
        folding.back_up(BOTH)


def test_differential_backups_fold_from_the_full_one(folding: Folding, no_scan: None) -> None:
    for nth, change in enumerate(CHANGES[:5]):
        folding.database.run(change)
        for draft in folding.back_up(BOTH, "differential" if nth % 2 else "incremental"):
            if nth % 2 and draft.status is not DraftStatus.UNCHANGED:
                assert draft.parent is not None
                assert draft.type == "differential"


def test_layers_are_made_anew_as_one(folding: Folding, monkeypatch: pytest.MonkeyPatch, no_scan: None) -> None:
    """With the most there may be, the next one holds all that happened since the base was read, as long as the journal has it."""
    monkeypatch.setattr(tenant_capture, "MAX_LAYERS", 3)
    counts = []
    for nth in range(6):
        folding.database.run(
            f"UPDATE docs SET body = 'n{nth}' WHERE id IN (10, {20 + nth}); DELETE FROM docs WHERE id = {100 + nth}"
        )
        acme, _ = folding.back_up(BOTH)
        assert acme.reread == {}
        (docs,) = [t for t in acme.components["database"].tables if t.table == "public.docs"]
        counts.append(docs.layers)
    assert counts == [1, 2, 3, 1, 2, 3]


# What the journal cannot tell

REASONS = {
    "TRUNCATE tasks": {"public.tasks": "truncate"},
    "ALTER TABLE docs ADD COLUMN more text DEFAULT 'x'": {"public.docs": "its definition changed"},
    "CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2); ALTER TABLE events_2 REPLICA IDENTITY FULL": {
        "public.events": "its definition changed"
    },
    "ALTER TABLE tokens REPLICA IDENTITY FULL": {"public.tokens": "coverage"},
    "UPDATE docs SET tenant_id = 2 WHERE id IN (SELECT doc_id FROM tasks) AND id = 10": {"public.tasks": "moved"},
    "ALTER PUBLICATION sbh_journal DROP TABLE grid": {"public.grid": "coverage"},
    "UPDATE grid SET body = 'much'": {"public.grid": "more than a third"},
}


@pytest.mark.parametrize("statement", REASONS)
def test_what_the_journal_cannot_tell_is_looked_through(folding: Folding, statement: str) -> None:
    """That table alone, with the reason; and from the next backups on the journal does."""
    folding.database.run(statement, "UPDATE tokens SET body = 'too' WHERE id::text < '1'")
    acme, bolt = folding.back_up(BOTH)
    told = acme.reread | bolt.reread
    assert told.keys() >= REASONS[statement].keys(), told
    assert told.keys() <= REASONS[statement].keys() | {"public.tasks"}, told  # its rows follow those of docs
    for table, why in REASONS[statement].items():
        assert why in told[table]
    folding.drain()
    folding.back_up(BOTH)
    folding.database.run(
        "UPDATE tokens SET body = 'again' WHERE id::text < '1'; UPDATE tasks SET body = 'again' WHERE id % 50 = 0"
    )
    for draft in folding.back_up(BOTH):
        assert draft.reread == {}


def test_a_table_without_a_key_is_looked_through(folding: Folding) -> None:
    folding.database.run("CREATE TABLE notes (tenant_id int, body text); INSERT INTO notes VALUES (1, 'a'), (2, 'b')")
    folding.back_up(BOTH)
    folding.database.run("INSERT INTO notes VALUES (1, 'c'); UPDATE tokens SET body = 'too' WHERE id::text < '1'")
    acme, bolt = folding.back_up(BOTH)
    assert acme.reread == {"public.notes": f"{LOOKED_THROUGH}: {NO_KEY}"}
    assert bolt.reread == {"public.notes": f"{LOOKED_THROUGH}: {NO_KEY}"}


def test_a_slot_that_was_dropped_is_a_gap(folding: Folding) -> None:
    folding.database.run("UPDATE docs SET body = 'lost' WHERE id < 20")
    folding.drop_slot()
    folding.database.run("UPDATE docs SET body = 'lost too' WHERE id < 10")
    with closing(folding.database.connect()) as writes:  # a new slot would have to wait for its end
        writes.cursor().execute("BEGIN; CREATE TEMPORARY TABLE open_still (n int); SELECT pg_current_xact_id()")
        for draft in folding.back_up(BOTH):
            assert set(draft.reread) == TABLES
            assert "no change journal that goes on" in draft.reread["public.tasks"]
    assert folding.database.ask("SELECT FROM pg_replication_slots WHERE database = current_database()") == []
    folding.drain()
    folding.database.run("UPDATE docs SET body = 'lost as well' WHERE id < 10")
    for draft in folding.back_up(BOTH):
        assert BEGAN_ANEW in draft.reread["public.tasks"]
    folding.database.run("UPDATE docs SET body = 'told' WHERE id < 20")
    folding.back_up(BOTH)
    folding.database.run("UPDATE docs SET body = 'told again' WHERE id < 20")
    for draft in folding.back_up(BOTH):
        assert draft.reread == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"dsn": "user=nobody_of_this_name"},
        {"password_file": Path("/nowhere/password")},
        {"dsn": "host=another user=sbh_journal"},  # a server that gets no password of another
    ],
)
def test_a_journal_that_cannot_be_drained_fails_no_backup(folding: Folding, settings: dict[str, Any]) -> None:
    """Also where the process that backs up has not the journal's password."""
    wrong = folding.settings.journal.model_copy(update=settings)
    folding.settings = folding.settings.model_copy(update={"journal": wrong})
    folding.database.run("UPDATE docs SET body = 'more' WHERE id < 20")
    for draft in folding.back_up(BOTH):
        assert "could not be drained" in draft.reread["public.docs"]
        assert set(draft.reread) == TABLES


def test_a_damaged_segment_is_looked_past(folding: Folding) -> None:
    """Of one tenant's block that tenant, and of its directory everybody; the backup is made of the tables."""
    for part, tenants in ((slice(60, 64), 1), (slice(-200, -190), 2)):
        folding.database.run("UPDATE docs SET body = body || 'x' WHERE id < 20")
        folding.drain()
        segment = max(
            (folding.directory / "objects").rglob("_sbh-journal/eu-west-1/*/0/*"),
            key=lambda file: file.stat().st_mtime_ns,
        )
        body = bytearray(segment.read_bytes())
        body[part] = bytes(len(body[part]))
        segment.write_bytes(body)
        told = [draft.reread.get("public.docs", "") for draft in folding.back_up(BOTH)]
        assert [DAMAGED in why for why in told].count(True) == tenants, told
        folding.drain()
        folding.back_up(BOTH)


def test_a_rotated_key_opens_what_was_sealed_before_and_after(folding: Folding, no_scan: None) -> None:
    folding.database.run("UPDATE docs SET body = 'before' WHERE id < 20")
    folding.drain()
    folding.service.keys.rotate(["acme"], ADMIN, new_data_key=True)
    folding.database.run("UPDATE docs SET body = 'after' WHERE id BETWEEN 10 AND 30")
    for _ in range(2):
        for draft in folding.back_up(BOTH):
            assert draft.reread == {}
        folding.database.run("UPDATE docs SET body = 'later' WHERE id < 20")


def test_a_tenant_that_the_journal_has_no_key_of(folding: Folding) -> None:
    """Its changes are not kept, its first backup registers its key, and from then on they are."""
    folding.database.run(
        "INSERT INTO tenants VALUES (3, 'crab', 'eu-west-1', 'critical')",
        "INSERT INTO docs SELECT 3000 + n, 3, 'doc ' || n, NULL FROM generate_series(1, 100) n",
    )
    folding.drain()
    (full,) = folding.back_up(["crab"])
    assert full.type == "full"
    folding.drain()
    folding.back_up(["crab"])
    folding.database.run("UPDATE docs SET body = 'told' WHERE id BETWEEN 3010 AND 3020")
    (draft,) = folding.back_up(["crab"])
    assert draft.reread == {}
    assert draft.status is not DraftStatus.UNCHANGED


def test_values_of_every_type_are_those_of_the_tables(folding: Folding, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream's text is COPY's, also where a key changes; and what an UPDATE leaves is the former row's."""
    kinds = [kind for name, kind in {**PLAIN, **OWN}.items() if name not in ("regtype", "vector", "xml")]
    columns = ", ".join(f"c{nth} {kind.sql.format(schema='public')}" for nth, kind in enumerate(kinds))
    folding.database.run(
        "DROP TYPE mood CASCADE",
        *(one.format(schema="public") for one in DEFINITIONS),
        f"CREATE TABLE kinds (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, {columns})",
        "ALTER TABLE kinds REPLICA IDENTITY FULL; INSERT INTO kinds SELECT n, 1 + n % 2 FROM generate_series(1, 200) n",
    )
    for _ in range(2):
        folding.drain()
        folding.back_up(BOTH)
    monkeypatch.setattr(snapshot_view, "totals", lambda *_: pytest.fail("a table is looked through"))
    most = max(len(kind.listed) for kind in kinds)
    for row in range(most):
        values = ", ".join(
            "'" + kind.listed[row % len(kind.listed)].replace("'", "''") + "'" if row < 2 * len(kind.listed) else "NULL"
            for kind in kinds
        )
        folding.database.run(f"INSERT INTO kinds VALUES ({1000 + row}, {1 + row % 2}, {values})")
        if row % 3 == 0:
            folding.database.run(f"UPDATE kinds SET id = -id, c0 = NULL WHERE id = {1000 + row}")
    for draft in folding.back_up(BOTH):
        assert "public.kinds" not in draft.reread


def test_a_tenant_that_was_in_another_region_for_a_while_is_looked_through(server: OwnServer, tmp_path: Path) -> None:
    """Its first region's journal has nothing of what happened meanwhile, and says so."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    database = server.create_database(name, "folding_template")
    folding = Folding.of(database, tmp_path, storage={"regions": ["eu-west-1", "us-east-1"]})
    try:
        folding.drain()
        folding.back_up(BOTH, "full")
        folding.drain()
        folding.back_up(BOTH)
        database.run("UPDATE tenants SET region = 'us-east-1' WHERE id = 1")
        folding.drain()
        database.run("UPDATE docs SET body = 'away' WHERE id < 40; INSERT INTO docs VALUES (7777, 1, 'away', NULL)")
        folding.drain()
        database.run("UPDATE tenants SET region = 'eu-west-1' WHERE id = 1")
        acme, bolt = folding.back_up(BOTH)
        assert acme.reread
        assert all(NOT_KEPT in why for why in acme.reread.values())
        assert bolt.reread == {}
        database.run("INSERT INTO docs VALUES (7778, 1, 'back', NULL)")
        assert [draft.reread for draft in folding.back_up(BOTH)] == [{}, {}]
    finally:
        folding.drop_slot()
        server.drop_database(name)
