"""Fixtures of the map's tests."""

from collections.abc import Callable
from typing import Any

import pytest

from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.mapped import INTEGERS, Mapped, mapped_database


@pytest.fixture
def mapped(database: Database) -> Callable[..., Mapped]:
    def make(
        schema: str, *, keys: dict[str, str] = INTEGERS, tenants: dict[str, Any] | None = None, **fields: Any
    ) -> Mapped:
        return mapped_database(database, schema, keys, tenants, **fields)

    return make
