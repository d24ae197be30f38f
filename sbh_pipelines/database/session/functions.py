"""Functions that sessions of ours call: the server's own, and those of the application that its tables bring along.

Hardened sites take EXECUTE on functions of the server from PUBLIC. `sbh doctor` asks for each that a backup, a restore or a drill
calls; a test holds the list against the SQL of this package.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident

CALLED = (
    "abs",
    "aclexplode",
    "age",
    "array_agg",
    "array_position",
    "ascii",
    "bit_xor",
    "bool_and",
    "bool_or",
    "chr",
    "clock_timestamp",
    "concat",
    "concat_ws",
    "convert_from",
    "convert_to",
    "count",
    "current_database",
    "current_setting",
    "decode",
    "encode",
    "format",
    "format_type",
    "get_byte",
    "has_any_column_privilege",
    "has_database_privilege",
    "has_function_privilege",
    "has_parameter_privilege",
    "has_schema_privilege",
    "has_sequence_privilege",
    "has_table_privilege",
    "hashint8extended",
    "hashtext",
    "hashtextextended",
    "int4in",
    "int4send",
    "int8send",
    "json_agg",
    "json_build_array",
    "jsonb_array_elements_text",
    "jsonb_build_object",
    "left",
    "length",
    "lower",
    "max",
    "min",
    "nextval",
    "now",
    "num_nulls",
    "obj_description",
    "octet_length",
    "pg_advisory_lock",
    "pg_advisory_unlock_all",
    "pg_backend_pid",
    "pg_control_checkpoint",
    "pg_control_recovery",
    "pg_control_system",
    "pg_create_logical_replication_slot",
    "pg_current_snapshot",
    "pg_current_wal_flush_lsn",
    "pg_current_wal_lsn",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_drop_replication_slot",
    "pg_encoding_to_char",
    "pg_export_snapshot",
    "pg_get_constraintdef",
    "pg_get_expr",
    "pg_get_indexdef",
    "pg_get_partition_constraintdef",
    "pg_get_serial_sequence",
    "pg_get_userbyid",
    "pg_has_role",
    "pg_is_in_recovery",
    "pg_last_wal_replay_lsn",
    "pg_logical_emit_message",
    "pg_logical_slot_peek_binary_changes",
    "pg_partition_root",
    "pg_partition_tree",
    "pg_postmaster_start_time",
    "pg_relation_filenode",
    "pg_relation_size",
    "pg_replication_slot_advance",
    "pg_snapshot_xmax",
    "pg_try_advisory_lock",
    "pg_walfile_name",
    "quote_ident",
    "quote_literal",
    "quote_nullable",
    "replace",
    "right",
    "round",
    "row_number",
    "set_config",
    "setval",
    "sha256",
    "split_part",
    "string_agg",
    "strpos",
    "substr",
    "sum",
    "textout",
    "to_char",
    "to_jsonb",
    "to_regclass",
    "to_regnamespace",
    "transaction_timestamp",
    "unnest",
    "uuid_hash_extended",
    "width_bucket",
)

# Only with these is it known where in its history a server is; a backup does without (snapshot.py), if a server has none of it.
_SERVERS = """
SELECT p.oid::regprocedure::text FROM pg_proc p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(%s) AND NOT has_function_privilege(p.oid, 'EXECUTE')
ORDER BY 1"""

# What indexes, their predicates, constraints, defaults, generated columns, statistics and domains of tables refer to.
_PARTS = """
WITH parts AS (
    SELECT coalesce(p.relid, k.oid) AS oid FROM unnest(%s::oid[]) AS k(oid) LEFT JOIN LATERAL pg_partition_tree(k.oid) p ON true),
users AS (
    SELECT 'pg_class'::regclass AS class, i.indexrelid AS oid FROM pg_index i WHERE i.indrelid IN (SELECT oid FROM parts)
    UNION SELECT 'pg_attrdef'::regclass, a.oid FROM pg_attrdef a WHERE a.adrelid IN (SELECT oid FROM parts)
    UNION SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint c WHERE c.conrelid IN (SELECT oid FROM parts)
    UNION SELECT 'pg_statistic_ext'::regclass, s.oid FROM pg_statistic_ext s WHERE s.stxrelid IN (SELECT oid FROM parts)
    UNION SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint c JOIN pg_attribute a ON a.atttypid = c.contypid
          WHERE c.contypid <> 0 AND a.attrelid IN (SELECT oid FROM parts) AND a.attnum > 0 AND NOT a.attisdropped)"""
_APPLICATIONS = (
    _PARTS
    + """
