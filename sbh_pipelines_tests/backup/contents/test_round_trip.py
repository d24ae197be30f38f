"""What was backed up comes back byte for byte: random schemas, random rows, real PostgreSQL.

Types: every one in `values.py`, as columns and, where they have an order, as keys. Oddities: names that collide with
aliases, keywords, quotes and placeholders; tables without a key, with composite keys, partitioned, with dropped columns,
with forced row security, with triggers that refuse writes; inherited tables over one and two hops; identity columns always and by default;
generated columns, stored and virtual; unique columns, immediate and deferred, whose values swapped places; tenant columns
that are integers, text, uuid, numeric; rows of no tenant.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.schemas import SLUGS, BuiltSchema, GeneratedSchema, generated_schemas

EXAMPLES = examples(6)
# Shrinking takes minutes on a real server; the printed schema is enough to begin with.
PHASES = [Phase.explicit, Phase.generate, *([Phase.shrink] if "ROUND_TRIPS_SHRINK" in os.environ else [])]


@pytest.fixture(scope="module")
def server(embedded_stack: Stack) -> Iterator[Database]:
    with fresh_database(embedded_stack) as made:
        if made.ask("SELECT FROM pg_available_extensions WHERE name = 'vector'"):
            made.run("CREATE EXTENSION vector")
        yield made


@pytest.fixture(scope="module")
def absent(server: Database) -> frozenset[str]:
    """Kinds that this server was built without."""
    types = {name for (name,) in server.ask("SELECT typname FROM pg_type")}
    absent = {"vector"} - types
    try:
        server.ask("SELECT '<a/>'::xml")
    except Exception:
        absent.add("xml")
    return frozenset(absent)


@settings(max_examples=EXAMPLES, phases=PHASES)
@given(data=st.data())
def test_a_wrecked_tenant_comes_back_byte_for_byte(
    server: Database, absent: frozenset[str], data: st.DataObject
) -> None:
    """Backup of two of three tenants, ruin of one, restore: its rows and files as before, nobody else's touched."""
    layout = data.draw(generated_schemas(absent))
    built_schema = BuiltSchema(server, layout)
    try:
        built_schema.create()
        with TemporaryDirectory() as directory:
            _round_trip(built_schema, Application(server, Path(directory)), layout)
    finally:
        built_schema.drop()


def _round_trip(built_schema: BuiltSchema, application: Application, layout: GeneratedSchema) -> None:
    for name, body in layout.files:
        application.write_file(SLUGS[0], name, body)
    service = application.service(
        database={"schemas": [layout.schema], "tenant_column": layout.tenant_column},
        tenants={"table": f"{layout.schema}.{layout.tenant_table}"},
    )
    before = built_schema.rows(0)
    drafts = service.backups.create_all(SLUGS[:2], ADMIN)
    assert [draft.error for draft in drafts] == [None, None]
    first = drafts[0].backup_id
    assert service.validate_backup(first, SLUGS[0], ADMIN, deep=True)["issues"] == []

    built_schema.wreck(0)
    for name, body in layout.files[::2]:
        application.write_file(SLUGS[0], name, body + b"!")
    application.write_file(SLUGS[0], "stranger", b"")
    built_schema.forbid_writes()
    others = [built_schema.rows(1), built_schema.rows(2), built_schema.rows(None)]
    places = built_schema.places([1, 2, None])

    result = service.restore_backup(first, SLUGS[0], ADMIN)

    assert built_schema.rows(0) == before
    assert [built_schema.rows(1), built_schema.rows(2), built_schema.rows(None)] == others
    assert built_schema.places([1, 2, None]) == places
    root = application.bucket / "files" / SLUGS[0]
    found = {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}
    assert {n: b for n, b in found.items() if not n.startswith("backups/")} == dict(layout.files)
    assert result["files_removed"] == 1

    again = service.restore_backup(first, SLUGS[0], ADMIN)
    assert (again["rows_inserted"], again["rows_updated"], again["rows_deleted"]) == (0, 0, 0)
    for greatest, following in built_schema.next_identities().values():
        assert following > greatest
    assert built_schema.rows(0) == before
