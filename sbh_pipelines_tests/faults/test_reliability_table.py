"""docs/reliability.md: each fault names where others met it and tests that exist."""

import re
from pathlib import Path

import pytest

from sbh_pipelines_tests.security.test_threat_model import names_of_tests

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs" / "reliability.md").read_text("utf-8")

_REFERENCE = re.compile(r"`([\w/]+\.py)::(\w+)`")
_ISSUE = re.compile(r"\b[\w.-]+/[\w.-]+#\d+\b")


def _rows(title: str) -> list[str]:
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    (table,) = re.findall(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", section, re.M)
    return list(table.splitlines())


KNOWN, OWN = _rows("Known faults"), _rows("What our own search found")


def test_there_are_tables() -> None:
    assert len(KNOWN) >= 35
    assert len(OWN) >= 5


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row[2:42].strip())
def test_each_known_fault_says_who_met_it(row: str) -> None:
    assert _ISSUE.search(row)


@pytest.mark.parametrize("row", [*KNOWN, *OWN], ids=lambda row: row[2:42].strip())
def test_each_fault_names_tests_that_exist(row: str) -> None:
    references = _REFERENCE.findall(row)
    assert references, row
    for file, name in references:
        assert (TESTS / file).is_file(), f"{file} does not exist"
        assert name in names_of_tests(file), f"{file} has no {name}"
