"""The server says of keys that come as text what it says of the rows that have them: of every type that can be a key."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from sbh_pipelines.database.capture.keyed_rows import WantedKey, hash_keys, rows_by_keys
from sbh_pipelines.database.schema.key_hash import key_code
from sbh_pipelines.database.schema.name_types import exact_names
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, connect
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import SourceError
from sbh_pipelines_tests.support.databases import Database, copy_text, fresh_database
from sbh_pipelines_tests.support.mapped import INTEGERS, Mapped, mapped_database
from sbh_pipelines_tests.support.values import DEFINITIONS, OWN, PLAIN, Kind

KEYS = {name: kind for name, kind in {**PLAIN, **OWN}.items() if kind.key}
SEEDS = {"1": 7, "2": -(2**63)}
HASHED = "SELECT {key}, t.tenant_id::text, {code} FROM t, LATERAL (SELECT (CASE tenant_id WHEN 1 THEN 7 ELSE -(2::numeric^63) END)::bigint) w(seed)"


@pytest.fixture
def database(embedded_stack: Stack) -> Iterator[Database]:
    with fresh_database(embedded_stack) as made:
        yield made


@contextmanager
def _opened(mapped: Mapped) -> Iterator[tuple[Connection, MappedTable]]:
    table = mapped.table("t")
    with closing(connect(mapped.settings.database, "test")) as connection:
        connection.cursor().execute("BEGIN READ ONLY")
        with exact_names(connection, table):
            yield connection, table


def _check(mapped: Mapped, key: str) -> None:
    """All rows of table t, whose primary key is `key` (SQL), by their keys alone."""
    with _opened(mapped) as (connection, table):
        code = key_code(table)
        found = [
            line.rsplit(b"\t", 2)
            for line in copy_text(connection, HASHED.format(key=key, code=code.hash)).split(b"\n")[:-1]
        ]
        wanted = [WantedKey(owner.decode(), text) for text, owner, _ in found]
        hashes = hash_keys(connection, table, code, wanted, SEEDS)
        assert hashes == [int(value) % 2**64 for _, _, value in found]
        rows: dict[int, bytes] = {}
        rows_by_keys(connection, table, wanted, rows.__setitem__)
        assert len(rows) == len(wanted)
        lines = set(copy_text(connection, f"SELECT {', '.join(table.captured_columns)} FROM t").split(b"\n")[:-1])
        assert set(rows.values()) == lines
        for at, row in rows.items():
            assert wanted[at].key in row


@pytest.mark.parametrize("name", sorted(KEYS))
def test_the_hash_and_the_row_of_a_key(database: Database, name: str) -> None:
    kind: Kind = KEYS[name]
    database.run(*(one.format(schema="public") for one in DEFINITIONS))
    sql = kind.sql.format(schema="public")
    mapped = mapped_database(
        database, f"CREATE TABLE t (body text, id {sql} PRIMARY KEY, tenant_id int REFERENCES tenants)", INTEGERS, None
    )
    for nth, value in enumerate(kind.listed):
        quoted = "'" + value.replace("'", "''") + "'"
        database.run(f"INSERT INTO t VALUES ('b{nth}', {quoted}, 1 + {nth} % 2) ON CONFLICT DO NOTHING")
    _check(mapped, "t.id")


def test_keys_of_several_columns(database: Database) -> None:
    """Whose names need quotes, and have placeholders in them."""
    mapped = mapped_database(
        database,
        'CREATE TABLE t (body text, sbh_nth varchar(9), "b%s" int, "C" timestamptz, tenant_id int REFERENCES tenants,'
        ' PRIMARY KEY ("b%s", "C", sbh_nth));'
        " INSERT INTO t SELECT n, E'\\t\\\\' || n, -n, '2024-03-31 02:30+01'::timestamptz + n * interval '1 day', 1 + n % 2"
        " FROM generate_series(1, 50) n",
        INTEGERS,
        None,
    )
    with _opened(mapped) as (connection, table):
        code = key_code(table)
        assert table.table.primary_key == ("b%s", "C", "sbh_nth")
        rows = copy_text(connection, 'SELECT "b%s", "C", sbh_nth FROM t ORDER BY 1').split(b"\n")[:-1]
        (expected,) = copy_text(connection, f"SELECT bit_xor({code.hash}) FROM t, (SELECT 7::bigint) w(seed)").split()
        xor = 0
        for value in hash_keys(connection, table, code, [WantedKey("1", row) for row in rows], {"1": 7}):
            xor ^= value
        assert xor == int(expected) % 2**64


def test_a_row_of_another_tenant_is_not_given(database: Database) -> None:
    """Also where the row follows another, and where its key is asked for by its own tenant in the same breath."""
    mapped = mapped_database(
        database,
        "CREATE TABLE docs (id int PRIMARY KEY, tenant_id int REFERENCES tenants);"
        " CREATE TABLE t (id int PRIMARY KEY, doc int REFERENCES docs);"
        " INSERT INTO docs VALUES (1, 1), (2, 2); INSERT INTO t VALUES (11, 1), (22, 2), (33, NULL)",
        INTEGERS,
        None,
    )
    with _opened(mapped) as (connection, table):
        wanted = [WantedKey(owner, key) for owner in ("1", "2") for key in (b"11", b"22", b"33", b"44")]
        rows: dict[int, bytes] = {}
        rows_by_keys(connection, table, wanted, rows.__setitem__)
        assert rows == {0: b"11\t1", 5: b"22\t2"}


def test_a_key_that_the_type_does_not_read(database: Database) -> None:
    mapped = mapped_database(database, "CREATE TABLE t (id int PRIMARY KEY, tenant_id int)", INTEGERS, None)
    with _opened(mapped) as (connection, table), pytest.raises(SourceError):
        hash_keys(connection, table, key_code(table), [WantedKey("1", b"x")], SEEDS)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_keys_in_other_encodings(embedded_stack: Stack, encoding: str) -> None:
    texts = {"LATIN1": b"gr\xfc\xdfe", "SQL_ASCII": b"\xff\xfe", "EUC_JP": "日本".encode("euc_jp")}
    with fresh_database(embedded_stack, encoding=encoding) as database:
        mapped = mapped_database(
            database, "CREATE TABLE t (id text PRIMARY KEY, tenant_id int REFERENCES tenants)", INTEGERS, None
        )
        hexadecimal = texts[encoding].hex()
        database.run(f"INSERT INTO t VALUES (convert_from('\\x{hexadecimal}', '{encoding}'), 1)")
        with _opened(mapped) as (connection, table):
            code, wanted = key_code(table), [WantedKey("1", texts[encoding])]
            (value,) = hash_keys(connection, table, code, wanted, SEEDS)
            cursor = connection.cursor()
            cursor.execute(f"SELECT {code.hash} FROM t, (SELECT 7::bigint) w(seed)")
            assert value == cursor.fetchone()[0] % 2**64
            rows: dict[int, bytes] = {}
            rows_by_keys(connection, table, wanted, rows.__setitem__)
            assert rows == {0: texts[encoding] + b"\t1"}
