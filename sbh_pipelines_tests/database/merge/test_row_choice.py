"""Chosen rows: conditions mean what PostgreSQL means by them, and nothing else gets through."""

import operator
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.database.merge.row_choice import RowChoice, parse_rows
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import RequestError
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.effort import examples

_COLUMNS = {"n": 'x."n"', "m": 'x."m"', "s": 'x."s"', "b": 'x."b"', "The name": 'x."The name"'}
Row = dict[str, Any]
Truth = bool | None


@pytest.fixture(scope="module")
def session(embedded_stack: Stack) -> Iterator[Any]:
    """A pinned session, and a type whose literals only the column's type can decide."""
    with fresh_database(embedded_stack) as made:
        made.run("CREATE TYPE mood AS ENUM ('sad', 'happy')")
        with closing(connect(Settings(database={"dsn": made.dsn}).database, "test")) as opened:  # type: ignore[arg-type]
            yield opened


def ask(session: Any, sql: str, rows: list[Row]) -> list[Truth]:
    """The condition's value for each row. Executed without arguments, as a restore does: % is nothing special then."""
    cursor = session.cursor()
    quote = lambda v: "NULL" if v is None else "'" + str(v).replace("'", "''") + "'"  # noqa: E731
    values = ", ".join(
        f"({nth}, {quote(r['n'])}::int, {quote(r['m'])}::int, {quote(r['s'])}::text, {quote(r['b'])}::boolean, {quote(r['The name'])}::text)"
        for nth, r in enumerate(rows)
    )
    cursor.execute(f'SELECT {sql} FROM (VALUES {values}) AS x(i, n, m, s, b, "The name") ORDER BY i')
    return [truth for (truth,) in cursor.fetchall()]


Evaluate = Callable[[Row], Any]


def _not(value: Truth) -> Truth:
    return None if value is None else not value


def _and(left: Truth, right: Truth) -> Truth:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def _like(text: str, pattern: str, fold: bool) -> bool:
    expression, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
            expression += re.escape(pattern[at])
        else:
            expression += {"%": ".*", "_": "."}.get(char, re.escape(char))
        at += 1
    return re.fullmatch(expression, text, re.DOTALL | (re.IGNORECASE if fold else 0)) is not None


def _strict(function: Callable[..., Any], *values: Any) -> Any:
    return None if any(v is None for v in values) else function(*values)


@st.composite
def _number(draw: Any) -> tuple[str, Evaluate]:
    choice = draw(st.integers(0, 4))
    if choice <= 1:
        name = draw(st.sampled_from(["n", "M", "m", "t.n", '"n"', "(n)"]))
        column = name.strip('()"').lower().removeprefix("t.")
        return name, lambda row: row[column]
    if choice == 2:
        return "null", lambda row: None
    value = draw(st.integers(-3, 3))
    return draw(
        st.sampled_from([f"{value}", f"'{value}'::int", f"cast('{value}' as integer)", f"({value})::bigint"])
    ), lambda row: value


_TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "A", "ab", "it's", "%", "%s", "\\", "--", "/*", ";", "é", "日本", "\n", '"', "$1", ":x", "{}"]
    ),
    st.text("aAb%_'\"\\é", max_size=4),
)


@st.composite
def _string(draw: Any) -> tuple[str, Evaluate]:
    choice = draw(st.integers(0, 3))
    if choice <= 1:
        name = draw(st.sampled_from(["s", '"The name"', 'T."The name"']))
        column = "s" if name == "s" else "The name"
        return name, lambda row: row[column]
    value = draw(_TEXTS)
    quoted = "'" + value.replace("'", "''") + "'"
    return draw(st.sampled_from([quoted, f"{quoted}::text"])), lambda row: value


