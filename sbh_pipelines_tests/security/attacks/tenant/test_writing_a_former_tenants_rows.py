"""Mallory has the slug of a tenant that was backed up before, and has got past what tells their backups apart: a fault of ours. Wanted
are that tenant's rows among Mallory's, in live tables.

Every restore asks of the rows that it would write whose they are, and once more of those that it wrote, before it commits.
"""

from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import restores as facet
from sbh_pipelines.backup.site.owners import Owners
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupId
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application

MALLORY = UserContext("mallory", ACME, Role.ADMIN)
TAKEN = {
    "renamed": (
        "UPDATE tenants SET slug = 'acme-inc' WHERE id = 1",
        "INSERT INTO tenants (id, slug, region, tier) VALUES (9, 'acme', 'eu-west-1', 'critical')",
        "DELETE FROM items i USING projects p WHERE p.id = i.project_id AND p.tenant_id = 1 AND i.id % 2 = 0",
        "DELETE FROM notes WHERE tenant_id = 1",
    ),
    "deleted": (
        "DELETE FROM items i USING projects p WHERE p.id = i.project_id AND p.tenant_id = 1",
        "DELETE FROM notes WHERE tenant_id = 1",
        "UPDATE projects SET lead = NULL WHERE tenant_id = 1",
        "DELETE FROM projects WHERE tenant_id = 1",
        "DELETE FROM tenants WHERE id = 1",
        "INSERT INTO tenants (id, slug, region, tier) VALUES (9, 'acme', 'eu-west-1', 'critical')",
    ),
}
SCOPES: dict[str, dict[str, Any]] = {
    "whole": {},
    "a table of its own": {"tables": ("projects",)},
    "a table below another": {"tables": ("items",)},
    "a table without a key": {"tables": ("notes",)},
    "both": {"tables": ("projects", "items")},
    "all but one": {"all_but": ("notes",)},
    "rows": {"rows": "projects where id > 0"},
    "rows of the tenants table": {"rows": "tenants where id = 1"},
    "configuration": {"config_only": True},
}


@pytest.fixture(params=TAKEN)
def taken(request: pytest.FixtureRequest, application: Application, monkeypatch: pytest.MonkeyPatch) -> str:
    """The former tenant's backup, and nothing that keeps it from Mallory."""
    backup = application.service().backups.create(ACME, ADMIN).id
    application.database.run(*TAKEN[request.param])
    _open(monkeypatch)
    return str(backup)


def _open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take out whatever tells whose a backup is."""
    monkeypatch.setattr(Owners, "check", lambda *_: None)
    monkeypatch.setattr(Owners, "admits", lambda *_, **__: True)
    monkeypatch.setattr(facet, "resolve_own", lambda _, text, *__, **___: BackupId(text))


def _everything(application: Application) -> list[object]:
    tables = ("tenants", "projects", "items", "notes")
    return [application.database.ask(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables]


@pytest.mark.parametrize("mode", ["exact", "missing-only", "newest-wins"])
def test_no_mode_and_no_scope_writes_them(application: Application, taken: str, mode: str) -> None:
    service, before, refused = application.service(), _everything(application), 0
    for name, scope in SCOPES.items():
        request = RestoreRequest.of(mode=mode, accept_schema_changes=True, **scope)
        try:
            service.restores.run(taken, ACME, ADMIN, request)
        except SbhError:
            refused += 1
        assert _everything(application) == before, name
    assert refused > len(SCOPES) / 2  # where a mode finds nothing to write there is nothing to refuse


def test_no_undo_writes_them(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """What undoes a restore of the former tenant's is a backup of the former tenant's."""
    service = application.service(restore={"safety_backup": True})
    backup = service.backups.create(ACME, ADMIN).id
    application.database.run("UPDATE notes SET body = 'a secret of Acme' WHERE tenant_id = 1")
    restored = service.restores.run(backup, ACME, ADMIN)
    application.database.run(*TAKEN["renamed"])
    _open(monkeypatch)
    before = _everything(application)
    with pytest.raises(SbhError):
        application.service().restores.undo(restored.restore_id, ACME, MALLORY)
    assert _everything(application) == before
