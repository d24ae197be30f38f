"""Forgetting, pins and legal holds on a real directory: what goes, what stays, and what a kill or a race leaves."""

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.retain import forget as forgetting
from sbh_pipelines.backup.retain import holds
from sbh_pipelines.backup.retain.forget import RetentionOutcome, apply_retention, forget
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import (
    AccessDenied,
    CorruptObject,
    ForgetRefused,
    LeaseHeld,
    LeaseLost,
    RequestError,
    StoreUnavailable,
    UnknownBackup,
    UnknownHold,
)
from sbh_pipelines.model import BackupId, BackupType, Tenant, TenantId, timestamp, utc_now
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.documents import read_signed, signed
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.cli.conftest import Sbh
from sbh_pipelines_tests.cli.conftest import sbh as sbh
from sbh_pipelines_tests.support.fault_stores import DiesAtWrite, Killed, Wrapped, nothing
from sbh_pipelines_tests.support.site import site_of, site_with_stores

ACME = Tenant(TenantId("acme"), "1", "eu-west-1", "critical")
BOLT = Tenant(TenantId("bolt"), "2", "eu-west-1", "critical")
DAY = timedelta(days=1)
START = datetime(2026, 1, 1, 2, tzinfo=UTC)
FULL, INCREMENTAL = BackupType.FULL, BackupType.INCREMENTAL
LAST_TWO = {"keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, "keep_last": 2}
Call = Callable[[str, str], None]


class Shelf:
    """A tenant's repository in a directory, with manifests that hold nothing but what retention reads."""

    def __init__(self, directory: Path, **retention: Any) -> None:
        key_file = directory / "backup.key"
        key_file.write_bytes(base64.b64encode(bytes(range(32))))
        policy = {
            "keep_within_hours": 0,
            "full_backups": LAST_TWO,
            "incremental_backups": {"keep_daily": 0},
            **retention,
        }
        self.settings = Settings(
            storage={"kind": "local", "path": directory / "objects"},  # type: ignore[arg-type]
            keys={"provider": "local", "key_file": key_file},  # type: ignore[arg-type]
            retention=policy,  # type: ignore[arg-type]
            backup={"lease_s": 60},  # type: ignore[arg-type]
        )
        self.now = START + 100 * DAY
        self.site = self.another()
        self.folder = directory / "objects" / "sbh-files-eu-west-1" / "files" / "acme" / "backups"

    def another(self, before: Call = nothing, after: Call = nothing) -> Site:
        """A site of another process, its store's calls watched."""
        return site_with_stores(self.settings, lambda: self.now, lambda store, _: Wrapped(store, before, after))

    def repository(self, tenant: Tenant = ACME) -> Repository:
        return self.site.repository(tenant, create=True)

    def add(self, moment: datetime, kind: BackupType = FULL, tenant: Tenant = ACME) -> BackupId:
        repository = self.repository(tenant)
        backup_id = BackupId.at(moment)
        manifest = {"id": backup_id, "tenant_id": tenant.id, "type": kind, "created_at": timestamp(moment)}
        repository.publish_manifest(repository.sign({**manifest, "format_version": 1}))
        return backup_id

    def days(self, count: int, kind: BackupType = FULL, tenant: Tenant = ACME) -> list[BackupId]:
        return [self.add(START + n * DAY, kind, tenant) for n in range(count)]

    def forget(
        self, backup_id: BackupId | None = None, dry_run: bool = False, site: Site | None = None
    ) -> RetentionOutcome:
        return forget(site or self.site, ACME, "ann", backup_id, dry_run)

    def there(self) -> list[str]:
        return sorted(file.stem for file in (self.folder / "manifests").glob("*.json"))

    def objects(self) -> dict[str, bytes]:
        return {str(f.relative_to(self.folder)): f.read_bytes() for f in self.folder.rglob("*") if f.is_file()}

    def listing(self) -> Any:
        return json.loads((self.folder / "listing.json").read_bytes())

    def hold(self, reason: str = "case 7", backup_id: BackupId | None = None) -> holds.Hold:
        return holds.place_hold(self.repository(), backup_id, reason, "ann", lambda: self.now)

    def pin(self, backup_id: BackupId, reason: str = "") -> holds.Hold:
        return holds.place_pin(self.repository(), backup_id, reason, "ann", lambda: self.now)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Keeps the last two full backups."""
    return Shelf(tmp_path)


def reasons(outcome: RetentionOutcome) -> dict[str, str]:
    return {b.id: ", ".join(b.reasons) for b in outcome.backups}


# what goes, and how it is told


def test_what_no_rule_keeps_goes_and_everything_says_why(shelf: Shelf) -> None:
    made = shelf.days(4)
    outcome = shelf.forget()
    assert shelf.there() == made[2:]
    assert outcome.forgotten == [made[1], made[0]]
    assert reasons(outcome) == {
        made[3]: "newest backup, newest full, last 1 of 2",
        made[2]: "last 2 of 2",
        made[1]: "no rule keeps it: it is number 3 of its type, keep_last keeps 2",
        made[0]: "no rule keeps it: it is number 4 of its type, keep_last keeps 2",
    }
    assert [b["id"] for b in shelf.listing()["backups"]] == made[2:]
    again = shelf.forget()
    assert (again.forgotten, shelf.there()) == ([], made[2:])


def test_a_dry_run_says_the_same_and_writes_nothing(shelf: Shelf) -> None:
    """Not even the lease: it runs beside a backup."""
    shelf.days(4)
    store, prefix = shelf.site.backup_store(ACME)
    leases.acquire(store, prefix, "a backup", "backup", 60, lambda: shelf.now)
    before = shelf.objects()
    outcome = shelf.forget(dry_run=True)
    assert shelf.objects() == before
    with pytest.raises(LeaseHeld):
        shelf.forget()
    assert shelf.objects() == before
    shelf.now += timedelta(minutes=5)
    assert as_document(shelf.forget()) == {**as_document(outcome), "dry_run": False}


def test_a_tenant_without_backups_has_nothing_to_forget(shelf: Shelf) -> None:
    """And is given no key; naming a backup of it is an error."""
    assert not shelf.forget().backups
    assert not shelf.folder.exists()
    with pytest.raises(UnknownBackup):
        shelf.forget(BackupId("backup_20260101_0200"))


def test_the_policy_is_the_tenants_own(tmp_path: Path) -> None:
    """An override for its slug wins over one for its tier."""
    shelf = Shelf(
        tmp_path,
        tiers={"critical": {"full_backups": {"keep_last": 1}}},
        tenants={"acme": {"full_backups": {"keep_last": 3}}},
    )
    made = shelf.days(5)
    shelf.forget()
    assert shelf.there() == made[2:]


# requests


def counted(shelf: Shelf, work: Callable[[Site], Any]) -> dict[str, int]:
    calls: dict[str, int] = {}

    def count(verb: str, key: str) -> None:
        calls[verb] = calls.get(verb, 0) + 1

    work(shelf.another(before=count))
    return calls


def retained(shelf: Shelf, backup_id: BackupId, kind: BackupType = FULL, **given: Any) -> Draft:
    """The retention step after a backup, by a process that made the backup just now."""
    created = datetime.strptime(backup_id, "backup_%Y%m%d_%H%M").replace(tzinfo=UTC)
    draft = Draft(ACME, backup_id, kind, "ann", timestamp(created), leases.new_owner("backup"))
    site = given.pop("site", shelf.site)
    shop = OpenDrafts(site)
    shop.take(draft)
    shop.repository(draft)
    given.pop("meanwhile", lambda: None)()
    (done,) = apply_retention(shop, [draft], given.pop("dry_run", False))
    return done


@pytest.mark.parametrize("backups", [5, 60])
def test_the_step_after_a_backup_costs_the_same_however_many_backups_there_are(tmp_path: Path, backups: int) -> None:
    """Known ones are not read again: the figures of docs/decisions/0004-retention-defaults.md."""
    shelf = Shelf(tmp_path, full_backups={**LAST_TWO, "keep_last": backups})
    shelf.days(backups)
    shelf.forget()
    newest = shelf.add(START + backups * DAY)
    shelf.site.track(ACME, "thing.done", "ann", {})
    whole = counted(shelf, lambda site: retained(shelf, newest, site=site))
    opening = counted(shelf, lambda site: opened_only(shelf, newest, site))
    step = {verb: whole[verb] - opening.get(verb, 0) for verb in whole}
    assert {verb: number for verb, number in step.items() if number} == {
        "list": 4,  # manifests, holds, index (for packs found damaged), holds once more
        "get": 2,  # listing.json, and the doomed manifest
        "get_with_etag": 2,  # the catalog's key for the audit trail, and where that ends
        "create": 1,  # the event
        "replace": 2,  # the lease, proved; where the trail ends
        "delete": 1,
        "put": 1,  # listing.json
    }


def opened_only(shelf: Shelf, backup_id: BackupId, site: Site) -> None:
    draft = Draft(ACME, backup_id, FULL, "ann", "", leases.new_owner("backup"))
    shop = OpenDrafts(site)
    shop.take(draft)
    shop.repository(draft)
    shop.end(draft)


def test_the_listing_is_written_only_when_it_changed(shelf: Shelf) -> None:
    shelf.days(2)
    shelf.forget()
    before = (shelf.folder / "listing.json").stat().st_mtime_ns
    assert "put" not in counted(shelf, lambda site: shelf.forget(site=site))
    assert (shelf.folder / "listing.json").stat().st_mtime_ns == before


def _changed(text: bytes) -> bytes:
    document = json.loads(text)
    document["backups"] = [{**b, "type": "incremental"} for b in document["backups"]]
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "spoil",
    [lambda text: None, lambda text: b"", lambda text: text[:-20], lambda text: b"[]", lambda text: b"{}", _changed],
    ids=["missing", "empty", "cut", "a list", "nothing", "changed"],
)
def test_a_listing_that_is_not_ours_is_made_anew(shelf: Shelf, spoil: Callable[[bytes], bytes | None]) -> None:
    """Missing, damaged or forged, it decides nothing: the manifests do."""
    made = shelf.days(3)
    expected = shelf.forget(dry_run=True)
    shelf.site.repository(ACME)
    forgetting.write_listing(shelf.repository(), forgetting.read_backups(shelf.repository()))
    file = shelf.folder / "listing.json"
    spoiled = spoil(file.read_bytes())
    file.unlink() if spoiled is None else file.write_bytes(spoiled)
    assert as_document(shelf.forget()) == {**as_document(expected), "dry_run": False}
    assert [b["id"] for b in shelf.listing()["backups"]] == made[1:]


def test_the_listing_of_another_tenant_or_a_manifest_is_not_believed(shelf: Shelf) -> None:
    """Neither in place of this tenant's listing; and a listing is no manifest."""
    made = shelf.days(3)
    shelf.days(3, INCREMENTAL, BOLT)
    forget(shelf.site, BOLT, "ann", None, False)
    others = shelf.folder.parents[1] / "bolt" / "backups" / "listing.json"
    for stranger in (others, shelf.folder / "manifests" / f"{made[0]}.json"):
        shutil.copy(stranger, shelf.folder / "listing.json")
        assert {b.type for b in shelf.forget(dry_run=True).backups} == {"full"}


def test_a_signed_document_is_of_one_kind_and_one_tenant(shelf: Shelf) -> None:
    """A genuine one does not pass for one of another kind, nor with the same key for another tenant's."""
    repository = shelf.repository()
    repository.store.put(repository.prefix + "x.json", signed(repository, "hold", {"backups": []}))
    assert read_signed(repository, "x.json", "hold") == {"backups": []}
    namesake = Repository(repository.store, repository.prefix, BOLT.id, repository.sealer)
    for reader, kind in ((repository, "listing"), (namesake, "hold")):
        with pytest.raises(CorruptObject):
            read_signed(reader, "x.json", kind)


def test_the_listing_never_makes_a_backup_exist(shelf: Shelf) -> None:
    """One whose manifest was deleted by hand is gone, whatever the listing says."""
    made = shelf.days(2)
    shelf.forget()
    (shelf.folder / "manifests" / f"{made[1]}.json").unlink()
    third = shelf.add(START + 5 * DAY)
    assert set(reasons(shelf.forget())) == {made[0], third}


# damage


def test_a_damaged_manifest_is_told_and_never_forgotten_by_the_policy(shelf: Shelf) -> None:
    """Nor does it take the place of one that can be restored."""
    made = shelf.days(4)
    (shelf.folder / "manifests" / f"{made[2]}.json").write_bytes(b"{}")
    outcome = shelf.forget()
    assert shelf.there() == [made[1], made[2], made[3]]
    assert [(e.code, made[2] in e.on) for e in outcome.errors] == [("SBH-601", True)]
    assert shelf.forget(made[2]).forgotten == [made[2]]
    assert shelf.there() == [made[1], made[3]]


@pytest.mark.parametrize("newest", [FULL, INCREMENTAL])
def test_the_last_full_is_one_that_can_be_read_also_where_the_listing_knows_a_newer(
    tmp_path: Path, newest: BackupType
) -> None:
    """Its manifest was damaged after it was listed: before anything is dropped, it is read again."""
    shelf = Shelf(tmp_path, full_backups={**LAST_TWO, "keep_last": 0})
    made = [shelf.add(START), shelf.add(START + DAY), shelf.add(START + 2 * DAY, newest)]
    forgetting.write_listing(shelf.repository(), forgetting.read_backups(shelf.repository()))
    victim = made[2] if newest is FULL else made[1]
    (shelf.folder / "manifests" / f"{victim}.json").write_bytes(b"{}")
    outcome = shelf.forget()
    good = made[1] if newest is FULL else made[0]
    assert good in shelf.there()
    assert "newest full" in reasons(outcome)[good]
    assert victim in shelf.there()
    assert [e.code for e in outcome.errors] == ["SBH-601"]


def test_a_full_older_than_the_finding_of_a_damaged_pack_is_not_the_last_good_one(tmp_path: Path) -> None:
    """Until a full is made after it, all stay; then that one is the last good one."""
    shelf = Shelf(tmp_path, full_backups={**LAST_TWO, "keep_last": 1})
    now = utc_now()
    old = [shelf.add(now - n * DAY) for n in (9, 8, 7)]
    tick = shelf.add(now - timedelta(hours=1), INCREMENTAL)
    shelf.repository().condemn(bytes(32))
    shelf.forget()
    assert shelf.there() == [*old, tick]
    with pytest.raises(ForgetRefused, match="last good full"):
        shelf.forget(old[0])
    good = shelf.add(now + timedelta(hours=1))
    shelf.forget()
    assert shelf.there() == [tick, good]


# one backup


def test_one_backup_is_forgotten_though_the_policy_keeps_it(shelf: Shelf) -> None:
    made = shelf.days(2)
    outcome = shelf.forget(made[0])
    assert shelf.there() == [made[1]]
    assert reasons(outcome) == {made[0]: "ann asked to forget it"}
    with pytest.raises(UnknownBackup):
        shelf.forget(made[0])


def test_the_newest_and_the_last_full_are_refused(shelf: Shelf) -> None:
    """Also where another full backup is there but cannot be read."""
    made = [shelf.add(START), shelf.add(START + DAY), shelf.add(START + 2 * DAY, INCREMENTAL)]
    with pytest.raises(ForgetRefused, match="newest"):
        shelf.forget(made[2])
    shelf.forget(made[1], dry_run=True)
    forgetting.write_listing(shelf.repository(), forgetting.read_backups(shelf.repository()))
    (shelf.folder / "manifests" / f"{made[1]}.json").write_bytes(b"{}")
    with pytest.raises(ForgetRefused, match="last good full"):
        shelf.forget(made[0])
    assert shelf.there() == made


# pins and holds


def test_pinned_and_held_backups_stay_and_say_so(shelf: Shelf) -> None:
    made = shelf.days(6)
    shelf.pin(made[0], "before the migration")
    shelf.pin(made[1])
    held = [shelf.hold("case 7", made[1]), shelf.hold("case 8", made[1])]
    said = reasons(shelf.forget())
    assert shelf.there() == [made[0], made[1], made[4], made[5]]
    assert said[made[0]] == "pinned: before the migration"
    for reason in ("pinned", f"legal hold {held[0].id}: case 7", f"legal hold {held[1].id}: case 8"):
        assert reason in said[made[1]].split(", ")
    for backup_id in made[:2]:
        with pytest.raises(ForgetRefused, match="pinned"):
            shelf.forget(backup_id)
    holds.release(shelf.repository(), f"pin-{made[0]}")
    holds.release(shelf.repository(), f"pin-{made[1]}")
    holds.release(shelf.repository(), held[0].id)
    with pytest.raises(ForgetRefused, match="case 8"):
        shelf.forget(made[1])
    shelf.forget()
    assert shelf.there() == [made[1], made[4], made[5]]


def test_a_hold_on_the_tenant_keeps_all_backups_and_those_to_come(shelf: Shelf) -> None:
    held = shelf.hold()
    made = shelf.days(5)
    assert shelf.forget().forgotten == []
    assert retained(shelf, made[-1]).retention.forgotten == ()  # type: ignore[union-attr]
    with pytest.raises(ForgetRefused, match="case 7"):
        shelf.forget(made[0])
    holds.release(shelf.repository(), held.id)
    assert len(shelf.forget().forgotten) == 3


def test_holds_say_who_placed_them_when_and_why(shelf: Shelf) -> None:
    made = shelf.days(1)
    pin, hold = shelf.pin(made[0], "ü\n"), shelf.hold("Fall 7 §")
    assert holds.read_holds(shelf.repository()) == [hold, pin]
    assert (hold.placed_by, hold.placed_at, hold.reason) == ("ann", timestamp(shelf.now), "Fall 7 §")
    assert shelf.pin(made[0], "another reason").id == pin.id
    assert [h.reason for h in holds.read_holds(shelf.repository())] == ["Fall 7 §", "another reason"]


def test_what_cannot_be_held_is_refused_and_leaves_nothing(shelf: Shelf) -> None:
    shelf.days(1)
    before = shelf.objects()
    for call in (
        lambda: shelf.pin(BackupId("backup_20200101_0000")),
        lambda: shelf.hold("x", BackupId("backup_20200101_0000")),
    ):
        with pytest.raises(UnknownBackup):
            call()
    for reason in ("", " \n", "x" * 501):
        with pytest.raises(RequestError, match="reason"):
            shelf.hold(reason)
    for hold_id in ("pin-backup_20260101_0200", "", "../manifests/backup_20260101_0200", "legal-tenant-00000000"):
        with pytest.raises(UnknownHold):
            holds.release(shelf.repository(), hold_id)
    assert shelf.objects() == before


def forged(text: bytes) -> bytes:
    return json.dumps({**json.loads(text), "reason": "forged"}).encode()


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda text: text[:-9], forged], ids=["empty", "cut", "forged"])
def test_a_damaged_hold_holds_and_is_told(shelf: Shelf, spoil: Callable[[bytes], bytes]) -> None:
    """Its key says what it protects; an admin can take it away."""
    made = shelf.days(6)
    placed = [shelf.pin(made[0]), shelf.hold("case 7", made[1])]
    for one in placed:
        file = shelf.folder / one.key
        file.write_bytes(spoil(file.read_bytes()))
    outcome = shelf.forget()
    assert shelf.there() == [*made[:2], *made[4:]]
    assert reasons(outcome)[made[0]] == "pinned, which is damaged"
    assert [e.code for e in outcome.errors] == ["SBH-601"] * 2
    for one in placed:
        assert holds.release(shelf.repository(), one.id).id == one.id
    shelf.forget()
    assert shelf.there() == made[4:]


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "x.json",
        "pin-.json",
        "legal-tenant.json",
        "pin-tenant.json",
        "pin-backup_1.json",
        "a/b.json",
        "legal-tenant-0badcafe",
    ],
)
def test_an_object_that_nobody_knows_holds_everything(shelf: Shelf, name: str) -> None:
    """It may be a hold of a newer release, or one whose key was changed."""
    made = shelf.days(4)
    file = shelf.folder / "holds" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"?")
    outcome = shelf.forget()
    assert (shelf.there(), len(outcome.errors)) == (made, 1)
    assert retained(shelf, made[-1]).retention.forgotten == ()  # type: ignore[union-attr]
    (unknown,) = holds.list_holds(shelf.repository())
    holds.release(shelf.repository(), unknown.id)
    assert len(shelf.forget().forgotten) == 2


