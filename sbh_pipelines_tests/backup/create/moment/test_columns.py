"""A moment before, between and after changes of a table's columns is what the tenant had then, with the columns of then."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.errors import NotJournaled
from sbh_pipelines_tests.backup.create.moment.recovered import ADMIN, SLUGS, Recovered, recovered_application
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer


@pytest.fixture(scope="module", params=[18, 15])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with logical_server(request.param) as running:
        yield running


@pytest.fixture
def application(server: OwnServer, tmp_path: Path) -> Iterator[Recovered]:
    with recovered_application(server, tmp_path) as made:
        yield made


CHANGES = (
    "UPDATE items SET project_id = project_id WHERE id % 4 = 1",
    "DELETE FROM comments WHERE id % 10 = 3; DELETE FROM items WHERE id = (SELECT min(id) FROM items)",
    "INSERT INTO items (id, project_id) SELECT max(id) + 1, 3 FROM items",
)


def recovers_each(application: Recovered) -> None:
    for kept in application.kept:
        for tenant in SLUGS:
            manifest = application.recover(tenant, kept.at)
            assert application.stored(tenant, manifest) == kept.rows[tenant]
            assert application.service.backups.validate(manifest.id, SLUGS[tenant], ADMIN, deep=True).valid


ALTERED = (
    ["ADD COLUMN extra text"],
    ["ADD COLUMN extra int DEFAULT 7", "ADD COLUMN more text DEFAULT E'x, \"y\"\\t{z}\\\\ \u00fc'"],
    ["DROP COLUMN title"],
    ["RENAME title TO name"],
    # What one name was of two columns in one window is not told: these are drained between.
    ["DROP COLUMN title", "ADD COLUMN title text DEFAULT 'new'"],
    ["RENAME title TO name", "ADD COLUMN title text", "DROP COLUMN name"],
)


@pytest.mark.parametrize(
    ("altering", "between"),
    [*((altering, True) for altering in ALTERED), *((altering, False) for altering in ALTERED[:4])],
    ids=lambda value: (
        " then ".join(value) if isinstance(value, list) else f"drained {'between' if value else 'at the end'}"
    ),
)
def test_moments_around_altered_columns(application: Recovered, altering: list[str], between: bool) -> None:
    """A change of each tenant follows each statement: from there on the definition is known."""
    application.do(*CHANGES)
    for statement in altering:
        application.do(f"ALTER TABLE items {statement}; UPDATE items SET project_id = project_id")
        application.do(*CHANGES)
        if between:
            application.drain()
            application.keep()
    application.drain()
    application.do(*CHANGES)
    application.drain()
    recovers_each(application)


def test_a_backup_after_the_change_is_built_on_like_any_other(application: Recovered) -> None:
    application.do(*CHANGES)
    application.do("ALTER TABLE items ADD COLUMN extra int DEFAULT 7; UPDATE items SET extra = 8 WHERE id % 2 = 0")
    application.back_up("incremental")
    application.kept.clear()
    application.do(*CHANGES)
    application.do("ALTER TABLE items DROP COLUMN title; UPDATE items SET extra = extra + 1")
    application.drain()
    recovers_each(application)


def test_a_type_that_changed_is_refused_by_name(application: Recovered) -> None:
    application.do(*CHANGES)
    application.drain()
    application.do("ALTER TABLE items ALTER title TYPE varchar(500)")
    application.drain()
    application.drain()
    after = application.do(*CHANGES)
    application.drain()
    with pytest.raises(NotJournaled) as raised:
        application.recover(1, after.at)
    assert "public.items" in str(raised.value)
    manifest = application.recover(1, application.kept[0].at)
    assert application.stored(1, manifest) == application.kept[0].rows[1]
