"""Random applications for the round trips: schemas with odd names, types and keys; rows of three tenants; ways to wreck one.

A `GeneratedSchema` is drawn by hypothesis and `build` makes it in a schema of its own. Everything it does to the database is plain
SQL of its own; nothing is taken from the engine that it tests.
"""

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from hypothesis import strategies as st

from sbh_pipelines_tests.support.databases import Database, copy_text
from sbh_pipelines_tests.support.values import DEFINITIONS, OWN, PLAIN, Kind

# Names that collide with aliases, keywords, placeholders and quotes.
NAMES = (
    "t", "w", "h", "r", "d", "l", "s", "x", "p", "p1", "p2", "n", "k", "text", "key", "row", "part", "place", "id", "sbh_n", "sbh_text",
    "select", "Order", "camelCase", "with space", 'quote"d', "it's", "percent%", "%s", "%(x)s", "100%", "ünïcode", "表", "😀",
    "dot.ted", "back\\slash", "tab\tname", "line\nbreak", "$1", ":x", "{brace}", "a" * 63, "sbh_want_1", "oid2", "user", "/*", "--",
)  # fmt: skip
TENANT_KEYS = {
    "integer": ("1", "2", "-3"),
    "bigint": ("9223372036854775807", "0", "12"),
    "uuid": tuple(f"{n}0000000-0000-4000-8000-00000000000{n}" for n in "123"),
    "text": ("a", "A", "a'\t%s\\"),
    "varchar(40)": ("one", 'two {},"', "%"),
    "numeric": ("1", "2.5", "NaN"),
}
SLUGS = ("first", "second", "third")
_OWNERS = (0, 0, 0, 1, 2, 3)  # whose a row is: half are the first tenant's, some are nobody's


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


@dataclass(frozen=True)
class Column:
    name: str
    kind: str

    def of(self) -> Kind:
        return {**PLAIN, **OWN}[self.kind]


@dataclass(frozen=True)
class Table:
    name: str
    key: tuple[Column, ...]
    columns: tuple[Column, ...]
    parent: int | None  # of the earlier tables; None: has the tenant column
    links: tuple[str, ...]  # names of its columns that refer to the parent's key, or of the tenant column
    unique: str | None  # name of a unique integer column
    deferred: bool
    identity: tuple[str, str] | None  # a column's name, and ALWAYS or BY DEFAULT
    shape: str  # ordinary, partitioned, forced (row security), dropped (a column was)
    generated: str | None
    rows: tuple[tuple[int, tuple[str | None, ...]], ...]  # (tenant or parent row, values of key and columns)

    @property
    def key_names(self) -> list[str]:
        """The columns of the primary key; empty where there is none."""
        return [c.name for c in self.key] or ([self.identity[0]] if self.identity else [])


@dataclass(frozen=True)
class DamageStatement:
    verb: str  # delete, update, insert, rotate
    table: int
    every: int
    column: int
    value: str | None
    rows: tuple[tuple[int, tuple[str | None, ...]], ...]