_OPERATORS = {
    "=": operator.eq, "<>": operator.ne, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@st.composite
def _leaf(draw: Any) -> tuple[str, Evaluate]:
    """A condition without others in it."""
    kind = draw(
        st.sampled_from(["number", "string", "in", "texts", "between", "like", "null", "truth", "distinct", "boolean"])
    )
    space, negated = draw(st.sampled_from([" ", "\n", "  \t"])), draw(st.booleans())
    word = draw(st.sampled_from(["not ", "NOT "])) if negated else ""
    turned: Callable[[Truth], Truth] = _not if negated else lambda value: value
    if kind == "number":
        (left, a), sign, (right, b) = draw(_number()), draw(st.sampled_from(sorted(_OPERATORS))), draw(_number())
        return f"{left} {sign}{space}{right}", lambda row: _strict(_OPERATORS[sign], a(row), b(row))
    if kind == "string":
        (left, a), sign, (right, b) = draw(_string()), draw(st.sampled_from(["=", "<>", "!="])), draw(_string())
        return f"{left}{space}{sign} {right}", lambda row: _strict(_OPERATORS[sign], a(row), b(row))
    if kind == "in":
        left, a = draw(_number())
        items = draw(st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=1, max_size=4))
        listed = ", ".join("null" if item is None else str(item) for item in items)

        def among(row: Row) -> Truth:
            value = a(row)
            if value is None:
                return None
            return turned(True if value in [i for i in items if i is not None] else None if None in items else False)

        return f"{left} {word}in{space}({listed})", among
    if kind == "texts":
        items = draw(st.lists(_TEXTS, min_size=1, max_size=3))
        listed = ", ".join("'" + item.replace("'", "''") + "'" for item in items)
        return f"s {word}IN ({listed})", lambda row: turned(_strict(lambda v: v in items, row["s"]))
    if kind == "between":
        (left, a), (low, b), (high, c) = draw(_number()), draw(_number()), draw(_number())

        def inside(row: Row) -> Truth:
            value, least, most = a(row), b(row), c(row)
            return turned(_and(_strict(operator.ge, value, least), _strict(operator.le, value, most)))

        return f"{left} {word}between {low} and{space}{high}", inside
    if kind == "like":
        pattern = draw(st.text("aA%_é'b", max_size=4)) + draw(st.sampled_from(["", "\\%", "\\\\", "%"]))
        fold = draw(st.booleans())
        quoted = "'" + pattern.replace("'", "''") + "'"
        return f"s {word}{'ilike' if fold else 'LIKE'} {quoted}", lambda row: turned(
            _strict(lambda v: _like(v, pattern, fold), row["s"])
        )
    if kind == "null":
        left, a = draw(st.one_of(_number(), _string()))
        return f"{left} is{space}{word}null", lambda row: (a(row) is None) is not negated
    if kind == "truth":
        which = draw(st.sampled_from([True, False]))
        return f"b is {word}{which}", lambda row: (row["b"] is which) is not negated
    if kind == "distinct":
        (left, a), (right, b) = draw(_number()), draw(_number())
        return f"{left} is {word}distinct from {right}", lambda row: (a(row) != b(row)) is not negated
    value = draw(st.sampled_from(["b", "true", "false", "null", "(b)"]))
    constant = {"true": True, "false": False, "null": None}
    return value, lambda row: row["b"] if "b" in value else constant[value]


def _extend(inner: st.SearchStrategy[tuple[str, Evaluate]]) -> st.SearchStrategy[tuple[str, Evaluate]]:
    """AND, OR, NOT, IS TRUE over conditions: written with as few parentheses as the grammar needs, or with more."""

    def wrap(text: str) -> str:
        return f"({text})"

    def both(pair: tuple[tuple[str, Evaluate], tuple[str, Evaluate]]) -> tuple[str, Evaluate]:
        (left, a), (right, b) = pair
        return f"{wrap(left)} and {wrap(right)}", lambda row: _and(a(row), b(row))

    def either(pair: tuple[tuple[str, Evaluate], tuple[str, Evaluate]]) -> tuple[str, Evaluate]:
        (left, a), (right, b) = pair
        return f"{left} OR {right}", lambda row: _not(_and(_not(a(row)), _not(b(row))))

    def negation(one: tuple[str, Evaluate]) -> tuple[str, Evaluate]:
        text, a = one
        return f"not {wrap(text)}", lambda row: _not(a(row))

    def is_true(one: tuple[str, Evaluate]) -> tuple[str, Evaluate]:
        text, a = one
        return f"{wrap(text)} is true", lambda row: a(row) is True

    pairs = st.tuples(inner, inner)
    return st.one_of(pairs.map(both), pairs.map(either), inner.map(negation), inner.map(is_true))


