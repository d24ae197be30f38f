"""Tables of schemas that are not mapped: what is a tenant's there stops backups, unless it is left out on purpose."""

from collections.abc import Callable

import pytest

from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.mapped import Mapped

MakeMapped = Callable[..., Mapped]

EVENTS = "CREATE TABLE events (id int, tenant_id int NOT NULL REFERENCES tenants, x text); CREATE SCHEMA far;"

OUTSIDE = {
    "a tenant column": "CREATE TABLE far.t (id int, tenant_id int)",
    "a child": "CREATE TABLE far.t () INHERITS (events)",
    "a chunk": "CREATE SCHEMA _internal; CREATE TABLE _internal.chunk () INHERITS (events); ALTER TABLE _internal.chunk SET SCHEMA far;"
    " ALTER TABLE far.chunk RENAME TO t",
    "a parent": "CREATE TABLE far.t (a int); CREATE TABLE doc (tenant_id int) INHERITS (far.t)",
    "a partitioned root": "CREATE TABLE far.t (a int, b int) PARTITION BY LIST (a); CREATE TABLE t_1 PARTITION OF far.t FOR VALUES IN (1)",
    "must refer to the tenants": "CREATE TABLE far.t (owner int NOT NULL REFERENCES tenants)",
    "must refer to the tenants, as it is now": "CREATE TABLE far.t (owner int NOT NULL);"
    " ALTER TABLE far.t ADD FOREIGN KEY (owner) REFERENCES tenants NOT VALID",
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_what_is_a_tenants_is_named_and_stops_backups(mapped: MakeMapped, what: str) -> None:
    made = mapped(EVENTS + OUTSIDE[what])
    text = made.refused()
    assert "far.t" in text
    assert 'schemas = ["public", "far"]' in text
    assert 'left_out = ["far.t"]' in text
    for left_out in ("far", "far.t"):
        made.settings = Settings(database={"dsn": made.database.dsn, "left_out": [left_out]})  # type: ignore[arg-type]
        assert made.map.outside == ()


def test_what_may_be_a_tenants_is_named(mapped: MakeMapped) -> None:
    """Over any number of foreign keys, with what a deletion does; backups go on."""
    made = mapped(
        EVENTS + "CREATE TABLE users (id int PRIMARY KEY, tenant_id int);"
        "CREATE TABLE far.queue (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE);"
        "CREATE TABLE far.tries (queue_id int NOT NULL REFERENCES far.queue); CREATE TABLE far.clock (at timestamptz);"
        "CREATE SCHEMA other; CREATE TABLE other.a (x int); CREATE TABLE other.b (x int)"
    )
    found = made.map
    assert found.outside == ()
    assert [f"{s.schema}.{s.name}" for s in found.nearby] == ["far.queue", "far.tries"]
    assert "ON DELETE CASCADE" in made.status("far.queue").why
    assert dict(found.other_schemas) == {"far": 1, "other": 2}


def test_copies_that_a_restore_made_are_nobodys(mapped: MakeMapped) -> None:
    """Nor are temporary tables, partitions of a mapped root, and tables of extensions."""
    made = mapped(
        EVENTS
        + "CREATE TABLE m (tenant_id int, n int) PARTITION BY LIST (n); CREATE TABLE far.m_1 PARTITION OF m FOR VALUES IN (1);"
        "CREATE SCHEMA old; CREATE TABLE old.events (id int, tenant_id int);"
        "COMMENT ON SCHEMA old IS 'copies of a tenant''s rows, put here by `sbh restore run --into-schema`';"
        "CREATE TABLE far.part_config (tenant_id int); ALTER EXTENSION plpgsql ADD TABLE far.part_config"
    )
    assert made.map.outside == ()
    assert made.map.nearby == ()
