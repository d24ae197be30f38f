"""What an incremental or differential backup reads and stores of the rows, claim by claim."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.create import table_delta as delta
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.parent import incomparable
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.capture.changes import MAX_WINDOW
from sbh_pipelines.errors import SlugTaken
from sbh_pipelines.model import RecoveryPoint
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, BUCKET, Application

_MORE = """
CREATE TYPE level AS ENUM ('low', 'high');
CREATE TABLE tokens (id uuid PRIMARY KEY, tenant_id int, levels level[], body text);
CREATE TABLE events (id int, part int, tenant_id int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE events_0 PARTITION OF events FOR VALUES IN (0);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE marks (item_id bigint REFERENCES items ON DELETE CASCADE, nth int, body text, PRIMARY KEY (item_id, nth));
INSERT INTO projects (tenant_id, code, body) SELECT 1 + n % 2, 'more-' || n, md5(n::text) FROM generate_series(1, 400) n;
INSERT INTO tokens SELECT md5(n::text)::uuid, 1 + n % 2, '{high}', 'token ' || n FROM generate_series(1, 400) n;
INSERT INTO events SELECT n, n % 2, 1 + n / 2 % 2, 'event ' || n FROM generate_series(1, 400) n;
INSERT INTO items (project_id, title) SELECT id, 'first' FROM projects;
INSERT INTO marks SELECT id, 1, 'mark' FROM items;
"""


@pytest.fixture
def application(application: Application) -> Application:
    """The small application, with tables that are large enough for layers, and of other kinds; nothing is forgotten."""
    application.database.run(_MORE)
    kinds = ("full", "incremental", "differential")
    application.settings = application.configured(
        retention={f"{kind}_backups": {"keep_last": 100} for kind in kinds},
        database={"dsn": application.database.dsn, "left_out": ["attic"]},
    )
    return application


@pytest.fixture
def service(application: Application) -> BackupService:
    """Both tenants have a full backup."""
    made = application.service()
    for draft in made.backups.create_all([ACME, BOLT], ADMIN):
        assert draft.error is None, draft.error
    return made


def _back_up(service: BackupService, *tenants: str, kind: str = "incremental") -> list[Draft]:
    drafts = service.backups.create_all(tenants or (ACME,), ADMIN, kind)
    for draft in drafts:
        if draft.error is not None:
            raise draft.error
    return drafts


def _tables(draft: Draft) -> dict[str, dict[str, Any]]:
    assert draft.manifest is not None
    components = draft.manifest.document["components"]
    return {t["table"]: t for name in ("database", "config") for t in components[name]["table_details"]}


def _manifest(draft: Draft) -> dict[str, Any]:
    assert draft.manifest is not None
    return dict(draft.manifest.document)


def _restores(application: Application, service: BackupService, *tenants: str) -> None:
    """What the tenants' latest backups hold is what they have now, byte for byte."""
    states = {tenant: _rows(application, tenant) for tenant in tenants}
    for tenant in tenants:
        key = application.tenant(tenant).key
        application.database.run(
            f"DELETE FROM marks m USING items i JOIN projects p ON p.id = i.project_id WHERE m.item_id = i.id AND p.tenant_id = {key};"
            f" DELETE FROM tokens WHERE tenant_id = {key} AND id::text > '8'; DELETE FROM events WHERE tenant_id = {key} AND id % 3 = 0"
        )
        application.wreck(tenant)
    for tenant in tenants:
        service.restore_backup("latest", tenant, ADMIN)
    assert {tenant: _rows(application, tenant) for tenant in tenants} == states


def _rows(application: Application, tenant: str) -> dict[str, bytes]:
    key = application.tenant(tenant).key
    copy = application.database.copy
    more = {name: copy(f"SELECT * FROM {name} WHERE tenant_id = {key} ORDER BY 1, 2") for name in ("tokens", "events")}
    more["marks"] = copy(
        f"SELECT m.* FROM marks m JOIN items i ON i.id = item_id JOIN projects p ON p.id = project_id WHERE tenant_id = {key} ORDER BY 1, 2"
    )
    return {**application.state(tenant).rows, **more}


def _objects(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}


# layers


def test_a_few_changes_become_a_layer(application: Application, service: BackupService) -> None:
    """A table of which little changed keeps its groups and gets a layer; tables without changes are taken over."""
    full = service.get_backup("latest", ACME, ADMIN)
    application.database.run(
        "UPDATE projects SET body = 'changed' WHERE id IN (102, 104, 106); DELETE FROM tokens WHERE id::text < '02';"
        " INSERT INTO events VALUES (9001, 0, 1, 'new')"
    )
    (draft,) = _back_up(service)
    tables = _tables(draft)
    assert {name: t["layers"] for name, t in tables.items()} == {
        "public.tenants": 0, "public.projects": 1, "public.items": 0, "public.marks": 0, "public.notes": 0, "public.tokens": 1, "public.events": 1,
    }  # fmt: skip
    assert draft.reread == {}
    assert _manifest(draft)["parent"] == full["id"]
    assert _manifest(draft)["type"] == "incremental"
    assert 0 < draft.counters["rows_changed"] < 10
    _restores(application, service, ACME)


_CHANGES = (
    "DELETE FROM tokens WHERE id::text LIKE '%77'",
    "DELETE FROM items WHERE id % 29 = 0",
    "DELETE FROM events WHERE id BETWEEN 100 AND 108",
    "UPDATE projects SET code = code || '!' WHERE id % 61 = 0",
    "UPDATE tokens SET id = md5(id::text)::uuid WHERE id::text < '03'",
    "DELETE FROM tokens WHERE id::text < '03'; INSERT INTO tokens SELECT md5('x' || n)::uuid, 1, '{}', NULL FROM generate_series(1, 20) n",
    "UPDATE events SET part = 1 - part WHERE id % 37 = 0",
    "UPDATE tokens SET tenant_id = 3 - tenant_id WHERE id::text < '06'",
    "UPDATE marks SET nth = nth + 1 WHERE item_id % 41 = 0",
    "DELETE FROM tokens WHERE tenant_id = 1 AND id::text BETWEEN '2' AND '22'; INSERT INTO tokens SELECT md5(n::text)::uuid, 1, '{low}', 'back' FROM generate_series(1, 400) n WHERE n % 2 = 0 ON CONFLICT DO NOTHING",
)


def test_what_a_layer_tells_of_a_table(application: Application, service: BackupService) -> None:
    """Deleted, changed and new rows, and other keys, in tables of every kind of key."""
    for statement in _CHANGES:
        application.database.run(statement)
        drafts = [d for d in _back_up(service, ACME, BOLT) if d.status is DraftStatus.COMPLETED]
        assert [d.reread for d in drafts] == [{}] * len(drafts), statement
        assert drafts, statement
        for draft in drafts:
            assert service.validate_backup(draft.backup_id, draft.tenant.id, ADMIN, deep=True)["issues"] == []
        if statement != _CHANGES[-1]:
            _back_up(service, ACME, BOLT, kind="full")
    _restores(application, service, ACME, BOLT)


def test_rows_that_follow_a_parent_to_another_tenant(application: Application, service: BackupService) -> None:
    """Rows that nobody wrote leave one tenant and arrive at the other with their parent, two levels up, and come back."""
    for _ in range(2):
        application.database.run(
            "UPDATE projects SET tenant_id = 3 - tenant_id WHERE id % 53 = 0 AND code LIKE 'more-%'",
        )
        drafts = _back_up(service, ACME, BOLT)
        for draft in drafts:
            assert draft.reread == {}
            assert {_tables(draft)[f"public.{name}"]["layers"] > 0 for name in ("projects", "items", "marks")} == {True}
    _restores(application, service, ACME, BOLT)


def test_a_composite_key_that_contains_the_separator(application: Application, service: BackupService) -> None:
    """Two keys whose fields, joined, would read the same are two keys."""
    application.database.run(
        "CREATE TABLE pairs (one text, other text, tenant_id int, body text, PRIMARY KEY (one, other));"
        r" INSERT INTO pairs VALUES (E'x\x1fy', 'z', 1, 'was there'); INSERT INTO pairs SELECT 'a', n, 1, '' FROM generate_series(1, 100) n"
    )
    _back_up(service, kind="full")
    application.database.run(r"UPDATE pairs SET one = 'x', other = E'y\x1fz' WHERE other = 'z'")
    (draft,) = _back_up(service)
    assert _tables(draft)["public.pairs"]["layers"] == 1
    assert service.validate_backup(draft.backup_id, ACME, ADMIN, deep=True)["issues"] == []
    before = application.database.copy("SELECT * FROM pairs ORDER BY 1, 2")
    application.database.run("DELETE FROM pairs WHERE one = 'x'")
    service.restore_backup(draft.backup_id, ACME, ADMIN)
    assert application.database.copy("SELECT * FROM pairs ORDER BY 1, 2") == before


def test_layers_are_made_one_when_there_are_many(
    application: Application, service: BackupService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most MAX_LAYERS layers: the next backup counts from the base again, and what changed meanwhile is in one."""
    monkeypatch.setattr(delta, "MAX_LAYERS", 3)
    seen = []
    for nth in range(8):
        application.database.run(
            f"UPDATE projects SET body = 'round {nth}' WHERE id = {102 + 2 * nth}; DELETE FROM items WHERE project_id = 2 * {nth + 1} AND title = 'item 1'"
        )
        (draft,) = _back_up(service, kind="incremental")
        if draft.status is DraftStatus.COMPLETED:
            seen.append(_tables(draft)["public.items"]["layers"])
    assert max(seen) == 3
    assert seen.count(1) >= 2
    _restores(application, service, ACME)


# reading all of a table, and why


def _reread(service: BackupService, *tenants: str) -> dict[str, str]:
    (draft,) = _back_up(service, *tenants)
    assert draft.type == "incremental"
    assert _manifest(draft)["reread"] == draft.reread
    return dict(draft.reread)


_DEFINITIONS = (
    ("projects", "ALTER TABLE projects ADD COLUMN added text DEFAULT 'here'"),
    ("projects", "ALTER TABLE projects ALTER COLUMN added TYPE varchar"),
    ("projects", "ALTER TABLE projects RENAME COLUMN added TO text"),
    ("projects", "ALTER TABLE projects DROP COLUMN text"),
    ("projects", "ALTER TABLE projects ALTER COLUMN upper_code DROP EXPRESSION"),
    ("projects", "ALTER TABLE projects DROP COLUMN body; ALTER TABLE projects ADD COLUMN body text"),
    ("tokens", "ALTER TYPE level RENAME VALUE 'high' TO 'top'"),
    ("tokens", "ALTER TYPE level ADD VALUE 'middle' BEFORE 'top'"),
    ("tokens", "ALTER TABLE tokens DROP CONSTRAINT tokens_pkey; ALTER TABLE tokens ADD PRIMARY KEY (tenant_id, id)"),
    ("tokens", "CREATE TABLE t2 (LIKE tokens INCLUDING ALL); INSERT INTO t2 SELECT * FROM tokens; DROP TABLE tokens; ALTER TABLE t2 RENAME TO tokens"),
    ("events", "CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2)"),
    ("events", "ALTER TABLE events DETACH PARTITION events_1; CREATE TABLE e (LIKE events_1 INCLUDING ALL); INSERT INTO e SELECT * FROM events_1;"
               " DROP TABLE events_1; ALTER TABLE events ATTACH PARTITION e FOR VALUES IN (1)"),
    ("events", "ALTER TABLE events DETACH PARTITION e; DROP TABLE e"),
)  # fmt: skip


def test_a_changed_definition_is_read_again(application: Application, service: BackupService) -> None:
    """Rows can change without being written when their table changes: the table is read whole, and the backup says why."""
    for table, statement in _DEFINITIONS:
        application.database.run(statement)
        assert _reread(service)[f"public.{table}"] == "its definition changed", statement
        application.database.run("UPDATE projects SET code = code || '.' WHERE id = 112")
        assert _reread(service) == {}, statement


def test_a_swapped_partition_is_read_again(application: Application, service: BackupService) -> None:
    """A partition with rows that were written before the last backup takes the place of another."""
    application.database.run(
        "CREATE SCHEMA attic; CREATE TABLE attic.spare (LIKE events INCLUDING ALL);"
        " INSERT INTO attic.spare SELECT id, part, tenant_id, body || '!' FROM events_1"
    )
    assert _back_up(service)[0].status is DraftStatus.UNCHANGED
    application.database.run(
        "ALTER TABLE events DETACH PARTITION events_1; ALTER TABLE events_1 SET SCHEMA attic;"
        " ALTER TABLE events ATTACH PARTITION attic.spare FOR VALUES IN (1); ALTER TABLE attic.spare SET SCHEMA public"
    )
    (draft,) = _back_up(service)
    assert draft.reread == {"public.events": "its definition changed"}
    _restores(application, service, ACME)


def test_a_parents_tenant_column_that_nobody_wrote(application: Application, service: BackupService) -> None:
    """A column added with a default gives rows of one tenant to another without writing any: what hangs on them is read again."""
    application.database.run(
        "CREATE TABLE roots (id int PRIMARY KEY, tenant_id int); CREATE TABLE leaves (id int PRIMARY KEY, root int REFERENCES roots);"
        " INSERT INTO roots SELECT n, 1 + (n % 10 <> 0)::int FROM generate_series(1, 100) n;"
        " INSERT INTO leaves SELECT n, 1 + n % 100 FROM generate_series(1, 400) n"
    )
    _back_up(service, BOLT, kind="full")
    application.database.run(
        "ALTER TABLE roots DROP COLUMN tenant_id; ALTER TABLE roots ADD COLUMN tenant_id int DEFAULT 2"
    )
    (draft,) = _back_up(service, BOLT)
    assert draft.reread == dict.fromkeys(("public.roots", "public.leaves"), "its definition changed")
    assert _tables(draft)["public.leaves"]["rows"] == 400


def test_a_table_without_a_key_is_read_again_when_it_changed(application: Application, service: BackupService) -> None:
    """And only then: equal rows that come and go in pairs are noticed."""
    application.database.run("UPDATE projects SET body = 'x' WHERE id = 101")
    assert "public.notes" not in _reread(service, BOLT)
    application.database.run(
        "INSERT INTO notes SELECT tenant_id, body FROM notes; INSERT INTO notes SELECT * FROM notes"
    )
    assert _reread(service, BOLT) == {"public.notes": "it changed and has no primary key"}
    application.database.run(
        "DELETE FROM notes WHERE ctid IN (SELECT ctid FROM notes WHERE tenant_id = 2 AND body IS NULL LIMIT 2)"
    )
    assert _reread(service, BOLT).keys() <= {"public.notes"}
    _restores(application, service, BOLT)


def test_a_new_table_is_read_whole(application: Application, service: BackupService) -> None:
    """It was not in the backup that this one builds on."""
    application.database.run("CREATE TABLE fresh AS SELECT n AS id, 1 AS tenant_id FROM generate_series(1, 100) n")
    assert _reread(service) == {"public.fresh": "it was not in the backup it builds on"}


def test_a_table_of_which_much_changed_is_read_again(application: Application, service: BackupService) -> None:
    """More than a third at once, or more than a third in all layers together."""
    application.database.run("UPDATE tokens SET body = 'x' WHERE id::text < '60'")
    assert _reread(service) == {"public.tokens": "more than a third of it changed"}
    reasons = []
    for nth in range(5):
        application.database.run(f"UPDATE events SET body = 'x' WHERE id % 10 = {nth}")
        reasons.append(_reread(service).get("public.events"))
    assert reasons[:2] == [None, None]
    assert "more than a third of it changed since it was last read whole" in reasons


def test_a_column_that_names_things_of_the_catalogue(application: Application, service: BackupService) -> None:
    """The text of a regclass changes when a table is renamed: such a table is always read whole, and never unchanged."""
    application.database.run("CREATE TABLE uses (id int PRIMARY KEY, tenant_id int, what regclass)")
    application.database.run("INSERT INTO uses VALUES (1, 1, 'tokens')")
    _back_up(service)
    application.database.run("ALTER TABLE tokens RENAME TO renamed")
    (draft,) = _back_up(service)
    assert draft.reread["public.uses"].startswith("changes in it do not show")


def test_another_catalog_has_another_seed(application: Application, service: BackupService) -> None:
    """Hashes of keys made with another seed do not compare: every table is read again, once."""
    shutil.rmtree(application.directory / "objects" / BUCKET / "_sbh-catalog")
    fresh = application.service()
    (draft,) = _back_up(fresh)
    assert set(draft.reread.values()) == {"the catalog of the region is a new one: hashes of keys do not compare"}
    assert set(draft.reread) == set(_tables(draft))
    assert _back_up(fresh)[0].status is DraftStatus.UNCHANGED
    _restores(application, fresh, ACME)


def test_records_that_are_gone_cost_a_comparison_only(application: Application, service: BackupService) -> None:
    """Without its records the catalog knows no tenant: the next backup compares with the repository, and reads nothing."""
    shutil.rmtree(application.directory / "objects" / BUCKET / "_sbh-catalog" / "eu-west-1" / "records")
    (draft,) = _back_up(application.service())
    assert draft.reread == {}
    assert draft.counters["rows_changed"] == 0
    assert draft.status in (DraftStatus.COMPLETED, DraftStatus.UNCHANGED)
    assert _back_up(service)[0].status is DraftStatus.UNCHANGED


# comparing with another server's past

_POINT = RecoveryPoint("2026-01-01T00:00:00.000000Z", "5000:5010:5000,5005", "1/20", "77", 3, 180004, "app")


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ({}, None),
        ({"snapshot": "9000:9000:", "lsn": "2/0"}, None),
        ({"snapshot": f"{5000 + MAX_WINDOW}:{5010 + MAX_WINDOW}:"}, None),
        ({"system_identifier": "78"}, "another one"),
        ({"database": "other"}, "another name"),
        ({"timeline": 4}, "timeline 3, now 4"),
        ({"timeline": 2}, "timeline 3, now 2"),
        ({"lsn": "0/FFFFFFFF"}, "log went back"),
        ({"snapshot": "4999:5010:"}, "counter went back"),
        ({"snapshot": f"{5001 + MAX_WINDOW}:{5010 + MAX_WINDOW}:"}, "transactions have gone by"),
    ],
)
def test_points_that_cannot_be_compared(now: dict[str, Any], reason: str | None) -> None:
    """Another cluster, database, timeline, or counters that went back or too far: rows are not told apart by xmin."""
    found = incomparable(_POINT, replace(_POINT, **now))
    assert (found is None) == (reason is None)
    assert reason is None or reason in str(found)


# parents


def test_which_backup_is_built_on(application: Application, service: BackupService) -> None:
    """An incremental builds on the newest backup of any type, a differential on the newest full."""
    full = service.get_backup("latest", ACME, ADMIN)["id"]
    chain = []
    for nth, kind in enumerate(("incremental", "incremental", "differential", "incremental", "differential")):
        application.database.run(
            f"UPDATE projects SET body = 'turn {nth}' WHERE id = 102 + 2 * {nth % 2}; UPDATE tokens SET body = '{nth}' WHERE id::text < '03'"
        )
        (draft,) = _back_up(service, kind=kind)
        chain.append((draft.backup_id, draft.parent, draft.type))
    ids = [full, *(backup for backup, _, _ in chain)]
    assert [parent for _, parent, _ in chain] == [full, ids[1], full, ids[3], full]
    assert [kind for _, _, kind in chain] == [
        "incremental",
        "incremental",
        "differential",
        "incremental",
        "differential",
    ]
    manifest = service.get_backup(ids[-1], ACME, ADMIN)
    assert (manifest["requested_type"], manifest["type_reason"]) == ("differential", None)
    _restores(application, service, ACME)


@pytest.mark.parametrize(("kind", "wanted"), [("incremental", "backup"), ("differential", "full backup")])
def test_without_a_parent_a_full_backup_is_made(application: Application, kind: str, wanted: str) -> None:
    """And it says why."""
    service = application.service()
    (draft,) = _back_up(service, kind=kind)
    manifest = _manifest(draft)
    assert (manifest["type"], manifest["requested_type"], manifest["parent"]) == ("full", kind, None)
    assert manifest["type_reason"] == f"the tenant has no {wanted} to build on"


def test_a_parent_that_was_forgotten(application: Application, service: BackupService) -> None:
    """Every backup is complete: its parent can go, and the next one builds on what is left."""
    application.database.run(
        "UPDATE projects SET body = 'x' WHERE id = 102; DELETE FROM items WHERE project_id = 1 * 2"
    )
    first, second = _back_up(service)[0], None
    application.database.run(
        "UPDATE projects SET body = 'y' WHERE id = 102; DELETE FROM items WHERE project_id = 2 * 2"
    )
    (second,) = _back_up(service)
    assert second.parent == first.backup_id
    _delete_manifest(application, first.backup_id)
    application.database.run(
        "UPDATE projects SET body = 'z' WHERE id = 102; DELETE FROM items WHERE project_id = 3 * 2"
    )
    (third,) = _back_up(service)
    assert third.parent == second.backup_id
    _delete_manifest(application, third.backup_id)
    _delete_manifest(application, str(service.list_backups(ACME, ADMIN)[-1]["id"]))
    assert service.validate_backup(second.backup_id, ACME, ADMIN, deep=True)["issues"] == []
    application.database.run("UPDATE projects SET body = 'zz' WHERE id = 102")
    (fourth,) = _back_up(service)
    assert fourth.parent == second.backup_id
    _restores(application, service, ACME)


def _delete_manifest(application: Application, backup_id: str) -> None:
    (application.repository(ACME) / "manifests" / f"{backup_id}.json").unlink()


def test_a_lost_pack_makes_the_next_backup_full(application: Application, service: BackupService) -> None:
    """What was lost is stored anew from what the tenant still has."""
    for pack in (application.repository(ACME) / "packs").iterdir():
        if pack.is_file():
            pack.unlink()
            break
    else:
        pytest.fail("no packs")
    application.database.run(
        "UPDATE projects SET body = 'x' WHERE id = 102; UPDATE notes SET body = 'y' WHERE tenant_id = 1"
    )
    (draft,) = _back_up(service)
    manifest = _manifest(draft)
    assert (manifest["type"], manifest["requested_type"]) == ("full", "incremental")
    assert "everything is read again" in manifest["type_reason"]
    _restores(application, service, ACME)


def test_a_slug_that_belongs_to_another_tenant_now(application: Application, service: BackupService) -> None:
    """A slug given to another tenant: what is in the repository says nothing of that tenant's rows."""
    application.database.run(
        "BEGIN; UPDATE tenants SET slug = 'x' WHERE id = 1; UPDATE tenants SET slug = 'acme' WHERE id = 2;"
        " UPDATE tenants SET slug = 'bolt' WHERE id = 1; COMMIT"
    )
    for tenant in (ACME, BOLT):
        with pytest.raises(SlugTaken):
            _back_up(service, tenant)
        service.keys.adopt(tenant, ADMIN, confirm=tenant)
    for draft in _back_up(service, ACME, BOLT):
        assert service.validate_backup(draft.backup_id, draft.tenant.id, ADMIN, deep=True)["issues"] == []


# nothing changed


def test_an_unchanged_tenant_costs_its_repository_nothing(application: Application, service: BackupService) -> None:
    """No object is written there, neither lease nor event; the catalog says up to when the backup describes the tenant."""
    repository = application.repository(ACME)
    made = service.get_backup("latest", ACME, ADMIN)
    for _ in range(2):
        before = {file: file.stat().st_mtime_ns for file in _objects(repository)}
        (draft,) = _back_up(service)
        assert draft.status is DraftStatus.UNCHANGED
        assert draft.unchanged_since == made["id"]
        assert {file: file.stat().st_mtime_ns for file in _objects(repository)} == before
        point = service.backups.latest_recovery_point(ACME, ADMIN)
        assert (point.recorded_as, point.backup_id) == ("unchanged", made["id"])
        assert draft.recovery_point is not None
        assert point.recovery_point is not None
        assert point.recovery_point.time == draft.recovery_point.time > made["recovery_point"]["time"]


_SMALL: tuple[Callable[[Application], None], ...] = (
    lambda a: a.database.run("UPDATE projects SET body = body WHERE id = 102"),
    lambda a: a.database.run("DELETE FROM tokens WHERE id = md5('2')::uuid"),
    lambda a: a.database.run("DELETE FROM notes WHERE ctid = (SELECT min(ctid) FROM notes WHERE tenant_id = 1)"),
    lambda a: a.database.run("UPDATE tenants SET settings = '7' WHERE id = 1"),
    lambda a: a.database.run("ALTER TABLE events ADD COLUMN added int DEFAULT 7"),
    lambda a: a.database.run("UPDATE projects SET tenant_id = 1 WHERE id = 101"),
    lambda a: a.write_file(ACME, "docs/0 of acme.txt", b"changed"),
    lambda a: a.write_file(ACME, "new", b""),
    lambda a: (a.bucket / "files" / ACME / "empty").unlink(),
)


def test_a_small_change_is_a_change(application: Application, service: BackupService) -> None:
    """One row, one file, a definition: the tenant is backed up; after that it is unchanged again."""
    for nth, change in enumerate(_SMALL):
        assert _back_up(service)[0].status is DraftStatus.UNCHANGED, nth
        change(application)
        assert _back_up(service)[0].status is DraftStatus.COMPLETED, nth


def test_a_tenant_whose_backup_was_forgotten_is_not_unchanged(application: Application, service: BackupService) -> None:
    """What the catalog says of a backup counts only as long as that backup is there."""
    made = service.get_backup("latest", ACME, ADMIN)["id"]
    _delete_manifest(application, made)
    (draft,) = _back_up(service)
    assert draft.status is DraftStatus.COMPLETED
    assert draft.type == "full"
    _restores(application, service, ACME)


@pytest.fixture
def long_transaction(application: Application) -> Iterator[Any]:
    connection = application.database.connect()
    connection.cursor().execute(
        "BEGIN; UPDATE projects SET body = 'late' WHERE id = 102; SAVEPOINT s; DELETE FROM items WHERE project_id = 4"
    )
    yield connection
    connection.close()


def test_a_transaction_that_was_open_at_the_snapshot(
    application: Application, service: BackupService, long_transaction: Any
) -> None:
    """What commits after two backups, begun before both, is in the third."""
    application.database.run("UPDATE tokens SET body = 'x' WHERE id::text < '03'")
    _back_up(service, ACME, BOLT)
    application.database.run("UPDATE tokens SET body = 'y' WHERE id::text < '03'")
    _back_up(service, ACME, BOLT)
    long_transaction.cursor().execute("COMMIT")
    _back_up(service, ACME, BOLT)
    _restores(application, service, ACME, BOLT)
    assert application.database.ask("SELECT body FROM projects WHERE id = 102") == [("late",)]
