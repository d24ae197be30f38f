"""Patterns of paths: what fits, as a second implementation says it, and that no pattern takes longer than another."""

import time
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.errors import RequestError
from sbh_pipelines.files.patterns import PathPatterns
from sbh_pipelines_tests.support.effort import examples

NAME = "uploads/3f2a1b4c-9d8e-4f7a-b6c5-0a1b2c3d4e5f.pdf"


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("invoices/**", ["invoices/a", "invoices/2024/a", "invoices/"], ["invoices", "my/invoices/a"]),
        ("reports/2024-*.pdf", ["reports/2024-01.pdf", "reports/2024-.pdf"], ["reports/2024-a/b.pdf", "x/reports/2024-1.pdf"]),
        ("**/*.pdf", ["a.pdf", "x/a.pdf", "x/y/.pdf"], ["a.pdf/b", "a.PDF"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb", "a/bx"]),
        ("a**b", ["ab", "a/x/b", "axb"], ["a", "ba"]),
        ("?.t", ["x.t", "ü.t", "\n.t"], ["/.t", ".t", "xx.t"]),
        ("[a-c]x[!0-9]", ["axb", "cx-"], ["dxb", "ax1", "ax/"]),
        ("[]x]", ["]", "x"], ["[]x]"]),
        ("a[b", ["a[b"], ["ab"]),
        ("(a+)+$", ["(a+)+$"], ["aaa"]),
        ("**", ["", "a", "a/b"], []),
        ("***", ["a/b"], []),
    ],
)  # fmt: skip
def test_what_fits(pattern: str, fitting: list[str], others: list[str]) -> None:
    one = PathPatterns([pattern])
    assert [path for path in fitting if not one.match(path)] == []
    assert [path for path in others if one.match(path)] == []


def test_any_of_several_fits_and_no_pattern_is_all() -> None:
    several = PathPatterns(["a/b.txt", "c/*", "**/d"])
    assert [p for p in ("a/b.txt", "c/x", "x/y/d", "d", "a/b_txt", "c/x/y") if several.match(p)] == ["a/b.txt", "c/x", "x/y/d", "d"]  # fmt: skip
    assert PathPatterns([]).match("whatever/it is")


@pytest.mark.parametrize("patterns", [[""], ["a" * 1025], ["[z-a]"], ["[!]"], ["*" + "a" * 1000] * 17])
def test_what_is_no_pattern_is_refused(patterns: list[str]) -> None:
    with pytest.raises(RequestError, match="pattern"):
        PathPatterns(patterns)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**", "**/", "?", "[ab]", "[!a]"]), min_size=1, max_size=9),
    st.lists(st.text("ab/", max_size=9), max_size=8),
)
def test_as_a_second_implementation_says(parts: list[str], paths: list[str]) -> None:
    pattern = "".join(parts)
    one = PathPatterns([pattern])
    assert {path: one.match(path) for path in paths} == {path: fits(pattern, path) for path in paths}


@cache
def fits(pattern: str, path: str, before: str = "/") -> bool:
    """Tries every way; `before` is what the pattern had before."""
    if not pattern:
        return not path
    if pattern.startswith("**/") and before == "/":
        rests = [path, *(path[n + 1 :] for n, c in enumerate(path) if c == "/")]
        return any(fits(pattern[3:], rest, "/") for rest in rests)
    if pattern.startswith("**"):
        return any(fits(pattern[2:], path[n:], "*") for n in range(len(path) + 1))
    if pattern[0] == "*":
        within = len(path.split("/")[0])
        return any(fits(pattern[1:], path[n:], "*") for n in range(within + 1))
    wanted, length = {"[ab]": ("ab", 4), "[!a]": ("b", 4)}.get(
        pattern[:4], ("ab" if pattern[0] == "?" else pattern[0], 1)
    )
    return bool(path) and path[0] in wanted and fits(pattern[length:], path[1:], pattern[length - 1])


@pytest.mark.parametrize(
    "hostile",
    ["**/" + "*[0-9a-f-]" * 9 + "X", "*a" * 500 + "X", "**/" * 300 + "X", "**/*" * 200 + "X", "**[!x]" * 150 + "X"],
)
def test_the_time_is_bounded_whatever_the_stars(hostile: str) -> None:
    """Backtracking, the first of these takes a minute for one name, and all threads wait for it."""
    names = [NAME, "a" * 1024, "a/" * 512]
    began = time.thread_time()
    found = [PathPatterns([hostile]).match(name) for name in names]
    assert (found, time.thread_time() - began < 1.5) == ([False] * 3, True)
