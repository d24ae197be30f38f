"""A backup read without a database: tables as data frames and as rows, files as bytes."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from sbh_pipelines.backup.contents.columnar import queries
from sbh_pipelines.errors import (
    AccessDenied,
    RepositoryError,
    RequestError,
    SourceUnavailable,
    UnknownBackup,
    UnknownTenant,
)
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application


@pytest.fixture
def backed_up(application: Application) -> Application:
    application.database.run(
        "CREATE TABLE tasks (id bigint PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, small smallint, done boolean,"
        " title text, price numeric(10,2), ratio double precision, part real, due date, at timestamptz, local timestamp(3),"
        " long_ago timestamp, settings jsonb, tags text[], body bytea, uid uuid, span interval)",
        "INSERT INTO tasks VALUES (1, 1, 2, true, E'a\\tb', 1.50, 0.1, 0.1, '2024-01-15', '2024-01-15 12:00+02', '2024-01-15 12:00:00.123',"
        " '2024-01-01', '{\"a\": [1, null]}', '{x,NULL}', '\\x00ff', '00000000-0000-4000-8000-000000000001', '1 mon'),"
        " (9007199254740993, 1, NULL, NULL, '', 'NaN', 'NaN', NULL, 'infinity', NULL, NULL, '0044-03-15 BC', 'null', '{}', '\\x', NULL, NULL),"
        " (3, 2, NULL, NULL, 'not mine', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    application.service().create_backup(ACME, ADMIN)
    return application


def test_a_table_is_a_data_frame_of_fitting_types(backed_up: Application) -> None:
    with backed_up.service().open_backup("latest", ACME, ADMIN) as backup:
        frame = backup.read_table("tasks").sort_values("id").set_index("id", drop=False)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "id": "Int64", "tenant_id": "Int32", "small": "Int16", "done": "boolean", "title": "string", "price": "object",
        "ratio": "Float64", "part": "Float32", "due": "object", "at": "datetime64[us, UTC]", "local": "datetime64[us]",
        "long_ago": "string", "settings": "object", "tags": "object", "body": "object", "uid": "string", "span": "string",
    }  # fmt: skip
    assert list(frame["id"]) == [1, 9007199254740993]
    first, second = frame.loc[1], frame.loc[9007199254740993]
    assert first["price"] == Decimal("1.50")
    assert second["price"].is_nan()
    assert (first["due"], second["due"]) == (date(2024, 1, 15), "infinity")
    assert first["at"] == pd.Timestamp("2024-01-15 10:00", tz="UTC")
    assert pd.isna(second["at"])
    assert first["local"] == pd.Timestamp("2024-01-15 12:00:00.123")
    assert (first["long_ago"], second["long_ago"]) == ("2024-01-01 00:00:00", "0044-03-15 00:00:00 BC")
    assert (first["settings"], first["tags"], second["tags"]) == ({"a": [1, None]}, ["x", None], [])
    assert (first["body"], second["body"]) == (b"\x00\xff", b"")
    assert (first["title"], second["title"]) == ("a\tb", "")
    assert second["done"] is pd.NA
    assert second["small"] is pd.NA


def test_some_columns_in_the_order_asked_for(backed_up: Application) -> None:
    with backed_up.service().open_backup("latest", ACME, ADMIN) as backup:
        frame = backup.read_table("public.tasks", columns=["title", "id"])
        assert list(frame.columns) == ["title", "id"]
        assert len(frame) == 2
        assert [sorted(row) for batch in backup.read_rows("tasks", columns=["title", "id"]) for row in batch] == [
            ["id", "title"]
        ] * 2
        with pytest.raises(RequestError, match="tenant_id, small, done"):
            backup.read_table("tasks", columns=["titel"])


def test_rows_come_in_batches_and_nan_is_not_null(backed_up: Application) -> None:
    with backed_up.service().open_backup("latest", ACME, ADMIN) as backup:
        batches = list(backup.read_rows("tasks", batch=1))
    assert [len(batch) for batch in batches] == [1, 1]
    rows = {row["id"]: row for (row,) in batches}
    assert str(rows[9007199254740993]["ratio"]) == "nan"
    assert rows[9007199254740993]["part"] is None
    assert rows[1]["local"] == datetime(2024, 1, 15, 12, 0, 0, 123000)
    assert rows[1]["span"] == "1 mon"


def test_an_empty_table_keeps_its_columns_and_types(backed_up: Application) -> None:
    backed_up.database.run("DELETE FROM tasks WHERE tenant_id = 1")
    backed_up.service().create_backup(ACME, ADMIN)
    with backed_up.service().open_backup("latest", ACME, ADMIN) as backup:
        frame = backup.read_table("tasks")
        assert list(backup.read_rows("tasks")) == []
    assert len(frame) == 0
    assert str(frame["at"].dtype) == "datetime64[us, UTC]"
    assert str(frame["id"].dtype) == "Int64"


def test_tables_are_listed_and_an_unknown_one_names_them(backed_up: Application) -> None:
    with backed_up.service().open_backup("latest", ACME, ADMIN) as backup:
        assert {table.name: table.rows for table in backup.tables} == {
            "public.tenants": 1, "public.notes": 30, "public.projects": 20, "public.items": 100, "public.tasks": 2,
        }  # fmt: skip
        assert backup.columns("tasks")["at"] == "timestamp with time zone"
        assert repr(backup) == f"<{backup.backup_id} of acme: 5 tables, 4 files>"
        for name in ("task", "other.tasks", "public.", "", "tasks; --"):
            with pytest.raises(RequestError, match=r"public\.tasks"):
                backup.read_table(name)
    with pytest.raises(UnknownBackup):
        backed_up.service().open_backup("backup_20010101_0000", ACME, ADMIN)


def test_a_name_in_two_schemas_must_be_told_apart(application: Application) -> None:
    """Also where a schema's name has a dot."""
    application.database.run(
        'CREATE SCHEMA "od.d"; CREATE TABLE "od.d".notes (tenant_id int REFERENCES tenants, n int); INSERT INTO "od.d".notes VALUES (1, 7)',
        'CREATE TABLE "od.d".only (tenant_id int REFERENCES tenants, n int); INSERT INTO "od.d".only VALUES (1, 8)',
        'GRANT USAGE ON SCHEMA "od.d" TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA "od.d" TO PUBLIC',
    )
    service = application.service(database={"schemas": ["public", "od.d"]})
    service.create_backup(ACME, ADMIN)
    with service.open_backup("latest", ACME, ADMIN) as backup:
        with pytest.raises(RequestError, match="Several tables"):
            backup.read_table("notes")
        assert list(backup.read_table("od.d.notes")["n"]) == [7]
        assert list(backup.read_table("only")["n"]) == [8]


