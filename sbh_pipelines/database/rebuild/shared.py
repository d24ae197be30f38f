"""What a database has besides tables' rows: roles, grants, settings, extensions, sequences, keys, the tenancy map.

All of it is read at one snapshot, from catalogues that every role may read, and given as JSON-ready facts, one kind after the
other. Passwords are not among them: neither of roles nor of subscriptions, which are left out altogether.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sbh_pipelines.database.schema.catalog import PLAIN_EQUALITY, Column, Table
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.schema.tenancy import EXCLUDED, Hop, MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import UTF8, exchanged

Fact = Mapping[str, Any]  # a row of a catalogue, as to_jsonb gives it

_SYSTEM = "(n.nspname LIKE 'pg\\_%' OR n.nspname IN ('information_schema', 'sbh_recovery'))"

# to_jsonb of whole rows of catalogues: what they are made of differs from one major version to the next.
_QUERIES = {
    "database": "SELECT to_jsonb(d) - 'datacl' || jsonb_build_object('encoding', pg_encoding_to_char(encoding),"
    " 'owner', pg_get_userbyid(datdba)) FROM pg_database d WHERE datname = current_database()",
    "extension": "SELECT jsonb_build_object('name', extname, 'version', extversion, 'schema', nspname)"
    " FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace ORDER BY extname",
    "role": "SELECT to_jsonb(r) - 'oid' - 'rolpassword' - 'rolconfig' FROM pg_roles r"
    " WHERE rolname NOT LIKE 'pg\\_%' ORDER BY rolname",
    "member": "SELECT to_jsonb(m) - 'oid' || jsonb_build_object('role', r.rolname, 'member', u.rolname)"
    " FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member"
    " WHERE u.rolname NOT LIKE 'pg\\_%' ORDER BY r.rolname, u.rolname",
    "setting": "SELECT jsonb_build_object('role', r.rolname, 'database', s.setdatabase <> 0,"
    " 'name', split_part(c, '=', 1), 'value', substr(c, strpos(c, '=') + 1))"
    " FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole CROSS JOIN LATERAL unnest(s.setconfig) c"
    " WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))",
    "database_grant": "SELECT jsonb_build_object('grantee', pg_get_userbyid(nullif(a.grantee, 0)), 'privilege',"
    " a.privilege_type, 'grantable', a.is_grantable) FROM pg_database d CROSS JOIN LATERAL aclexplode(d.datacl) a"
    " WHERE d.datname = current_database()",
    "sequence": "SELECT jsonb_build_object('name', format('%I.%I', n.nspname, c.relname)) FROM pg_class c"
    f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND NOT {_SYSTEM}"
    " ORDER BY 1",
    "foreign_key": "SELECT jsonb_build_object('schema', n.nspname, 'table', t.relname, 'name', c.conname, 'definition',"
    " pg_get_constraintdef(c.oid), 'valid', c.convalidated) FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid"
    f" JOIN pg_namespace n ON n.oid = t.relnamespace WHERE c.contype = 'f' AND c.conparentid = 0 AND NOT {_SYSTEM}"
    " ORDER BY 1",
    "ddl_only": "SELECT jsonb_build_object('schema', n.nspname, 'name', c.relname, 'why', 'its schema is not mapped')"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition"
    f" AND c.relpersistence <> 't' AND NOT {_SYSTEM} AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid"
    " AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')",
}
_PARAMETER_GRANTS = (
    "SELECT jsonb_build_object('parameter', p.parname, 'grantee', pg_get_userbyid(nullif(a.grantee, 0)), 'privilege',"
    " a.privilege_type, 'grantable', a.is_grantable) FROM pg_parameter_acl p CROSS JOIN LATERAL aclexplode(p.paracl) a"
)


def read_facts(
    connection: Connection, tenancy: TenancyMap, shared: Sequence[MappedTable]
) -> Iterator[tuple[str, Fact]]:
    """(kind, fact), kind by kind: those of `_QUERIES`, `parameter_grant`, the tables of the tenancy map, and the shared ones.

    Values of sequences are those of now: they are not MVCC, and never go back.
    """
    mapped = {(status.schema, status.name) for status in tenancy.statuses}
    for kind, query in _QUERIES.items():
        for fact in _facts(connection, query):
            if kind == "ddl_only" and (fact["schema"], fact["name"]) in mapped:
                continue
            yield kind, {**fact, **_value(connection, fact)} if kind == "sequence" else fact
    if _facts(connection, "SELECT to_jsonb(to_regclass('pg_catalog.pg_parameter_acl') IS NOT NULL)") == [True]:
        for fact in _facts(connection, _PARAMETER_GRANTS):  # from PostgreSQL 15 on
            yield "parameter_grant", fact
    for status in tenancy.statuses:
        if status.status == EXCLUDED:
            yield "ddl_only", {"schema": status.schema, "name": status.name, "why": status.why}
    for kind, tables in (("table", tenancy.tables), ("shared_table", shared)):
        for table in tables:
            yield kind, _mapped_fact(table)


def _facts(connection: Connection, query: str) -> list[Any]:
    with translated("read the database's catalogue"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(query)
        return [fact for (fact,) in cursor.fetchall()]


def _value(connection: Connection, fact: Fact) -> Fact:
    with translated("read a sequence", fact["name"]):
        cursor = connection.cursor()
        cursor.execute(f"SELECT last_value, is_called FROM {fact['name']}")
        value, called = cursor.fetchone()
    return {"last_value": value, "is_called": called}


# the tenancy map, as it is stored: what reading a tenant's rows needs


def _mapped_fact(table: MappedTable) -> Fact:
    return {
        **_table_fact(table.table),
        "columns": [[c.name, c.type, c.collatable, c.identity] for c in table.table.columns if not c.generated],
        "key": list(table.table.primary_key),
        "key_operators": list(table.table.key_operators),
        "status": table.status,
        "component": table.component,
        "tenant_column": [table.tenant_column.name, table.tenant_column.type, table.tenant_column.collatable],
        **({"equality": table.tenant_column.equality} if table.tenant_column.equality != PLAIN_EQUALITY else {}),
        **({"encoding": table.encoding} if table.encoding != UTF8 else {}),
        "hops": [
            {
                **_table_fact(hop.parent),
                "columns": list(hop.columns),
                "parent_columns": list(hop.parent_columns),
                "operators": list(hop.operators),
                "join": hop.join,
            }
            for hop in table.hops
        ],
    }


def _table_fact(table: Table) -> Fact:
    return {"schema": table.schema, "name": table.name, "kind": table.kind}


def mapped_table(fact: Fact) -> MappedTable:
    """The table of a stored fact."""
    hops = tuple(
        Hop(_bare(h), tuple(h["columns"]), tuple(h["parent_columns"]), tuple(h["operators"]), h["join"])
        for h in fact["hops"]
    )
    table = _bare(fact, tuple(_column(*column) for column in fact["columns"]), tuple(fact["key"]))
    # Earlier releases stored no operators.
    operators = tuple(fact.get("key_operators", ())) or (PLAIN_EQUALITY,) * len(table.primary_key)
    table = replace(table, encoding=fact.get("encoding", UTF8), key_operators=operators)
    column = replace(_column(*fact["tenant_column"]), equality=fact.get("equality", PLAIN_EQUALITY))
    return MappedTable(table, fact["status"], fact["component"], hops, column, "")


def narrow(table: MappedTable, header: TableHeader) -> MappedTable | None:
    """The table with the columns and the key that a tenant's backup has; None where it lacks one of these columns."""
    known = {column.name: column for column in table.table.columns}
    if not known.keys() >= set(header.column_names):
        return None
    columns = tuple(known[name] for name in header.column_names)
    equalities = dict(zip(table.table.primary_key, table.table.key_operators, strict=False))
    key = tuple(name for name in header.key if name in known)
    operators = tuple(equalities.get(name, PLAIN_EQUALITY) for name in key)
    encoding = exchanged(header.encoding, table.encoding)
    return replace(
        table, table=replace(table.table, columns=columns, primary_key=key, key_operators=operators, encoding=encoding)
    )


def _column(name: str, kind: str, collatable: bool, identity: str = "") -> Column:
    return Column(name, kind, False, collatable, False, identity, None)


def _bare(fact: Fact, columns: tuple[Column, ...] = (), key: tuple[str, ...] = ()) -> Table:
    return Table(0, fact["schema"], fact["name"], fact["kind"], columns, key, False, 0)
