"""A copy becomes the primary: after the loss of the first place, and planned; the former place refuses; and back again.

Two object servers of their own for each, and on both the buckets have the same names. What comes back is judged by `embedded.fingerprint`.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import psycopg2
import pytest

from sbh_pipelines.backup.copies.promotion import handover, promotion
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.fence import place_name, read_marks
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.sample import changes, fingerprint
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.servers import object_server, postgres, process
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import running
from sbh_pipelines.errors import CopyError, NotPromoted, PrimaryFenced, SbhError
from sbh_pipelines.model import utc_now
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.copy_server import NAME, CopyServer, copy_server

TENANTS = ["tenant-1", "tenant-2"]
VICTIM = TENANTS[0]
ADMIN = UserContext("alice", "*", Role.ADMIN)
BACK = "back"
_WHOLE = RestoreRequest()


@dataclass
class Places:
    """Both servers, and the settings files of who works with either."""

    place: CopyServer

    @property
    def before(self) -> BackupService:
        """As a worker that was never told."""
        return BackupService(load_settings(self.place.settings))

    def told(self, primary: str, more: str = "") -> BackupService:
        """As one whose settings have the one line more."""
        path = self.place.settings.with_name(f"told-{primary}.toml")
        path.write_text(f'primary = "{primary}"\n' + self.place.settings.read_text("utf-8") + more, "utf-8")
        return BackupService(load_settings(path))

    def run(self, statement: str) -> None:
        with closing(psycopg2.connect(self.place.stack.dsn(postgres.ADMIN))) as connection, connection:
            connection.cursor().execute(statement)

    def first(self) -> dict[str, str | None]:
        """Key -> ETag of what the first place has of backups, without what a look leaves there."""
        found, layout = {}, self.layout
        for bucket in object_server.FILE_BUCKETS:
            s3 = object_server.client(layout, self.place.stack.ports)
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for entry in page.get("Contents", ()):
                    if "/backups/" in entry["Key"] or entry["Key"].startswith("_"):
                        found[f"{bucket}/{entry['Key']}"] = entry["ETag"]
        return {key: tag for key, tag in found.items() if "/audit/" not in key}

    @property
    def layout(self) -> Layout:
        return Layout(self.place.stack.dir)

    def lose_the_first(self) -> None:
        """The server is killed, its directory and its key put aside."""
        self._kill()
        self.layout.objects.rename(self.layout.objects.with_name("objects-aside"))
        self.layout.backup_key.rename(self.layout.backup_key.with_suffix(".aside"))

    def empty_first(self) -> None:
        """A new one with empty buckets, where the application's files are to be."""
        self.layout.objects.mkdir(mode=0o700)
        object_server.launch(self.layout, self.place.stack.ports)
        object_server.prepare(self.layout, self.place.stack.ports)

    def revive_the_first(self) -> None:
        """With its old data, in the place of the new one."""
        self._kill()
        self.layout.objects.rename(self.layout.objects.with_name("objects-new"))
        self.layout.objects.with_name("objects-aside").rename(self.layout.objects)
        self.layout.backup_key.with_suffix(".aside").rename(self.layout.backup_key)
        object_server.launch(self.layout, self.place.stack.ports)

    def _kill(self) -> None:
        layout = self.layout
        daemon = process.find(layout, object_server.NAME)
        assert daemon is not None
        os.kill(daemon.pid, signal.SIGKILL)
        process.stop(layout, daemon, signal.SIGKILL, patience_s=10)


@pytest.fixture
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with running(tmp_path_factory.mktemp("first"), fsync=False, kms=False) as stack:
        sample.generate(stack, tenants=len(TENANTS), rows=700, files=12, seed=5)
        with copy_server(stack, tmp_path_factory.mktemp("second"), "sbh-files-{region}") as place:
            yield Places(place)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is at work here who would go for a minute by what they saw."""
    monkeypatch.setattr(handover, "SETTLE_S", 0.0)


def backed_up(service: BackupService, kind: str) -> dict[str, str]:
    """The type of each tenant's new backup, by slug."""
    drafts = service.backups.create_all(TENANTS, ADMIN, kind)
    assert [draft.error for draft in drafts] == [None] * len(TENANTS)
    return {tenant: service.backups.get("latest", tenant, ADMIN).type for tenant in TENANTS}


def newest(service: BackupService) -> dict[str, str]:
    return {tenant: service.backups.get("latest", tenant, ADMIN).id for tenant in TENANTS}


def comes_back(places: Places, service: BackupService) -> None:
    """The victim is wrecked, restored from its newest backup, and is bit for bit as it was."""
    before = fingerprint.take(places.place.stack)
    changes.wreck(places.place.stack, VICTIM)
    assert before.differences(fingerprint.take(places.place.stack))
    service.restores.run("latest", VICTIM, ADMIN)
    assert before.differences(fingerprint.take(places.place.stack)) == {}