SELECT DISTINCT f.oid::regprocedure::text FROM users u
JOIN pg_depend d ON d.classid = u.class AND d.objid = u.oid AND d.refclassid = 'pg_proc'::regclass
JOIN pg_proc f ON f.oid = d.refobjid WHERE NOT has_function_privilege(f.oid, 'EXECUTE') ORDER BY 1"""
)

# The same, and operators and triggers that fire in a restore, where neither the application's owner nor a superuser made them.
_OF_OTHERS = (
    _PARTS
    + """,
called AS (
    SELECT d.refobjid AS oid FROM users u JOIN pg_depend d ON d.classid = u.class AND d.objid = u.oid
    WHERE d.refclassid = 'pg_proc'::regclass
    UNION SELECT o.oprcode FROM users u JOIN pg_depend d ON d.classid = u.class AND d.objid = u.oid
          JOIN pg_operator o ON o.oid = d.refobjid WHERE d.refclassid = 'pg_operator'::regclass
    UNION SELECT g.tgfoid FROM pg_trigger g WHERE g.tgrelid IN (SELECT oid FROM parts) AND NOT g.tgisinternal
          AND g.tgenabled IN ('A', 'R')),
found AS (
    SELECT 'function ' || f.oid::regprocedure::text AS what, f.proowner AS owner FROM called c JOIN pg_proc f ON f.oid = c.oid
    WHERE NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e')
    UNION ALL SELECT 'table ' || k.oid::regclass::text, k.relowner FROM parts p JOIN pg_class k ON k.oid = p.oid)
SELECT found.what, r.rolname::text FROM found JOIN pg_roles r ON r.oid = found.owner
WHERE NOT r.rolsuper AND r.rolname <> ALL(%s) AND NOT EXISTS (
    SELECT FROM pg_class k WHERE k.oid = %s::oid AND k.relowner = found.owner)
  AND found.owner <> (SELECT datdba FROM pg_database WHERE datname = current_database()) ORDER BY 2, 1"""
)


@dataclass(frozen=True, slots=True)
class ClosedFunction:
    """A function that the role may not call.

    Attributes:
        signature: Its name, with its schema where that is not `pg_catalog`, and the types of its arguments.
        statement: The GRANT that mends it.
    """

    signature: str
    statement: str


def closed_functions(connection: Connection, role: str) -> list[ClosedFunction]:
    """The functions of the server that are called and that the role may not call."""
    return [
        ClosedFunction(name, f"GRANT EXECUTE ON FUNCTION pg_catalog.{name} TO {ident(role)};")
        for name in _ask(connection, _SERVERS, list(CALLED))
    ]


def closed_to_tables(connection: Connection, tables: Sequence[int], role: str) -> list[ClosedFunction]:
    """The application's functions that these tables' indexes, constraints and columns call and that the role may not call."""
    return [
        ClosedFunction(name, f"GRANT EXECUTE ON FUNCTION {name} TO {ident(role)};")
        for name in _ask(connection, _APPLICATIONS, list(tables))
    ]


def code_of_others(
    connection: Connection, tables: Sequence[int], tenants: int, trusted: Sequence[str]
) -> list[tuple[str, str]]:
    """Functions that these tables call, and tables that may be made to call some, of other roles than the application's owner.

    (what, owner). The application's owners are those of the table `tenants` and of the database, and the `trusted` ones.
    """
    with translated("read whose code runs"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_OF_OTHERS, (list(tables), list(trusted), tenants))
        found: list[tuple[str, str]] = cursor.fetchall()
        return found


def _ask(connection: Connection, query: str, argument: list[str] | list[int]) -> list[str]:
    with translated("read the role's privileges"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(query, (argument,))
        return [name for (name,) in cursor.fetchall()]
