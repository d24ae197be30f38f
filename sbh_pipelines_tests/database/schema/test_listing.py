"""The tenants table as people have it: views, no region, no tier, soft-deleted tenants whose slug was given away."""

from typing import Any

import pytest

from sbh_pipelines.database.schema.tenants import find_tenants, list_tenants
from sbh_pipelines.errors import SettingsError
from sbh_pipelines.model import TenantId
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.databases import Database

ORGS = """
CREATE TABLE orgs (id int PRIMARY KEY, slug text NOT NULL, place text, deleted_at timestamptz);
INSERT INTO orgs VALUES (1, 'acme', 'eu-west-1', now()), (2, 'globex', NULL, NULL), (3, 'acme', 'us-east-1', NULL);
CREATE TABLE docs (org_id int NOT NULL REFERENCES orgs, n int);
"""
TWO = ["eu-west-1", "us-east-1"]


def settings(database: Database, regions: list[str], **tenants: Any) -> Settings:
    return Settings(
        database={"dsn": database.dsn, "tenant_column": "org_id"},  # type: ignore[arg-type]
        tenants={"table": "orgs", **tenants},  # type: ignore[arg-type]
        storage={"regions": regions},  # type: ignore[arg-type]
    )


def listed(chosen: Settings) -> list[tuple[str, str, str, str]]:
    return [(str(t.id), t.key, t.region, t.tier) for t in list_tenants(chosen).tenants]


def test_region_and_tier_need_no_columns(database: Database) -> None:
    """The only region, or `default_region`, also for a row without one; "" says that there is no column."""
    database.run(ORGS)
    live = {"where": "deleted_at IS NULL"}
    assert listed(settings(database, ["eu-west-1"], **live)) == [
        ("acme", "3", "eu-west-1", "important"),
        ("globex", "2", "eu-west-1", "important"),
    ]
    chosen = settings(database, TWO, region="", tier="", default_region="us-east-1", default_tier="archive", **live)
    assert listed(chosen) == [("acme", "3", "us-east-1", "archive"), ("globex", "2", "us-east-1", "archive")]
    chosen = settings(database, TWO, region="place", default_region="eu-west-1", **live)
    assert [row[2] for row in listed(chosen)] == ["us-east-1", "eu-west-1"]
    with pytest.raises(SettingsError, match=r'default_region = "\.\.\."'):
        listed(settings(database, TWO, **live))


@pytest.mark.parametrize("field", ["key", "slug", "region", "tier"])
def test_a_column_that_is_named_and_not_there_is_an_error(database: Database, field: str) -> None:
    database.run(ORGS)
    with pytest.raises(SettingsError, match="its columns are id, slug, place, deleted_at") as caught:
        listed(settings(database, ["eu-west-1"], **{field: "planet"}))
    assert f"tenants.{field}" in str(caught.value)


def test_tenants_that_are_none_any_more_are_left_out(database: Database) -> None:
    """By a condition; without one the row that the table's own index calls live has the slug, and the other is named."""
    database.run(ORGS)
    plain = settings(database, ["eu-west-1"])
    with pytest.raises(SettingsError, match="deleted_at"):
        find_tenants(plain, [TenantId("acme")])
    assert len(list_tenants(plain).unusable) == 2
    database.run("CREATE UNIQUE INDEX ON orgs (slug) WHERE deleted_at IS NULL")
    assert find_tenants(plain, [TenantId("acme")])[TenantId("acme")].key == "3"
    assert listed(plain) == [("acme", "3", "eu-west-1", "important"), ("globex", "2", "eu-west-1", "important")]
    (error,) = list_tenants(plain).unusable
    assert "key '1'" in error.on
    assert 'where = "(deleted_at IS NULL)"' in error.remedy
    assert list_tenants(settings(database, ["eu-west-1"], where="deleted_at IS NULL")).unusable == ()


VIEWS = {
    "a view": "CREATE VIEW live AS SELECT * FROM orgs WHERE deleted_at IS NULL",
    "a view of a view": "CREATE VIEW seen AS SELECT * FROM orgs; CREATE VIEW live AS SELECT * FROM seen WHERE deleted_at IS NULL",
    "a materialized view": "CREATE MATERIALIZED VIEW live AS SELECT * FROM orgs WHERE deleted_at IS NULL",
    "a view with a lookup": "CREATE TABLE places (name text PRIMARY KEY); CREATE VIEW live AS SELECT o.* FROM orgs o"
    " LEFT JOIN places p ON p.name = o.place WHERE o.deleted_at IS NULL",
}


@pytest.mark.parametrize("what", VIEWS)
def test_a_view_lists_the_tenants_of_its_table(database: Database, what: str) -> None:
    """The table whose rows they are is the tenants table of the map."""
    from contextlib import closing

    from sbh_pipelines.database.schema.tenancy import survey_map
    from sbh_pipelines.database.session.connection import connect

    database.run(ORGS + VIEWS[what])
    chosen = settings(database, ["eu-west-1"], table="live")
    assert [row[:2] for row in listed(chosen)] == [("acme", "3"), ("globex", "2")]
    with closing(connect(chosen.database, "test")) as connection:
        statuses = {s.name: s.status for s in survey_map(connection, chosen).statuses}
    assert statuses["orgs"] == "tenants"
    assert statuses["docs"] == "owned"


def test_of_a_view_of_several_tables_the_base_is_said(database: Database) -> None:
    database.run(
        ORGS + "CREATE TABLE more (id int PRIMARY KEY, slug text); INSERT INTO more VALUES (2, 'g');"
        "CREATE VIEW live AS SELECT o.id, m.slug FROM orgs o JOIN more m ON m.id = o.id"
    )
    with pytest.raises(SettingsError, match="base = "):
        listed(settings(database, ["eu-west-1"], table="live"))
    assert listed(settings(database, ["eu-west-1"], table="live", base="orgs")) == [
        ("g", "2", "eu-west-1", "important")
    ]


def test_the_remedy_for_an_unusable_slug_is_sql_that_runs(database: Database) -> None:
    database.run(
        'CREATE TABLE "Org" ("Id" int PRIMARY KEY, "Slug" text); INSERT INTO "Org" VALUES (1, \'good\'), (2, \'not good\')'
    )
    chosen = settings(database, ["eu-west-1"], table="Org", key="Id", slug="Slug")
    (error,) = list_tenants(chosen).unusable
    statement = error.remedy.partition(";")[0].replace("'...'", "'better'")
    assert statement.startswith('UPDATE "public"."Org" SET "Slug" =')
    database.run(statement)
    assert [row[0] for row in listed(chosen)] == ["better", "good"]


def test_tenants_that_share_a_key_are_in_no_backup(database: Database) -> None:
    """Each would get the rows of all: a view that doubles rows, or a key that is none."""
    database.run(
        ORGS + "CREATE TABLE domains (org_id int, name text); INSERT INTO domains VALUES (2, 'a'), (2, 'b'), (3, 'c');"
        "CREATE VIEW live AS SELECT o.id, d.name AS slug FROM orgs o JOIN domains d ON d.org_id = o.id"
    )
    chosen = settings(database, ["eu-west-1"], table="live", base="orgs")
    assert [row[0] for row in listed(chosen)] == ["c"]
    assert ["have this key" in error.why for error in list_tenants(chosen).unusable] == [True, True]
    with pytest.raises(SettingsError, match="each would get the rows of all"):
        find_tenants(chosen, [TenantId("a")])
