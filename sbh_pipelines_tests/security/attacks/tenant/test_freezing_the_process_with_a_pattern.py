"""A tenant's operator wants the API's process to do nothing but compare their pattern with a name, or read their condition, for
all tenants: a text of a hundred characters that takes minutes.

Patterns are compared in time that grows with pattern times name, and a condition is refused before a parser tries it in every way.
Work is counted in steps, or compared with that for half the size, so that no busy machine fails these.
"""

import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import product

import psycopg2
import pytest
from sqlglot.dialects import Postgres

from sbh_pipelines.api.schema.problems import scrub
from sbh_pipelines.database.merge.row_choice import parse_rows
from sbh_pipelines.database.session import driver
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import RequestError
from sbh_pipelines.files.patterns import PathPatterns
from sbh_pipelines.repository.trail.event import AuditKey, Chain, chained, entry_of
from sbh_pipelines.repository.trail.reader import EventFilter
from sbh_pipelines.stores.signed.headers import tagging_of
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.servers import Server

MOST_STEPS = 300_000


class TooManyStepsError(BaseException):
    pass


def steps(work: Callable[[], object]) -> int:
    """How many functions of Python are called; ends what takes too many."""
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"
        if count > MOST_STEPS:
            raise TooManyStepsError

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        with suppress(Exception):
            work()
    finally:
        sys.setprofile(before)
    return count


def seconds(work: Callable[[], object]) -> float:
    """Of the processor, the best of three."""
    took = []
    for _ in range(3):
        began = time.process_time()
        with suppress(Exception):
            work()
        took.append(time.process_time() - began)
    return min(took)


NESTED = (
    "struct(",
    "map[",
    "(varchar ",
    "uuid((",
    "decimal(a,",
    "a join b ",
    "a straight_join b ",
    "case when ",
    "array[",
    "not (",
)


@pytest.mark.parametrize("part", NESTED)
def test_a_nested_condition(part: str) -> None:
    """Of `struct(`, twenty took half a minute."""

    def condition(times: int) -> str:
        return "users where id = " + part * times + "1" + ")" * part.count("(") * times + "]" * part.count("[") * times

    few, many = (steps(lambda n=n: parse_rows(condition(n))) for n in (8, 32))  # type: ignore[misc]
    assert many < 8 * few + 5_000


def test_words_of_the_parser_in_every_place() -> None:
    """All that it knows, and every third place of each: whatever it makes of them, twice as many are not four times the work."""
    words = sorted({*Postgres.tokenizer_class.KEYWORDS, *Postgres.parser_class.FUNCTIONS, "cast(", "a", "1"})
    shapes = ("{} ", "({} ", "a {} (", "a::{} ", "in ({} ", "{} join ", "cast(a as {} ", "is distinct from ({} ")
    places = list(product(words, shapes))
    for word, shape in places[:: max(1, len(places) // examples(400))]:
        part = shape.format(word)
        few, many = (steps(lambda text=f"t where a = {part * n}": parse_rows(text)) for n in (6, 12))  # type: ignore[misc]
        assert many < 4 * few + 5_000, part


def test_the_longest_condition_that_a_body_can_hold() -> None:
    """Of conditions, with as many ORs as there is room for."""
    few, many = (steps(lambda n=n: parse_rows("t where " + " or ".join(["a=1"] * n))) for n in (100, 400))  # type: ignore[misc]
    assert many < 8 * few


@pytest.mark.parametrize("part", ["*[0-9a-f-]", "*a", "**/", "**/*", "?*", "[!x]*"])
def test_a_pattern_of_files(part: str) -> None:
    names = ["uploads/0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11.pdf", "a" * 1024]
    few, many = (
        seconds(lambda n=n: [PathPatterns([part * n + "X"]).match(name) for name in names])  # type: ignore[misc]
        for n in (20, 80)
    )
    assert many < 40 * few + 0.05


@pytest.mark.parametrize(
    ("compare", "text"),
    [
        pytest.param(lambda text: scrub(text), "a", id="an error's text without addresses"),
        pytest.param(lambda text: scrub("x " + text), "/a.b-c@", id="paths in an error's text"),
        pytest.param(lambda text: tagging_of(text.encode()), "<Tag>", id="tags that a store answers"),
        pytest.param(
            lambda text: driver._FUNCTION.search(text), 'SQL function "((((((((\n', id="the context of a server's error"
        ),
        pytest.param(lambda text: driver._FUNCTION.search('SQL function "' + text), "(", id="a function's name in it"),
    ],
)
def test_a_text_of_others(compare: Callable[[str], object], text: str) -> None:
    few, many = (seconds(lambda n=n: compare(text * n)) for n in (2_000, 16_000))  # type: ignore[misc]
    assert many < 40 * few + 0.02


def test_a_pattern_of_events() -> None:
    """As long as the API takes it, against the longest name of an event that there can be."""
    entry = entry_of(".".join(["a" * 31] * 4), "ann", "backup", "api", {})
    event = chained(entry, Chain("tenant-1", "eu"), AuditKey("k", b"secret"), 1, "", datetime.now(UTC))
    few, many = (
        seconds(lambda n=n: EventFilter("*a" * n + "*b").fits(event))  # type: ignore[misc]
        for n in (8, 31)
    )
    assert many < 40 * few + 0.05


@pytest.mark.parametrize("word", ["~", "~*", "!~", "similar to", "rlike", "regexp", "glob", "@@", "like any"])
def test_the_server_is_given_no_expression_that_takes_it_long(word: str) -> None:
    """Regular expressions are not in the language of conditions; LIKE and ILIKE are, which read a text once for each part."""
    with pytest.raises(RequestError, match="refused"):
        parse_rows(f"users where name {word} '(a+)+$'")


@pytest.mark.parametrize("word", ["LIKE", "ILIKE"])
def test_like_on_the_server(api_stack: Stack, word: str) -> None:
    took = []
    with closing(psycopg2.connect(api_stack.dsn())) as connection, connection.cursor() as cursor:
        for parts in (50, 400):
            began = time.monotonic()
            cursor.execute(f"SELECT repeat('ab', 20000) {word} %s", ("%a_a" * parts + "%b%X",))
            assert cursor.fetchone() == (False,)
            took.append(time.monotonic() - began)
    assert took[1] < 64 * took[0] + 1


def test_others_are_answered_meanwhile(lonely_server: Server, backed_up: str) -> None:
    """Over HTTP: the patterns and the condition that stopped all threads are answered, and the process lives."""
    with lonely_server.client("tenant-1") as client:
        for body in (
            {"files": ["**/" + "*[0-9a-f-]" * 90 + "X"]},
            {"rows": "users where id = " + "struct(" * 24 + "1" + ")" * 24},
            {"rows": "users where id = " + "1 join any " * 24},
        ):
            assert client.post(f"/api/backup/{backed_up}/diff", json=body).status_code in (200, 400)
