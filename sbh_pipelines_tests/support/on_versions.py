"""Which cases of a test run on which version of PostgreSQL, where it has cases and versions.

In `make test` each case runs on one version, and each test on both of them in turn; in `make soak` all run on both. A test
without cases runs on both always. What a version does otherwise, such as a function that it lacks, is met by every case.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from zlib import crc32

import pytest

from sbh_pipelines_tests.support.effort import SOAK
from sbh_pipelines_tests.support.own_server import VERSIONS

_NAMES = ("server", "version")


def on_another_version(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """The items to leave out. One whose case is not among them on both versions stays: somebody asked for it."""
    if SOAK:
        return set()
    tests: dict[tuple[str, str], dict[str, dict[int, pytest.Item]]] = defaultdict(lambda: defaultdict(dict))
    for item in items:
        given = getattr(getattr(item, "callspec", None), "params", {})
        versions = [name for name, value in given.items() if type(value) is int and value in VERSIONS]
        if len(versions) != 1 or versions[0] not in _NAMES:
            continue
        # By the id, which is the same in all processes that run the tests; of it, what says the version is left out.
        version = given[versions[0]]
        case = re.sub(rf"\b{version}\b", "", item.callspec.id, count=1)  # type: ignore[attr-defined]
        tests[str(item.path), getattr(item, "originalname", item.name)][case][version] = item
    left_out = set()
    for cases in tests.values():
        # In no order of their own: of a product of two lists each would meet one version only.
        asked = sorted(cases, key=lambda case: (crc32(case.encode()), case))
        pairs = [cases[case] for case in asked if len(cases[case]) == len(VERSIONS)]
        if len(pairs) > 1:
            for nth, pair in enumerate(pairs):
                left_out.add(pair[sorted(VERSIONS)[nth % len(VERSIONS)]])
    return left_out
