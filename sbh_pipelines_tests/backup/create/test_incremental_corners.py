"""Corners in which an incremental backup could lose a row: structured keys, tables that change under it, very old bases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sbh_pipelines.backup.create import drafts as making
from sbh_pipelines.backup.create import snapshot_step as rows
from sbh_pipelines.backup.create import table_delta as delta
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.parent import incomparable
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.model import Progress, RecoveryPoint
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application

_MORE = """
INSERT INTO projects (tenant_id, code, body) SELECT 1 + n % 2, 'more-' || n, repeat(md5(n::text), 9) FROM generate_series(1, 400) n;
CREATE TABLE marks (id bigint PRIMARY KEY, project_id int REFERENCES projects, body text);
INSERT INTO marks SELECT n, 41 + n % 400, 'mark' FROM generate_series(1, 400) n;
CREATE TABLE events (id int, part int, tenant_id int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE events_0 PARTITION OF events FOR VALUES IN (0);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
INSERT INTO events SELECT n, n % 2, 1, 'event' FROM generate_series(1, 200) n;
"""
_HIGH = 8 << 32
BOTH = (ACME, BOLT)


@pytest.fixture
def application(application: Application) -> Application:
    """With tables large enough for layers; one connection reads them one after the other; nothing is forgotten."""
    application.database.run(_MORE)
    application.settings = application.configured(
        database={"dsn": application.database.dsn, "connections": 1, "lock_timeout_s": 2, "left_out": ["attic"]},
        retention={f"{kind}_backups": {"keep_last": 100} for kind in ("full", "incremental", "differential")},
    )
    return application


def _back_up(service: BackupService, kind: str = "incremental", **more: Any) -> list[Draft]:
    return service.backups.create_all(BOTH, ADMIN, kind, **more)


def _marks(application: Application, tenant: str) -> bytes:
    return application.database.copy(
        f"SELECT m.* FROM marks m JOIN projects p ON p.id = project_id WHERE tenant_id = {application.tenant(tenant).key} ORDER BY 1"
    )


def _restores(application: Application, service: BackupService) -> None:
    """Both tenants' latest backups hold the marks that they have now."""
    states = {tenant: _marks(application, tenant) for tenant in BOTH}
    application.database.run("DELETE FROM marks")
    for tenant in BOTH:
        service.restore_backup("latest", tenant, ADMIN)
    assert {tenant: _marks(application, tenant) for tenant in BOTH} == states


# keys whose halves, XORed, are the same: PostgreSQL's hash of a bigint is that of one half


def test_ids_of_another_shard(application: Application) -> None:
    """Rows are deleted, and others of the same bucket come whose ids differ in both halves alike."""
    service = application.service()
    _back_up(service, "full")
    application.database.run(
        f"WITH gone AS (DELETE FROM marks WHERE id % 20 = 0 RETURNING *) INSERT INTO marks SELECT id # ({_HIGH} | 8), project_id, 'other' FROM gone"
    )
    for draft in _back_up(service):
        assert draft.error is None
        assert service.validate_backup(draft.backup_id, draft.tenant.id, ADMIN, deep=True)["issues"] == []
    _restores(application, service)


def test_ids_of_another_shard_that_nobody_wrote(application: Application) -> None:
    """Two tenants swap rows whose ids differ in both halves alike; the rows follow their parents."""
    application.database.run(
        "INSERT INTO projects (tenant_id, code) VALUES (1, 'swapped-1'), (2, 'swapped-2')",
        f"INSERT INTO marks SELECT 10007 # CASE tenant_id WHEN 1 THEN 0 ELSE {_HIGH} | 8 END, id, code FROM projects WHERE code LIKE 'swapped%'",
    )
    service = application.service()
    _back_up(service, "full")
    application.database.run("UPDATE projects SET tenant_id = 3 - tenant_id WHERE code LIKE 'swapped%'")
    assert {draft.status for draft in _back_up(service)} == {DraftStatus.COMPLETED}
    _restores(application, service)


# tables that change under a backup, in ways that an older snapshot does not protect from


def _after_the_snapshot(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    original = making.exported_snapshot

    @contextmanager
    def then(settings: Any) -> Iterator[Any]:
        with original(settings) as taken:
            act()
            yield taken

    monkeypatch.setattr(making, "exported_snapshot", then)


@pytest.mark.parametrize("kind", ["full", "incremental"])
@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TABLE events_1",),
        ("ALTER TABLE events DETACH PARTITION events_1", "ALTER TABLE events_1 SET SCHEMA attic"),
        ("ALTER TABLE marks SET SCHEMA attic", "CREATE TABLE marks (LIKE attic.marks INCLUDING ALL)",
         "ALTER TABLE marks ADD FOREIGN KEY (project_id) REFERENCES projects"),
        ("ALTER TABLE events ATTACH PARTITION attic.older FOR VALUES IN (7)",),
    ],
    ids=["a dropped partition", "a detached partition", "a table under another's name", "an attached partition"],
)  # fmt: skip
def test_tables_exchanged_while_they_are_read(
    application: Application, monkeypatch: pytest.MonkeyPatch, kind: str, statements: tuple[str, ...]
) -> None:
    """What is read under a name is not what was there at the recovery point: an error, and the next backup is right."""
    application.database.run(
        "CREATE SCHEMA attic; CREATE TABLE attic.older (LIKE events INCLUDING ALL); INSERT INTO attic.older VALUES (1, 7, 1, 'of before')"
    )
    service = application.service()
    _back_up(service, "full")
    application.database.run(
        "UPDATE marks SET body = 'changed' WHERE id < 5; UPDATE events SET body = 'changed' WHERE id < 5"
    )
    with monkeypatch.context() as patch:
        _after_the_snapshot(patch, lambda: application.database.run(*statements))
        for draft in _back_up(service, kind):
            assert draft.error is not None
            assert draft.error.code == "SBH-304"
    assert [draft.error for draft in _back_up(service)] == [None, None]


