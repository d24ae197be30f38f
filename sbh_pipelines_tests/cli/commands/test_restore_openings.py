"""A restore resolves its backup once and opens the repository once, and leaves in the trail just what it did."""

from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site import site as sites
from sbh_pipelines.cli.command import Invocation
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.cli.conftest import Sbh, sql

TENANT = ("--tenant", "tenant-6")
MINE = "tenant_id = (SELECT id FROM tenants WHERE slug = 'tenant-6')"
DAMAGE = f"UPDATE users SET name = 'nobody' WHERE {MINE}"


class Watch:
    """What commands open and ask the stores for, and what they leave in the tenant's trail."""

    def __init__(self, sbh: Sbh, service: BackupService) -> None:
        self._sbh, self._service = sbh, service
        self.openings: list[str] = []

    def run(self, *arguments: str) -> tuple[Any, list[str], dict[str, int], list[str]]:
        """(its document, the tenants whose repositories were opened, requests by verb, events in order)."""
        seen = self._events()
        self.openings.clear()
        before = dict(self._service.request_counts())
        ended = self._sbh(*arguments, *TENANT, "--json")
        assert ended.status == 0, ended.err
        openings, counts = list(self.openings), dict(self._service.request_counts())
        requests = {verb: n - before.get(verb, 0) for verb, n in counts.items() if n > before.get(verb, 0)}
        return ended.document, openings, requests, [name for seq, name in self._events() if (seq, name) not in seen]

    def _events(self) -> list[tuple[int, str]]:
        """Without those that looking at the trail leaves."""
        found = self._sbh("audit", "list", TENANT[1], "--limit", "1000", "--json").document["events"]
        return [(event["seq"], event["event"]) for event in reversed(found) if event["event"] != "audit.accessed"]


@pytest.fixture
def own_repository(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sample's settings with another place for backups: how much is asked for must not hang on what other tests stored."""
    monkeypatch.setenv("SBH_STORAGE__PREFIX", "openings/{tenant}/backups/")
    monkeypatch.setenv("SBH_STORAGE__CATALOG_PREFIX", "_openings/catalog/")
    monkeypatch.setenv("SBH_JOURNAL__ENABLED", "false")  # how much there is to fold hangs on what other tests changed
    return settings_file


@pytest.fixture
def watch(sbh: Sbh, own_repository: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    service = BackupService(load_settings(own_repository))
    monkeypatch.setattr(Invocation, "service", lambda _, from_copy=None: service)
    made, opened = Watch(sbh, service), sites.open_repository

    def counted(store: Any, prefix: str, tenant: str, *arguments: Any, **named: Any) -> Any:
        made.openings.append(str(tenant))
        return opened(store, prefix, tenant, *arguments, **named)

    monkeypatch.setattr(sites, "open_repository", counted)
    return made


def test_what_a_restore_opens_and_records(watch: Watch, sample_stack: Stack, backed_up: str) -> None:
    """One opening for the restore, and one for its safety backup; one for a plan. What was read once is not asked for again."""
    with sql(sample_stack, DAMAGE):
        plan, openings, looked, events = watch.run("restore", "diff", "latest")
    assert (plan["backup_id"], openings, events) == (backed_up, ["tenant-6"], ["restore.planned"])

    done, openings, requests, events = watch.run("restore", "run", "latest", "--confirm")
    assert (done["backup_id"], openings) == (backed_up, ["tenant-6"] * 2)
    assert events == ["restore.started", "backup.created", "restore.completed"]

    undone, openings, again, events = watch.run("restore", "undo", done["restore_id"], "--confirm")
    assert (undone["backup_id"], openings) == (done["safety_backup_id"], ["tenant-6"] * 2)
    assert events == ["restore.started", "backup.created", "restore.undone"]

    watch.run("restore", "run", "latest", "--confirm", "--no-safety-backup")  # as it was
    for asked, most in (
        (looked, {"get": 14, "put": 2, "list": 4}),
        (requests, {"get": 34, "put": 29, "head": 9, "list": 13}),
        (again, {"get": 34, "put": 27, "head": 9, "list": 11}),
    ):
        assert {verb: n for verb, n in asked.items() if n > most.get(verb, 0)} == {}
