"""COPY text as values, without a server: types' names, fields, arrays; what has no value in Python stays text."""

from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.contents.copy_text import (
    decoder,
    fields_by_column,
    fields_of,
    parse_array,
    row_lines,
    value_of,
)
from sbh_pipelines.backup.export.text_formats import csv_lines, jsonl_lines, load_script, sql_lines
from sbh_pipelines.database.schema.table_header import ColumnType, TableHeader
from sbh_pipelines.errors import CorruptObject
from sbh_pipelines_tests.support.effort import examples


@pytest.mark.parametrize(
    ("name", "base", "modifiers", "array", "builtin"),
    [
        ("integer", "integer", (), False, True),
        ("numeric(12,2)", "numeric", (12, 2), False, True),
        ("numeric(3,-2)[]", "numeric", (3, -2), True, True),
        ("timestamp(3) with time zone", "timestamp with time zone", (3,), False, True),
        ("timestamp(0) without time zone[]", "timestamp without time zone", (0,), True, True),
        ("character varying(20)", "character varying", (20,), False, True),
        ("interval day to second(3)", "interval", (3,), False, True),
        ("interval year to month[]", "interval", (), True, True),
        ('"char"', '"char"', (), False, True),
        ("public.mood[]", "public.mood", (), True, False),
        ("public.vector(3)", "public.vector", (3,), False, False),
        ('"My Schema"."odd(1)[]type"', '"My Schema"."odd(1)[]type"', (), False, False),
        ('public."line\nbreak"[]', 'public."line\nbreak"', (), True, False),
    ],
)
def test_names_of_types_are_taken_apart(
    name: str, base: str, modifiers: tuple[int, ...], array: bool, builtin: bool
) -> None:
    kind = ColumnType.parse(name)
    assert (kind.base, kind.modifiers, kind.array, kind.builtin) == (base, modifiers, array, builtin)
    if array:
        assert ColumnType.parse(kind.element.name) == kind.element


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("bigint", "-9223372036854775808", -(2**63)),
        ("boolean", "t", True),
        ("boolean", "f", False),
        ("double precision", "5e-324", 5e-324),
        ("double precision", "-Infinity", float("-inf")),
        ("numeric", "123456789012345678901234567890.50", Decimal("123456789012345678901234567890.50")),
        ("numeric", "Infinity", Decimal("Infinity")),
        ("date", "0001-01-01", date(1, 1, 1)),
        ("date", "0044-03-15 BC", "0044-03-15 BC"),
        ("date", "infinity", "infinity"),
        ("date", "10000-01-01", "10000-01-01"),
        ("timestamp with time zone", "2024-01-15 12:00:00.5+00", datetime(2024, 1, 15, 12, 0, 0, 500000, UTC)),
        ("timestamp without time zone", "2024-01-15 12:00:00", datetime(2024, 1, 15, 12)),
        ("timestamp with time zone", "0044-03-15 12:34:56+00 BC", "0044-03-15 12:34:56+00 BC"),
        ("timestamp(3) without time zone", "-infinity", "-infinity"),
        ("time without time zone", "23:59:59.999999", time(23, 59, 59, 999999)),
        ("time without time zone", "24:00:00", "24:00:00"),
        ("time with time zone", "12:00:00+05:30:15", "12:00:00+05:30:15"),
        ("interval", "1 year -2 days", "1 year -2 days"),
        ("bytea", "\\x00ff", b"\x00\xff"),
        ("uuid", "00000000-0000-4000-8000-000000000001", UUID("00000000-0000-4000-8000-000000000001")),
        ("jsonb", '{"a": [1, null, 1.5]}', {"a": [1, None, 1.5]}),
        ("json", "0.1234567890123456789", Decimal("0.1234567890123456789")),
        ("json", "1.10", 1.1),
        ("jsonb", "1e400", Decimal("1e400")),
        ("integer[]", "{1,NULL,-2}", [1, None, -2]),
        ("integer[]", "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        ("integer[]", "[0:1]={1,2}", "[0:1]={1,2}"),
        ("date[]", "{2024-01-15,infinity}", "{2024-01-15,infinity}"),
        ("boolean[]", "{t,f,NULL}", [True, False, None]),
        ("box[]", "{(1,1),(0,0);(3,3),(2,2)}", ["(1,1),(0,0)", "(3,3),(2,2)"]),
        ("public.geometry(Point,4326)[]", "{01:02}", ["01", "02"]),
        ("public.mood[]", '{sad,"it\'s"}', ["sad", "it's"]),
        ("int4range", "[1,5)", "[1,5)"),
        ("character(5)", "a    ", "a    "),
        ("public.label", "12", "12"),
    ],
)
def test_values_are_pythons_where_it_has_them(kind: str, text: str, value: Any) -> None:
    found = value_of(text.encode(), decoder(ColumnType.parse(kind)))
    assert type(found) is type(value)
    assert found == value


def test_documents_that_python_cannot_read_stay_text() -> None:
    """Nested deeper than its parser goes; integers longer than it reads are Decimals."""
    decode = decoder(ColumnType.parse("jsonb"))
    deep = "[" * 20_000 + "]" * 20_000
    assert value_of(deep.encode(), decode) == deep
    assert value_of(b"1" * 5000, decode) == Decimal("1" * 5000)


def test_bytes_that_are_no_utf8_are_kept_readable() -> None:
    assert value_of(b"caf\xe9", decoder(ColumnType.parse("text"))) == "caf\\xe9"


def _array_text(items: list[Any]) -> str:
    """As array_out quotes it."""

    def one(item: Any) -> str:
        if isinstance(item, list):
            return _array_text(item)
        if item is None:
            return "NULL"
        if item and item.upper() != "NULL" and not any(c in '{}," \\\t\n\r\v\f' for c in item):
            return str(item)
        return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "{" + ",".join(map(one, items)) + "}"