def test_the_first_place_is_lost(places: Places) -> None:
    """What the copy has is the beginning of what follows; the first place, back with its old data, refuses to be written to."""
    service = places.before
    backed_up(service, "full")
    backed_up(service, "incremental")
    service.platform.create(ADMIN)
    places.place.bring_over()
    known = newest(service)
    places.lose_the_first()
    with pytest.raises(CopyError, match="does not answer") as unanswered:
        places.before.copies.promote(ADMIN, NAME)
    assert f"sbh copies promote {NAME} --source-lost" in unanswered.value.remedy
    with pytest.raises(NotPromoted, match="SBH-645") as early:
        places.told(NAME).create_backup(VICTIM, ADMIN)
    assert early.value.remedy == f"sbh copies promote {NAME}"

    at_rest = places.place.objects()
    plan = places.before.copies.promote(ADMIN, NAME, source_lost=True)
    assert not plan.promoted
    assert {line.tenant_id: (line.standing, line.backup_id) for line in plan.tenants} == {
        tenant: ("ready", known[tenant]) for tenant in TENANTS
    }
    assert places.place.objects() == at_rest
    done = places.told(NAME).copies.promote(ADMIN, NAME, source_lost=True, confirm=True)  # the line was set too early
    assert done.promoted
    assert done.setting == f'primary = "{NAME}"'
    marked = places.place.objects()
    again = places.before.copies.promote(ADMIN, NAME, source_lost=True, confirm=True)
    assert (again.promoted, again.since) == (True, done.since)
    assert places.place.objects() == marked

    places.empty_first()
    with pytest.raises(PrimaryFenced):  # nothing of the former place is there, and its key is not
        places.before.create_backup(VICTIM, ADMIN)
    service = places.told(NAME)
    service.restores.run("latest", VICTIM, ADMIN, replace(_WHOLE, safety_backup=False))
    service.restores.run("latest", TENANTS[1], ADMIN, replace(_WHOLE, safety_backup=False))
    places.run("UPDATE payments SET amount = amount + 1 WHERE tenant_id IN (1, 2)")
    assert backed_up(service, "incremental") == dict.fromkeys(TENANTS, "incremental")
    assert {tenant: service.backups.get("latest", tenant, ADMIN).parent for tenant in TENANTS} == known
    at_rest = newest(service)
    backed_up(service, "incremental")
    assert newest(service) == at_rest  # nothing changed, and that their backups are there was seen at the copy
    comes_back(places, service)
    backed_up(service, "full")
    hold = service.retention.pin(known[VICTIM], VICTIM, ADMIN, reason="before the loss")
    service.retention.release(hold.id, VICTIM, ADMIN)
    service.retention.forget(VICTIM, ADMIN, backup_id=known[VICTIM])
    assert known[VICTIM] not in [one.id for one in service.backups.of(VICTIM, ADMIN)]
    service.retention.prune(VICTIM, ADMIN)
    service.platform.create(ADMIN)
    service.keys.rotate([VICTIM], ADMIN)
    assert service.backups.validate("latest", VICTIM, ADMIN, deep=True).valid
    assert all(trail.valid for trail in service.audit.verify_all(ADMIN))
    work = service.audit.events(ADMIN, f"*@{NAME}", event="copy.promoted", region="eu-west-1").events
    assert [event.user_id for event in work] == ["alice"]

    places.revive_the_first()
    first, copied = places.first(), places.place.objects()
    revived = places.before
    for write in (
        lambda: revived.create_backup(VICTIM, ADMIN),
        lambda: revived.restores.run("latest", VICTIM, ADMIN),
        lambda: revived.retention.forget(VICTIM, ADMIN),
        lambda: revived.retention.prune(VICTIM, ADMIN),
        lambda: revived.retention.hold(VICTIM, ADMIN, reason="x"),
        lambda: revived.retention.keep_journals(ADMIN),
        lambda: revived.keys.rotate([VICTIM], ADMIN),
        lambda: revived.platform.create(ADMIN),
        lambda: revived.journal.drain(ADMIN),
        lambda: revived.drills.run(VICTIM, ADMIN),
        lambda: revived.copies.run(ADMIN, NAME),
        lambda: revived.copies.prune(ADMIN, NAME),
    ):
        with pytest.raises(PrimaryFenced, match="SBH-644") as refused:
            write()
        assert f'primary = "{NAME}"' in refused.value.remedy
        assert "alice" in refused.value.why
    fences = {key for key in places.first() if key not in first}
    assert all("/primary/superseded-" in key for key in fences)
    assert len(fences) == 1  # in the other region there is nothing
    assert {key: tag for key, tag in places.first().items() if key not in fences} == first
    assert {key for key, tag in places.place.objects().items() if copied.get(key) != tag} == set()

    assert next(iter(revived.backups.of(VICTIM, ADMIN))).id == known[VICTIM]
    assert revived.backups.validate("latest", VICTIM, ADMIN).valid
    assert not revived.restores.plan("latest", VICTIM, ADMIN).problems
    places.place.settings.write_text(places.place.stack.settings.read_text("utf-8"), "utf-8")  # no copies in it at all
    with pytest.raises(PrimaryFenced):
        places.before.create_backup(VICTIM, ADMIN)


