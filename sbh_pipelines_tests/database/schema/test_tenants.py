"""The application's list of tenants."""

from contextlib import closing

import pytest

from sbh_pipelines.database.schema.tenants import list_tenants
from sbh_pipelines.errors import SourceConflict
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.databases import Database


def test_a_lock_on_the_tenants_table_is_not_waited_for_long(database: Database) -> None:
    """Sensors and the API ask often: behind a migration they would pile up."""
    database.run("CREATE TABLE tenants (id int PRIMARY KEY, slug text, region text, tier text)")
    settings = Settings(database={"dsn": database.dsn, "lock_timeout_s": 0.2})  # type: ignore[arg-type]
    with closing(database.connect()) as other:
        other.cursor().execute("BEGIN; LOCK TABLE tenants")
        with pytest.raises(SourceConflict, match="somebody holds a lock"):
            list_tenants(settings)
        other.cursor().execute("ROLLBACK")
    assert list_tenants(settings).tenants == ()
