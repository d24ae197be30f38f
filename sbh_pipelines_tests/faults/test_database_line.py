"""Lines to PostgreSQL that break: at the login, in an answer, in the middle of a COPY."""

from pathlib import Path

from sbh_pipelines.errors import SourceUnavailable
from sbh_pipelines_tests.support.application import ACME
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.effort import either
from sbh_pipelines_tests.support.faults.world import World, world

_SEEDS = range(either(6, 200))


def _broken(made: World, seed: int) -> None:
    made.line.seed, made.line.rate = seed, 0.5
    made.clock.move(1)


def test_a_backup_on_a_line_that_breaks_anywhere(database: Database, tmp_path: Path) -> None:
    """It is there and whole, or there is none and the error says why."""
    with world(database, tmp_path, 1) as made:
        made.schedule.rate = 0
        for seed in _SEEDS:
            _broken(made, seed)
            before = len(made.manifests())
            ended = made.backup("full" if seed % 2 else "incremental")
            if isinstance(ended, BaseException):
                assert isinstance(ended, SourceUnavailable), ended
                assert len(made.manifests()) == before
        assert made.line.cut
        made.check()


def test_a_restore_on_a_line_that_breaks_anywhere(database: Database, tmp_path: Path) -> None:
    """Rows are all as they were or all as in the backup; when the line holds, everything is."""
    with world(database, tmp_path, 1) as made:
        made.schedule.rate = made.line.rate = 0
        backup_id = made.backup()["id"]
        for seed in _SEEDS:
            made.application.database.run(
                "DELETE FROM items WHERE project_id IN (SELECT id FROM projects WHERE tenant_id = 1) AND id % 3 = 0;"
                " UPDATE projects SET body = 'ruined' WHERE tenant_id = 1"
            )
            _broken(made, seed)
            ended = made.restore(backup_id)
            if isinstance(ended, BaseException):
                assert isinstance(ended, SourceUnavailable), ended
        assert made.line.cut
        made.prove(backup_id)
        assert made.application.state(ACME).rows == made.committed[backup_id].rows
