"""Hashes and buckets of keys: the server and this code must agree on the bucket, whatever the key is."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.database.schema.key_hash import (
    INTEGER,
    ROW,
    TEXT,
    UUID,
    IntegerRows,
    bucket_bits,
    bucket_of,
    integer_hashes,
    key_code,
    unescape,
)
from sbh_pipelines.database.schema.tenancy import MappedTable, load_map
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.databases import copy_text, fresh_database
from sbh_pipelines_tests.support.effort import examples

_SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text, region text, tier text);
CREATE TABLE ints (id bigint PRIMARY KEY, tenant_id int NOT NULL);
CREATE TABLE uuids (id uuid PRIMARY KEY, tenant_id int NOT NULL);
CREATE TABLE texts (id text PRIMARY KEY, tenant_id int NOT NULL);
CREATE TABLE pairs (id text, flag boolean, code char(5), amount numeric, tenant_id int NOT NULL,
                    PRIMARY KEY (id, flag, code, amount));
CREATE TABLE keyless (body text, tenant_id int NOT NULL);
CREATE TABLE computed (id int, twice int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY, tenant_id int NOT NULL);
"""
_TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)


@pytest.fixture(scope="module")
def keyed(embedded_stack: Stack) -> Iterator[tuple[Any, dict[str, MappedTable]]]:
    with fresh_database(embedded_stack) as made:
        made.run(_SCHEMA)
        configured = Settings(database={"dsn": made.dsn})  # type: ignore[arg-type]
        with closing(made.connect()) as connection, closing(connect(configured.database, "test")) as reader:
            yield connection, {t.table.name: t for t in load_map(reader, configured).tables}


def buckets(keyed: tuple[Any, dict[str, MappedTable]], name: str, values: list[Any], insert: str) -> None:
    connection, tables = keyed
    table = tables[name]
    code = key_code(table)
    cursor = connection.cursor()
    cursor.execute("SET search_path = pg_catalog")
    cursor.execute(f"TRUNCATE public.{name}")
    for value in values:
        cursor.execute(f"INSERT INTO public.{name} VALUES ({insert}, 1) ON CONFLICT DO NOTHING", value)
    key = ", ".join(f't."{k}"' for k in table.table.primary_key)
    found = copy_text(connection, f"SELECT {code.bucket}, {key} FROM {table.source}")
    for line in found.split(b"\n")[:-1]:
        bucket, _, fields = line.partition(b"\t")
        assert bucket_of(code.kind, fields.split(b"\t")) == int(bucket), line


@settings(max_examples=examples(30))
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_integers(keyed: tuple[Any, dict[str, MappedTable]], values: list[int]) -> None:
    """All of bigint, its lowest value included."""
    buckets(keyed, "ints", [(v,) for v in values], "%s")


@settings(max_examples=examples(20))
@given(st.lists(st.uuids(), max_size=30))
def test_uuids(keyed: tuple[Any, dict[str, MappedTable]], values: list[Any]) -> None:
    """UUIDs, by their last digits."""
    buckets(keyed, "uuids", [(str(v),) for v in values], "%s")


@settings(max_examples=examples(40))
@given(st.lists(_TEXT, max_size=30))
def test_texts(keyed: tuple[Any, dict[str, MappedTable]], values: list[str]) -> None:
    """Text with everything that COPY escapes."""
    buckets(keyed, "texts", [(v,) for v in values], "%s")


@settings(max_examples=examples(30))
@given(
    st.lists(
        st.tuples(
            _TEXT,
            st.booleans(),
            st.text("abc é", max_size=5),
            st.decimals(allow_nan=True, allow_infinity=False, places=2),
        ),
        max_size=20,
    )
)
def test_composite_keys(keyed: tuple[Any, dict[str, MappedTable]], values: list[tuple[Any, ...]]) -> None:
    """Types whose cast to text is not what COPY writes: booleans, padded characters."""
    buckets(keyed, "pairs", values, "%s, %s, %s, %s")


def test_kinds(keyed: tuple[Any, dict[str, MappedTable]]) -> None:
    """Which way of telling rows apart each table gets."""
    _, tables = keyed
    kinds = {name: key_code(table).kind for name, table in tables.items()}
    assert kinds == {
        "tenants": INTEGER,
        "ints": INTEGER,
        "uuids": UUID,
        "texts": TEXT,
        "pairs": TEXT,
        "keyless": ROW,
        "computed": ROW,  # its key is not captured
    }


def test_unescape() -> None:
    """The escapes of COPY's text format."""
    assert unescape(b"a\\\\b\\tc\\nd") == b"a\\b\tc\nd"


@pytest.mark.parametrize(
    ("rows", "bits"), [(0, 0), (1, 0), (64, 0), (65, 1), (128, 1), (129, 2), (6400, 7), (1 << 40, 20)]
)
def test_bucket_bits(rows: int, bits: int) -> None:
    """About 64 rows a bucket, and never more than a million buckets."""
    assert bucket_bits(rows) == bits


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_integer_rows(keys: list[int]) -> None:
    """Keys are read, and put into the buckets that `bucket_of` gives, without an object for each row."""
    rows = [b"%d\t%d\\\n" % (key, nth) for nth, key in enumerate(keys)]
    found = IntegerRows.of(b"".join(rows))
    assert found.keys.tolist() == keys
    assert found.buckets(1023).tolist() == [bucket_of(INTEGER, [b"%d" % key]) & 1023 for key in keys]
    assert found.chosen(numpy.arange(0, len(keys), 2, dtype=numpy.int64)) == b"".join(rows[::2])


@settings(max_examples=examples(30))
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30),
    st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]) | st.integers(-(2**63), 2**63 - 1),
)
def test_integer_hashes(keyed: tuple[Any, dict[str, MappedTable]], keys: list[int], seed: int) -> None:
    """Those of the server, whatever the key and the seed."""
    connection, tables = keyed
    cursor = connection.cursor()
    cursor.execute(
        f"SELECT {key_code(tables['ints']).hash} FROM pg_catalog.unnest(%s::bigint[]) WITH ORDINALITY AS t(id, nth)"
        f" CROSS JOIN (SELECT ({seed})::bigint AS seed) w ORDER BY nth",
        (keys,),
    )
    expected = [value & (1 << 64) - 1 for (value,) in cursor.fetchall()]
    assert integer_hashes(numpy.array(keys, dtype=numpy.int64), seed).tolist() == expected
