"""Of a test with cases and two versions of PostgreSQL, `make test` runs each case on one of them."""

import pytest

from sbh_pipelines_tests.support.effort import SOAK


@pytest.fixture(params=[18, 15])
def version(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


@pytest.mark.parametrize("case", [{"a"}, "b"])
def test_each_case_is_on_one_version(request: pytest.FixtureRequest, version: int, case: object) -> None:
    """Without a word all of them would run on both, were the cases of the two not found to be the same."""
    kept = [item for item in request.session.items if item.path == request.path]
    assert len(kept) <= (4 if SOAK else 2)
    assert request.node in kept
