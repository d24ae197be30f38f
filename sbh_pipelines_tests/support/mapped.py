"""A database of a schema of its own, its map, and the rows that the map gives each tenant."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from sbh_pipelines.database.capture.capture import copy_tenants
from sbh_pipelines.database.capture.changes import all_rows
from sbh_pipelines.database.schema.key_hash import key_code
from sbh_pipelines.database.schema.name_types import exact_names
from sbh_pipelines.database.schema.tenancy import MappedTable, TableStatus, TenancyMap, load_map, survey_map
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.errors import TenancyError
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.databases import Database

TENANTS = (
    "CREATE TABLE tenants (id {type} PRIMARY KEY, slug text, region text, tier text);"
    "INSERT INTO tenants VALUES ('{one}', 'one', 'r', 't'), ('{two}', 'two', 'r', 't');"
)
INTEGERS = {"type": "int", "one": "1", "two": "2"}


class Rows:
    """A sink that keeps the rows of one tenant."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def group(self, text: "bytes | memoryview", rows: int) -> None:
        found = bytes(text).decode().removesuffix("\n").split("\n")
        assert len(found) == rows
        self.lines += found

    def close(self) -> None:
        pass


class Mapped:
    """A database, its map, and the rows that the map gives each tenant."""

    def __init__(self, database: Database, settings: Settings, keys: tuple[str, str]) -> None:
        self.database, self.settings, self.keys = database, settings, keys

    @property
    def map(self) -> TenancyMap:
        connection = connect(self.settings.database, "test")
        try:
            return load_map(connection, self.settings)
        finally:
            connection.close()

    def statuses(self) -> dict[str, str]:
        connection = connect(self.settings.database, "test")
        try:
            return {
                f"{s.schema}.{s.name}".removeprefix("public."): s.status
                for s in survey_map(connection, self.settings).statuses
            }
        finally:
            connection.close()

    def table(self, name: str) -> MappedTable:
        found = self.map.find(name if "." in name else f"public.{name}")
        assert found is not None
        return found

    def rows(self, name: str) -> tuple[list[str], list[str]]:
        """The rows of tenant one and of tenant two, as COPY text, in order."""
        sinks, table = {key: Rows() for key in self.keys}, self.table(name)
        with closing(connect(self.settings.database, "test")) as connection, exact_names(connection, table):
            chosen = all_rows(table, dict.fromkeys(sinks, 0))
            copy_tenants(connection, table, key_code(table), chosen, sinks, held_bytes=1 << 20)
        one, two = (sinks[key].lines for key in self.keys)
        return one, two

    def status(self, name: str) -> TableStatus:
        """Of a table of `public`, or of another schema."""
        with closing(connect(self.settings.database, "test")) as connection:
            tenancy = survey_map(connection, self.settings)
        everywhere = (*tenancy.statuses, *tenancy.outside, *tenancy.nearby)
        (found,) = [s for s in everywhere if f"{s.schema}.{s.name}" in (name, f"public.{name}")]
        return found

    def refused(self) -> str:
        with pytest.raises(TenancyError) as caught:
            _ = self.map
        return str(caught.value)


MakeMapped = Callable[..., Mapped]


def mapped_database(
    database: Database, schema: str, keys: dict[str, str], tenants: dict[str, Any] | None, **fields: Any
) -> Mapped:
    database.run(TENANTS.format(**keys) + schema)
    section = {"dsn": database.dsn, **fields}
    settings = Settings(database=section, tenants=tenants or {})  # type: ignore[arg-type]
    return Mapped(database, settings, (keys["one"], keys["two"]))
