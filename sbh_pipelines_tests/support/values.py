"""Column types and the values that are hard on them, for the round trips. Values are the text that the type's input takes."""

from dataclasses import dataclass

from hypothesis import strategies as st

NASTY_TEXT = (
    "", " ", "  two  ", "\t", "\n", "\r", "\r\n", "\\", "\\\\", "\\.", "\\N", "N", "NULL", "null", "\\n", "\\t", "a\\", "\\x41",
    "tab\tin", "line\nbreak", "line\n", "\n\n", "\x01\x02\x1f\x7f", "\v\f\b", "'", '"', "''", '""', "%", "%s", "%(x)s", "$1", ":x",
    "{}", "{a,b}", "(1,2)", "Grüße", "日本語", "😀", "👩‍👩‍👧", "\U0010fffd", "e\u0301", "é", "\ufeff", "\u2028", "\u200f", "ｆｕｌｌ",
    "A", "a", "B", "ß", "ss", "i", "İ", "x" * 300, "\\" * 7 + "N", "end of data\n\\.\n", ",", ";", "--", "/* */", "0", "1e3", "NaN",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A column type: its SQL, the values it is tried with, and whether it can be (part of) a key."""

    sql: str
    listed: tuple[str, ...]
    more: st.SearchStrategy[str] | None = None
    key: bool = False

    @property
    def values(self) -> st.SearchStrategy[str]:
        among = st.sampled_from(self.listed)
        return among if self.more is None else st.one_of(among, self.more)


def _among(*texts: str) -> tuple[str, ...]:
    return texts


def _integer(sql: str, bits: int) -> Kind:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return Kind(sql, (str(low), "0", str(high)), st.integers(low, high).map(str), key=True)


_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
    st.text("\\N.\t\n\r'\"\\", max_size=12),
)
_bytes = st.binary(max_size=40).map(lambda b: "\\x" + b.hex())
_numbers = st.decimals(allow_nan=False, allow_infinity=False).map(str)
_days = _among(
    "4713-01-01 BC", "0044-03-15 BC", "0001-12-31 BC", "0001-01-01", "1582-10-10", "1900-02-28", "2000-02-29", "2038-01-19",
    "9999-12-31", "10000-01-01", "infinity", "-infinity",
)  # fmt: skip
_moments = _among(
    "4713-01-01 00:00:00 BC", "0044-03-15 12:34:56.789 BC", "1883-11-18 12:03:57", "1969-12-31 23:59:59.999999", "2000-01-01",
    "2016-12-31 23:59:60", "2024-03-31 02:30:00.000001", "294276-12-31 23:59:59.999999", "infinity", "-infinity",
)  # fmt: skip
_floats = ("NaN", "Infinity", "-Infinity", "0", "-0", "1", "0.1", "-1.5", "1e-30", "3.4028235e38", "1.17549435e-38")
_json = _among(
    "{}", "[]", "null", '""', '"\\u00e9\\n\\t"', '{"a": 1, "a": 2}', '  [1,   2]  ', '{"b": {"c": [null, true, 1e300]}}',
    '"\\\\N"', '{"t\\tab": "\\\\."}', "-0", "1.10", '"😀"',
)  # fmt: skip

PLAIN = {
    "smallint": _integer("smallint", 16),
    "integer": _integer("integer", 32),
    "bigint": _integer("bigint", 64),
    "oid": Kind("oid", _among("0", "4294967295"), key=True),
    "numeric": Kind(
        "numeric",
        _among("NaN", "Infinity", "-Infinity", "0", "-0.00", "1.10", "1.1", "1e-300", "123456789012345678901234567890.5"),
        _numbers,
        key=True,
    ),
    "numeric(10,3)": Kind("numeric(10,3)", _among("NaN", "0", "-1234567.891", "1.1", "1.100"), key=True),
    "real": Kind("real", _floats, st.floats(width=32).map(repr), key=True),
    "double": Kind("double precision", (*_floats, "5e-324", "1.7976931348623157e308"), st.floats().map(repr), key=True),
    "money": Kind("money", _among("0", "-1.23", "92233720368547758.07", "1234.5"), key=True),
    "boolean": Kind("boolean", _among("t", "f"), key=True),
    "text": Kind("text", NASTY_TEXT, _text, key=True),
    "text C": Kind('text COLLATE "C"', NASTY_TEXT, _text, key=True),
    "varchar": Kind("varchar(400)", NASTY_TEXT, _text, key=True),
    "char": Kind("char(5)", _among("", "a", "ab   ", "é", "\t\n", "\\.", "\\N", "abcde"), key=True),
    # No key: PostgreSQL 18 cannot plan a join on it ("cache lookup failed for collation 0").
    '"char"': Kind('"char"', _among("", "a", "\\", "\t", "\\303")),
    "name": Kind("name", _among("", "a", "tab\t", "\\.", "é" * 20), key=True),
    "bytea": Kind("bytea", _among("\\x", "\\x00", "\\x5c4e0a09ff"), _bytes, key=True),
    "date": Kind("date", _days, key=True),
    "timestamp": Kind("timestamp", _moments, key=True),
    # Not the last microsecond of all: rounding takes it to a second that the server prints and does not read.
    "timestamp(0)": Kind("timestamp(0)", tuple(m for m in _moments if "294276" not in m)),
    "timestamptz": Kind("timestamptz", _moments, key=True),
    "time": Kind("time", _among("00:00", "24:00:00", "23:59:59.999999", "12:00:00.1"), key=True),
    "timetz": Kind("timetz", _among("00:00+15:59", "24:00:00-12", "12:00:00.1+05:30:15", "00:00Z"), key=True),
    "interval": Kind(
        "interval",
        _among("0", "-1 year 2 mons -3 days 04:05:06.789", "infinity", "-infinity", "178000000 years", "1 day", "24:00:00", "-00:00:00.000001"),
        key=True,
    ),
    "uuid": Kind("uuid", _among("00000000-0000-0000-0000-000000000000"), st.uuids().map(str), key=True),
    "json": Kind("json", _json),
    "jsonb": Kind("jsonb", _json, key=True),
    "jsonpath": Kind("jsonpath", _among("$", "$.a[*] ? (@ > 1)")),
    "xml": Kind("xml", _among("<a/>", "<!DOCTYPE a><a>&amp;</a>", "text\t&lt;", "")),
    "integer[]": Kind("integer[]", _among("{}", "{1,NULL,-2}", "[0:1]={1,2}", "{{1,2},{3,NULL}}", "[-1:0][2:3]={{1,2},{3,4}}"), key=True),
    "text[]": Kind("text[]", _among("{}", '{"a,b","",NULL,"NULL"}', '{"q\\"uote","back\\\\slash","tab\t","\\\\."}', '{{"x"},{"\n"}}'), key=True),
    "float[]": Kind("double precision[]", _among("{NaN,-Infinity,-0,0.1}", "{}")),
    "int4range": Kind("int4range", _among("empty", "(,)", "[1,5)", "(,5]", "[-7,)"), key=True),
    "numrange": Kind("numrange", _among("empty", "[1.10,1.2]", "(-Infinity,NaN]"), key=True),
    "tstzrange": Kind("tstzrange", _among("empty", "[infinity,]", '["2024-01-01 BC",2024-01-01)')),
    "int4multirange": Kind("int4multirange", _among("{}", "{[1,3),[5,6)}", "{(,)}"), key=True),
    "datemultirange": Kind("datemultirange", _among("{}", "{[2024-01-01,2024-02-01),(infinity,]}")),
    "point": Kind("point", _among("(0,-0)", "(NaN,Infinity)", "(1e-300,0.1)")),
    "line": Kind("line", _among("{1,-1,0}")),
    "lseg": Kind("lseg", _among("[(0,0),(1,0.1)]")),
    "box": Kind("box", _among("(1,1),(0,0)", "(0.1,NaN),(-1,2)")),
    "path": Kind("path", _among("[(0,0),(1,1)]", "((0,0),(1,1),(0.1,3))")),
    "polygon": Kind("polygon", _among("((0,0),(1,1),(0.1,3))")),
    "circle": Kind("circle", _among("<(0,0),0.1>", "<(1,2),Infinity>")),
    "inet": Kind("inet", _among("10.0.0.1", "10.0.0.1/8", "::1", "fe80::1/64"), key=True),
    "cidr": Kind("cidr", _among("10.0.0.0/8", "::/0"), key=True),
    "macaddr": Kind("macaddr", _among("08:00:2b:01:02:03"), key=True),
    "macaddr8": Kind("macaddr8", _among("08:00:2b:01:02:03:04:05")),
    "bit": Kind("bit(5)", _among("00000", "10101"), key=True),
    "varbit": Kind("varbit", _among("", "1", "01010101010"), key=True),
    "tsvector": Kind("tsvector", _among("", "'a':1A 'b c':2,3B", "'quo''te' '\\\\'"), key=True),
    "tsquery": Kind("tsquery", _among("'a' & !'b'", "'x':*A <-> 'y'"), key=True),
    "pg_lsn": Kind("pg_lsn", _among("0/0", "FFFFFFFF/FFFFFFFF"), key=True),
    "pg_snapshot": Kind("pg_snapshot", _among("10:20:10,14,15")),
    "regtype": Kind("regtype", _among("pg_catalog.int4", "pg_catalog.text[]")),
    "vector": Kind("vector(3)", _among("[1,2,3]", "[0,-0.5,1e-7]")),
}  # fmt: skip

# Types that the tests' schema defines.
ENUM_LABELS = ("sad", "it's", "tab\tand \\", "comma,", "", "happy", "Ä")
OWN = {
    "enum": Kind("{schema}.mood", _among(*ENUM_LABELS), key=True),
    "enum[]": Kind("{schema}.mood[]", _among("{}", '{sad,"it\'s",NULL,"tab\tand \\\\","comma,",""}')),
    "domain": Kind("{schema}.label", NASTY_TEXT, _text.filter(lambda s: s != "forbidden"), key=True),
    "domain over array": Kind("{schema}.numbers", _among("{}", "{1,NULL}")),
    "composite": Kind(
        "{schema}.pair", _among("(,)", '(1,"")', '(-1,"a ""quoted"", \\\\ \tthing")', "(,NULL)", '(2,"\n\\\\.\n")'), key=True
    ),
    "composite[]": Kind("{schema}.pair[]", _among("{}", '{"(1,x)",NULL,"(,\\"\\")"}')),
    "own range": Kind("{schema}.textrange", _among("empty", '["a","b")', '[,"\\\\"]')),
}  # fmt: skip

DEFINITIONS = (
    "CREATE TYPE {schema}.mood AS ENUM ("
    + ", ".join("'" + label.replace("'", "''") + "'" for label in ENUM_LABELS)
    + ")",
    "CREATE DOMAIN {schema}.label AS text CHECK (VALUE <> 'forbidden')",
    "CREATE DOMAIN {schema}.numbers AS integer[]",
    "CREATE TYPE {schema}.pair AS (a integer, b text)",
    'CREATE TYPE {schema}.textrange AS RANGE (subtype = text, collation = "C")',
)
