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
from sbh_pipelines_tests.support.schemas import SLUGS, Built, World, worlds

EXAMPLES = examples(6)
# Shrinking takes minutes on a real server; the printed world is enough to begin with.
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
    world = data.draw(worlds(absent))
    built = Built(server, world)
    try:
        built.create()
        with TemporaryDirectory() as directory:
            _round_trip(built, Application(server, Path(directory)), world)
    finally:
        built.drop()


def _round_trip(built: Built, application: Application, world: World) -> None:
    for name, body in world.files:
        application.write_file(SLUGS[0], name, body)
    service = application.service(
        database={"schemas": [world.schema], "tenant_column": world.tenant_column},
        tenants={"table": f"{world.schema}.{world.tenant_table}"},
    )
    before = built.rows(0)
    drafts = service.create_backups(SLUGS[:2], ADMIN)
    assert [draft.error for draft in drafts] == [None, None]
    first = drafts[0].backup_id
    assert service.validate_backup(first, SLUGS[0], ADMIN, deep=True)["issues"] == []

    built.wreck(0)
    for name, body in world.files[::2]:
        application.write_file(SLUGS[0], name, body + b"!")
    application.write_file(SLUGS[0], "stranger", b"")
    built.forbid_writes()
    others = [built.rows(1), built.rows(2), built.rows(None)]
    places = built.places([1, 2, None])

    result = service.restore_backup(first, SLUGS[0], ADMIN)

    assert built.rows(0) == before
    assert [built.rows(1), built.rows(2), built.rows(None)] == others
    assert built.places([1, 2, None]) == places
    root = application.bucket / "files" / SLUGS[0]
    found = {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}
    assert {n: b for n, b in found.items() if not n.startswith("backups/")} == dict(world.files)
    assert result["files_removed"] == 1

    again = service.restore_backup(first, SLUGS[0], ADMIN)
    assert (again["rows_inserted"], again["rows_updated"], again["rows_deleted"]) == (0, 0, 0)
    for greatest, following in built.next_identities().values():
        assert following > greatest
    assert built.rows(0) == before
