"""Backups of a standby: unlogged tables have no rows there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.own_server import OwnServer, own_server, wait_for
from sbh_pipelines_tests.support.restore.platform import PROGRAMS


@contextmanager
def _standby(server: OwnServer) -> Iterator[OwnServer]:
    """A copy of the stopped server that stays in recovery."""
    copy = replace(server, directory=server.directory / "standby")
    copy.directory.mkdir()
    shutil.copytree(server.data, copy.data)
    (copy.data / "standby.signal").touch()
    owner = server.data.stat()
    for path in (copy.directory, copy.data, *copy.data.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)
    copy.start()
    try:
        yield copy
    finally:
        copy.stop("immediate")


def test_an_unlogged_table_fails_nobody_and_is_named(tmp_path: Path) -> None:
    """The backup is without it, and a restore on the primary leaves its rows alone."""
    with own_server() as server:
        primary = Application(server.create_database("app"), tmp_path)
        primary.create()
        primary.database.run(
            "CREATE UNLOGGED TABLE recent (tenant_id int NOT NULL REFERENCES tenants, body text); INSERT INTO recent VALUES (1, 'x')",
            "CREATE UNLOGGED TABLE common (id int)",
        )
        service = primary.service(database={"shared": ["common"]})
        service.create_backup(BOLT, ADMIN)
        assert service.backups.get("latest", BOLT, ADMIN).left_out == {}
        server.stop()
        with _standby(server) as copy:
            standby = Application(copy.database("app"), tmp_path)
            assert standby.database.ask("SELECT pg_is_in_recovery()") == [(True,)]
            service = standby.service(platform=PROGRAMS, database={"shared": ["common"]})
            drafts = service.backups.create_all([ACME, BOLT], ADMIN)
            assert [draft.error for draft in drafts] == [None, None]
            assert "standby" in service.backups.get("latest", ACME, ADMIN).left_out["table public.recent"]
            listed = service.platform.create(ADMIN).manifest.components["database"].counts
            assert listed["ddl_only"] == 2
        server.start()
        wait_for(lambda: primary.database.ask("SELECT NOT pg_is_in_recovery()") == [(True,)], "the primary")
        primary = Application(server.database("app"), tmp_path)
        before = primary.state(ACME)
        primary.wreck(ACME)
        primary.service(database={"shared": ["common"]}).restores.run("latest", ACME, ADMIN, confirm=True)
        assert primary.state(ACME) == before
        assert primary.database.ask("SELECT * FROM recent") == [(1, "x")]
