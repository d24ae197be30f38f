"""A slug that changed hands: its repository adopted or put aside, bound by an earlier release's next backup, killed at any write."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import (
    LeaseHeld,
    LeaseLost,
    NotConfirmed,
    ObjectMissing,
    OwnerRefused,
    SlugChangedHands,
    SlugTaken,
)
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines_tests.backup.create.test_crash import Clock
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.fault_stores import DiesAtWrite, Killed, wrap
from sbh_pipelines_tests.support.store_time import store_time

ANN = UserContext("ann", ACME, Role.ADMIN)
REKEYED = (  # the same customer under another key: the application moved its tenants
    "INSERT INTO tenants SELECT 9, 'acme-9', region, tier, settings FROM tenants WHERE id = 1",
    "UPDATE projects SET tenant_id = 9 WHERE tenant_id = 1",
    "UPDATE notes SET tenant_id = 9 WHERE tenant_id = 1",
    "DELETE FROM tenants WHERE id = 1",
    "UPDATE tenants SET slug = 'acme' WHERE id = 9",
)


@pytest.fixture
def clock() -> Iterator[Clock]:
    """Everybody's clock, the store's too."""
    made = Clock()
    with store_time(made):
        yield made


@pytest.fixture
def rekeyed(application: Application, clock: Clock) -> Application:
    application.service(clock=clock).backups.create(ACME, ADMIN)
    clock.move()
    application.database.run(*REKEYED)
    return application


def owner_of(application: Application, home: str = ACME) -> object:
    return json.loads((application.repository(home) / "keys" / "0001.json").read_text()).get("owner")


def _rows(application: Application) -> list[object]:
    tables = ("projects", "notes", "items")
    return [application.database.ask(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables]


def strip_owner(application: Application) -> None:
    """As an earlier release left it."""
    file = application.repository(ACME) / "keys" / "0001.json"
    document = json.loads(file.read_text())
    del document["owner"]
    file.write_text(json.dumps(document))


def test_the_same_customer_under_another_key_has_its_own_again(rekeyed: Application, clock: Clock) -> None:
    """To read, to export, to look at; its rows have the former key and go into no live table."""
    service = rekeyed.service(clock=clock)
    with pytest.raises(SlugTaken):
        service.backups.of(ACME, ANN)
    with pytest.raises(NotConfirmed):
        service.keys.adopt(ACME, ADMIN, confirm="")
    with pytest.raises(OwnerRefused):
        service.keys.adopt(ACME, ADMIN, confirm=ACME, former_keys=["7"])
    done = service.keys.adopt(ACME, ADMIN, confirm=ACME)
    assert (done.key, list(done.former_keys), done.left) == ("9", ["1"], 0)
    with pytest.raises(OwnerRefused):
        service.keys.adopt(ACME, ADMIN, confirm=ACME)
    with pytest.raises(OwnerRefused):
        service.keys.retire(ACME, ADMIN, confirm=ACME)
    (old,) = service.backups.of(ACME, ANN)
    service.exports.export(old.id, ACME, ANN, rekeyed.directory / "out")
    before = _rows(rekeyed)
    for way in (service.restores.run, service.restores.plan):
        with pytest.raises(SlugChangedHands):
            way(old.id, ACME, ANN)
    assert _rows(rekeyed) == before
    clock.move()
    new = service.backups.create(ACME, ANN, "incremental")  # nothing of the former key's rows is taken for unchanged
    rekeyed.database.run(
        "DELETE FROM notes WHERE tenant_id = 9", "UPDATE projects SET body = 'lost' WHERE tenant_id = 9"
    )
    assert {m.id for m in service.backups.of(ACME, ANN)} == {old.id, new.id}
    service.restores.run(new.id, ACME, ANN)
    assert _rows(rekeyed) == before
    assert service.backups.recovery_points([], ADMIN).recovery_points[0].backup_id == new.id
    assert service.audit.verify(ADMIN, ACME).valid
    (event,) = service.audit.events(ADMIN, ACME, event="tenant.adopted").events
    assert event.props["former_keys"] == ["1"]


def _stored(application: Application, home: str) -> dict[str, int]:
    """When what backups write was written; not that one failed."""
    root = application.repository(home)
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {str(n): (root / n).stat().st_mtime_ns for n in names if n.parts[0] not in ("failures", "audit")}


def test_a_lease_on_the_former_tenants_repository_is_none_on_the_new_ones(
    rekeyed: Application, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that learns of the change while it takes the lease has taken the wrong one: it writes nothing, and then goes on."""
    monkeypatch.setattr("sbh_pipelines.backup.site.owners._MARKS_S", 1e9)
    daemon = rekeyed.service(clock=clock)
    with pytest.raises(SlugTaken):
        daemon.backups.of(ACME, ANN)
    another = rekeyed.service(clock=clock)
    another.keys.retire(ACME, ADMIN, confirm=ACME)
    first = another.backups.create(ACME, ANN)
    clock.move()
    there = _stored(rekeyed, "acme~2")
    with pytest.raises(LeaseLost, match="changed hands"):
        daemon.backups.create(ACME, ANN)
    assert _stored(rekeyed, "acme~2") == there
    second = daemon.backups.create(ACME, ANN)
    assert [m.id for m in another.backups.of(ACME, ANN)] == [second.id, first.id]


