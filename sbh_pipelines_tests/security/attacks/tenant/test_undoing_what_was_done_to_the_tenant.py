"""A tenant's admin wants their suspension lifted, a dismissed user let in, a revoked key to work: by restoring their own past.

What stops them: what `restore.kept` names is never taken from a backup for a tenant's own users, whatever part they ask for.
"""

from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import KeptAsItIs, SbhError, SettingsError
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.databases import fresh_database

MALLORY = UserContext("mallory", ACME, Role.ADMIN)
KEPT = ["tenants.*", "users.disabled_at", "users.role", "api_keys.*"]
_TABLES = """
CREATE TABLE users (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, email text NOT NULL, role text, disabled_at date);
CREATE TABLE api_keys (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users, secret text);
INSERT INTO users SELECT n, 1 + n % 2, 'user ' || n, 'admin' FROM generate_series(1, 20) n;
INSERT INTO api_keys SELECT n, n, 'key ' || n FROM generate_series(1, 20) n;
"""
# Acme is suspended; user 2 is dismissed, 4 is no admin any more; the keys of 2 are revoked, 6 has a new one. Then mallory's own mess.
_SINCE = """
UPDATE tenants SET tier = 'suspended' WHERE id = 1;
UPDATE users SET disabled_at = '2026-01-01' WHERE id = 2; UPDATE users SET role = 'reader' WHERE id = 4;
DELETE FROM api_keys WHERE user_id = 2; UPDATE api_keys SET secret = 'new' WHERE user_id = 6;
UPDATE users SET email = 'spoilt' WHERE tenant_id = 1; DELETE FROM notes WHERE tenant_id = 1;
"""


@pytest.fixture
def suspended(application: Application) -> Application:
    application.database.run(_TABLES)
    application.service().backups.create(ACME, ADMIN, "full")
    application.database.run(_SINCE)
    return application


def _service(application: Application, kept: Any = KEPT) -> BackupService:
    return application.service(restore={"kept": kept, "safety_backup": True})


def _state(application: Application) -> dict[str, Any]:
    ask = application.database.ask
    return {
        "tier": ask("SELECT tier FROM tenants WHERE id = 1")[0][0],
        "disabled": ask("SELECT id FROM users WHERE disabled_at IS NOT NULL"),
        "readers": ask("SELECT id FROM users WHERE role = 'reader'"),
        "keys of 2": ask("SELECT count(*) FROM api_keys WHERE user_id = 2")[0][0],
        "key of 6": ask("SELECT secret FROM api_keys WHERE user_id = 6")[0][0],
    }


@pytest.mark.parametrize(
    "request_fields",
    [
        {},
        {"mode": "missing-only"},
        {"config_only": True},
        {"all_but": ["notes"]},
        {"tables": ["users", "notes"]},
        {"rows": "users where id in (2, 4, 6)"},
    ],
    ids=str,
)
def test_whatever_part_is_restored(suspended: Application, request_fields: dict[str, Any]) -> None:
    """The rest comes back, plan and result say what stayed, and the proof holds."""
    service, before = _service(suspended), _state(suspended)
    request = RestoreRequest.of(**request_fields)
    plan = service.restores.plan("latest", ACME, MALLORY, request)
    done = service.restores.run("latest", ACME, MALLORY, request)
    assert _state(suspended) == before
    assert done.kept == plan.kept
    assert "public.tenants.*" in done.kept or request.tables or request.rows
    if request.whole and not request_fields:
        assert done.kept == ("public.api_keys.*", "public.tenants.*", "public.users.disabled_at", "public.users.role")
        assert suspended.database.ask("SELECT count(*) FROM users WHERE email = 'spoilt'") == [(0,)]
        assert suspended.database.ask("SELECT count(*) > 0 FROM notes WHERE tenant_id = 1") == [(True,)]
        assert service.restores.plan("latest", ACME, MALLORY).nothing_to_do
        service.restores.undo(done.restore_id, ACME, MALLORY)
        assert _state(suspended) == before


@pytest.mark.parametrize(
    "request_fields", [{"tables": ["tenants"]}, {"tables": ["public.api_keys"]}, {"rows": "tenants where id = 1"}]
)
def test_what_is_kept_cannot_be_named(suspended: Application, request_fields: dict[str, Any]) -> None:
    service, before = _service(suspended), _state(suspended)
    for call in (service.restores.plan, service.restores.run):
        with pytest.raises(KeptAsItIs):
            call("latest", ACME, MALLORY, RestoreRequest.of(**request_fields))
    assert _state(suspended) == before


