"""A product: its schema, rows of three tenants, what happens to them, and a witness that shares no code with the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sbh_pipelines_tests.support.databases import Database, copy_text

# What people and programs put into text columns, as a SQL array; rows take from it in turn.
TEXTS = (
    r"(ARRAY['plain', '', 'tab' || chr(9) || 'in', 'line' || chr(10) || 'break', '\N', '\.', 'back\slash', 'it''s \"', 'Grüße',"
    r" '😀', '日本語', NULL, '%s %(x)s {brace} $1', repeat('long ', 300), chr(13) || chr(10), chr(1)])"
)


def text_of(expression: str) -> str:
    """SQL of one of `TEXTS`, chosen by a number."""
    return f"{TEXTS}[1 + (({expression}) % 16)::int]"


@dataclass(frozen=True)
class State:
    """Rows as COPY text, by table."""

    rows: Mapping[str, bytes]

    def differs_from(self, other: "State") -> list[str]:
        return sorted(
            name for name in self.rows.keys() | other.rows.keys() if self.rows.get(name) != other.rows.get(name)
        )


@dataclass(frozen=True)
class Product:
    """One application.

    Attributes:
        name: of the database.
        schema: SQL that makes types, tables and indexes.
        rows: SQL that fills them for three tenants.
        changes: SQL between the full backup and the incremental one.
        wrecks: ways to ruin the first tenant, each a SQL text: after each, a restore must bring back what was.
        tables: tables with rows of tenants, `ONLY name` where it has children; the condition over `t` for tenant `{key}`.
        common: tables with rows of everybody.
        part: (table, SQL that ruins only this table of the first tenant).
        keys: keys of the three tenants as SQL literals, by slug.
        settings: sections of the settings.
        extensions: extensions made of a local script, by name.
    """

    name: str
    schema: str
    rows: str
    changes: str
    wrecks: tuple[str, ...]
    tables: Mapping[str, str]
    common: tuple[str, ...]
    part: tuple[str, str]
    keys: Mapping[str, str]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extensions: Mapping[str, str] = field(default_factory=dict)

    @property
    def slugs(self) -> list[str]:
        return list(self.keys)

    def state(self, database: Database, slug: str) -> State:
        """What a tenant has."""
        with database.session() as connection:
            connection.cursor().execute("SET search_path = public")
            found = {
                table: copy_text(
                    connection,
                    f"SELECT t::text FROM {table} AS t WHERE {condition.replace('{key}', self.keys[slug])} ORDER BY 1",
                )
                for table, condition in self.tables.items()
            }
        return State(found)

    def common_state(self, database: Database) -> State:
        """What belongs to everybody: rows of shared tables, and those of no tenant."""
        with database.session() as connection:
            connection.cursor().execute("SET search_path = public")
            found = {t: copy_text(connection, f"SELECT t::text FROM {t} AS t ORDER BY 1") for t in self.common}
        return State(found)
