"""Mallory takes a slug that another tenant gave up, gets an admin's token for it, and wants what was kept under it: backups, records,
the trail, a word in what becomes of them, and to count as safe by them.

A repository is bound to the tenant's key in the application; another key is refused (SBH-217) until an administrator of the platform
has put it aside, and then the newcomer's is another repository, under a name that no slug can have.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from sbh_pipelines.api.routes.operations import permitted
from sbh_pipelines.api.runs import operations
from sbh_pipelines.api.runs.dagster import Run
from sbh_pipelines.backup.keys.certificate import ErasureCertificate
from sbh_pipelines.backup.keys.erasure import _Erasure
from sbh_pipelines.backup.service import tenants as module
from sbh_pipelines.backup.site.owners import Owners
from sbh_pipelines.errors import (
    AccessDenied,
    CorruptObject,
    KeyServiceError,
    OwnerRefused,
    SbhError,
    SlugTaken,
    SourceUnavailable,
    TenantErased,
    UnknownBackup,
    UnknownTenant,
)
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.fault_stores import Killed

MALLORY = UserContext("mallory", ACME, Role.ADMIN)
TAKEN = (
    "UPDATE tenants SET slug = 'acme-inc' WHERE slug = 'acme'",
    "INSERT INTO tenants (id, slug, region, tier) VALUES (9, 'acme', 'eu-west-1', 'critical')",
)


@pytest.fixture
def taken(application: Application) -> Application:
    """Acme is backed up, pinned, restored, and drilled for; then it is called otherwise, and Mallory's tenant is `acme`."""
    service = application.service()
    backup = service.backups.create(ACME, ADMIN).id
    service.retention.hold(ACME, ADMIN, reason="a dispute with Mallory")
    service.approvals.request_restore(backup, ACME, ADMIN, reason="Acme's own reason")
    application.database.run("DELETE FROM notes WHERE tenant_id = 1")
    service.restores.run(backup, ACME, ADMIN)
    application.database.run(*TAKEN)
    return application


def _reads(application: Application, backup: str) -> dict[str, Callable[[], object]]:
    service = application.service()
    (restored,) = application.repository(ACME).joinpath("restores").glob("*.json")
    restore = restored.stem
    return {
        "list": lambda: service.backups.of(ACME, MALLORY),
        "overview": lambda: service.backups.overview(ACME, MALLORY),
        "status": lambda: service.backups.status(backup, ACME, MALLORY),
        "unfinished": lambda: service.backups.unfinished(ACME, MALLORY, "failed"),
        "recovery point": lambda: service.backups.latest_recovery_point(ACME, MALLORY),
        "validate": lambda: service.backups.validate(backup, ACME, MALLORY),
        "plan": lambda: service.restores.plan(backup, ACME, MALLORY),
        "restore": lambda: service.restores.run(backup, ACME, MALLORY),
        "undo": lambda: service.restores.undo(restore, ACME, MALLORY),
        "plan of an undo": lambda: service.restores.plan_undo(restore, ACME, MALLORY),
        "restores": lambda: service.restores.of(ACME, MALLORY),
        "one restore": lambda: service.restores.status(restore, ACME, MALLORY),
        "approvals": lambda: service.approvals.of(ACME, MALLORY),
        "holds": lambda: service.retention.holds(ACME, MALLORY),
        "drills": lambda: service.drills.of(ACME, MALLORY),
        "trail": lambda: service.audit.events(MALLORY, ACME),
        "trail's end": lambda: service.audit.verify(MALLORY, ACME),
        "trail in a file": lambda: service.audit.export(MALLORY, application.directory / "trail", ACME),
        "export": lambda: service.exports.export(backup, ACME, MALLORY, application.directory / "out"),
        "open": lambda: service.exports.open(backup, ACME, MALLORY),
        "keys": lambda: service.keys.status(MALLORY, [ACME]),
        "report": lambda: service.drills.report(MALLORY, [ACME]),
    }