_CONDITIONS = st.recursive(_leaf(), _extend, max_leaves=5)
_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.one_of(st.none(), st.integers(-3, 3)),
            "m": st.one_of(st.none(), st.integers(-3, 3)),
            "s": st.one_of(st.none(), _TEXTS),
            "b": st.one_of(st.none(), st.booleans()),
            "The name": st.one_of(st.none(), _TEXTS),
        }
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=examples(80))
@given(condition=_CONDITIONS, rows=_ROWS)
def test_conditions_mean_what_postgresql_means(session: Any, condition: tuple[str, Evaluate], rows: list[Row]) -> None:
    """Against an evaluation of our own in three-valued logic, and against the server's reading of the text itself."""
    text, evaluate = condition
    choice = parse_rows(f"T where {text}")
    assert choice.table == "t"
    found = ask(session, choice.to_sql(_COLUMNS), rows)
    assert found == [evaluate(row) for row in rows], text
    original = re.sub(r"(?i)\bt\.", "x.", text)
    if "'t." not in text.lower():
        assert found == ask(session, original, rows), text


@settings(max_examples=examples(50))
@given(st.lists(st.sampled_from(["n", "1", "=", "<", "and", "or", "not", "in (1)", "is null", "is true", "between", "(", ")", "b", "like 'a'", "s", "-"]), min_size=1, max_size=9), _ROWS)  # fmt: skip
def test_what_is_accepted_is_read_as_the_server_reads_it(session: Any, words: list[str], rows: list[Row]) -> None:
    """Operators in any order, without parentheses: refused, or taken with the server's own precedence."""
    text = " ".join(words)
    try:
        sql = parse_rows(f"t where {text}").to_sql(_COLUMNS)
    except RequestError:
        return
    try:
        expected = ask(session, text, rows)
    except Exception as error:  # the server says no: then it must say no to ours as well
        with pytest.raises(type(error)):
            ask(session, sql, rows)
        return
    assert ask(session, sql, rows) == expected, text


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("projects where id in (1, 2) and created_at >= '2024-01-01'", "projects"),
        ("public.Projects WHERE id = 1", "public.projects"),
        ('"Odd ""Schema"""."Pro%sjects" where "Odd ""Schema"""."Pro%sjects".id = 1', 'Odd "Schema".Pro%sjects'),
        ('"größe" where größe = 1', "größe"),
    ],
)
def test_names_of_tables(text: str, table: str) -> None:
    """Bare or with their schema, quoted or folded to lower case as the server does."""
    assert parse_rows(text).table == table


def test_literals_stay_untyped(session: Any) -> None:
    """The column's type decides what a string means: an enum, a date, a number."""
    cursor = session.cursor()
    choice = parse_rows(
        "t where m = 'sad' and d >= '2024-01-01' and n = '1' and u in ('00000000-0000-0000-0000-000000000001')"
    )
    sql = choice.to_sql({"m": "m", "d": "d", "n": "n", "u": "u"})
    cursor.execute(
        f"SELECT {sql} FROM (SELECT 'sad'::public.mood m, '2024-01-01'::date d, 1::bigint n, lpad('1', 32, '0')::uuid u) x"
    )
    assert cursor.fetchone() == (True,)


def test_expressions_of_columns_are_kept_together(session: Any) -> None:
    """A column may stand for any expression; its own operators do not mix with the condition's."""
    cursor = session.cursor()
    cursor.execute(
        f"SELECT {parse_rows('t where not a = 3').to_sql({'a': '1 + 2'})}, {parse_rows('t where a').to_sql({'a': 'true or false'})}"
    )
    assert cursor.fetchone() == (False, True)


