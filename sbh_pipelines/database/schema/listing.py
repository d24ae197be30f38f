"""The relation that lists the tenants: a table, or a view of one; and where each tenant's key, slug, region and tier are."""

from dataclasses import dataclass

from sbh_pipelines.database.schema.catalog import Column, read_columns
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident, literal, sql_name
from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import Settings, TenantsSettings
from sbh_pipelines.settings.section import toml

_VIEWS = ("v", "m")
_KINDS = {"v": "view", "m": "materialized view"}

_LIVE = '"sbh live"'
_TIMES = '"sbh times"'

_RELATIONS = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND NOT c.relispartition
  AND ((n.nspname || '.' || c.relname = %s AND n.nspname !~ '^pg_') OR (c.relname = %s AND n.nspname = ANY(%s)))
ORDER BY n.nspname || '.' || c.relname = %s DESC, array_position(%s, n.nspname::text)"""

# The tables that a view reads, also through other views, and whether one of their unique keys is the column alone.
_BASES = """
WITH RECURSIVE read(oid) AS (
    SELECT %s::oid
  UNION
    SELECT d.refobjid FROM read JOIN pg_rewrite r ON r.ev_class = read.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    WHERE d.refobjid <> r.ev_class)
SELECT c.oid::bigint, n.nspname || '.' || c.relname, EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = %s)
FROM read JOIN pg_class c ON c.oid = read.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') ORDER BY 2"""

_UNIQUE = """
SELECT pg_get_expr(i.indpred, i.indrelid) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND a.attname = %s
ORDER BY i.indpred IS NOT NULL, i.indexrelid LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Listing:
    """Where the tenants are listed.

    Attributes:
        oid: of the relation.
        schema, name, kind: of the relation; `kind` as in pg_class.
        columns: its columns.
        base: the oid of the table whose rows the tenants are: the relation itself, or the table that the view is of.
        settings: the section `tenants`.
        fallback_region: region of tenants whose row names none.
        live: condition that the table itself has for slugs to be unique (of an index on them `WHERE deleted_at IS NULL`);
            empty where they are unique without, or never.
    """

    oid: int
    schema: str
    name: str
    kind: str
    columns: tuple[Column, ...]
    base: int
    settings: TenantsSettings
    fallback_region: str | None
    live: str = ""
    unique_key: bool = True  # whether an index holds the key unique

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)

    @property
    def source(self) -> str:
        """FROM item of the tenants' rows, as `listed`."""
        where = f" WHERE ({self.settings.where})" if self.settings.where else ""
        more = f", coalesce(({self.live}), false) AS {_LIVE}" if self.live else ""
        more += "" if self.unique_key else f", count(*) OVER (PARTITION BY {ident(self.settings.key)}) AS {_TIMES}"
        return f"(SELECT *{more} FROM {sql_name(self)} AS t{where}) AS listed"

    @property
    def select(self) -> str:
        """Query of all tenants: slug, key, region and tier as text, NULL where there is none; whether it has its slug now, and how
        many have its key."""
        s = self.settings
        region, tier = self._optional(s.region, "region"), self._optional(s.tier, "tier")
        if s.default_region or region == "NULL":
            region = f"coalesce({region}, {literal(self.fallback_region)})" if self.fallback_region else region
        columns = f"listed.{ident(s.slug)}::text, listed.{ident(s.key)}::text, {region}, {tier}"
        live, times = _LIVE if self.live else "true", "1" if self.unique_key else _TIMES
        return f"SELECT {columns}, {live}, {times} FROM {self.source}"

    @property
    def has_tier(self) -> bool:
        return self._optional(self.settings.tier, "tier") != "NULL"

    def _optional(self, name: str | None, field: str) -> str:
        """The column, NULL where there is none. One that no setting names may be wanting."""
        if not name or (self.column(name) is None and field not in self.settings.model_fields_set):
            return "NULL"
        return f"listed.{ident(name)}::text"

    def check(self) -> None:
        """Raises SettingsError where a column is wanting: names the columns there are, and what to write instead."""
        s = self.settings
        wanted = {"key": s.key, "slug": s.slug}
        for field, name in (("region", s.region), ("tier", s.tier)):
            if name and field in s.model_fields_set:
                wanted[field] = name
        for field, name in wanted.items():
            if self.column(name) is None:
                raise self._wanting(field, name)
        if self._optional(s.region, "region") == "NULL" and not self.fallback_region:
            raise SettingsError(
                "No setting says in which region the tenants are",
                on=f"{self.full_name}: no column {s.region or 'region'!r}",
                why="storage.regions has several entries",
                remedy='say which: [tenants] default_region = "..."; or the column: [tenants] region = "..."',
            )

    def _wanting(self, field: str, name: str) -> SettingsError:
        there = ", ".join(column.name for column in self.columns)
        remedy = f'name another column: [tenants] {field} = "..."'
        if field in ("region", "tier"):
            remedy = f'[tenants] {field} = "" (all get default_{field}), or {remedy}'
        if field == "slug":
            remedy += f"; the key does as well: slug = {toml(self.settings.key)}"
        return SettingsError(
            "The tenants table has no such column",
            on=f"{self.full_name}.{name} (tenants.{field})",
            why=f"its columns are {there}",
            remedy=remedy,
        )