def test_a_hold_copied_from_elsewhere_is_damaged_where_it_is(shelf: Shelf) -> None:
    """From another backup or another tenant: it protects by its key, and does not pass for genuine."""
    made = shelf.days(2)
    shelf.days(1, tenant=BOLT)
    mine = shelf.pin(made[0], "mine")
    theirs = holds.place_hold(shelf.repository(BOLT), None, "theirs", "bob", lambda: shelf.now)
    shutil.copy(shelf.folder / mine.key, shelf.folder / "holds" / f"pin-{made[1]}.json")
    shutil.copy(shelf.folder.parents[1] / "bolt" / "backups" / theirs.key, shelf.folder / theirs.key)
    found = {h.id: h for h in holds.read_holds(shelf.repository())}
    assert found[mine.id].damage is None
    for copied in (theirs.id, f"pin-{made[1]}"):
        assert found[copied].damage
        assert found[copied].reason == ""


# races and kills


@pytest.mark.parametrize("whole_tenant", [False, True])
def test_a_hold_placed_while_manifests_are_deleted_counts(shelf: Shelf, whole_tenant: bool) -> None:
    """Whoever forgets looks again after deleting, and puts back what is held by then."""
    made = shelf.days(5)
    before = shelf.objects()

    def meanwhile(verb: str, key: str) -> None:
        if verb == "delete":
            shelf.hold("case 7", None if whole_tenant else made[1])

    outcome = shelf.forget(site=shelf.another(before=meanwhile))
    stay = made if whole_tenant else [made[1], *made[3:]]
    assert shelf.there() == stay
    assert all(shelf.objects()[f"manifests/{backup}.json"] == before[f"manifests/{backup}.json"] for backup in stay)
    assert sorted(outcome.forgotten) == [b for b in made if b not in stay]
    assert [b["id"] for b in shelf.listing()["backups"]] == stay


