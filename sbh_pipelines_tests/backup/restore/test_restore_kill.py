"""Restores killed for real, at every kind of thing they do: the tenant is as before or as planned, nothing between.

Files are put back one by one before the rows are committed, so of files each for itself is as before or as planned.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.restore.killed import Ended, Killer
from sbh_pipelines_tests.support.restore.sample_application import SampleApplication, Snapshot

# Sorts of events; a restore is killed at the first of each, at the last of some, and at the first of every sort of notice.
_SORTS = (
    "lease.json",
    "/restores/",
    "/packs/",
    "/index/",
    "/backups/database/",
    "/manifests/",
    "/records/",
    "/holds/",
    "store put_stream",
    "store delete",
    "statement BEGIN",
    "statement COPY",
    "statement CREATE TEMP",
    "statement DELETE",
    'statement INSERT INTO "public"',
    "statement COMMIT",
)
_LAST = ("lease.json", "/restores/", "store put_stream", "statement DELETE", 'statement INSERT INTO "public"')


@dataclass
class Scene:
    """The application, the backup, what was backed up, and who restores it."""

    sample: SampleApplication
    service: BackupService
    backup_id: str
    then: Snapshot
    killer: Killer

    def statuses(self) -> list[str]:
        return [found["restore_id"] for found in as_document(self.service.restores.of(ACME, ADMIN))]

    def lose(self, seed: int) -> Snapshot:
        self.sample.reset()
        self.sample.damage(seed)
        return self.sample.snapshot()

    def expire(self) -> None:
        """The lease of a process that is gone: as if its time were over."""
        (self.sample.application.repository(ACME) / "lease.json").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def scene(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("killed")
    with fresh_database(embedded_stack) as database:
        sample = SampleApplication(Application(database, directory), database)
        sample.create()
        service = sample.service()
        backup = service.create_backup(ACME, ADMIN)["id"]
        with Killer(sample.settings(safety_backup=True), directory) as killer:
            yield Scene(sample, service, backup, sample.snapshot(), killer)


def _number(events: list[str], point: tuple[str, int]) -> int:
    """Of the first (0) or the last (-1) event of a sort, from 1."""
    sort, which = point
    return [number for number, event in enumerate(events, 1) if sort in event][which]


def _points(events: list[str]) -> list[tuple[str, int]]:
    """The events to be killed at, each once, in their order."""
    assert all(any(sort in event for event in events) for sort in _SORTS), (
        "a restore does something else now: adapt them"
    )
    notices = dict.fromkeys(event for event in events if event.startswith("notice restore"))
    points = [*((sort, 0) for sort in (*_SORTS, *notices)), *((sort, -1) for sort in _LAST)]
    by_number = {_number(events, point): point for point in points}
    return [by_number[number] for number in sorted(by_number)]


def _as_before_or_as_planned(scene: Scene, before: Snapshot, after: Snapshot) -> bool:
    """Whether the rows are as planned; all is checked."""
    assert after.of_others(ACME) == before.of_others(ACME)
    planned = after.of(ACME) == scene.then.of(ACME)
    assert planned or after.of(ACME) == before.of(ACME)
    old, new, live = before.files[ACME], scene.then.files[ACME], after.files[ACME]
    assert all(body in (old.get(path), new.get(path)) for path, body in live.items())
    assert live.keys() >= old.keys() & new.keys()
    if planned:
        assert live.items() >= new.items()
    return planned


def _told(scene: Scene, known: list[str], planned: bool) -> str | None:
    """The id of the restore that was killed, which is told to be interrupted; None where it had not begun to be told."""
    new = [restore for restore in scene.statuses() if restore not in known]
    if not new:
        assert not planned
        return None
    (restore,) = new
    status = scene.service.get_restore_status(restore, ACME)
    assert status["status"] == "interrupted" or (planned and status["status"] == "completed")
    if status["status"] == "interrupted":
        assert status["error"]["remedy"]
    return restore


def test_killed_at_every_step(scene: Scene) -> None:
    """Killed before the event takes effect, told, and then in turn: run again, undone, or left as it is for the next one."""
    before = scene.lose(1)
    whole = scene.killer.restore(scene.backup_id, ACME)
    assert (whole.killed, whole.error) == (False, "")
    assert _as_before_or_as_planned(scene, before, scene.sample.snapshot())
    outcomes: set[object] = set()
    for nth, (point, then) in enumerate(zip(_points(whole.events), cycle(("again", "undo", "nothing")), strict=False)):
        events = whole.events
        for _ in range(9):
            known, before = scene.statuses(), scene.lose(nth)
            ended: Ended = scene.killer.restore(scene.backup_id, ACME, nth=_number(events, point))
            if ended.killed or ended.error:
                break
            events = ended.events  # it came to its end: its progress is noted the more often the longer it takes
        assert ended.killed, ended.error
        scene.expire()
        planned = _as_before_or_as_planned(scene, before, scene.sample.snapshot())
        restore = _told(scene, known, planned)
        outcomes.add((planned, restore is not None))
        secured = restore and scene.service.get_restore_status(restore, ACME).get("safety_backup_id")
        if then == "undo" and restore and secured:
            scene.service.restores.undo(restore, ACME, ADMIN)
            found = scene.sample.snapshot()
            assert (found.of(ACME), found.files) == (before.of(ACME), before.files)
            outcomes.add("undone")
        elif then == "again":
            scene.service.restore_backup(scene.backup_id, ACME, ADMIN)
            found = scene.sample.snapshot()
            assert (found.of(ACME), found.files[ACME]) == (scene.then.of(ACME), scene.then.files[ACME])
        assert scene.sample.files(BOLT) == scene.then.files[BOLT]
    assert outcomes >= {(False, True), (True, True), "undone"}


@pytest.mark.parametrize(
    "request_fields", [{"rows": "projects where id = 2"}, {"files": ["docs/**"]}, {"mode": "missing-only"}]
)
def test_a_part_killed_in_the_middle(scene: Scene, request_fields: dict[str, Any]) -> None:
    """Of a part as of the whole: rows as before, and a second run ends as one that was never killed."""
    scene.sample.reset()
    lost = "DELETE FROM comments WHERE project_id = 2; DELETE FROM tasks WHERE project_id = 2; DELETE FROM projects WHERE id = 2"
    scene.sample.database.run(lost)
    (scene.sample.application.bucket / "files" / ACME / "docs" / "a.txt").unlink()
    before, known = scene.sample.snapshot(), scene.statuses()
    moment = "store put_stream" if "files" in request_fields else 'INSERT INTO "public"."tasks"'
    whole = scene.killer.restore(scene.backup_id, ACME, **request_fields)
    assert (whole.killed, whole.error) == (False, "")
    planned = scene.sample.snapshot()
    scene.sample.reset()
    scene.sample.database.run(lost)
    (scene.sample.application.bucket / "files" / ACME / "docs" / "a.txt").unlink()
    assert scene.killer.restore(scene.backup_id, ACME, at=moment, after=True, **request_fields).killed
    scene.expire()
    found = scene.sample.snapshot()
    assert found.of(ACME) == before.of(ACME)
    statuses = {scene.service.get_restore_status(r, ACME)["status"] for r in scene.statuses() if r not in known}
    assert statuses == {"completed", "interrupted"}
    again = scene.killer.restore(scene.backup_id, ACME, **request_fields)
    assert (again.killed, again.error) == (False, "")
    found = scene.sample.snapshot()
    assert (found.of(ACME), found.files) == (planned.of(ACME), planned.files)