def test_a_repository_of_an_earlier_release_is_bound_by_its_next_backup(application: Application, clock: Clock) -> None:
    service = application.service(clock=clock)
    service.backups.create(ACME, ADMIN)
    strip_owner(application)
    clock.move()
    fresh = application.service(clock=clock)
    assert len(fresh.backups.of(ACME, ANN)) == 1
    assert owner_of(application) is None  # looking writes nothing
    application.database.run("DELETE FROM notes WHERE tenant_id = 1 AND body IS NULL")
    fresh.backups.create(ACME, ANN, "incremental")
    assert owner_of(application) is not None
    fresh.keys.rotate([ACME], ADMIN, new_data_key=True)
    fresh.keys.rotate([ACME], ADMIN, re_encrypt=True)
    bound = owner_of(application)
    clock.now += timedelta(hours=30)
    application.service(clock=clock).keys.rotate([ACME], ADMIN, re_encrypt=True)
    assert owner_of(application) == bound
    application.database.run(*REKEYED)
    with pytest.raises(SlugTaken):
        application.service(clock=clock).backups.of(ACME, ANN)


def test_where_the_catalogs_key_is_gone_the_newest_backup_says_it(application: Application, clock: Clock) -> None:
    service = application.service(clock=clock)
    service.backups.create(ACME, ADMIN)
    shutil.rmtree(application.bucket / "_sbh-catalog")
    clock.move()
    fresh = application.service(clock=clock)
    assert len(fresh.backups.of(ACME, ANN)) == 1
    before = owner_of(application)
    fresh.backups.create(ACME, ANN)
    assert owner_of(application) != before
    application.database.run(*REKEYED)
    with pytest.raises(SlugTaken):
        application.service(clock=clock).backups.of(ACME, ANN)


def test_what_holds_the_lease_is_waited_for(rekeyed: Application, clock: Clock) -> None:
    service = rekeyed.service(clock=clock)
    rekeyed.database.run("INSERT INTO tenants VALUES (1, 'gone', 'eu-west-1', NULL, NULL)")
    rekeyed.database.run("UPDATE tenants SET slug = 'x' WHERE id = 9", "UPDATE tenants SET slug = 'acme' WHERE id = 1")
    drafts = rekeyed.service(clock=clock).backups.begin([ACME], ADMIN)
    assert drafts[0].error is None
    rekeyed.database.run(
        "UPDATE tenants SET slug = 'gone' WHERE id = 1", "UPDATE tenants SET slug = 'acme' WHERE id = 9"
    )
    for act in (service.keys.adopt, service.keys.retire):
        with pytest.raises(LeaseHeld):
            act(ACME, ADMIN, confirm=ACME)


def _adopt(service: BackupService) -> object:
    return service.keys.adopt(ACME, ADMIN, confirm=ACME)


def _retire(service: BackupService) -> object:
    return service.keys.retire(ACME, ADMIN, confirm=ACME)


@pytest.mark.parametrize("unbound", [False, True], ids=["bound", "of an earlier release"])
@pytest.mark.parametrize("act", [_adopt, _retire])
def test_killed_at_any_write_it_goes_on(
    rekeyed: Application, clock: Clock, act: Callable[[BackupService], object], *, unbound: bool
) -> None:
    """Until it is done the tenant is refused, as before; then the backups are there, for whom they should be."""
    if unbound:
        strip_owner(rekeyed)
    root = rekeyed.directory / "objects"
    kept = rekeyed.directory / "kept"
    shutil.copytree(root, kept)
    begun, outcomes = clock.now, set()
    for nth in range(1, 40):
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        clock.now = begun
        death = DiesAtWrite(nth)
        killed = False
        try:
            act(wrap(rekeyed.service(clock=clock), death.before, death.after, clock))
        except Killed:
            killed = True
        clock.move()
        outcomes.add(_refused(rekeyed, clock))
        if killed:
            try:
                act(rekeyed.service(clock=clock))
            except OwnerRefused:  # it was done but for its lease
                assert not _refused(rekeyed, clock)
        assert not _refused(rekeyed, clock)
        made = rekeyed.service(clock=clock)
        assert made.backups.create(ACME, ANN).id
        former = made.backups.of(ACME, ADMIN, former_key="1")
        assert len(former) >= 1
        assert act is _retire or made.backups.validate(former[-1].id, ACME, ADMIN).valid
        assert len(made.backups.of(ACME, ANN)) == (2 if act is _adopt else 1)
        if not killed:
            break
    assert outcomes == {True, False}
    assert 3 < nth < 30