def test_a_hold_that_came_too_late_says_so(shelf: Shelf) -> None:
    """The backup went between the look and the hold: no hold stays behind, and nobody believes that it holds."""
    made = shelf.days(3)

    def meanwhile(verb: str, key: str) -> None:
        if verb == "put" and "/holds/" in key:
            shelf.forget()

    repository = shelf.another(before=meanwhile).repository(ACME)
    with pytest.raises(UnknownBackup):
        holds.place_hold(repository, made[0], "case 7", "ann", lambda: shelf.now)
    assert holds.list_holds(shelf.repository()) == []


def test_a_kill_at_any_write_leaves_what_the_next_run_finishes(tmp_path: Path) -> None:
    """At each point no kept backup is missing, each that is left can be read, and the next run comes to the same end."""
    for nth in range(1, 20):
        shelf = Shelf(tmp_path)
        made = shelf.days(5)
        dies = DiesAtWrite(nth)
        try:
            shelf.forget(site=shelf.another(dies.before, dies.after))
            break
        except Killed:
            pass
        assert set(made[3:]) <= set(shelf.there())
        shelf.now += timedelta(minutes=5)
        assert not shelf.forget().errors
        assert shelf.there() == made[3:]
        assert [b["id"] for b in shelf.listing()["backups"]] == made[3:]
        shutil.rmtree(tmp_path / "objects")
    assert (
        nth == 9
    )  # after eight writes: lease, its proof, the catalog's key, event, end of trail, manifests, listing, release