def test_a_new_partition_disturbs_nobody(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was made after the recovery point has no rows of before."""
    statement = (
        "CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2); INSERT INTO events VALUES (1, 2, 1, 'late')"
    )
    _after_the_snapshot(monkeypatch, lambda: application.database.run(statement))
    assert [draft.error for draft in _back_up(application.service(), "full")] == [None, None]


def test_a_parent_rewritten_before_its_children_are_read(application: Application) -> None:
    """To our snapshot a rewritten table is empty, and rows that have their tenant from it seem to have none."""
    # The largest tables are read first: `marks` is to come last.
    application.database.run("DELETE FROM marks WHERE id > 140", "VACUUM FULL marks")
    service = application.service()
    _back_up(service, "full")
    application.database.run("UPDATE marks SET body = 'changed' WHERE id < 5")

    def act(step: Progress) -> None:
        if step.step == rows.STEP and step.done == step.total - 1:
            application.database.run("ALTER TABLE projects ALTER COLUMN body TYPE text USING body || ''")

    drafts = _back_up(service, progress=act)
    assert {draft.error.code for draft in drafts if draft.error} == {"SBH-304"}
    assert len(drafts) == 2


# windows


def test_a_base_of_long_ago_is_not_counted_from(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each backup is near its parent, but the base of all layers is half the circle of transaction ids away."""
    monkeypatch.setattr(delta, "MAX_LAYERS", 2)
    service = application.service()
    _back_up(service, "full")
    for nth in range(2):
        application.database.run(f"UPDATE marks SET body = 'round {nth}' WHERE id IN (7 + 2 * {nth}, 8 + 2 * {nth})")
        _back_up(service)
    monkeypatch.setattr(delta, "MAX_WINDOW", 1)
    application.database.run("UPDATE marks SET body = 'last' WHERE id IN (21, 22)")
    for draft in _back_up(service):
        (reason,) = {draft.reread.get("public.marks")}
        assert reason is not None
        assert "transactions have gone by since it was last read whole" in reason
    _restores(application, service)


def _point(snapshot: str, lsn: str = "0/500") -> RecoveryPoint:
    return RecoveryPoint("2026-01-01T00:00:00.000000Z", snapshot, lsn, "7", 1, 180000, "app")


@pytest.mark.parametrize(
    ("before", "now", "comparable"),
    [
        ("100:100:", "100:100:", True),
        ("100:105:100,103", "100:105:100,103", True),
        ("100:105:100,103", "100:106:100", True),
        ("100:105:100,103", "103:109:103,107", True),
        ("100:105:100", "100:105:100,103", False),
        ("100:106:100", "100:105:100", False),
        ("104:104:", "103:104:103", False),
        ("100:106:100,104", "100:109:100,102,107", False),
        # A standby's snapshot has no list.
        ("100:105:", "100:106:100,103", True),
    ],
)
def test_a_snapshot_that_shows_less_is_not_later(before: str, now: str, comparable: bool) -> None:
    """A transaction that had ended at the one and runs at the other: the two were taken in the other order."""
    assert (incomparable(_point(before), _point(now)) is None) == comparable