def _writes(application: Application, backup: str) -> dict[str, Callable[[], object]]:
    service = application.service()
    return {
        "backup": lambda: service.backups.create(ACME, MALLORY),
        "incremental": lambda: service.backups.create(ACME, MALLORY, "incremental"),
        "forget": lambda: service.retention.forget(ACME, MALLORY, backup_id=backup),
        "policy": lambda: service.retention.forget(ACME, MALLORY),
        "prune": lambda: service.retention.prune(ACME, MALLORY),
        "pin": lambda: service.retention.pin(backup, ACME, MALLORY),
        "approval": lambda: service.approvals.request_restore(backup, ACME, MALLORY, reason="mine"),
        "claim": lambda: service.launches.permit(ACME, MALLORY, "backup.create"),
    }


def _stored(application: Application) -> dict[str, bytes]:
    """All of the former tenant's repository."""
    root = application.repository(ACME)
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_nothing_that_is_kept_under_the_slug_is_given_out(taken: Application) -> None:
    (backup, *_) = sorted(file.stem for file in taken.repository(ACME).joinpath("manifests").iterdir())
    before = _stored(taken)
    for name, way in {**_reads(taken, backup), **_writes(taken, backup)}.items():
        with pytest.raises(SlugTaken) as caught:
            way()
        assert "sbh tenants retire acme --confirm acme" in caught.value.remedy, name
        assert "dispute" not in str(caught.value)
    assert _stored(taken) == before  # no lease, no failure, no event of Mallory's among those of Acme
    said = taken.service().audit.events(ADMIN, limit=200).events
    assert {e.user_id for e in said if e.event == "access.denied" and e.props["tenant"] == ACME} == {"mallory"}
    for act in (taken.service().keys.retire, taken.service().keys.adopt):
        with pytest.raises(AccessDenied):
            act(ACME, MALLORY, confirm=ACME)
    with pytest.raises(AccessDenied):
        taken.service().backups.of(ACME, MALLORY, former_key="1")


def test_nobody_is_safe_by_anothers_backups(taken: Application) -> None:
    """Neither in the recovery points, nor in health and alerts; and no tick finds a newcomer unchanged."""
    service = taken.service()
    points = {p.tenant_id: p.recovery_point for p in service.backups.recovery_points([], ADMIN).recovery_points}
    assert points[ACME] is None
    found = service.health.examine(ADMIN)
    assert {f.error.code for f in found.findings if f.tenant == ACME} == {"SBH-217"}
    assert found.ages.get(ACME) is None
    (draft,) = service.backups.create_all([ACME], ADMIN, "incremental")
    assert draft.error is not None
    assert draft.error.code == "SBH-217"


def test_what_was_put_aside_stays_the_former_tenants(taken: Application, tmp_path: Path) -> None:
    service = taken.service()
    before = _stored(taken)
    done = service.keys.retire(ACME, ADMIN, confirm=ACME)
    assert (done.home, done.next_home, list(done.former_keys)) == (ACME, "acme~2", ["1"])
    own = service.backups.create(ACME, MALLORY)
    assert [m.id for m in service.backups.of(ACME, MALLORY)] == [own.id]
    assert taken.repository("acme~2").joinpath("keys", "0001.json").exists()
    assert service.retention.holds(ACME, MALLORY) == []
    assert service.restores.of(ACME, MALLORY) == []
    assert service.approvals.of(ACME, MALLORY) == ([], [])
    events = service.audit.events(MALLORY, ACME, limit=200).events
    assert {event.user_id for event in events} == {"mallory"}
    for name in ("tenant.retired", "backup.created"):
        assert name in {e.event for e in service.audit.events(ADMIN, ACME, former_key="1", limit=200).events}
    # Mallory's forgetting, pruning and erasing is of Mallory's.
    service.backups.create(ACME, MALLORY)
    service.retention.forget(ACME, MALLORY, backup_id=own.id)
    service.retention.prune(ACME, MALLORY)
    service.keys.rotate([], ADMIN, everyone=True, new_data_key=True)
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Mallory left")
    after = _stored(taken)
    kept = {name for name in before if name.startswith(("manifests/", "packs/", "index/", "holds/", "restores/"))}
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    service.exports.export("latest", ACME, ADMIN, tmp_path / "out", former_key="1")
    # Should Acme get its slug back, it has its own again.
    taken.database.run("DELETE FROM tenants WHERE id = 9", "UPDATE tenants SET slug = 'acme' WHERE id = 1")
    again = taken.service()
    assert len(again.backups.of(ACME, ADMIN)) == 1
    assert again.restores.plan("latest", ACME, ADMIN).backup_id