def test_half_of_the_manifests_deleted_is_no_harm(shelf: Shelf) -> None:
    """A bulk delete that was cut short: the listing names backups that are gone."""
    made = shelf.days(6)
    forgetting.write_listing(shelf.repository(), forgetting.read_backups(shelf.repository()))
    for backup_id in made[1:3]:
        (shelf.folder / "manifests" / f"{backup_id}.json").unlink()
    assert shelf.forget().forgotten == [made[3], made[0]]
    assert shelf.there() == made[4:]


def test_whoever_lost_the_lease_deletes_nothing(shelf: Shelf) -> None:
    """It was asleep between deciding and deleting, and another writer took the tenant."""
    made = shelf.days(4)
    store, prefix = shelf.site.backup_store(ACME)
    taken: list[leases.Lease] = []

    def sleep(verb: str, key: str) -> None:
        if key.endswith("/holds/") and not taken:
            shelf.now += timedelta(minutes=5)
            taken.append(leases.acquire(store, prefix, "another", "backup", 60, lambda: shelf.now))

    with pytest.raises(LeaseLost):
        shelf.forget(site=shelf.another(before=sleep))
    assert taken
    assert shelf.there() == made


# the step after a backup


def test_the_step_forgets_and_releases_the_lease(shelf: Shelf) -> None:
    made = shelf.days(4)
    done = retained(shelf, made[3])
    assert done.status is DraftStatus.COMPLETED
    assert done.retention
    assert done.retention.forgotten == (made[1], made[0])
    assert set(done.retention.reasons) == set(made)
    assert done.retention.error is None
    assert shelf.there() == made[2:]
    assert Draft.from_dict(json.loads(json.dumps(done.as_dict()))) == done
    shelf.forget()  # at once: the lease was released


