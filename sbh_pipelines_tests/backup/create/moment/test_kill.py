"""Killed at any write, a run leaves no half backup of a moment, and the next one makes it."""

from pathlib import Path

import pytest

from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.model import TenantId
from sbh_pipelines_tests.backup.create.moment.recovered import ADMIN, recovered_application
from sbh_pipelines_tests.support.fault_stores import DiesAtWrite, Killed, wrap
from sbh_pipelines_tests.support.journal import logical_server


def test_killed_at_any_write_nothing_half_is_left(tmp_path: Path) -> None:
    with logical_server() as server, recovered_application(server, tmp_path) as application:
        good = application.do("UPDATE items SET title = 'good' WHERE id < 9; DELETE FROM comments WHERE id > 40")
        application.drain()
        application.drain()
        before = {manifest.id for manifest in application.service.backups.of("acme", ADMIN)}
        tenant = application.service.tenants.find(TenantId("acme"))
        deaths = 0
        for nth in range(1, 60):
            dies = DiesAtWrite(nth)
            service = wrap(application.service, dies.before, dies.after)
            try:
                service.backups.create_at("acme", ADMIN, Target(time=good.at))
            except Killed:
                deaths += 1
            else:
                break
            store, prefix = application.site().backup_store(tenant)
            store.delete([prefix + "lease.json"])  # as if its time were over
            for manifest in application.service.backups.of("acme", ADMIN):
                if manifest.id not in before:  # it was committed, and then died
                    assert application.stored(1, manifest) == good.rows[1]
                    before.add(manifest.id)
            assert application.service.backups.damaged("acme", ADMIN) == []
        else:
            pytest.fail("it never came through")
        assert deaths > 5
        manifest = application.recover(1, good.at)
        assert application.stored(1, manifest) == good.rows[1]
        for found in application.service.backups.of("acme", ADMIN):
            assert application.service.backups.validate(found.id, "acme", ADMIN, deep=True).valid