def test_a_binding_backup_killed_at_any_write_leaves_it_bound_or_not(application: Application, clock: Clock) -> None:
    application.service(clock=clock).backups.create(ACME, ADMIN)
    strip_owner(application)
    clock.move()
    root, kept = application.directory / "objects", application.directory / "kept"
    shutil.copytree(root, kept)
    begun, seen = clock.now, set()
    for nth in range(1, 60, 2):
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        clock.now = begun
        death = DiesAtWrite(nth)
        try:
            wrap(application.service(clock=clock), death.before, death.after, clock).backups.create(ACME, ADMIN)
        except Killed:
            seen.add(owner_of(application) is not None)
        else:
            break
        clock.move()
        assert application.service(clock=clock).backups.create(ACME, ANN).id
        assert owner_of(application) is not None
    assert seen == {True, False}


def _refused(application: Application, clock: Clock) -> bool:
    try:
        application.service(clock=clock).backups.of(ACME, ANN)
    except SlugTaken:
        return True
    return False


def test_regions_that_were_not_told_refuse_until_they_are(rekeyed: Application, clock: Clock) -> None:
    """The slug's next tenant is in a region that a killed run did not reach."""
    service = rekeyed.service(clock=clock)
    service.keys.retire(ACME, ADMIN, confirm=ACME)
    marks = sorted(rekeyed.directory.joinpath("objects").rglob("former/acme.json"))
    assert len(marks) == 2  # one a region
    for mark in marks:
        if "eu-west-1" in str(mark):
            mark.unlink()
    with pytest.raises(SlugTaken):
        rekeyed.service(clock=clock).backups.of(ACME, ANN)
    assert rekeyed.service(clock=clock).keys.retire(ACME, ADMIN, confirm=ACME).next_home == "acme~2"
    assert rekeyed.service(clock=clock).backups.of(ACME, ANN) == []


def test_a_region_that_is_set_up_later_keeps_nothing_from_changing_hands(
    rekeyed: Application, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no bucket as yet: nothing is asked of it, and it does not hold the slug's number back."""
    there = Store.list

    def listed(store: Store, *args: str) -> Iterator[ObjectInfo]:
        if "eu-west-1" not in store.url(""):
            raise ObjectMissing("No such bucket", on=store.url(""))
        return there(store, *args)

    monkeypatch.setattr(Store, "list", listed)
    for home, following in (("acme", "acme~2"), ("acme~2", "acme~3")):
        service = rekeyed.service(clock=clock)
        done = service.keys.retire(ACME, ADMIN, confirm=ACME)
        assert (done.home, done.next_home) == (home, following)
        clock.move()
        rekeyed.service(clock=clock).backups.create(ACME, ADMIN)
        rekeyed.database.run("UPDATE tenants SET slug = 'x' || id WHERE slug = 'acme'")
        rekeyed.database.run(f"INSERT INTO tenants VALUES ({len(home) + 50}, 'acme', 'eu-west-1', NULL, NULL)")
        clock.move()
    rekeyed.service(clock=clock).keys.erase(ACME, ADMIN, confirm=ACME, reason="left", former_key="9")


@pytest.mark.parametrize("damage", ["wrapped by a key that is gone", "no object of a key"])
def test_what_nobody_can_open_is_put_aside(rekeyed: Application, clock: Clock, damage: str) -> None:
    """Else the slug's next tenant were never backed up."""
    file = rekeyed.repository(ACME) / "keys" / "0001.json"
    document = json.loads(file.read_text())
    wrapped = base64.b64encode(bytes(60)).decode()
    file.write_text(json.dumps({**document, "wrapped": wrapped}) if damage.startswith("wrapped") else "{}")
    clock.move()
    done = rekeyed.service(clock=clock).keys.retire(ACME, ADMIN, confirm=ACME)
    assert (done.home, done.next_home, list(done.former_keys)) == (ACME, "acme~2", [])
    assert rekeyed.service(clock=clock).backups.create(ACME, ANN).id
