"""docs/security.md: each sentence of what an attacker cannot do names tests that exist, and no attack is left out of it."""

import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs" / "security.md").read_text("utf-8")
ATTACKS = sorted((TESTS / "security" / "attacks").rglob("test_*.py"))

_REFERENCE = re.compile(r"`([\w/]+\.py)::(\w+)`")
_WHO_ATTACKS = "## Who can and cannot do what\n"
_WHAT_IS_NOT_HELD = "## What is not held\n"


def rows() -> list[str]:
    """The rows of the tables, without their heads: one sentence and its tests each."""
    middle = TEXT.split(_WHO_ATTACKS)[1].split(_WHAT_IS_NOT_HELD)[0]
    tables = re.findall(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", middle, re.M)
    return [row for table in tables for row in table.splitlines()]


@cache
def names_of_tests(file: str) -> frozenset[str]:
    return frozenset(re.findall(r"^\s*(?:async )?def (test_\w+)", (TESTS / file).read_text("utf-8"), re.M))


def test_there_are_tables() -> None:
    assert len(rows()) > 80


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2:42].strip())
def test_each_sentence_names_tests_that_exist(row: str) -> None:
    references = _REFERENCE.findall(row)
    assert references, row
    for file, name in references:
        assert (TESTS / file).is_file(), f"{file} does not exist"
        assert name in names_of_tests(file), f"{file} has no {name}"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda file: file.stem)
def test_each_attack_stands_in_the_threat_model(attack: Path) -> None:
    assert f"`{attack.relative_to(TESTS)}::" in TEXT


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda file: file.stem)
def test_each_attack_says_what_the_attacker_wants(attack: Path) -> None:
    assert len(re.findall(r"\.(?:\s|$)", attack.read_text("utf-8").split('"""')[1])) >= 2
