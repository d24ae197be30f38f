"""What errors of restores tell to do can be done as it stands, and helps."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.errors import RequestError, SchemaMismatch
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.restore.small_schema import ACME, SmallSchema

TABLE = """
CREATE TABLE "Project" (id int PRIMARY KEY, org_id int NOT NULL REFERENCES orgs, title text, props jsonb);
INSERT INTO "Project" VALUES (1, 1, 'a', '{}'), (2, 2, 'b', NULL);
"""


@pytest.fixture
def schema(database: Database, tmp_path: Path) -> SmallSchema:
    made = SmallSchema(database, tmp_path, TABLE)
    made.backup()
    return made


@pytest.mark.parametrize(
    ("rename", "now"),
    [
        ('ALTER TABLE "Project" RENAME TO "Work Item"', 'public."Work Item"'),
        ('ALTER TABLE "Project" RENAME title TO "new name"', 'public."Project"'),
    ],
    ids=["table", "column"],
)
def test_what_was_renamed(schema: SmallSchema, tmp_path: Path, rename: str, now: str) -> None:
    """The lines for the settings come before the option that loses the rows."""
    before = schema.rows()['public."Project"']
    schema.run(rename, f"DELETE FROM {now} WHERE id = 1")
    with pytest.raises(SchemaMismatch) as caught:
        schema.restore()
    remedy = caught.value.remedy
    assert remedy.index("[restore.renamed]") < remedy.index("--accept-schema-changes")
    block = re.search(r"^\[restore\.renamed\]\n(.+)$", remedy, re.MULTILINE)
    assert block is not None
    restore: dict[str, Any] = {**tomllib.loads(block[0])["restore"], "safety_backup": False, "lease_wait_s": 0}
    database = {"tenant_column": "org_id"}
    tenants = {"table": "orgs", "tier": ""}
    application = Application(schema.database, tmp_path)
    application.service(database=database, tenants=tenants, restore=restore).restores.run("latest", ACME, ADMIN)
    assert schema.rows()[now] == before


def test_capitals_in_a_choice_of_rows(schema: SmallSchema) -> None:
    """SQL takes an unquoted name as small letters: the hint shows it quoted."""
    with pytest.raises(RequestError) as caught:
        schema.plan(rows="Project where id = 1")
    quoted = re.search(r"'(.* where) \.\.\.'", caught.value.remedy)
    assert quoted is not None
    assert not schema.plan(rows=f"{quoted[1]} id = 1").problems
    assert not schema.plan(tables=("Project",)).problems


def test_rows_that_were_written_and_are_equal(schema: SmallSchema) -> None:
    """They are no difference, in the numbers of groups neither."""
    schema.run('UPDATE "Project" SET title = title')
    (found,) = [t for t in schema.plan().tables if t.table == "public.Project"]
    assert (found.groups_matching, found.insert, found.update) == (found.groups, 0, 0)


def test_choices_that_exclude_each_other() -> None:
    make: Callable[..., RestoreRequest] = RestoreRequest.of
    for others in ({"tables": ("a",)}, {"rows": "a where id = 1"}, {"config_only": True}):
        with pytest.raises(RequestError, match="all_but"):
            make(all_but=("b",), **others)
