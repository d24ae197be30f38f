"""`sbh doctor --suggest`: a stranger's schema is mapped by what it prints."""

import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from sbh_pipelines.database.schema.tenancy import load_map, survey_map
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.doctor import database
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.doctor.suggest import paste, suggest
from sbh_pipelines.doctor.suggest.suggestion import Suggestion
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.section import toml
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.many_tables import NUMBER, schema


@pytest.fixture
def empty(embedded_stack: Stack) -> Iterator[Database]:
    with fresh_database(embedded_stack) as made:
        yield made


def pasted(values: dict[str, Any], text: str) -> dict[str, Any]:
    """The settings file with the suggestion pasted: fields replace fields of the same name, blocks are added."""
    merged = {name: dict(section) for name, section in values.items()}
    for name, section in tomllib.loads(text).items():
        for field, value in section.items():
            blocks = field in ("links", "follow")
            merged.setdefault(name, {})[field] = [*merged.get(name, {}).get(field, []), *value] if blocks else value
    return merged


def errors(values: dict[str, Any]) -> list[str]:
    report = Report()
    database.check(report, Settings(**values), lambda _: None)
    return [f"{finding.what}: {finding.detail}" for finding in report.errors]


def rounds(values: dict[str, Any], most: int) -> tuple[dict[str, Any], list[Suggestion]]:
    made = []
    for _ in range(most):
        made.append(suggest(Settings(**values)))
        by_hand = pasted(values, made[-1].text)
        assert tomllib.loads(paste.pasted(tomlkit.dumps(values), made[-1])) == by_hand
        values = by_hand
        if not errors(values):
            break
    return values, made


def test_a_strangers_schema_of_130_tables_is_green_in_two_rounds(empty: Database) -> None:
    """And what is said of each table is true: nothing that may be a tenant's is shared without a mark."""
    empty.run(schema())
    assert empty.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(NUMBER,)]
    start = {
        "database": {"dsn": empty.dsn},
        "storage": {"regions": ["eu-west-1", "us-east-1"]},
        "platform": {"pg_dump": "pg_dump", "psql": "psql"},
    }
    assert errors(start)
    values, made = rounds(start, 2)
    assert errors(values) == []
    first = made[0]
    assert sum(line != "" and not line.startswith("#") for line in first.text.splitlines()) < 45
    assert values["tenants"] == {
        "table": "public.organizations",
        "default_region": "eu-west-1",
        "where": "(deleted_at IS NULL)",
    }
    assert values["database"]["tenant_column"] == ["organization_id", "organizationId"]
    assert values["database"]["schemas"] == ["public", "billing"]
    rules = [(rule["column"], rule["parent"]) for rule in values["database"]["follow"]]
    assert rules == [("project_id", "public.projects"), ("invoice_id", "public.invoices")]
    marked = {name.removeprefix("shared:public.") for name in first.guesses if name.startswith("shared:")}
    assert marked == {"users", "audit_entries"}
    shared = {name.removeprefix("public.") for name in values["database"]["shared"]}
    assert shared - marked == {"countries", "feature_flags", "plans", "prices"}
    assert {name for name in first.guesses if not name.startswith("shared:")} == {
        "default_region",
        "where",
        "links:public.alert_channels",
        "links:public.attachments",
        "links:public.versions",
    }
    assert "CHECK" in first.text


def test_a_polymorphic_table_leads_to_the_owners_of_what_it_names(empty: Database) -> None:
    """Also over several tables, one of which is two steps away, and with keys that are kept as text."""
    empty.run(schema())
    empty.run(
        "INSERT INTO comments (project_id, body) SELECT id, 'c' FROM projects;"
        "INSERT INTO versions SELECT 10 + row_number() OVER (), 'Comment', id::text, 'v' FROM comments"
    )
    values, _ = rounds({"database": {"dsn": empty.dsn}, "storage": {"regions": ["eu-west-1"]}}, 2)
    assert errors(values) == []
    settings = Settings(**values)
    with closing(connect(settings.database, "test")) as connection:
        versions = load_map(connection, settings).find("public.versions")
        assert versions is not None
        cursor = connection.cursor()
        cursor.execute(f"SELECT t.item_type, {versions.tenant}::text FROM {versions.source}")
        found = cursor.fetchall()
        cursor.execute("SELECT organization_id::text FROM public.projects")
        owners = {owner for (owner,) in cursor.fetchall()}
    assert len(found) == 4
    assert {owner for kind, owner in found if kind == "Comment"} == owners
    assert {owner for _, owner in found} <= owners