def test_files_are_read_and_checked(backed_up: Application) -> None:
    """Also one of many slices; an unknown one, and one whose pack is damaged, are errors."""
    large = bytes(range(256)) * 40_000
    backed_up.write_file(ACME, "large", large)
    backed_up.service().create_backup(ACME, ADMIN)
    with backed_up.service().open_backup("latest", ACME, ADMIN) as backup:
        assert [entry.path for entry in backup.files()] == sorted(backed_up.state(ACME).files)
        assert b"".join(backup.read_file("large")) == large
        assert max(map(len, backup.read_file("large"))) <= 4 << 20
        assert b"".join(backup.read_file("empty")) == b""
        with pytest.raises(RequestError):
            backup.read_file("nothing")
    for pack in (backed_up.repository(ACME) / "packs").iterdir():
        pack.write_bytes(bytes(pack.stat().st_size))
    with pytest.raises(RepositoryError), backed_up.service().open_backup("latest", ACME, ADMIN) as backup:
        list(backup.read_file("large"))


def test_a_backup_is_read_when_the_database_is_gone(backed_up: Application) -> None:
    """The server is down, the tenants table is missing, the tenant's row is gone; a tenant that nobody knows is the database's error."""
    backed_up.service().create_backup("bolt", ADMIN)
    down = backed_up.service(database={"dsn": "host=127.0.0.1 port=1 dbname=gone", "connect_timeout_s": 1})
    without_table = backed_up.service(tenants={"table": "public.nothing"})
    for service in (down, without_table):
        for name in ("latest", backed_up.service().list_backups(ACME, ADMIN)[0]["id"]):
            with service.open_backup(name, ACME, ADMIN) as backup:
                assert len(backup.read_table("tasks")) == 2
    with pytest.raises(UnknownBackup):
        down.open_backup("backup_20010101_0000", ACME, ADMIN)
    with pytest.raises(SourceUnavailable):
        down.open_backup("latest", "nobody", ADMIN)
    with pytest.raises(AccessDenied):
        down.open_backup("latest", ACME, UserContext("a", "bolt", Role.ADMIN))
    backed_up.wipe("bolt")
    backed_up.database.run("DELETE FROM tasks WHERE tenant_id = 2", "DELETE FROM tenants WHERE id = 2")
    with backed_up.service().open_backup("latest", "bolt", ADMIN) as backup:
        assert list(backup.read_table("tenants")["slug"]) == ["bolt"]
    with pytest.raises(UnknownTenant):
        backed_up.service().open_backup("latest", "nobody", ADMIN)


