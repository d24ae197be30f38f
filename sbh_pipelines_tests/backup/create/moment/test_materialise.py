"""A tenant's backup of a moment holds what the tenant had then, to the byte, whatever happened around it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.errors import MomentOutOfReach
from sbh_pipelines_tests.backup.create.moment.recovered import ADMIN, SLUGS, Recovered, recovered_application
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as running:
        yield running


@pytest.fixture
def application(server: OwnServer, tmp_path: Path) -> Iterator[Recovered]:
    with recovered_application(server, tmp_path) as made:
        yield made


def test_every_moment_since_the_backup_is_what_it_was(application: Recovered) -> None:
    application.keep()
    application.do("UPDATE projects SET title = 'one' WHERE tenant_id = 1")
    application.do("DELETE FROM items WHERE id % 3 = 0", "INSERT INTO items VALUES (100, 3, E'tab\\t and \\\\ back')")
    application.drain()
    application.do(
        "INSERT INTO projects VALUES (20, 2, 'new', repeat('x', 5000)); UPDATE comments SET title = NULL WHERE id < 9"
    )
    application.do("UPDATE projects SET title = 'long stays' WHERE id = 20; DELETE FROM comments WHERE id > 50")
    application.drain()
    application.drain()
    for kept in application.kept:
        for tenant in SLUGS:
            manifest = application.recover(tenant, kept.at)
            assert application.stored(tenant, manifest) == kept.rows[tenant]
            assert manifest.is_recovered
            assert application.service.backups.validate(manifest.id, SLUGS[tenant], ADMIN, deep=True).valid


def test_a_tenant_that_was_in_another_region_for_a_while(application: Recovered) -> None:
    """A backup from before it left leads to no moment after that; the next one after it came back does."""
    before = application.do("INSERT INTO projects VALUES (899, 1, 'before', NULL)")
    application.drain()
    application.drain()
    application.do("UPDATE tenants SET region = 'us-east-1' WHERE id = 1")
    application.drain()
    application.do("INSERT INTO projects VALUES (900, 1, 'away', NULL)")
    application.drain()
    application.do("UPDATE tenants SET region = 'eu-west-1' WHERE id = 1")
    application.drain()
    back = application.do("INSERT INTO projects VALUES (901, 1, 'back', NULL)")
    application.drain()
    application.drain()
    with pytest.raises(MomentOutOfReach):
        application.recover(1, back.at)
    application.back_up("full", 1)
    after = application.do("INSERT INTO projects VALUES (902, 1, 'after', NULL)")
    application.drain()
    for kept in (before, after):
        assert application.stored(1, application.recover(1, kept.at)) == kept.rows[1]