SMALL = {
    "keys are numbers, nothing refers by a foreign key": (
        "CREATE TABLE accounts (id bigint PRIMARY KEY, subdomain text UNIQUE NOT NULL, name text);"
        "CREATE TABLE items (id bigint PRIMARY KEY, account_id bigint NOT NULL);"
        "CREATE TABLE item_notes (id bigint PRIMARY KEY, item_id bigint NOT NULL, body text);"
        "INSERT INTO accounts VALUES (1, 'north', 'North & Sons'), (2, 'south', 'South'); INSERT INTO items VALUES (1, 1), (2, 2);"
        "INSERT INTO item_notes VALUES (1, 1, 'x')",
        {"slug": "subdomain"},
        {"accounts": "tenants", "items": "owned", "item_notes": "declared"},
    ),
    "no slug": (
        "CREATE TABLE orgs (id uuid PRIMARY KEY, title text); CREATE TABLE docs (org_id uuid REFERENCES orgs, id int PRIMARY KEY);"
        "CREATE TABLE pages (org_id uuid NOT NULL REFERENCES orgs, id int PRIMARY KEY);"
        "INSERT INTO orgs VALUES ('11111111-1111-4111-8111-111111111111', 'a b'), ('22222222-2222-4222-8222-222222222222', 'c')",
        {"slug": "id"},
        {"orgs": "tenants", "docs": "owned", "pages": "owned"},
    ),
    "a circle, a foreign table, a list": (
        "CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);"
        "CREATE TABLE posts (id int PRIMARY KEY, tenant int NOT NULL REFERENCES tenants, pinned int);"
        "CREATE TABLE answers (id int PRIMARY KEY, post int NOT NULL REFERENCES posts);"
        "ALTER TABLE posts ADD FOREIGN KEY (pinned) REFERENCES answers;"
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;"
        "CREATE FOREIGN TABLE remote (id int) SERVER far; CREATE TABLE units (name text PRIMARY KEY);"
        "INSERT INTO tenants VALUES (1, 'one', 'eu-west-1', 'critical')",
        {},
        {"tenants": "tenants", "posts": "inherited", "answers": "inherited", "remote": "excluded", "units": "shared"},
    ),
}


@pytest.mark.parametrize("what", SMALL)
def test_small_schemas_of_other_people(empty: Database, what: str) -> None:
    made, tenants, expected = SMALL[what]
    empty.run(made)
    values, suggestions = rounds({"database": {"dsn": empty.dsn}, "storage": {"regions": ["eu-west-1"]}}, 2)
    assert errors(values) == [], suggestions[-1].text
    assert values.get("tenants", {}).items() >= tenants.items()
    settings = Settings(**values)
    with closing(connect(settings.database, "test")) as connection:
        statuses = {status.name: status.status for status in survey_map(connection, settings).statuses}
    assert statuses == expected


def test_where_nothing_is_to_be_said_nothing_is(empty: Database) -> None:
    empty.run(
        "CREATE TABLE tenants (id int PRIMARY KEY, slug text, region text, tier text); CREATE TABLE t (tenant_id int)"
    )
    assert suggest(Settings(database={"dsn": empty.dsn})).text.startswith("# Nothing to suggest")  # type: ignore[arg-type]


def test_columns_are_known_by_their_values_and_a_file_keeps_its_comments(empty: Database) -> None:
    """The example of the README: nothing in it is called as we call it."""
    empty.run((Path(__file__).parents[2] / "docs" / "examples" / "shop.sql").read_text("utf-8"))
    text = f"""# ours
[database]  # the replica
dsn = {toml(empty.dsn)}
[[database.links]]
table = "web_sessions"
via = ["user_id"]

[storage]
regions = ["eu-west-1", "us-east-1"]  # both
"""
    made = suggest(Settings(**tomllib.loads(text)))
    assert (made.tenants["region"], made.tenants["tier"], made.tenants["slug"]) == ("home_region", "plan", "handle")
    saved = paste.pasted(text, made)
    assert tomllib.loads(saved) == pasted(tomllib.loads(text), made.text)
    assert all(
        line in saved for line in ("# ours", "# the replica", "# both", "each tenant's is one of storage.regions")
    )
    assert errors(tomllib.loads(saved)) == []


def test_a_file_that_cannot_be_kept_is_left(empty: Database) -> None:
    empty.run((Path(__file__).parents[2] / "docs" / "examples" / "shop.sql").read_text("utf-8"))
    made = suggest(Settings(database={"dsn": empty.dsn}, storage={"regions": ["eu-west-1"]}))
    with pytest.raises(SettingsError, match="cannot be put into"):
        paste.pasted('database = { dsn = "x" }\n', made)
    for text in ("", 'database.dsn = "x"\n', "[tenants]\n\n[database.pool]\nsize = 1\n"):
        assert tomllib.loads(paste.pasted(text, made)) == pasted(tomllib.loads(text), made.text)