def test_a_dry_step_forgets_nothing(shelf: Shelf) -> None:
    made = shelf.days(4)
    done = retained(shelf, made[3], dry_run=True)
    assert done.retention
    assert (done.retention.forgotten, done.retention.dry_run) == ((made[1], made[0]), True)
    assert shelf.there() == made
    assert not (shelf.folder / "listing.json").exists()


def test_a_backup_is_not_forgotten_by_its_own_step(shelf: Shelf) -> None:
    """Not even where a clock that ran ahead dated the others after it."""
    later = [shelf.add(START + (50 + n) * DAY) for n in range(3)]
    own = shelf.add(START)
    done = retained(shelf, own)
    assert done.retention
    assert done.retention.reasons[own] == ("made just now",)
    assert shelf.there() == [own, *later[1:]]


@pytest.mark.parametrize("verb", ["list", "delete", "put", "replace"])
def test_a_failure_of_the_step_leaves_the_backup_completed_and_is_told(shelf: Shelf, verb: str) -> None:
    """The backup was published before; only `retention` says that something is left to do."""
    made = shelf.days(4)
    broken: list[str] = []

    def fail(called: str, key: str) -> None:
        if called in broken:
            raise StoreUnavailable("Cannot do it", on=key)

    def breaks() -> None:
        shelf.now += timedelta(seconds=1)
        broken.append(verb)

    done = retained(shelf, made[3], site=shelf.another(before=fail), meanwhile=breaks)
    assert (done.status, done.error) == (DraftStatus.COMPLETED, None)
    assert done.retention
    assert done.retention.error
    assert done.retention.error.code == "SBH-401"
    assert set(made[2:]) <= set(shelf.there())
    assert not (shelf.folder / "failures").exists()
    shelf.now += timedelta(minutes=5)
    shelf.forget()
    assert shelf.there() == made[2:]