def test_an_erasure_destroys_one_tenants_backups(taken: Application) -> None:
    service = taken.service()
    with pytest.raises(OwnerRefused):
        service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Mallory left")
    service.keys.retire(ACME, ADMIN, confirm=ACME)
    service.backups.create(ACME, MALLORY)
    with pytest.raises(SbhError, match="legal hold"):
        service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Acme left", former_key="1")
    (hold,) = service.retention.holds(ACME, ADMIN, former_key="1")
    with pytest.raises(AccessDenied):
        service.retention.release(hold.id, ACME, MALLORY, former_key="1")
    service.retention.release(hold.id, ACME, ADMIN, former_key="1")
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Acme left", former_key="1")
    assert {name.split("/")[0] for name in _stored(taken)} == {"audit"}
    assert len(taken.service().backups.of(ACME, MALLORY)) == 1
    assert service.backups.create(ACME, MALLORY).id


def test_an_erasure_of_the_former_tenant_goes_on_and_is_told_of_as_its_own(
    taken: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once its keys are gone; then finished, asked for again, and its trail looked at. Mallory's is never taken for it."""

    def erase() -> ErasureCertificate:
        return taken.service().keys.erase(ACME, ADMIN, confirm=ACME, reason="Acme left", former_key="1")

    service = taken.service()
    service.keys.retire(ACME, ADMIN, confirm=ACME)
    own = service.backups.create(ACME, MALLORY)
    (hold,) = service.retention.holds(ACME, ADMIN, former_key="1")
    service.retention.release(hold.id, ACME, ADMIN, former_key="1")
    with monkeypatch.context() as patched:
        patched.setattr(_Erasure, "_forget_records", _killed)
        with pytest.raises(Killed):
            erase()
    assert not taken.repository(ACME).joinpath("keys", "0001.json").exists()
    done = erase()
    assert erase() == done
    assert done.tenant_id == ACME
    service = taken.service()
    events = {event.event for event in service.audit.events(ADMIN, ACME, former_key="1", limit=200).events}
    assert {"tenant.retired", "tenant.erased"} <= events
    for key in ("1", "77"):
        with pytest.raises((UnknownBackup, UnknownTenant, TenantErased)):
            service.backups.of(ACME, ADMIN, former_key=key)
    with pytest.raises(UnknownTenant):
        service.audit.events(ADMIN, ACME, former_key="77")
    assert [m.id for m in service.backups.of(ACME, MALLORY)] == [own.id]


def _killed(_: object) -> NoReturn:
    raise Killed


def test_what_an_erasure_leaves_is_not_the_next_ones(application: Application) -> None:
    """The trail of an erased tenant stays, where whoever gets the slug next has nothing."""
    service = application.service()
    service.backups.create(ACME, ADMIN)
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="left")
    application.database.run(*TAKEN)
    with pytest.raises(UnknownBackup):
        application.service().retention.holds(ACME, MALLORY)
    assert {e.user_id for e in application.service().audit.events(MALLORY, ACME).events} <= {"mallory"}
    assert application.service().backups.create(ACME, MALLORY).id