def find_listing(connection: Connection, settings: Settings) -> Listing | None:
    """The relation that `tenants.table` names; None where there is none.

    Raises SettingsError for a view of which it cannot be told which table the tenants are in.
    """
    wanted, schemas = settings.tenants, settings.database.schemas
    with translated("look for the tenants table", wanted.table), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_RELATIONS, (wanted.table, wanted.table, schemas, wanted.table, schemas))
        found = cursor.fetchone()
        if found is None:
            return None
        oid, schema, name, kind = found
        columns = read_columns(cursor, [oid]).get(oid, ())
        cursor.execute(_UNIQUE, (oid, wanted.slug))
        live = (cursor.fetchone() or ("",))[0] or ""
        cursor.execute(_UNIQUE, (oid, wanted.key))
        unique_key = cursor.fetchone() == (None,)
        bases: list[tuple[int, str, bool]] = []
        if kind in _VIEWS:
            cursor.execute(_BASES, (oid, wanted.key))
            bases = cursor.fetchall()
    base = _base(bases, settings, f"{schema}.{name}", kind) if kind in _VIEWS else oid
    regions = settings.storage.regions
    fallback = wanted.default_region or (regions[0] if len(regions) == 1 else None)
    return Listing(oid, schema, name, kind, columns, base, wanted, fallback, live, unique_key)


def _base(bases: list[tuple[int, str, bool]], settings: Settings, view: str, kind: str) -> int:
    wanted = settings.tenants
    if wanted.base:
        names = [wanted.base, *(f"{schema}.{wanted.base}" for schema in settings.database.schemas)]
        likely = [oid for oid, name, _ in bases if name in names]
    else:
        likely = [oid for oid, _, unique in bases if unique] or [oid for oid, _, _ in bases]
    if len(likely) == 1:
        return likely[0]
    raise SettingsError(
        "It cannot be told which table the tenants are in",
        on=f"tenants.table: the {_KINDS[kind]} {view}",
        why=f"it reads {', '.join(name for _, name, _ in bases) or 'no table'}, and not one with a unique column {wanted.key}",
        remedy='name the one whose rows are the tenants: [tenants] base = "schema.table"',
    )


def no_listing(settings: Settings) -> SettingsError:
    return SettingsError(
        "The tenants table does not exist",
        on=f"{settings.tenants.table}, in the schemas {', '.join(settings.database.schemas)}",
        remedy='correct [tenants] table = "schema.table"; `sbh doctor --suggest` looks for it',
    )