@dataclass(frozen=True)
class GeneratedSchema:
    schema: str
    tenant_table: str
    tenant_column: str
    tenant_type: str
    tables: tuple[Table, ...]
    wreck: tuple[DamageStatement, ...]
    files: tuple[tuple[str, bytes], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return TENANT_KEYS[self.tenant_type]


@st.composite
def _table(draw: st.DrawFn, name: str, earlier: Sequence[Table], kinds: dict[str, Kind], tenant_column: str) -> Table:
    names = iter(draw(st.permutations([n for n in NAMES if n != tenant_column])))
    keyable = sorted(n for n, k in kinds.items() if k.key)
    identity = draw(st.sampled_from([None, None, "ALWAYS", "BY DEFAULT"]))
    key = tuple(Column(next(names), draw(st.sampled_from(keyable))) for _ in range(draw(st.sampled_from([0, 1, 1, 2]))))
    columns = tuple(
        Column(next(names), draw(st.sampled_from(sorted(kinds))))
        for _ in range(draw(st.integers(0 if key or identity else 1, 5)))
    )
    parents = [n for n, t in enumerate(earlier) if t.key or t.identity]
    parent = draw(st.sampled_from([None, *parents])) if parents else None
    width = 1 if parent is None else len(earlier[parent].key) or 1
    links = (tenant_column,) if parent is None else tuple(next(names) for _ in range(width))
    identity_name = next(names) if identity else None
    shape = draw(st.sampled_from(["ordinary", "ordinary", "partitioned", "forced", "dropped"]))
    if shape == "partitioned" and (not key or identity):
        shape = "ordinary"
    table = Table(
        name=name,
        key=key,
        columns=columns,
        parent=parent,
        links=links,
        unique=next(names) if shape != "partitioned" and draw(st.booleans()) else None,
        deferred=draw(st.booleans()),
        identity=(identity_name, identity) if identity_name and identity else None,
        shape=shape,
        generated=draw(st.sampled_from([None, "STORED", "VIRTUAL"])) if shape != "partitioned" else None,
        rows=(),
    )
    return replace(table, rows=tuple(draw(_rows(table, 5, 16))))


def _rows(table: Table, least: int, most: int) -> st.SearchStrategy[Any]:
    key = [c.of().values for c in table.key]
    others = [st.none() | c.of().values for c in table.columns]
    return st.lists(st.tuples(st.integers(0, 59), st.tuples(*key, *others)), min_size=least, max_size=most)


@st.composite
def generated_schemas(draw: st.DrawFn, without: frozenset[str] = frozenset()) -> GeneratedSchema:
    """`without`: kinds that this server cannot do."""
    kinds = {n: k for n, k in {**PLAIN, **OWN}.items() if n not in without}
    names = draw(st.permutations(NAMES))
    tenant_column = names[5]
    tables: list[Table] = []
    for n in range(draw(st.integers(1, 3))):
        tables.append(draw(_table(names[n], tables, kinds, tenant_column)))
    wreck = []
    for _ in range(draw(st.integers(1, 5))):
        verb = draw(st.sampled_from(["delete", "update", "insert", "rotate"]))
        number = draw(st.integers(0, len(tables) - 1))
        column, value = 0, None
        if tables[number].columns:
            column = draw(st.integers(0, len(tables[number].columns) - 1))
            value = draw(st.none() | tables[number].columns[column].of().values)
        rows = draw(_rows(tables[number], 1, 4)) if verb == "insert" else ()
        wreck.append(DamageStatement(verb, number, draw(st.integers(1, 3)), column, value, tuple(rows)))
    files = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["a", "a-b", "a b/ü", "a.b/c", "%41", "+", "z/😀", "'\"", "c/d/e", "tab\there", "x#1"]),
                st.binary(max_size=100),
            ),
            max_size=4,
            unique_by=lambda f: f[0],
        )
    )
    return GeneratedSchema(
        names[4],
        names[3],
        tenant_column,
        draw(st.sampled_from(sorted(TENANT_KEYS))),
        tuple(tables),
        tuple(wreck),
        tuple(files),
    )