def test_a_token_of_a_slug_that_nobody_has_opens_nothing(application: Application) -> None:
    """Mallory takes the slug, gets a token, and deletes the tenant: by its slug alone nobody is the one who had it."""
    service = application.service()
    backup = service.backups.create(ACME, ADMIN).id
    application.database.run("UPDATE tenants SET slug = 'acme-inc' WHERE slug = 'acme'")
    for way in (
        lambda: service.backups.get(backup, ACME, MALLORY),
        lambda: service.exports.export(backup, ACME, MALLORY, application.directory / "out"),
        lambda: service.restores.run(backup, ACME, MALLORY),
        lambda: service.audit.events(MALLORY, ACME),
        lambda: service.backups.status(backup, ACME, MALLORY),
    ):
        with pytest.raises(UnknownTenant):
            way()
    assert service.backups.get(backup, ACME, ADMIN).id == backup


def test_the_application_says_nothing_into_anothers_trail(taken: Application) -> None:
    service = taken.service()
    before = _stored(taken)
    service.audit.track(ACME, "user.invited", "mallory", "app", {})
    assert _stored(taken) == before
    (event,) = service.audit.events(ADMIN, event="user.invited").events
    assert event.props["tenant"] == ACME


def test_a_mark_that_somebody_else_made_opens_and_hides_nothing(application: Application) -> None:
    """Who may write to the bucket says that a repository was put aside for Mallory, or copies another's word."""
    service = application.service()
    backup = service.backups.create(ACME, ADMIN).id
    service.backups.create(BOLT, ADMIN)
    folder = application.bucket / "_sbh-catalog" / "eu-west-1" / "former"
    folder.mkdir()
    (folder / "acme.json").write_text('{"home": "acme", "key": "00000000", "owners": [], "mac": "00"}')
    assert [m.id for m in application.service().backups.of(ACME, ADMIN)] == [backup]
    application.database.run(*TAKEN)
    application.service().keys.retire(ACME, ADMIN, confirm=ACME)  # the forged one is written over
    genuine = (folder / "acme.json").read_bytes()
    assert application.service().backups.of(ACME, MALLORY) == []
    (folder / "acme.json").write_bytes(genuine.replace(b'"acme"', b'"bolt"'))
    (folder / "bolt.json").write_bytes(genuine)
    assert len(application.service().backups.of(BOLT, ADMIN)) == 1
    with pytest.raises(SlugTaken):
        application.service().backups.of(ACME, MALLORY)


def test_an_owner_shows_nothing_and_cannot_be_made(application: Application) -> None:
    """Another repository's word does not count, and taking the word away leaves the newest backup's."""
    service = application.service()
    service.backups.create(ACME, ADMIN)
    service.backups.create(BOLT, ADMIN)
    acme, bolt = (application.repository(tenant) / "keys" / "0001.json" for tenant in (ACME, BOLT))
    application.database.run(*TAKEN)
    mine, other = json.loads(acme.read_text()), json.loads(bolt.read_text())
    assert set(mine["owner"]) == {"key", "tag"}
    for owner in (other["owner"], None, {"key": mine["owner"]["key"], "tag": "9"}, {"key": "00000000", "tag": "9"}, 7):
        acme.write_text(json.dumps({**mine, "owner": owner}))
        with pytest.raises(SlugTaken):
            application.service().backups.of(ACME, MALLORY)