def test_only_casts_of_plain_types(session: Any) -> None:
    """Types are the server's own, whatever the search path is."""
    for kind in ("date", "timestamp", "timestamptz", "uuid", "int", "bigint", "smallint", "numeric", "text", "boolean", "real", "double precision", "jsonb", "inet", "time"):  # fmt: skip
        assert " AS pg_catalog." in parse_rows(f"t where a = 'x'::{kind}").to_sql({"a": "a"})
    cursor = session.cursor()
    cursor.execute(
        "SELECT "
        + parse_rows(
            "t where a < timestamptz '2024-01-01 00:00+02' and a > '2023-12-31'::timestamp with time zone"
        ).to_sql({"a": "'2023-12-31 12:00Z'::timestamptz"})
    )
    assert cursor.fetchone() == (True,)


_HOSTILE = [
    "", " ", ";", "t", "where a = 1", "t where", "t where ;", "t where a = 1; DROP TABLE t", "t where a = 1;", "t; select 1",
    "t where a = 1 -- comment", "t where a = 1 /* comment */", "t /**/ where a = 1", "t where a = 1 /*! or 1=1 */", "t where a = 1 /*",
    "t where pg_sleep(10) is null", "t where a = pg_read_file('/etc/passwd')", "t where a = version()", "t where lower(a) = 'x'",
    "t where a = current_user", "t where a = now()", "t where a = (select 1)", "t where exists (select 1)", "t where a in (select 1)",
    "t where a = any (array[1])", "t where a = all ('{1}')", "t where a in (1) union select 1", "t where a = 1 union all table x",
    "t, u where a = 1", "t join u on true where a = 1", "t as x where a = 1", "t x where a = 1", "only t where a = 1", "(select 1) x where a = 1",
    "generate_series(1, 9) where a = 1", "lateral f() where a = 1", "t tablesample system (1) where a = 1", "a.b.c where a = 1",
    "t where a = 1 order by a", "t where a = 1 limit 1", "t where a = 1 for update", "t where a = 1 group by a", "t where a = 1 having true",
    "t where a = 1 window w as ()", "t where a = 1 offset 1", "t where a = 1 returning a", "t where a = 1 into outfile 'x'",
    "t where u.a = 1", "t where s.t.a = 1", "t where a.*", "t where t.* = 1", "t where *", "t where a[1] = 1", "t where (a).b = 1",
    "t where a = $1", "t where a = :x", "t where a = ?", "t where a = %s", "t where a = %(x)s", "t where a = @x", "t where a = {{ x }}",
    "t where a @@ 'x'", "t where a ~ 'x'", "t where a similar to 'x'", "t where a && b", "t where a || 'x' = 'y'", "t where a + 1 = 2",
    "t where a -> 'x' = '1'", "t where a operator(pg_catalog.=) 1", "t where a collate \"C\" = 'x'", "t where a at time zone 'x' = b",
    "t where a like 'x' escape '!'", "t where a like any ('x')", "t where a = E'\\x27'", "t where a = U&'\\0027'", "t where a = $$x$$",
    "t where a = $q$x$q$", "t where a = N'x'", "t where a = B'1'", "t where a = X'1F'", "t where a = 0x1F", "t where a = 'x' 'y'",
    "t where a = 'x", "t where \"a = 1", "t where a = 1)", "t where (a = 1", "t where a = 1 a = 2", "t where a = 1e",
    "t where a = 'pg_class'::regclass", "t where a = 'x'::public.mood", "t where a = 'x'::mood", "t where a = 'x'::varchar(1)",
    "t where a::text = 'x'", "t where a = 'x'::text[]", "t where a = cast(b as int)", "t where a = 'x'::date::text", "t where a = row(1)",
    "t where (a, b) = (1, 2)", "t where (a, b) in ((1, 2))", "t where a = array[1]", "t where a in ()", "t where a in 5", "t where a in (b)",
    "t where case when a then b end", "t where a between symmetric 1 and 2", "t where a is json", "t where a is document", "t where a = interval '1 day'",
    "t where a = 1 = true", "t where a < b < c", "t where a in (1) is true = false", "t where a = not b", "t where -a = 1", "t where a = - -1", "t where a = -'1'",
    "copy t to program 'id'", "t where a = 1 \\g", "with x as (select 1) select 1", "t where a = 1\0", "t where a = '\0'", "t where a = '\ud800'",
    "1 from t where a = 1", "t where a = 1 from t", "t where a overlaps b", "t where grouping(a)", "t where xmlparse(document '<a/>') is null", "t where a is of (int)",
    "t where " + "(" * 5000 + "a" + ")" * 5000, "t where " + "not " * 5000 + "a", "t where a = '" + "x" * 200_000 + "'", "t where a = 1 and " * 3,
]  # fmt: skip