@dataclass
class BuiltSchema:
    """A generated schema in a database."""

    database: Database
    layout: GeneratedSchema

    @property
    def schema(self) -> str:
        return quoted(self.layout.schema)

    def name(self, table: Table) -> str:
        return f"{self.schema}.{quoted(table.name)}"

    @property
    def tenants(self) -> str:
        return f"{self.schema}.{quoted(self.layout.tenant_table)}"

    def create(self) -> None:
        layout = self.layout
        with closing(self.database.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"CREATE SCHEMA {self.schema}")
            for definition in DEFINITIONS:
                cursor.execute(definition.format(schema=self.schema))
            cursor.execute(
                f"CREATE TABLE {self.tenants}"
                f" (id {layout.tenant_type} PRIMARY KEY, slug text UNIQUE, region text, tier text, note jsonb)"
            )
            for slug, key in zip(SLUGS, layout.keys, strict=True):
                cursor.execute(
                    f"INSERT INTO {self.tenants} VALUES ({literal(key)}, '{slug}', 'eu-west-1', NULL, '{{}}')"
                )
            for number, table in enumerate(layout.tables):
                cursor.execute(self._definition(table))
                if table.shape == "partitioned":
                    part = f'{self.schema}."sbh part {number}"'
                    cursor.execute(f"CREATE TABLE {part} PARTITION OF {self.name(table)} DEFAULT")
                if table.shape == "dropped":
                    cursor.execute(f"ALTER TABLE {self.name(table)} DROP COLUMN sbh_dropped")
                for nth, (owner, values) in enumerate(table.rows):
                    self.insert(cursor, table, owner, values, nth)
                if table.shape == "forced":
                    cursor.execute(
                        f"ALTER TABLE {self.name(table)} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
                    )

    def drop(self) -> None:
        self.database.run(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")

    def _definition(self, table: Table) -> str:
        parts = ["sbh_dropped text DEFAULT 'x'"] if table.shape == "dropped" else []
        if table.parent is None:
            parts.append(f"{quoted(table.links[0])} {self.layout.tenant_type} REFERENCES {self.tenants}")
        else:
            parent = self.layout.tables[table.parent]
            kinds = [c.of().sql.format(schema=self.schema) for c in parent.key] or ["bigint"]
            parts += [f"{quoted(n)} {kind}" for n, kind in zip(table.links, kinds, strict=True)]
            links = ", ".join(map(quoted, table.links))
            parts.append(f"FOREIGN KEY ({links}) REFERENCES {self.name(parent)} ON DELETE CASCADE")
        parts += [f"{quoted(c.name)} {c.of().sql.format(schema=self.schema)}" for c in (*table.key, *table.columns)]
        if table.identity:
            primary = "" if table.key else " PRIMARY KEY"
            parts.append(f"{quoted(table.identity[0])} bigint GENERATED {table.identity[1]} AS IDENTITY{primary}")
        if table.unique:
            deferred = " DEFERRABLE INITIALLY DEFERRED" if table.deferred else ""
            parts.append(f"{quoted(table.unique)} integer UNIQUE{deferred}")
        if table.generated:
            parts.append(f"sbh_generated integer GENERATED ALWAYS AS (1 + 1) {table.generated}")
        if table.key:
            parts.append(f"PRIMARY KEY ({', '.join(quoted(c.name) for c in table.key)})")
        partition = f" PARTITION BY RANGE ({quoted(table.key[0].name)})" if table.shape == "partitioned" else ""
        return f"CREATE TABLE {self.name(table)} ({', '.join(parts)}){partition}"

    def insert(self, cursor: Any, table: Table, owner: int, values: Sequence[str | None], nth: int) -> None:
        """A row of a tenant, or of one of the parent's rows; none where it would clash or has no parent."""
        if table.parent is None:
            links: Sequence[str | None] = [[*self.layout.keys, None][_OWNERS[owner % 6]]]
        else:
            parent = self.layout.tables[table.parent]
            listed = ", ".join(f"z.{quoted(n)}::text" for n in parent.key_names)
            cursor.execute(f"SELECT {listed} FROM {self.name(parent)} z ORDER BY z::text")
            found = cursor.fetchall()
            if not found:
                return
            links = found[owner % len(found)]
        columns = [
            *table.links,
            *(c.name for c in (*table.key, *table.columns)),
            *([table.unique] if table.unique else []),
        ]
        given = [*map(literal, links), *map(literal, values), *([str(nth)] if table.unique else [])]
        with suppress(psycopg2.IntegrityError):
            cursor.execute(
                f"INSERT INTO {self.name(table)} ({', '.join(map(quoted, columns))}) VALUES ({', '.join(given)})"
            )

    def belongs(self, table: Table, tenant: int | None, depth: int = 0) -> str:
        """SQL condition on the alias `z{depth}`: the row is the tenant's, or, for None, nobody's."""
        own = [f"z{depth}.{quoted(n)}" for n in table.links]
        if table.parent is None:
            return f"{own[0]} IS NULL" if tenant is None else f"{own[0]} = {literal(self.layout.keys[tenant])}"
        parent = self.layout.tables[table.parent]
        pairs = [f"{a} = z{depth + 1}.{quoted(b)}" for a, b in zip(own, parent.key_names, strict=True)]
        conditions = " AND ".join([*pairs, self.belongs(parent, tenant, depth + 1)])
        return f"EXISTS (SELECT FROM {self.name(parent)} z{depth + 1} WHERE {conditions})"

    def rows(self, tenant: int | None) -> dict[str, bytes]:
        """The tenant's rows by table, as COPY text."""
        with closing(self.database.connect()) as connection:
            found = {
                t.name: copy_text(
                    connection, f"SELECT * FROM {self.name(t)} z0 WHERE {self.belongs(t, tenant)} ORDER BY z0::text"
                )
                for t in self.layout.tables
            }
            if tenant is not None:
                slug = SLUGS[tenant]
                found["tenants"] = copy_text(connection, f"SELECT * FROM {self.tenants} WHERE slug = '{slug}'")
            return found

    def places(self, tenants: Sequence[int | None]) -> list[bytes]:
        """Where the rows of these tenants lie and which transaction wrote them."""
        with closing(self.database.connect()) as connection:
            return [
                copy_text(
                    connection,
                    f"SELECT tableoid, ctid, xmin FROM {self.name(t)} z0 WHERE {self.belongs(t, tenant)} ORDER BY 1, 2",
                )
                for tenant in tenants
                for t in self.layout.tables
            ]

    def wreck(self, tenant: int) -> None:
        """Do to the tenant's rows what the generated damage says; what the schema forbids is left undone."""
        with closing(self.database.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"UPDATE {self.tenants} SET note = '[]' WHERE slug = '{SLUGS[tenant]}'")
            for nth, one in enumerate(self.layout.wreck):
                with suppress(psycopg2.IntegrityError):
                    self._wreck(cursor, one, tenant, nth)

    def _wreck(self, cursor: Any, one: DamageStatement, tenant: int, nth: int) -> None:
        table = self.layout.tables[one.table]
        name = self.name(table)
        chosen = (
            f"(tableoid, ctid) IN (SELECT picked.o, picked.c FROM (SELECT z0.tableoid o, z0.ctid c, row_number() OVER () AS nr"
            f" FROM {name} z0 WHERE {self.belongs(table, tenant)}) picked WHERE picked.nr % {one.every} = 0)"
        )
        if one.verb == "delete":
            cursor.execute(f"DELETE FROM {name} WHERE {chosen}")
        elif one.verb == "update" and table.columns:
            cursor.execute(
                f"UPDATE {name} SET {quoted(table.columns[one.column].name)} = {literal(one.value)} WHERE {chosen}"
            )
        elif one.verb == "insert":
            for at, (owner, values) in enumerate(one.rows):
                mine = _OWNERS.index(tenant) if table.parent is None else owner
                if table.parent is None or self._parent_row_is(cursor, table, mine, tenant):
                    self.insert(cursor, table, mine, values, 1000 + 100 * nth + at)
        elif one.verb == "rotate" and table.unique:
            unique = quoted(table.unique)
            cursor.execute(f"UPDATE {name} SET {unique} = -1 - {unique} WHERE {chosen}")
            # Values swap places among the rows.
            cursor.execute(
                f"SELECT min(z0.{unique}), max(z0.{unique}) FROM {name} z0 WHERE {self.belongs(table, tenant)}"
            )
            low, high = cursor.fetchone()
            if low is not None and low != high:
                cursor.execute(
                    f"UPDATE {name} SET {unique} = 9999 WHERE {unique} = {low}; UPDATE {name} SET {unique} = {low}"
                    f" WHERE {unique} = {high}; UPDATE {name} SET {unique} = {high} WHERE {unique} = 9999"
                )

    def _parent_row_is(self, cursor: Any, table: Table, owner: int, tenant: int) -> bool:
        """Whether the parent row that `insert` would choose is the tenant's."""
        assert table.parent is not None
        parent = self.layout.tables[table.parent]
        cursor.execute(
            f"SELECT coalesce({self.belongs(parent, tenant)}, false) FROM {self.name(parent)} z0 ORDER BY z0::text"
        )
        found = cursor.fetchall()
        return bool(found) and bool(found[owner % len(found)][0])

    def forbid_writes(self) -> None:
        """Triggers that refuse every change from now on: a restore must not fire them."""
        with closing(self.database.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(
                f"CREATE FUNCTION {self.schema}.sbh_refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'a trigger fired'; END $$"
            )
            for table in self.layout.tables:
                cursor.execute(
                    f"CREATE TRIGGER sbh_refuse BEFORE INSERT OR UPDATE OR DELETE ON {self.name(table)}"
                    f" FOR EACH ROW EXECUTE FUNCTION {self.schema}.sbh_refuse()"
                )

    def allow_writes(self) -> None:
        self.database.run(f"DROP FUNCTION {self.schema}.sbh_refuse CASCADE")

    def next_identities(self) -> dict[str, tuple[int, int]]:
        """By table with an identity column: the greatest value in it, and the next one of its sequence."""
        found = {}
        for table in self.layout.tables:
            if table.identity:
                column = quoted(table.identity[0])
                (greatest,) = self.database.ask(f"SELECT coalesce(max(z.{column}), 0) FROM {self.name(table)} z")[0]
                sequence = f"pg_get_serial_sequence({literal(self.name(table))}, {literal(table.identity[0])})"
                (following,) = self.database.ask(f"SELECT nextval({sequence})")[0]
                found[table.name] = (greatest, following)
        return found