def test_sql_reads_tables_without_a_database(
    backed_up: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined with themselves, of odd names; values that no column type holds are text; no way out of the backup."""
    backed_up.database.run(
        "CREATE TABLE wide (id int PRIMARY KEY, tenant_id int, n numeric(60, 2)); INSERT INTO wide VALUES (1, 1, 1.5);"
        ' CREATE TABLE "Wide" (id int PRIMARY KEY, tenant_id int); CREATE TABLE "a""b.c" (id int PRIMARY KEY, tenant_id int);'
        ' INSERT INTO "a""b.c" VALUES (7, 1); ALTER TABLE wide RENAME TO "decimals"; CREATE TABLE "WIDE" (id int PRIMARY KEY, tenant_id int)'
    )
    backed_up.service().create_backup(ACME, ADMIN)
    with backed_up.service().open_backup("latest", ACME, ADMIN) as backup:
        frame = backup.sql("SELECT id, done, price, due, title FROM tasks ORDER BY id")
        assert list(frame["id"]) == [1, 9007199254740993]
        assert list(frame["price"]) == ["1.50", "NaN"]  # NaN is no decimal
        assert list(frame["due"]) == ["2024-01-15", "infinity"]
        twice = "SELECT count(*) AS n FROM public.tasks a JOIN tasks b USING (id) JOIN tenants t ON t.id = a.tenant_id"
        assert backup.sql(twice)["n"].item() == 2
        assert backup.sql("SELECT n FROM decimals")["n"].item() == "1.50"
        assert backup.sql("SELECT id FROM wide").empty  # for DuckDB two tables have the name, and one of them is known
        assert backup.sql('SELECT id FROM "a""b.c"')["id"].item() == 7
        monkeypatch.setattr(queries, "_MOST_MIB", 8)
        with pytest.raises(RequestError, match="too large"):
            backup.sql("SELECT repeat('x', 1000) FROM range(20_000)")
        hostile = (
            f"COPY (SELECT 1) TO '{tmp_path / 'out'}'",
            "SELECT * FROM read_text('/etc/hostname')",
            "SELECT * FROM 'x.csv'",
            "SELECT 1; SELECT 2",
            "SET memory_limit = '1TB'",
            "SELECT * FROM nowhere",
            "DROP VIEW tasks",
            "",
        )
        for query in hostile:
            with pytest.raises(RequestError):
                backup.sql(query)
    assert not (tmp_path / "out").exists()
