"""A row for each value that a type's edge cases have: backed up, deleted, restored; compared in the server's binary format.

The binary format knows nothing of the settings that govern text: it is the witness that text kept every bit.
"""

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import psycopg2
import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.own_server import OwnServer, own_server
from sbh_pipelines_tests.support.schemas import literal
from sbh_pipelines_tests.support.values import DEFINITIONS, OWN, PLAIN

# Edges beside those that the round trips draw, in the text that each type reads.
EDGES: dict[str, tuple[str, ...]] = {
    "bool": ("t", "f", "yes", "off", "1"),
    "int2": ("-32768", "32767", "0x7FFF", "-0"),
    "int8": ("-9223372036854775808", "9223372036854775807", "1_000"),
    "float4": ("-34.84", "1.2345678901234e-20", "1e-45", "-0", "nan", "infinity"),
    "float8": ("4.9406564584124654e-324", "1.7976931348623157e308", "-1004.30", "9007199254740993", "0.1"),
    "numeric": ("0.0000000000000000000000000001", "-" + "9" * 200 + "." + "1" * 100, "1e-1000", "1e1000", "NaN", "100.00", "1.0e0"),
    "numeric(3,-2)": ("12300", "-49", "51"),
    "numeric(4,6)": ("0.001234",),
    "char(4)": ("a", "abcd", "    ", "é   "),
    "varchar(4)": ("", "a ", "abcd"),
    '"char"': ("", "a", "\\001", "\\377"),
    "bytea": ("\\x", "\\x00010203fffe", "\\xDEADbeef", "De\\123dBeEf"),
    "date": ("1957-04-09", "epoch", "2000-02-29", "4714-11-24 BC", "5874897-12-31"),
    "time": ("00:00", "12:59:60", "23:59:59.999999", "24:00"),
    "timetz": ("00:01-07", "02:03+08:30", "23:59:60+07", "24:00:00 PDT"),
    "timestamp": ("1970-01-01", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", "2000-02-29 23:59:60", "-infinity"),
    "timestamptz": ("2001-09-22T18:19:20+15:59", "1997-02-10 17:32:01 America/New_York", "0097-02-16 BC", "infinity"),
    "interval": ("@ 1 minute", "1 years 2 months 3 days ago", "-178000000 years", "P1Y2M3DT4H5M6.7S", "00:00:00.000001", "1 mon -1 day 00:00:01"),
    "interval day to second(0)": ("1 2:03:04", "-1 2:03:04.6"),
    "point": ("(0,0)", "(-10,0)", "(1e-300,-1e-300)", "(1e+300,Inf)", "(NaN,NaN)", "10.0,10.0"),
    "lseg": ("[(1,2),(3,4)]", "[(-1e6,2e2),(3e5,-4e1)]", "[(Inf,-Inf),(NaN,0)]"),
    "line": ("{0,-1,5}", "{1,0,5}", "[(0,0),(6,6)]", "{3,NaN,5}"),
    "box": ("(2,2,0,0)", "((-8,2),(-2,-10))", "(-Infinity,0),(1,Infinity)"),
    "path": ("[(1,2),(3,4)]", "((1,2),(3,4))", "((10,20))", "[(11,12),(13,14)]"),
    "polygon": ("(2.0,0.0),(2.0,4.0),(0.0,0.0)", "(0,1),(0,1)"),
    "circle": ("<(5,1),3>", "<(100,200),10>", "<(3,5),NaN>", "<(1,2),0>"),
    "inet": ("192.168.1.226/24", "10:23::f1/64", "::ffff:1.2.3.4", "0.0.0.0/0", "255.255.255.255"),
    "cidr": ("10", "192.168.1", "10:23::8000/113", "::/0"),
    "macaddr": ("08:00:2b:01:02:03", "08002b-010203", "ff:ff:ff:ff:ff:ff"),
    "macaddr8": ("08:00:2b:01:02:03", "0800.2b01.0203.0405"),
    "bit(11)": ("00000000000", "11011000000", "X0F0"),
    "bit varying(70)": ("", "0", "010101", "X" + "F0" * 8),
    "uuid": ("{11111111-1111-1111-1111-111111111111}", "3f3e3c3b3a3039383736353433a2313e", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"),
    "json": ('{"a":null,  "a":  1e5}', '"\\ud83d\\ude04"', '"dollar \\u0024"', " 1 ", '{"tab":"\\t"}'),
    "jsonb": ('{"b":1,"a":[true,null,1.00]}', '"\\u0024 \\\\u"', "0.1e-10", '{"":{"": ""}}', "[[[[]]]]"),
    "jsonpath": ("strict $.a ? (@.b like_regex \"^x\" flag \"iq\")", "$[last, 1 to 2].**{2 to last}", '$."$varname"'),
    "tsvector": ("'w':4A,3B,2C,1D,5 a:8", "$$ '' \\ ' ", "'a b' '\\\\x'"),
    "tsquery": ("!1|(2&3)", "(!1|2)&3", "a:* & nbb:*ac | doo:a*", "'sk''' <3> '\\\\x'"),
    "int4range": ("empty", "[,]", "(3,)", "[2147483646,2147483647)", "(,-5]"),
    "numrange": ("[1.0,1.00]", "(-Infinity,Infinity)", "(NaN,)"),
    "daterange": ("[2000-01-10, 2000-01-20]", "[-infinity,infinity)", "empty"),
    "tsrange": ('["2000-01-01 00:00:00.000001",infinity]', "(,)"),
    "nummultirange": ("{}", "{[1,2),[2,3]}", "{(,1),(1,)}"),
    "tstzmultirange": ("{[2000-01-01 BC,2000-01-02 BC)}", "{(,infinity]}"),
    "int4[]": ("{}", "[5:5]={42}", "[-2147483648:-2147483647]={1,2}", "{{1,2,3},{4,NULL,6}}", "[0:0][1:1][2:2]={{{7}}}"),
    "text[]": ('{"",NULL,"NULL"," lead"}', '{"{","}",",","\\"","\\\\"}', "{{{a},{b}},{{c},{d}}}"),
    "json[]": ('{"{\\"a\\":  1}",NULL}',),
    "oid": ("0", "4294967295", "-1040"),
    "xid": ("0", "4294967295"),
    "xid8": ("0", "18446744073709551615"),
    "cid": ("42",),
    "tid": ("(0,0)", "(4294967295,65535)"),
    "pg_lsn": ("0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"),
    "txid_snapshot": ("12:13:", "12:16:14,14", "1:9223372036854775807:3"),
    "regclass": ("pg_class", "0"),
    "regproc": ("now", "-"),
    "regoperator": ("+(integer,integer)",),
    "regnamespace": ("pg_catalog",),
    "regcollation": ('"C"',),
    "name": ("", "asdfghjkl;", "A" * 63, 'quo"te\\'),
    "money": ("$-92,233,720,368,547,758.08", "0.005", "(1)"),
    "aclitem": ("=r/sbh_admin",),
}  # fmt: skip


@pytest.fixture(scope="module", params=[18, 15])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with own_server(request.param) as made:
        yield made


def _fill(connection: psycopg2.extensions.connection) -> dict[str, tuple[str, int]]:
    """Tables by the type that they hold, and the rows put in; types and values that this version does not know are left out."""
    cursor = connection.cursor()
    cursor.execute("CREATE SCHEMA types; SET search_path = types, public")
    for definition in DEFINITIONS:
        cursor.execute(definition.replace("{schema}", "types"))
    kinds = {kind.sql.replace("{schema}", "types"): kind.listed for kind in {**PLAIN, **OWN}.values()}
    made: dict[str, tuple[str, int]] = {}
    for n, sql in enumerate(dict.fromkeys([*kinds, *EDGES])):
        table, rows = f"types.t{n}", 0
        try:
            cursor.execute(
                f"CREATE TABLE {table} (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES public.tenants, v {sql})"
            )
        except psycopg2.Error:
            continue
        for value in (*kinds.get(sql, ()), *EDGES.get(sql, ())):
            try:
                cursor.execute(f"INSERT INTO {table} VALUES ({rows}, {1 + rows % 2}, {literal(value)})")
            except psycopg2.Error:
                continue
            rows += 1
        made[sql] = (table, rows)
    return made


def _binary(connection: psycopg2.extensions.connection, table: str) -> bytes:
    text = BytesIO()
    query = f"SELECT * FROM {table} ORDER BY id"
    connection.cursor().copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", text)
    return text.getvalue()


def test_every_type_comes_back_bit_for_bit(server: OwnServer, tmp_path: Path) -> None:
    application = Application(server.create_database("types"), tmp_path)
    application.create()
    with closing(application.database.connect()) as connection:
        made = _fill(connection)
        # Types without a binary form are compared as text.
        textual = [sql for sql, (table, _) in made.items() if not _has_binary_form(connection, table)]
        before = {sql: _content(connection, table, sql in textual) for sql, (table, _) in made.items()}
        service = BackupService(application.configured(database={"schemas": ["public", "types"]}))
        for draft in service.backups.create_all([ACME, BOLT], ADMIN):
            assert draft.error is None
        for table, _ in made.values():
            connection.cursor().execute(f"DELETE FROM {table} WHERE id % 3 > 0; UPDATE {table} SET v = NULL")
        for tenant in (ACME, BOLT):
            service.restores.run("latest", tenant, ADMIN, confirm=True)
        assert [
            sql for sql, (table, _) in made.items() if _content(connection, table, sql in textual) != before[sql]
        ] == []
    assert (len(made) > 90, sum(rows for _, rows in made.values()) > 500, len(textual) < 6) == (True, True, True)


def _has_binary_form(connection: psycopg2.extensions.connection, table: str) -> bool:
    try:
        _binary(connection, table)
    except psycopg2.Error:
        return False
    return True


def _content(connection: psycopg2.extensions.connection, table: str, textual: bool) -> bytes:
    return _binary(connection, f"(SELECT id, tenant_id, v::text FROM {table}) t" if textual else table)