def test_the_undo_of_an_administrators_restore(suspended: Application) -> None:
    """A restore by the platform took all of it from the backup, on purpose; to undo that undoes nothing that was done since."""
    service = _service(suspended)
    done = service.restores.run("latest", ACME, ADMIN)
    assert (done.kept, _state(suspended)["tier"]) == ((), "critical")
    suspended.database.run(
        "UPDATE tenants SET tier = 'suspended again' WHERE id = 1; DELETE FROM api_keys WHERE user_id = 8"
    )
    service.restores.undo(done.restore_id, ACME, MALLORY)
    assert _state(suspended)["tier"] == "suspended again"
    assert suspended.database.ask("SELECT count(*) FROM api_keys WHERE user_id = 8") == [(0,)]
    assert suspended.database.ask("SELECT count(*) FROM users WHERE email = 'spoilt'") == [(10,)]


def test_without_a_setting_the_tenants_row_stays(suspended: Application) -> None:
    """As it does for an administrator of the platform who restores as the tenant would."""
    service = _service(suspended, None)
    done = service.restores.run("latest", ACME, MALLORY)
    assert (done.kept, _state(suspended)["tier"]) == (("public.tenants.*",), "suspended")
    as_tenant = RestoreRequest.of(as_tenant=True)
    assert service.restores.run("latest", ACME, ADMIN, as_tenant).kept == ("public.tenants.*",)
    service.restores.run("latest", ACME, ADMIN)
    assert _state(suspended)["tier"] == "critical"


def test_into_another_database(suspended: Application) -> None:
    """Which may be the application's own by another name: the same is kept there, also where rows are compared by content."""
    service, before = _service(suspended), _state(suspended)
    with fresh_database(suspended.database.stack, suspended.database.name) as copy:
        done = service.restores.run("latest", ACME, ADMIN, RestoreRequest.of(as_tenant=True), into_database=copy.dsn)
        assert len(done.kept) == 4
        assert _state(Application(copy, suspended.directory)) == before
        assert copy.ask("SELECT count(*) FROM users WHERE email = 'spoilt'") == [(0,)]


@pytest.mark.parametrize(
    "name", ["userz.disabled_at", "users.disabeld_at", "users.id", "users.tenant_id", "notes.body", "users", "*", ""]
)
def test_a_setting_that_keeps_nothing_is_no_setting(suspended: Application, name: str) -> None:
    """Nobody of the tenant restores until it is corrected."""
    service = _service(suspended, ["tenants.*", name])
    with pytest.raises(SettingsError, match=r"restore\.kept"):
        service.restores.run("latest", ACME, MALLORY)
    assert _state(suspended)["tier"] == "suspended"


_HANGING = """
ALTER TABLE api_keys DROP CONSTRAINT api_keys_user_id_fkey,
  ADD CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE;
CREATE TABLE teams (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants);
CREATE TABLE blocked (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE);
ALTER TABLE users ADD limited_by int REFERENCES teams ON DELETE SET NULL;
"""
_CAME_SINCE = """
INSERT INTO teams VALUES (7, 1);
INSERT INTO users (id, tenant_id, email) VALUES (30, 1, 'new'), (31, 1, 'blocked');
INSERT INTO api_keys VALUES (30, 30, 'held against them'); INSERT INTO blocked VALUES (31, 31);
UPDATE users SET limited_by = 7 WHERE id = 2;
"""


@pytest.mark.parametrize("tables", [["users"], ["teams"]], ids=str)
def test_what_is_kept_goes_with_nothing_that_it_refers_to(application: Application, tables: list[str]) -> None:
    """`references: declared` deletes or changes rows outside the restore that refer to what goes: none of those that are kept."""
    application.database.run(_TABLES + _HANGING)
    kept = [*KEPT, "blocked.*", "users.limited_by"]
    database = {"excluded": ["blocked"]}
    service = application.service(restore={"kept": kept, "safety_backup": True}, database=database)
    service.backups.create(ACME, ADMIN, "full")
    application.database.run(_CAME_SINCE)
    ask = application.database.ask

    def state() -> list[object]:
        return [ask(f"SELECT * FROM {name} ORDER BY id") for name in ("api_keys", "blocked", "users", "teams")]

    before = state()
    request = RestoreRequest.of(tables=tables, references="declared")
    assert {r.done for r in service.restores.plan("latest", ACME, MALLORY, request).references} == {None}
    with pytest.raises(SbhError, match="refer"):
        service.restores.run("latest", ACME, MALLORY, request)
    assert state() == before
    # To keep what they refer to is no harm, and the platform may do as the keys declare.
    service.restores.run("latest", ACME, MALLORY, RestoreRequest.of(tables=tables, references="keep"))
    assert state()[:2] == before[:2]
    service.restores.run("latest", ACME, ADMIN, request)
    assert state() != before