def test_without_the_check_it_would_be_open(taken: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """These attacks are real: with the check taken out the newcomer reads the former tenant's records."""
    monkeypatch.setattr(Owners, "check", lambda *_: None)
    monkeypatch.setattr(Owners, "admits", lambda *_, **__: True)
    service = taken.service()
    assert service.retention.holds(ACME, MALLORY)
    assert service.restores.of(ACME, MALLORY)
    assert any(event.user_id != "mallory" for event in service.audit.events(MALLORY, ACME).events)


def test_what_a_process_remembers_of_tenants_opens_nothing(application: Application) -> None:
    """The API's memory of the tenants table is some seconds old: it may count backups by it, and not open them."""
    service = application.service()
    backup = service.backups.create(ACME, ADMIN).id
    service.tenants.remember(600.0)
    assert service.restores.plan(backup, ACME, MALLORY).backup_id == backup  # as yet Acme's own
    application.database.run(*TAKEN)
    for way in (
        lambda: service.restores.plan(backup, ACME, MALLORY),
        lambda: service.exports.export(backup, ACME, MALLORY, application.directory / "out"),
        lambda: service.audit.events(MALLORY, ACME),
        lambda: service.restores.run(backup, ACME, MALLORY),
        lambda: service.launches.permit(ACME, MALLORY, "backup.restore"),
    ):
        with pytest.raises(SlugTaken):
            way()


def test_an_outage_of_the_database_opens_nothing_to_who_was_known_before(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mallory waits until nobody can ask whose the slug is: the service remembers whose it was last."""
    service = application.service()
    service.tenants.remember(0.01)
    backup = service.backups.create(ACME, ADMIN).id
    application.database.run(*TAKEN)
    with pytest.raises(SlugTaken):
        service.backups.of(ACME, MALLORY)

    def gone(*_: object) -> NoReturn:
        raise SourceUnavailable("The database is out of reach")

    monkeypatch.setattr(module, "find_tenant", gone)
    monkeypatch.setattr(module, "list_tenants", gone)
    for way in (
        lambda: service.backups.of(ACME, MALLORY),
        lambda: service.exports.export(backup, ACME, MALLORY, application.directory / "out"),
        lambda: service.exports.open(backup, ACME, MALLORY),
    ):
        with pytest.raises(SlugTaken):
            way()


@pytest.mark.parametrize("remembers", [True, False], ids=["a process that knows the tenants", "a fresh one"])
def test_an_outage_of_the_database_opens_nothing_to_a_slug_that_nobody_has(
    application: Application, monkeypatch: pytest.MonkeyPatch, remembers: bool
) -> None:
    """Mallory has a token of a slug that was given up; users of the platform have its backups all the same."""
    backup = application.service().backups.create(ACME, ADMIN).id
    application.database.run(TAKEN[0])
    service = application.service()
    if remembers:
        service.tenants.remember(0.01)
        with pytest.raises(UnknownTenant):
            service.backups.of(ACME, MALLORY)

    def gone(*_: object) -> NoReturn:
        raise SourceUnavailable("The database is out of reach")

    monkeypatch.setattr(module, "find_tenant", gone)
    monkeypatch.setattr(module, "list_tenants", gone)
    for way in (
        lambda: service.backups.of(ACME, MALLORY),
        lambda: service.restores.plan(backup, ACME, MALLORY),
        lambda: service.audit.events(MALLORY, ACME),
        lambda: service.exports.export(backup, ACME, MALLORY, application.directory / "out"),
        lambda: service.exports.open(backup, ACME, MALLORY),
    ):
        with pytest.raises(UnknownTenant if remembers else SourceUnavailable):
            way()
    assert [made.id for made in service.backups.of(ACME, ADMIN)] == [backup]
    service.exports.open(backup, ACME, ADMIN).close()


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"epoch": 1, "tenant_id": "acme"}'], ids=["empty", "bare", "halved"])
def test_a_damaged_key_object_opens_nothing_and_hides_nothing_of_others(taken: Application, damage: bytes) -> None:
    """Mallory, or an accident: whose the repository is cannot be read any more. Nobody's events go into its trail then."""
    taken.service().backups.create(BOLT, ADMIN)
    (taken.repository(ACME) / "keys" / "0001.json").write_bytes(damage)
    before = _stored(taken)
    (backup, *_) = sorted(file.stem for file in taken.repository(ACME).joinpath("manifests").iterdir())
    for name, way in {**_reads(taken, backup), **_writes(taken, backup)}.items():
        with pytest.raises(CorruptObject):
            way()
        assert name
    taken.service().audit.track(ACME, "user.invited", "mallory", "app", {})
    assert _stored(taken) == before
    (event,) = taken.service().audit.events(ADMIN, event="user.invited").events
    assert event.props["tenant"] == ACME
    assert len(taken.service().backups.of(BOLT, ADMIN)) == 1
    taken.service().health.examine(ADMIN)
    taken.service().backups.recovery_points([], ADMIN)
    assert taken.service().keys.status(ADMIN)


@pytest.mark.parametrize("binds", [None, ["home"], []], ids=["as it was", "said", "unsaid"])
def test_a_former_tenants_key_is_none_in_the_newcomers_repository(taken: Application, binds: list[str] | None) -> None:
    """Who may write to the bucket gives Mallory Acme's wrapped key and records, under Mallory's own genuine word of ownership."""
    service = taken.service()
    service.keys.retire(ACME, ADMIN, confirm=ACME)
    service.backups.create(ACME, MALLORY)
    acme, mine = taken.repository(ACME), taken.repository("acme~2")
    own = json.loads((mine / "keys" / "0001.json").read_text())
    moved = {**json.loads((acme / "keys" / "0001.json").read_text()), "owner": own["owner"]}
    said = {} if binds is None else {"home": "acme~2", "binds": binds}
    for folder in ("holds", "approvals", "restores"):
        for file in acme.joinpath(folder).iterdir() if acme.joinpath(folder).exists() else ():
            mine.joinpath(folder).mkdir(exist_ok=True)
            (mine / folder / file.name).write_bytes(file.read_bytes())
    (mine / "keys" / "0001.json").write_text(json.dumps({**moved, **said}))
    for way in (
        lambda: taken.service().approvals.of(ACME, MALLORY),
        lambda: taken.service().restores.of(ACME, MALLORY),
        lambda: taken.service().backups.create(ACME, MALLORY),
    ):
        with pytest.raises((CorruptObject, KeyServiceError)):
            way()
    (mine / "keys" / "0001.json").write_text(json.dumps(own))
    acme.joinpath("keys", "0001.json").write_text(json.dumps({**own, "owner": moved["owner"]}))
    with pytest.raises((CorruptObject, KeyServiceError)):  # nor the other way round
        taken.service().backups.of(ACME, ADMIN, former_key="1")


def test_keys_of_a_later_repository_are_wrapped_anew_renewed_and_erased(taken: Application) -> None:
    """They say which one is theirs through all that changes them."""
    taken.service().keys.retire(ACME, ADMIN, confirm=ACME)
    service = taken.service()
    service.backups.create(ACME, MALLORY)
    service.keys.rotate([ACME], ADMIN)
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    for file in taken.repository("acme~2").joinpath("keys").iterdir():
        assert json.loads(file.read_text())["home"] == "acme~2"
    again = taken.service()
    again.backups.create(ACME, MALLORY)
    again.retention.prune(ACME, MALLORY)
    assert len(again.backups.of(ACME, MALLORY)) == 2
    again.keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
    again.keys.readmit(ACME, ADMIN)
    assert taken.service().backups.create(ACME, MALLORY).id


def test_runs_of_the_former_tenant_are_not_the_newcomers_operations(taken: Application) -> None:
    """Dagster goes by slugs; the API asks each run whose it is."""
    service = taken.service()
    call = SimpleNamespace(at=lambda from_copy: service, user=MALLORY, tenant_or_all=lambda: ACME)
    former, newcomer = (Tenant(TenantId(ACME), key, "eu-west-1", "critical") for key in ("1", "9"))

    def run(**tags: str) -> Run:
        return Run("0" * 8, "SUCCESS", "job", {"sbh/via": "api", "sbh/tenant": ACME, **tags}, 0.0, None, None)

    runs = {
        "former": run(**{operations.OWNER_TAG: operations.owner_tag(former)}),
        "earlier": run(),
        "own": run(**{operations.OWNER_TAG: operations.owner_tag(newcomer)}),
    }
    with pytest.raises(SlugTaken):
        permitted(call, "backup.status")  # type: ignore[arg-type]
    service.keys.retire(ACME, ADMIN, confirm=ACME)
    whose = permitted(call, "backup.status")  # type: ignore[arg-type]
    seen = {name for name, one in runs.items() if whose.has(one) and whose.tags.items() <= one.tags.items()}
    assert seen == {"own"}