_items = st.none() | st.text('ab,{}"\\ \n;:N', max_size=5) | st.sampled_from(["NULL", "null", "", "ü"])
_nested = st.lists(_items, max_size=5) | st.lists(st.lists(_items, min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=examples(40))
@given(_nested)
def test_arrays_are_read_as_they_were_written(items: list[Any]) -> None:
    assert parse_array(_array_text(items)) == items


@pytest.mark.parametrize("delimiter", ["\\", "]", "^", "-", ";"])
def test_a_type_may_have_any_delimiter(delimiter: str) -> None:
    assert parse_array(f"{{1{delimiter}2}}", delimiter) == ["1", "2"]


@settings(max_examples=examples(40))
@given(st.text('{},"\\a=[0:1]', max_size=12))
def test_malformed_arrays_are_value_errors_and_nothing_else(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_array("{" + text), list)


def test_rows_are_cut_and_unescaped() -> None:
    text = b"1\ta\\tb\\\\N\t\\N\n2\t\t\\\\.\n3\tx\ty\n"
    assert list(row_lines([text, b"4\ta\tb\n"], 2)) == [text.split(b"\n")[:2], [b"3\tx\ty"], [b"4\ta\tb"]]
    lines = text.split(b"\n")[:-1]
    assert [fields_of(line) for line in lines] == [[b"1", b"a\tb\\N", None], [b"2", b"", b"\\."], [b"3", b"x", b"y"]]
    header = _header(("a", "integer"), ("b", "text"), ("c", "text"))
    assert fields_by_column(lines, header) == [[b"1", b"2", b"3"], [b"a\tb\\N", b"", b"x"], [None, b"\\.", b"y"]]
    for wrong in ([b"1\t2"], [b"1\t2\t3", b"1\t2"], [b"1\t2\t3\t4"]):
        with pytest.raises(CorruptObject):
            fields_by_column(wrong, header)


def _header(*columns: tuple[str, str]) -> TableHeader:
    listed = [[name, kind, False, ""] for name, kind in columns]
    return TableHeader.from_dict({"schema": "public", "name": "t", "columns": listed, "key": []})


def _written(lines: Any, header: TableHeader, text: bytes) -> bytes:
    return b"".join(lines(header, iter([text])))


def test_csv_tells_null_from_empty_and_quotes_what_must_be() -> None:
    header = _header(("a", "text"), ('b "q"', "text"))
    text = b'\\N\tx\n\t"\na,b\t\\N\n\\\\.\t\\r\\n\n=1+1\t\\\\N\n'
    assert _written(csv_lines, header, text) == (
        b'a,"b ""q"""\r\n,x\r\n"",""""\r\n"a,b",\r\n"\\.","\r\n"\r\n=1+1,\\N\r\n'
    )
    assert _written(csv_lines, _header(("a", "text")), b"\\N\n\n\\\\.\n") == b'a\r\n\r\n""\r\n"\\."\r\n'


def test_json_says_what_the_notes_say() -> None:
    header = _header(
        ("n", "numeric"),
        ("f", "real"),
        ("j", "json"),
        ("t", "timestamp with time zone"),
        ("b", "bytea"),
        ("a", "json[]"),
    )
    rows = [
        b'1.10\t-0\t{"a":\\n 1}\t2024-01-15 12:00:00.5+00\t\\\\x00\t{"{\\\\"a\\\\": 1}",null}\n',
        b"NaN\tInfinity\tnull\tinfinity\t\\N\t{NULL}\n",
        b"\\N\t\\N\t\\N\t0044-03-15 12:00:00+00 BC\t\\N\t\\N\n",
    ]
    assert _written(jsonl_lines, header, b"".join(rows)).decode().splitlines() == [
        '{"n":1.10,"f":-0,"j":{"a":  1},"t":"2024-01-15T12:00:00.5Z","b":"\\\\x00","a":[{"a": 1},null]}',
        '{"n":"NaN","f":"Infinity","j":null,"t":"infinity","b":null,"a":"{NULL}"}',
        '{"n":null,"f":null,"t":"0044-03-15 12:00:00+00 BC","b":null,"a":null}',
    ]


def test_sql_names_the_types_that_it_does_not_define() -> None:
    """In comments that end with their line, whatever a type is called."""
    script = _written(
        sql_lines, _header(("a", 'public."x\nDROP"'), ("b", "public.mood[]"), ("c", "text")), b""
    ).decode()
    assert '-- The target must have the type public."x DROP": an export does not define it.\n' in script
    assert "-- The target must have the type public.mood[]" in script
    assert "type text" not in script
    assert load_script(["public.t.sql"], "backup\nDROP").decode().splitlines()[0] == "-- backup DROP"


def test_headers_are_read_as_they_were_stored() -> None:
    """Also one with keys and marks of columns that a newer release added; one without its columns is malformed."""
    stored = {"schema": "a", "name": "b", "columns": [["x", "numeric(3,1)[]", True, "d"]], "key": ["x"]}
    header = TableHeader.from_dict(stored)
    assert header.as_dict() == stored
    newer = {**stored, "columns": [["x", "numeric(3,1)[]", True, "d", "new"]], "more": 1}
    assert TableHeader.from_dict(newer) == header
    assert (header.full_name, header.whole_key) == ("a.b", ("x",))
    assert TableHeader.from_dict({**stored, "key": ["x", "y"]}).whole_key == ()
    for broken in ({**stored, "columns": [["x"]]}, {"schema": "a"}, {**stored, "columns": None}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            TableHeader.from_dict(broken)