@pytest.mark.parametrize("text", _HOSTILE, ids=range(len(_HOSTILE)))
def test_everything_else_is_refused(text: str) -> None:
    """With an error that says what is allowed and quotes little of the text, nothing of it unescaped."""
    with pytest.raises(RequestError) as caught:
        parse_rows(text)
    assert "IN BETWEEN LIKE" in caught.value.remedy
    assert len(caught.value.on) <= 100
    assert caught.value.on.isprintable()
    assert len(str(caught.value)) < 700


@settings(max_examples=examples(60))
@given(st.one_of(st.text(max_size=60), st.text("ab'\"\\;-/*$%()=<>[]{}:@#~ \n", max_size=30)))
def test_no_text_gets_through(text: str) -> None:
    """Any text after `where` is either refused or becomes SQL in which nothing but literals and the given columns varies."""
    try:
        choice = parse_rows(f"t where {text}")
    except RequestError:
        return
    written = choice.to_sql(dict.fromkeys(choice.columns, "x.c"))
    plain = re.sub(r"'(?:[^']|'')*'", "", written)
    assert re.fullmatch(
        r"[ ().,<>=\-+\deE]*",
        re.sub(
            r"x\.c|\b(AND|OR|NOT|IN|IS|NULL|TRUE|FALSE|LIKE|ILIKE|BETWEEN|DISTINCT FROM|CAST|AS|pg_catalog\.\w+)\b",
            "",
            plain,
        ),
    ), written


@settings(max_examples=examples(60))
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
    | st.sampled_from(["x" * 1000, "'" * 999, '"' * 500, "\\" * 99, "%s" * 40])
)
def test_any_literal_and_any_name(session: Any, value: str) -> None:
    """A value of any characters reaches the server as it is; a name of any characters is the column of that name."""
    quoted, name = "'" + value.replace("'", "''") + "'", '"' + value.replace('"', '""') + '"'
    choice = parse_rows(f"t where {name} = {quoted}")
    assert choice.columns == {value}
    cursor = session.cursor()
    cursor.execute(
        f"SELECT {choice.to_sql({value: 'x.c'})}, octet_length(x.c) FROM (SELECT convert_from('\\x{value.encode().hex()}', 'UTF8') c) x"
    )
    assert cursor.fetchone() == (True, len(value.encode()))


def test_long_lists(session: Any) -> None:
    """Thousands of ids, in one list or joined by OR, are fine."""
    ids = range(5000)
    for text in (f"t where a in ({', '.join(map(str, ids))})", "t where " + " or ".join(f"a = {n}" for n in ids)):
        cursor = session.cursor()
        cursor.execute(
            f"SELECT count(*) FROM generate_series(-5, 9999) x(a) WHERE {parse_rows(text).to_sql({'a': 'x.a'})}"
        )
        assert cursor.fetchone() == (5000,)


def test_unknown_columns_are_named() -> None:
    """And so are the known ones, as the server has them."""
    choice = parse_rows("t where ID = 1 and \"Name\" = 'x'")
    with pytest.raises(RequestError, match=r"'Name'.*columns are id, name"):
        choice.to_sql({"id": "x.id", "name": "x.name"})
    assert choice == RowChoice("t", choice.condition)
    assert hash(choice)
