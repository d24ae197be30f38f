"""The job that puts an old state beside the live one, against the real servers."""

from contextlib import closing
from typing import Any

import psycopg2

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines_tests.support.fix_stack import RealRun, Site


def test_an_old_state_is_put_into_a_schema_of_its_own(real_run: RealRun, site: Site) -> None:
    """With its rows; a second time the first is in the way. The name is the system's."""
    backup = real_run("full_backup_job", partition_key="tenant-6")
    assert backup.success
    (users,) = site.sql("SELECT count(*) FROM users WHERE tenant_id = 6")
    config = {"ops": {"restore_into_schema": {"config": {"schema_name": "looked_at", "tables": ["users"]}}}}
    schema = "none"
    try:
        done = real_run("restore_into_schema_job", partition_key="tenant-6", run_config=config)
        assert done.success
        (output,) = [e for e in done.all_events if e.is_successful_output]
        assert output.step_output_data.metadata["rows"].value == users[0]
        schema = output.step_output_data.metadata["schema"].value
        assert schema.startswith("sbh_look_tenant_6_")
        assert _as_owner(site, f"SELECT count(*) FROM {schema}.users") == users
        again = real_run("restore_into_schema_job", partition_key="tenant-6", run_config=config)
        (failure,) = again.get_step_failure_events()
        assert failure.step_failure_data.user_failure_data.metadata["code"].value == "SBH-307"
    finally:
        _as_owner(site, f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def _as_owner(site: Site, statement: str) -> Any:
    """The schema is of the backup's role: the application cannot see it."""
    with (
        closing(psycopg2.connect(site.stack.dsn(postgres.BACKUP))) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None
