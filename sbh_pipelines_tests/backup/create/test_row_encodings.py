"""Databases of other encodings than UTF-8, with any bytes in them, come back byte for byte."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.effort import either, examples

SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'critical'), (2, 'bolt', 'eu-west-1', 'critical');
CREATE TABLE named (name text PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text, words text[]);
CREATE TABLE numbered (id int, tenant_id int NOT NULL REFERENCES tenants, body text, PRIMARY KEY (id, tenant_id));
CREATE TABLE loose (tenant_id int NOT NULL REFERENCES tenants, body text);
"""
TABLES = ("named", "numbered", "loose")
ENCODINGS = either(("SQL_ASCII", "WIN1252"), ("SQL_ASCII", "WIN1252", "LATIN1"))
# Any bytes but 0, and often the ones that COPY text and arrays escape.
value = st.binary(max_size=12).map(lambda b: b.replace(b"\0", b"\xff")) | st.sampled_from(
    [b"caf\xe9", b"caf\xc3\xa9", b"\x81", b"\\", b"\\xe9", b"\\N", b'{"a', b"\t\n\r", b"NULL", b"\xa0"]
)


@pytest.fixture(scope="module", params=ENCODINGS)
def application(
    request: pytest.FixtureRequest, embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Application]:
    with fresh_database(embedded_stack, encoding=request.param) as database:
        database.run(SCHEMA)
        application = Application(database, tmp_path_factory.mktemp(request.param))
        application.settings = application.configured(
            files={"enabled": False}, restore={"safety_backup": True, "lease_wait_s": 0}
        )
        yield application


def write(database: Database, statement: str, values: Sequence[bytes]) -> None:
    """A statement with `%s` for each value, whose bytes go to the server as they are."""
    quoted = [b"E'" + v.replace(b"\\", b"\\\\").replace(b"'", b"''") + b"'" for v in values]
    with closing(database.connect()) as connection:
        connection.set_client_encoding("SQL_ASCII")
        connection.cursor().execute(statement.encode() % tuple(quoted))


def content(database: Database) -> dict[str, list[bytes]]:
    found = {}
    with closing(database.connect()) as connection:
        for table in TABLES:
            text = BytesIO()
            connection.cursor().copy_expert(f"COPY {table} TO STDOUT WITH (ENCODING 'SQL_ASCII')", text)
            found[table] = sorted(text.getvalue().splitlines(keepends=True))
    return found


@settings(max_examples=examples(2))
@given(values=st.lists(value, min_size=6, max_size=6, unique=True), later=st.lists(value, min_size=2, max_size=2))
def test_any_bytes_come_back(application: Application, values: list[bytes], later: list[bytes]) -> None:
    """From a full backup, from layers, by an undo; other tenants' rows are as they were."""
    database, service = application.database, application.service()
    database.run("TRUNCATE named, numbered, loose")
    for nth, one in enumerate(values):
        write(database, f"INSERT INTO named VALUES (%s, {1 + nth % 2}, %s, ARRAY[%s, NULL, ''])", [one, one, one])
    every = values * 20  # enough for layers
    rows = ", ".join(f"({nth}, 1, %s)" for nth in range(len(every)))
    write(database, f"INSERT INTO numbered VALUES {rows}", every)
    write(database, "INSERT INTO loose VALUES " + ", ".join("(1, %s)" for _ in every), every)
    full = service.backups.create("acme", ADMIN)
    first = content(database)
    write(
        database,
        "UPDATE numbered SET body = %s || body WHERE id = 3; UPDATE named SET body = %s WHERE tenant_id = 1",
        later,
    )
    database.run("DELETE FROM numbered WHERE id = 5")
    service.backups.create("acme", ADMIN, "incremental")
    second = content(database)
    write(
        database,
        "DELETE FROM numbered WHERE id < 50; UPDATE named SET words = ARRAY[%s] WHERE tenant_id = 1; UPDATE loose SET body = %s",
        later,
    )
    wrecked = content(database)
    restored = service.restore_backup("latest", "acme", ADMIN)
    assert content(database) == second
    service.restore_backup(full.id, "acme", ADMIN)
    assert content(database) == first
    service.restores.undo(restored["restore_id"], "acme", ADMIN)
    assert content(database) == wrecked


def test_bytes_that_mean_nothing_are_named(application: Application, tmp_path: Path) -> None:
    """In samples and exports text is UTF-8; bytes that are no characters are shown in hexadecimal, and the export says where."""
    database, service = application.database, application.service()
    database.run("TRUNCATE named, numbered, loose")
    write(database, "INSERT INTO named VALUES (%s, 1, %s, ARRAY[%s, 'a b'])", [b"caf\xe9", b"\x81", b"x \x81"])
    write(database, "INSERT INTO named VALUES ('plain', 1, %s, NULL)", [b"\xc3\xa9"])
    service.backups.create("acme", ADMIN)
    whole = content(database)
    is_ascii = database.ask("SHOW server_encoding") == [("SQL_ASCII",)]
    e_acute, key = ("é", r"caf\xe9") if is_ascii else ("Ã©", "café")
    undefined = "\x81" if database.ask("SHOW server_encoding") == [("LATIN1",)] else r"\x81"

    write(database, "UPDATE named SET body = %s WHERE tenant_id = 1", [b"\x81\x81"])
    (sample,) = [
        s
        for t in service.restores.plan("latest", "acme", ADMIN, RestoreRequest(samples=9)).tables
        for s in t.samples
        if s.key["name"] != "plain"
    ]
    assert (sample.key["name"], sample.columns[0].before, sample.columns[0].after) == (key, undefined * 2, undefined)

    export = {
        kind: service.exports.export("latest", "acme", ADMIN, tmp_path / kind, format=kind)
        for kind in ("csv", "jsonl", "parquet", "sql")
    }
    rows = [json.loads(line) for line in (tmp_path / "jsonl/public.named.jsonl").read_text().splitlines()]
    first = next(row for row in rows if row["name"] != "plain")
    assert (first["name"], first["body"], first["words"]) == (key, undefined, [f"x {undefined}", "a b"])
    assert {row["body"] for row in rows} == {undefined, e_acute}
    assert set(parquet.read_table(tmp_path / "parquet/public.named.parquet")["body"].to_pylist()) == {
        undefined,
        e_acute,
    }
    (named,) = [table for table in export["jsonl"].tables if table.table == "public.named"]
    if undefined != "\x81":
        assert named.not_text == {"body": 1, "words": 1} | ({"name": 1} if is_ascii else {})
        assert r"written as \xNN" in (tmp_path / "jsonl/README.txt").read_text()
        assert "1 of body" in (tmp_path / "csv/README.txt").read_text()
    with service.exports.open("latest", "acme", ADMIN) as backup:
        assert {row["body"] for rows in backup.read_rows("named") for row in rows} == {undefined, e_acute}

    # What SQL exports say of the encoding brings every byte back.
    script = (tmp_path / "sql/public.named.sql").read_bytes()
    copied = script[script.index(b"COPY ") : script.index(b"\\.\n")]
    statement, _, text = copied.partition(b";\n")
    database.run("TRUNCATE named")
    with closing(database.connect()) as connection:
        connection.cursor().copy_expert(statement.decode().replace("stdin", "STDIN"), BytesIO(text))
    assert content(database)["named"] == whole["named"]
