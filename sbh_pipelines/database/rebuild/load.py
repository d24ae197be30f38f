"""Writing into the empty database: rows by COPY, what is checked afterwards, where sequences go on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sbh_pipelines.database.merge.conflicts import both, rows_of_key
from sbh_pipelines.database.rebuild.shared import Fact
from sbh_pipelines.database.schema.catalog import ForeignKey, Table, UniqueKey
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.copying import copy_in
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import from_only, ident, literal, sql_name

_USER_SCHEMAS = "n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'sbh_recovery')"


def load_rows(
    connection: Connection, schema: str, name: str, columns: Sequence[str], pieces: Iterable[bytes], encoding: str
) -> None:
    """COPY text into a table; values of identity columns are taken as they are. What the pieces raise is raised."""
    listed = ", ".join(map(ident, columns))
    with translated("load rows", f"{schema}.{name}", writing=True):
        copy_in(connection.cursor(), f"{ident(schema)}.{ident(name)} ({listed})", pieces, encoding)


@contextmanager
def without_triggers(connection: Connection, tables: Iterable[MappedTable]) -> Iterator[None]:
    """Within a transaction, of a replica session: also triggers that fire in such a session do not, for the length of the block."""
    names = [sql_name(table.table) for table in tables]
    with translated("read the triggers"), own_names(connection):
        cursor = connection.cursor()
        listed = ", ".join(f"{literal(name)}::regclass" for name in names)
        cursor.execute(
            "SELECT format('%I.%I', n.nspname, c.relname), quote_ident(g.tgname), g.tgenabled = 'A' FROM pg_trigger g"
            " JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE NOT g.tgisinternal AND g.tgenabled IN ('A', 'R') AND g.tgrelid IN (SELECT coalesce(p.relid, o)"
            f" FROM unnest(ARRAY[{listed}]::regclass[]) o LEFT JOIN LATERAL pg_partition_tree(o) p ON true)"
        )
        found = cursor.fetchall()
    _alter(connection, ((table, f"DISABLE TRIGGER {name}") for table, name, _ in found))
    yield
    _alter(connection, ((t, f"ENABLE {'ALWAYS' if always else 'REPLICA'} TRIGGER {name}") for t, name, always in found))


def _alter(connection: Connection, changes: Iterable[tuple[str, str]]) -> None:
    for table, change in changes:
        with translated("keep a trigger from firing", table):
            connection.cursor().execute(f"ALTER TABLE {table} {change}")


# sequences


def sequence_columns(connection: Connection) -> list[tuple[str, int, bool, str, str]]:
    """(sequence, increment, whether it cycles, table, column) for each sequence and each numeric column it fills.

    Sequence and table are SQL names; both are empty strings for a sequence that fills no column.
    """
    used = (
        "SELECT d.objid AS sequence, d.refobjid AS rel, d.refobjsubid AS att FROM pg_depend d"
        " WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0"
        " AND d.deptype IN ('a', 'i')"
        " UNION SELECT d.refobjid, f.adrelid, f.adnum FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid"
        " WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'"
    )
    with translated("read the sequences"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT format('%I.%I', n.nspname, s.relname), q.seqincrement, q.seqcycle,"
            " CASE WHEN a.attname IS NULL THEN '' ELSE format('%I.%I', tn.nspname, t.relname) END, coalesce(a.attname, '')"
            " FROM pg_sequence q JOIN pg_class s ON s.oid = q.seqrelid JOIN pg_namespace n ON n.oid = s.relnamespace"
            f" LEFT JOIN (({used}) u JOIN pg_class t ON t.oid = u.rel AND NOT t.relispartition"
            " JOIN pg_namespace tn ON tn.oid = t.relnamespace"
            " JOIN pg_attribute a ON a.attrelid = u.rel AND a.attnum = u.att AND NOT a.attisdropped"
            " JOIN pg_type y ON y.oid = a.atttypid AND y.typcategory = 'N') ON u.sequence = q.seqrelid"
            f" WHERE s.relpersistence <> 't' AND {_USER_SCHEMAS} ORDER BY 1, 4, 5"
        )
        found: list[tuple[str, int, bool, str, str]] = cursor.fetchall()
        return found


def raise_sequences(connection: Connection, known: Mapping[str, Sequence[int]], unused: Mapping[str, int]) -> int:
    """Set every sequence past its `known` values (by SQL name) and past what its columns hold; how many were set.

    One for which there is neither begins where `unused` says: it had a value of its own and had given out none.
    """
    best: dict[str, int] = {}
    steps: dict[str, int] = {}
    with translated("set a sequence"):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT pg_catalog.format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences WHERE last_value IS NOT NULL"
        )
        now = dict(cursor.fetchall())  # of a database that is in use already
        for sequence, step, cycles, table, column in sequence_columns(connection):
            steps[sequence] = step
            furthest = max if step > 0 else min
            values = [*known.get(sequence, ()), *(found[sequence] for found in (best, now) if sequence in found)]
            if table and not cycles:
                function = "max" if step > 0 else "min"
                rounded = "floor" if step > 0 else "ceil"
                cursor.execute(
                    f"SELECT pg_catalog.{rounded}(pg_catalog.{function}({ident(column)}::numeric))::text FROM {table}"
                )
                top = cursor.fetchone()[0]
                if top is not None and top.lstrip("-").isdigit():  # NaN and Infinity are numbers, too
                    values.append(int(top))
            if values:
                best[sequence] = furthest(values)
        for sequence, value in best.items():
            cursor.execute(
                f"SELECT pg_catalog.setval({literal(sequence)},"
                f" least(greatest({value}::numeric, s.min_value), s.max_value)::bigint)"
                f" FROM pg_sequences s WHERE pg_catalog.format('%I.%I', s.schemaname, s.sequencename) = {literal(sequence)}"
            )
        for sequence, value in unused.items():
            if sequence in steps and sequence not in best:
                cursor.execute(f"SELECT pg_catalog.setval({literal(sequence)}, {int(value)}, false)")
    return len(best)


# foreign keys


@dataclass(frozen=True, slots=True)
class MissingKey:
    """A foreign key of the backup that is not there, or not validated though it was.

    Attributes:
        schema: Schema of the table that refers.
        child: Its name.
        name: Name of the constraint.
        definition: SQL of the constraint.
        there: Whether it is there.
    """

    schema: str
    child: str
    name: str
    definition: str
    there: bool

    @property
    def table(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.child}"

    @property
    def statement(self) -> str:
        """What mends it: validates it, or adds it without looking at the rows that are there."""
        table, name = f"{ident(self.schema)}.{ident(self.child)}", ident(self.name)
        if self.there:
            return f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}"
        not_valid = "" if self.definition.endswith("NOT VALID") else " NOT VALID"
        return f"ALTER TABLE {table} ADD CONSTRAINT {name} {self.definition}{not_valid}"


def missing_keys(connection: Connection, facts: Sequence[Fact]) -> list[MissingKey]:
    """The stored foreign keys that are not there, or not validated though they were."""
    with translated("read the foreign keys"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT n.nspname, t.relname, c.conname, c.convalidated FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid"
            " JOIN pg_namespace n ON n.oid = t.relnamespace WHERE c.contype = 'f'"
        )
        there = {(schema, table, name): valid for schema, table, name, valid in cursor.fetchall()}
    wanting = []
    for fact in facts:
        place = fact["schema"], fact["table"], fact["name"]
        valid = there.get(place)
        if valid is None or (fact["valid"] and not valid):
            wanting.append(MissingKey(*place, str(fact["definition"]), valid is not None))
    return wanting


def dangling(connection: Connection, child: MappedTable, tenant_key: str, parent: Table, key: ForeignKey) -> bool:
    """Whether a row of the tenant refers to no row of the parent. A NULL in the key refers to nothing, as in MATCH SIMPLE."""
    pairs = " AND ".join(
        f"x.{ident(theirs)} {equals} t.{ident(own)}"
        for own, equals, theirs in zip(key.columns, key.operators, key.parent_columns, strict=True)
    )
    filled = " AND ".join(f"t.{ident(own)} IS NOT NULL" for own in key.columns)
    rows = f"SELECT FROM {child.source} WHERE {child.tenant_is([tenant_key])} AND {filled}"
    return _exists(
        connection, f"{rows} AND NOT EXISTS (SELECT FROM {from_only(parent)} x WHERE {pairs})", child.full_name
    )


def doubled(connection: Connection, table: Table, key: UniqueKey) -> bool:
    """Whether two rows are in conflict by a constraint that a replica session does not check."""
    rows = rows_of_key(table, key)
    query = f"SELECT FROM {rows} a JOIN {rows} b ON (b.part, b.place) <> (a.part, a.place) AND {both(key, 'a', 'b')}"
    return _exists(connection, query, table.full_name)


def _exists(connection: Connection, query: str, table: str) -> bool:
    with translated("check a constraint", table):
        cursor = connection.cursor()
        cursor.execute(f"SELECT EXISTS ({query})")
        return bool(cursor.fetchone()[0])


def database_facts(connection: Connection) -> Fact:
    """What the target is: its encoding, locale and name, and whether its role may do everything."""
    with translated("ask the target what it is"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT to_jsonb(d) - 'datacl' || jsonb_build_object('encoding', pg_encoding_to_char(encoding), 'superuser',"
            " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), 'version',"
            " current_setting('server_version_num')::int) FROM pg_database d WHERE datname = current_database()"
        )
        facts: Fact = cursor.fetchone()[0]
        return facts
