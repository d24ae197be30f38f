"""The functions that our sessions call: all are in the list that doctor asks for."""

import ast
import re
from contextlib import closing
from pathlib import Path

import sbh_pipelines
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.database.session.functions import CALLED, closed_functions, closed_to_tables
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.databases import Database

PACKAGE = Path(sbh_pipelines.__file__).parent
# In texts, and not called: types with a length, words of messages.
NO_CALLS = {
    "bit",
    "numeric",
    "varchar",
    "text",
    "timestamp",
    "name",
    "line",
    "interval",
    "time",
    "bpchar",
    "rank",
    "pg_reload_conf",
}


def words_called() -> set[str]:
    """The names before an opening parenthesis in the strings of what talks to the database."""
    found: set[str] = set()
    for folder in ("database", "backup", "doctor"):
        for file in (PACKAGE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found |= set(re.findall(r"\b([a-z_][a-z_0-9]*)\"?\(", node.value))
    return found


def test_every_function_of_the_server_that_is_called_is_asked_for(either: Database) -> None:
    """A new one in the SQL of this package is to be added to the list."""
    known = {
        name
        for (name,) in either.ask("SELECT proname::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace")
    }
    assert (words_called() & known) - set(CALLED) - NO_CALLS == set()


def test_what_a_site_took_from_the_public_is_granted_by_the_statement(either: Database) -> None:
    revoked = (
        "pg_control_system()",
        "pg_walfile_name(pg_lsn)",
        "pg_export_snapshot()",
        "pg_relation_size(regclass,text)",
    )
    role = f"hard_{either.name}"
    either.run(f'CREATE ROLE "{role}"')
    with closing(connect(DatabaseSettings(dsn=either.dsn), "test")) as connection:
        assert closed_functions(connection, role) == []
        either.run(*(f"REVOKE EXECUTE ON FUNCTION {name} FROM PUBLIC" for name in revoked))
        found = closed_functions(connection, "sbh_backup")
        assert sorted(function.signature for function in found) == sorted(revoked)
        either.run(*(function.statement for function in found))
        assert closed_functions(connection, "sbh_backup") == []
    either.run(f'DROP ROLE "{role}"')


def test_functions_that_tables_bring_along(either: Database) -> None:
    """Of indexes, their predicates, constraints, defaults, generated columns, statistics and domains; on partitions, too."""
    names = "of_index of_predicate of_check of_default of_column of_statistics of_domain of_partition"
    for name in names.split():
        either.run(
            f"CREATE FUNCTION {name}(int) RETURNS int IMMUTABLE LANGUAGE sql RETURN $1",
            f"REVOKE EXECUTE ON FUNCTION {name} FROM PUBLIC",
        )
    either.run(
        "CREATE DOMAIN small AS int CHECK (of_domain(VALUE) < 10)",
        "CREATE TABLE t (id int DEFAULT of_default(1) CHECK (of_check(id) > 0), n small,"
        " g int GENERATED ALWAYS AS (of_column(id)) STORED) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (10)",
        "CREATE INDEX ON t (of_index(id)) WHERE of_predicate(id) > 0",
        "CREATE INDEX ON t1 (of_partition(id))",
        "CREATE STATISTICS s ON of_statistics(id), n FROM t",
    )
    (oid,) = either.ask("SELECT 't'::regclass::oid::int")[0]
    with closing(connect(DatabaseSettings(dsn=either.dsn), "test")) as connection:
        found = closed_to_tables(connection, [oid], "sbh_backup")
        assert [function.signature for function in found] == sorted(f"public.{name}(integer)" for name in names.split())
        either.run(*(function.statement for function in found))
        assert closed_to_tables(connection, [oid], "sbh_backup") == []