def test_planned_and_back(places: Places) -> None:
    """Nothing is lost on the way there, nor on the way back into a fresh bucket of the first server."""
    service = places.before
    backed_up(service, "full")
    places.place.bring_over()
    changes.work(places.place.stack, VICTIM)
    assert backed_up(service, "incremental")[VICTIM] == "incremental"  # not copied yet
    known = newest(service)
    plan = service.copies.promote(ADMIN, NAME)
    assert {line.tenant_id: line.standing for line in plan.tenants} == {VICTIM: "behind", TENANTS[1]: "behind"}
    done = service.copies.promote(ADMIN, NAME, confirm=True)
    assert done.promoted
    assert {line.tenant_id: (line.standing, line.backup_id) for line in done.tenants} == {
        tenant: ("ready", known[tenant]) for tenant in TENANTS
    }
    with pytest.raises(PrimaryFenced):
        places.before.create_backup(VICTIM, ADMIN)

    more = f"""
[[copies]]
name = "{BACK}"
to = "eu-west-1"
bucket = "sbh-back-{{region}}"
key_file = "{places.place.key_file.with_name("back.key")}"
"""
    places.place.key_file.with_name("back.key").write_text(Layout(places.place.stack.dir).backup_key.read_text())
    s3 = object_server.client(Layout(places.place.stack.dir), places.place.stack.ports)
    for region in object_server.REGIONS:
        s3.create_bucket(Bucket=f"sbh-back-{region}")
    there = places.told(NAME, more)
    changes.work(places.place.stack, VICTIM)
    assert backed_up(there, "incremental")[VICTIM] == "incremental"
    assert there.backups.get("latest", VICTIM, ADMIN).parent == known[VICTIM]
    comes_back(places, there)
    backed_up(there, "incremental")
    known = newest(there)
    assert there.copies.promote(ADMIN, BACK, confirm=True).promoted

    with pytest.raises(PrimaryFenced, match=BACK):
        places.told(NAME, more).create_backup(VICTIM, ADMIN)
    home = places.told(BACK, more)
    assert newest(home) == known
    with pytest.raises(CopyError, match="promoted to the primary"):
        home.copies.run(ADMIN, NAME)
    changes.work(places.place.stack, VICTIM)
    assert backed_up(home, "incremental")[VICTIM] == "incremental"
    comes_back(places, home)
    assert all(trail.valid for trail in home.audit.verify_all(ADMIN))


def test_work_that_is_under_way(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, and named; the fence stays, and the same command goes on. What began before it does not end there."""
    service = places.before
    backed_up(service, "full")
    drafts = service.backups.begin([VICTIM], ADMIN, "full")
    monkeypatch.setattr(handover, "LEASES_S", 0.0)
    with pytest.raises(SbhError, match="under way") as held:
        places.before.copies.promote(ADMIN, NAME, confirm=True)
    assert VICTIM in held.value.on
    assert places.place.objects() == {}
    late = places.before
    ended = late.backups.snapshot_tables(drafts)
    assert [type(draft.error) for draft in ended] == [PrimaryFenced]
    with pytest.raises(PrimaryFenced):
        places.before.create_backup(VICTIM, ADMIN)
    assert places.before.copies.promote(ADMIN, NAME, confirm=True).promoted


def test_a_mark_tells_what_it_should(places: Places) -> None:
    backed_up(places.before, "full")
    done = places.before.copies.promote(ADMIN, NAME, confirm=True)
    here = Site(load_settings(places.place.settings), utc_now)
    there = here.copy(NAME)
    for region in object_server.REGIONS:
        former, taken = read_marks(here.catalog(region), place_name(here, region)), place_name(there, region)
        mark = read_marks(there.catalog(region), taken).promoted
        assert mark is not None
        assert former.superseded is not None
        assert mark.id == former.superseded.id
        assert mark.place == former.superseded.place == done.place[region] == taken
        assert taken.startswith(f"sbh-files-{region} in eu-central-1 at ")
        assert mark.former == former.superseded.former == place_name(here, region)
        assert (mark.copy, mark.by) == (NAME, "alice")


def test_one_region_was_promoted_before(places: Places) -> None:
    """Its mark says nothing of the others: each is fenced and copied a last time before it is marked."""
    places.place.bring_over()
    backed_up(places.before, "full")  # not copied yet
    known = newest(places.before)
    settings = load_settings(places.place.settings)
    (copy,) = settings.copies
    empty = settings.model_copy(update={"copies": [copy.model_copy(update={"from_": ["us-east-1"]})]})
    assert promotion.promote(Site(empty, utc_now), NAME, [], "alice").promoted
    done = places.before.copies.promote(ADMIN, NAME, confirm=True)
    assert done.promoted
    assert {line.tenant_id: (line.standing, line.backup_id) for line in done.tenants} == {
        tenant: ("ready", known[tenant]) for tenant in TENANTS
    }
    here = Site(settings, utc_now)
    assert read_marks(here.catalog("eu-west-1"), place_name(here, "eu-west-1")).superseded is not None
    assert newest(places.told(NAME)) == known