def test_a_lost_lease_stops_the_step_and_not_the_backup(shelf: Shelf) -> None:
    made = shelf.days(4)
    store, prefix = shelf.site.backup_store(ACME)

    def overtaken() -> None:
        shelf.now += timedelta(minutes=5)
        leases.acquire(store, prefix, "another", "backup", 60, lambda: shelf.now)

    done = retained(shelf, made[3], meanwhile=overtaken)
    assert done.status is DraftStatus.COMPLETED
    assert done.retention
    assert done.retention.error
    assert done.retention.error.code == "SBH-604"
    assert shelf.there() == made


def test_a_defect_is_not_hidden_as_a_failed_retention(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shelf.days(1)
    monkeypatch.setattr(forgetting, "decide", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        retained(shelf, made[0])


@pytest.mark.parametrize("status", [DraftStatus.UNCHANGED, DraftStatus.FAILED])
def test_drafts_without_a_backup_pass_untouched(shelf: Shelf, status: DraftStatus) -> None:
    """They have no manifest and hold no lease."""
    shelf.days(4)
    draft = Draft(ACME, BackupId("backup_20260401_0000"), FULL, "ann", "", "", status=status)
    before = shelf.objects()
    assert apply_retention(OpenDrafts(shelf.site), [draft], False) == [draft]
    assert shelf.objects() == before


# who may, and the command line


def test_only_admins_of_the_tenant_forget_and_hold(shelf: Shelf) -> None:
    """Refused before the tenant is looked up, and before the store is asked."""
    service = BackupService(shelf.settings)
    backup = "backup_20260101_0200"
    for user in (UserContext("eve", "*", Role.OPERATOR), UserContext("eve", "bolt", Role.ADMIN)):
        for call in (
            lambda u: service.retention.forget("acme", u),
            lambda u: service.retention.forget("acme", u, backup_id=backup, dry_run=True),
            lambda u: service.retention.pin(backup, "acme", u),
            lambda u: service.retention.unpin(backup, "acme", u),
            lambda u: service.retention.hold("acme", u, reason="x"),
            lambda u: service.retention.release("legal-tenant-00000000", "acme", u),
        ):
            with pytest.raises(AccessDenied):
                call(user)
    with pytest.raises(AccessDenied):
        service.retention.holds("acme", UserContext("eve", "bolt", Role.ADMIN))


def test_the_commands(sbh: Sbh, settings_file: Path, sample_service: BackupService) -> None:
    """Pin, hold, forget, release on a real S3 server, as tables and as JSON."""
    slug = "tenant-5"
    repository = site_of(sample_service).repository(sample_service.tenants.find(slug), create=True)
    made = [BackupId.at(START + n * timedelta(minutes=1)) for n in range(5)]
    for n, backup_id in enumerate(made):
        manifest = {"id": backup_id, "tenant_id": slug, "type": "incremental" if n else "full", "format_version": 1}
        created = timestamp(START + n * timedelta(minutes=1))
        repository.publish_manifest(repository.sign({**manifest, "created_at": created}))
    try:
        assert (
            sbh("backup", "pin", made[1], "-t", slug, "--reason", "[red]why", "--json").document["reason"] == "[red]why"
        )
        held = sbh("backup", "hold", slug, "--backup", made[2], "--reason", "case 7", "--json").document["id"]
        shown = sbh("backup", "holds", slug)
        assert shown.status == 0
        assert all(text in shown.out for text in (held, f"pin-{made[1]}", "[red]why", "case 7"))
        dry = sbh("backup", "forget", slug, "--dry-run")
        assert dry.status == 0
        assert all(
            text in dry.out for text in (*made, "hourly 1 of 24", "pinned: [red]why", "would be forgotten", "same hour")
        )
        (outcome,) = sbh("backup", "forget", slug, "--json").document["tenants"]
        assert outcome["forgotten"] == [made[3]]
        assert {b["id"]: b["keep"] for b in outcome["backups"]} == {b: b != made[3] for b in made}
        refused = sbh("backup", "forget", slug, "--backup", made[2], "--json")
        assert (refused.status, refused.code) == (2, "SBH-207")
        assert sbh("backup", "release", held, "-t", slug).status == 0
        assert sbh("backup", "release", held, "-t", slug, "--json").code == "SBH-208"
        assert sbh("backup", "forget", slug, "--backup", made[2], "--quiet").out.split() == [made[2]]
        assert sbh("backup", "unpin", made[1], "-t", slug).status == 0
        assert sbh("backup", "forget", slug, "-q").out.split() == [made[1]]
        assert sbh("backup", "holds", slug, "--json").document == []
        assert sbh("backup", "forget", "--json").status == 2
        assert sbh("backup", "forget", slug, "tenant-4", "--backup", made[0], "--json").status == 2
        assert sbh("backup", "forget", slug, "nobody", "--dry-run", "--json").status == 11
        assert len(sbh("backup", "forget", "--all", "--dry-run", "--json").document["tenants"]) == 6
    finally:
        repository.store.delete([o.key for o in repository.store.list(repository.prefix)])
