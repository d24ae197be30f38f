"""Incremental backups that die between any two writes: nothing committed is lost, and the next one builds on what is there."""

import random
import shutil

import pytest

from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines_tests.backup.create.test_crash import Clock, Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application, State

_MORE = """
INSERT INTO projects (tenant_id, code, body) SELECT 1 + n % 2, 'more-' || n, md5(n::text) FROM generate_series(1, 400) n;
INSERT INTO items (project_id, title) SELECT id, 'first' FROM projects;
"""
_CHANGES = """
UPDATE projects SET body = 'changed {0}' WHERE code LIKE 'more-%{0}7';
DELETE FROM items WHERE project_id % 31 = {0};
INSERT INTO projects (tenant_id, code) VALUES (1, 'late {0} ' || clock_timestamp());
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _change(application: Application, seed: int) -> None:
    application.database.run(_CHANGES.format(seed % 10))
    application.write_file(ACME, f"docs/{seed % 3}.bin", random.Random(seed).randbytes(20_000))


def _manifests(application: Application) -> set[str]:
    return {file.stem for file in (application.repository(ACME) / "manifests").glob("*.json")}


def test_killed_at_any_write(application: Application, clock: Clock) -> None:
    """Killed before the first, after the second, before the third ... of its writes: what was whole stays whole."""
    application.database.run(_MORE)
    kinds = ("full", "incremental", "differential")
    application.settings = application.configured(retention={f"{k}_backups": {"keep_last": 100} for k in kinds})
    ended = published = 0
    for nth in range(1, 100):
        shutil.rmtree(application.repository(ACME), ignore_errors=True)
        kind = kinds[1 + nth // 4 % 2]
        clock.move()
        service = application.service(clock=clock)
        states: dict[str, State] = {service.create_backup(ACME, ADMIN)["id"]: application.state(ACME)}
        _change(application, nth)
        original = application.state(ACME)
        clock.move()
        death = Death(nth, "before" if nth % 2 else "after")
        try:
            with struck(death):
                application.service(clock=clock).backups.create_all([ACME], ADMIN, kind)
        except (Killed, RuntimeError):
            assert death.dead
        if not death.dead:
            break
        clock.move()
        left = _manifests(application)
        assert len(left) == len(states) + death.wrote("/manifests/")
        assert left >= states.keys()
        published += death.wrote("/manifests/")
        service = application.service(clock=clock)
        (draft,) = service.backups.create_all([ACME], ADMIN, kind)
        assert draft.error is None
        assert draft.type == kind
        assert dict(draft.reread) == {}
        assert draft.status is DraftStatus.COMPLETED or death.wrote("/manifests/")
        for backup in _manifests(application):
            assert service.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == []
        application.wreck(ACME)
        service.restore_backup("latest", ACME, ADMIN)
        assert application.state(ACME) == original
        if nth % 4 == 0:
            for backup, state in states.items():
                service.restore_backup(backup, ACME, ADMIN)
                assert application.state(ACME) == state
        ended += 1
    assert ended > 8
    assert published


def test_killed_while_a_tenant_is_found_unchanged(application: Application, clock: Clock) -> None:
    """The tick that finds a tenant unchanged writes to the catalog only: killed there, the next tick says it again."""
    application.service(clock=clock).backups.create_all([ACME, BOLT], ADMIN)
    for when in ("before", "after"):
        clock.move()
        death = Death(1, when)
        with pytest.raises(Killed), struck(death):
            application.service(clock=clock).backups.create_all([ACME, BOLT], ADMIN, "incremental")
        assert not death.wrote("/backups/")
        clock.move()
        drafts = application.service(clock=clock).backups.create_all([ACME, BOLT], ADMIN, "incremental")
        assert [draft.status for draft in drafts] == [DraftStatus.UNCHANGED] * 2
