"""Fixtures of the tests about moves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines_tests.backup.move.two_sites import TwoSites, two_sites
from sbh_pipelines_tests.support.application import Application


@pytest.fixture
def sites(application: Application, tmp_path: Path) -> Iterator[TwoSites]:
    """Acme has no backup yet."""
    with two_sites(application, tmp_path / "other") as made:
        yield made
