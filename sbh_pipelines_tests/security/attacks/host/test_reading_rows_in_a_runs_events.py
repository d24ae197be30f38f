"""A viewer of the web UI wants customers' rows from runs that failed: their events, their log lines, their output.

What stops them: whatever ends a session of a run, its failure, with all that it was caused by, has nothing of a row.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import dagster as dg
import psycopg2
import pytest

from sbh_pipelines.database.session.driver import Cursor
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines_tests.orchestration.conftest import instance
from sbh_pipelines_tests.support.fix_stack import RealRun, Site, real_resource, real_run, site

__all__ = ["instance", "real_resource", "real_run", "site"]  # fixtures, made elsewhere

_SECRET = "SECRET-OF-A-CUSTOMER"
_MINE = "tenant_id = (SELECT id FROM tenants WHERE slug = 'tenant-4')"


class _Ended:
    """The file of a COPY into the server, whose session ends when the secret has passed; there is always more to come."""

    def __init__(self, file: Any, cursor: Any, site: Site) -> None:
        self._file, self._cursor, self._site, self._passed = file, cursor, site, False

    def read(self, size: int) -> bytes:
        if self._passed:
            with closing(psycopg2.connect(self._site.stack.dsn(postgres.ADMIN))) as admin:
                admin.cursor().execute("SELECT pg_terminate_backend(%s)", [self._cursor.connection.info.backend_pid])
        piece: bytes = self._file.read(min(size, 200_000))
        self._passed = self._passed or _SECRET.encode() in piece
        return piece


@pytest.fixture
def secrets(site: Site) -> Iterator[None]:
    site.sql(f"UPDATE users SET name = %s || repeat('x', 30000) || name WHERE {_MINE}", _SECRET)
    yield
    site.sql(
        f"UPDATE users SET name = right(name, -{len(_SECRET) + 30000}) WHERE {_MINE} AND name LIKE %s", f"{_SECRET}%"
    )


@pytest.mark.usefixtures("secrets")
def test_a_restore_that_dies(
    real_run: RealRun,
    instance: dg.DagsterInstance,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert real_run("full_backup_job", partition_key="tenant-4").success
    site.sql(f"UPDATE users SET email = 'x' || email WHERE {_MINE}")
    copy, died = Cursor.copy_expert, list[str]()

    def copy_expert(self: Any, sql: Any, file: Any, size: int = 8192) -> None:
        into = "FROM STDIN" in str(sql)
        try:
            copy(self, sql, _Ended(file, self, site) if into else file, size)
        except BaseException:
            died.append(str(sql))
            raise

    monkeypatch.setattr(Cursor, "copy_expert", copy_expert)
    config = {"ops": {"restore_tenant": {"config": {"confirm": True, "tables": ["users"]}}}}
    try:
        result = real_run("restore_job", partition_key="tenant-4", run_config=config)
    finally:
        monkeypatch.undo()
        site.sql(f"UPDATE users SET email = right(email, -1) WHERE {_MINE} AND email LIKE 'x%%'")
    assert not result.success
    assert died
    events = [str(record.event_log_entry) for record in instance.get_records_for_run(result.run_id).records]
    failure = result.failure_data_for_node("restore_tenant")
    assert any("SBH-301" in text for text in events)
    for text in (*events, str(failure), *capfd.readouterr()):
        assert _SECRET not in text
        assert "CONTEXT" not in text
