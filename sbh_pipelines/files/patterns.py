"""Patterns of paths: `*` and `?` and `[...]` within a folder, `**` over folders, as in shells and .gitignore files.

Patterns come from callers and names of files from users, so the time to compare them is bounded: all patterns are steps of one
automaton that reads every path once, and no way through it is tried twice, whatever the stars.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sbh_pipelines.errors import RequestError

_LONGEST, _LONGEST_TOGETHER = 1024, 16_384  # characters of a pattern, and of all those with wildcards
_MOST_KNOWN = 5_000  # moves of the automaton that are kept
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class _Step:
    """One part of a pattern, at which the automaton may stand.

    Attributes:
        fits: Whether a character leads from here to the next step.
        stays: Whether a character may be passed over here, as a star does.
        skips: How many steps further one may stand as well, without reading anything.
    """

    fits: Callable[[str], bool] = lambda _: False
    stays: Callable[[str], bool] = lambda _: False
    skips: tuple[int, ...] = ()


_STAR = _Step(stays=lambda c: c != "/", skips=(1,))
_OVER_FOLDERS = _Step(stays=lambda _: True, skips=(1,))
# `**/`: no folder at all, or anything up to a "/". The second step is reached from the first only.
_FOLDERS = (_Step(skips=(1, 2)), _Step(fits=lambda c: c == "/", stays=lambda _: True))
_END = _Step()


class _Standing:
    """Some steps at which the automaton stands at once, and where a character leads to from there, as far as that is known."""

    def __init__(self, steps: int, fits: bool, settled: bool | None) -> None:
        self.steps = steps  # a bit each
        self.fits = fits  # what was read so far
        self.settled = settled  # the answer, where it does not depend on the rest
        self.next: dict[str, _Standing] = {}


class PathPatterns:
    """Matches paths that fit any of the patterns; all paths where there are none. Thread-safe."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises RequestError for an empty or overlong pattern."""
        for pattern in patterns:
            if not pattern or len(pattern) > _LONGEST:
                raise _no_pattern(pattern, f"a pattern has 1 to {_LONGEST} characters")
        wild = [pattern for pattern in patterns or ("**",) if not _WILDCARDS.isdisjoint(pattern)]
        if sum(map(len, wild)) > _LONGEST_TOGETHER:
            why = f"those with wildcards have more than {_LONGEST_TOGETHER} characters together"
            raise _no_pattern(wild[0], why, what="Too many patterns of paths")
        self._plain = frozenset(patterns).difference(wild)
        self._steps: list[_Step] = []
        first = self._ends = self._all_follow = 0
        for pattern in wild:
            first |= 1 << len(self._steps)
            self._steps += _steps(pattern)
            if self._steps[-1] is _OVER_FOLDERS:
                self._all_follow |= 1 << len(self._steps) - 1
            self._ends |= 1 << len(self._steps)
            self._steps.append(_END)
        self._by_one = self._bits(lambda step: 1 in step.skips)
        self._by_two = self._bits(lambda step: 2 in step.skips)
        self._known, self._moves, self._masks = dict[int, _Standing](), 0, dict[str, tuple[int, int]]()
        self._start = self._standing(first)

    def match(self, path: str) -> bool:
        """Whether the path fits a pattern."""
        if path in self._plain:
            return True
        at = self._start
        for character in path:
            if at.settled is not None:
                return at.settled
            at = at.next.get(character) or self._move(at, character)
        return at.fits

    def _move(self, at: _Standing, character: str) -> _Standing:
        masks = self._masks.get(character)
        if masks is None:
            forward = self._bits(lambda step: step.fits(character))
            masks = self._masks[character] = forward, self._bits(lambda step: step.stays(character))
        forward, staying = masks
        found = self._standing((at.steps & forward) << 1 | at.steps & staying)
        self._moves += 1
        if self._moves > _MOST_KNOWN:  # names of all kinds: what is known begins anew
            self._known, self._moves, self._masks, self._start.next = {}, 0, {}, {}
        at.next[character] = found
        return found

    def _standing(self, steps: int) -> _Standing:
        """At these steps, and at those that are reached from them without reading."""
        more = steps
        while True:
            more |= (more & self._by_one) << 1 | (more & self._by_two) << 2
            if more == steps:
                break
            steps = more
        settled = True if steps & self._all_follow else None if steps else False
        return self._known.setdefault(steps, _Standing(steps, bool(steps & self._ends), settled))

    def _bits(self, which: Callable[[_Step], bool]) -> int:
        return int("0" + "".join("1" if which(step) else "0" for step in reversed(self._steps)), 2)


def _steps(pattern: str) -> Iterator[_Step]:
    at = 0
    while at < len(pattern):
        begins_folder = at == 0 or pattern[at - 1] == "/"
        if begins_folder and pattern.startswith("**/", at):
            yield from _FOLDERS
            at += 3
            while pattern.startswith("**/", at):  # says the same again
                at += 3
        elif pattern[at] == "*":
            stars = len(pattern) - at - len(pattern[at:].lstrip("*"))
            yield _STAR if stars == 1 else _OVER_FOLDERS
            at += stars
        elif pattern[at] == "?":
            yield _Step(fits=lambda c: c != "/")
            at += 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            yield _Step(fits=_one_of(pattern[at + 1 : end], pattern))
            at = end + 1
        else:
            yield _Step(fits=pattern[at].__eq__)
            at += 1


def _one_of(inside: str, pattern: str) -> Callable[[str], bool]:
    """What fits `[inside]`: characters and ranges of them; `!` first: all others. Never a "/", as no wildcard of a folder does."""
    sign, inside = ("^", inside[1:]) if inside[0] == "!" else ("", inside)
    # A `-` stays what makes a range; one at an end of the class stands for itself in both notations.
    escaped = "".join("\\" + c if c in "\\[]^&~|" else c for c in inside)
    try:
        # nosemgrep: expression-of-others - one class of characters, escaped, for one character
        expression = re.compile(f"[{sign}{escaped}]", re.DOTALL)
    except re.error as error:
        raise _no_pattern(pattern, str(error)) from None
    return lambda c: c != "/" and expression.fullmatch(c) is not None


def _no_pattern(pattern: str, why: str, what: str = "Not a pattern of paths") -> RequestError:
    on = ascii(pattern) if len(pattern) <= 64 else ascii(pattern[:64]) + "..."
    return RequestError(what, on=on, why=why, remedy="e.g. 'invoices/**' or 'reports/2024-*.pdf'")
