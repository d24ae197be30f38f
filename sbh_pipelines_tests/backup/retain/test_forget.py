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


class ManifestRepository:
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
def stored(tmp_path: Path) -> ManifestRepository:
    """Keeps the last two full backups."""
    return ManifestRepository(tmp_path)


def reasons(outcome: RetentionOutcome) -> dict[str, str]:
    return {b.id: ", ".join(b.reasons) for b in outcome.backups}


# what goes, and how it is told


def test_what_no_rule_keeps_goes_and_everything_says_why(stored: ManifestRepository) -> None:
    made = stored.days(4)
    outcome = stored.forget()
    assert stored.there() == made[2:]
    assert outcome.forgotten == [made[1], made[0]]
    assert reasons(outcome) == {
        made[3]: "newest backup, newest full, last 1 of 2",
        made[2]: "last 2 of 2",
        made[1]: "no rule keeps it: it is number 3 of its type, keep_last keeps 2",
        made[0]: "no rule keeps it: it is number 4 of its type, keep_last keeps 2",
    }
    assert [b["id"] for b in stored.listing()["backups"]] == made[2:]
    again = stored.forget()
    assert (again.forgotten, stored.there()) == ([], made[2:])


def test_a_dry_run_says_the_same_and_writes_nothing(stored: ManifestRepository) -> None:
    """Not even the lease: it runs beside a backup."""
    stored.days(4)
    store, prefix = stored.site.backup_store(ACME)
    leases.acquire(store, prefix, "a backup", "backup", 60, lambda: stored.now)
    before = stored.objects()
    outcome = stored.forget(dry_run=True)
    assert stored.objects() == before
    with pytest.raises(LeaseHeld):
        stored.forget()
    assert stored.objects() == before
    stored.now += timedelta(minutes=5)
    assert as_document(stored.forget()) == {**as_document(outcome), "dry_run": False}


def test_a_tenant_without_backups_has_nothing_to_forget(stored: ManifestRepository) -> None:
    """And is given no key; naming a backup of it is an error."""
    assert not stored.forget().backups
    assert not stored.folder.exists()
    with pytest.raises(UnknownBackup):
        stored.forget(BackupId("backup_20260101_0200"))


def test_the_policy_is_the_tenants_own(tmp_path: Path) -> None:
    """An override for its slug wins over one for its tier."""
    stored = ManifestRepository(
        tmp_path,
        tiers={"critical": {"full_backups": {"keep_last": 1}}},
        tenants={"acme": {"full_backups": {"keep_last": 3}}},
    )
    made = stored.days(5)
    stored.forget()
    assert stored.there() == made[2:]


# requests


def counted(stored: ManifestRepository, work: Callable[[Site], Any]) -> dict[str, int]:
    calls: dict[str, int] = {}

    def count(verb: str, key: str) -> None:
        calls[verb] = calls.get(verb, 0) + 1

    work(stored.another(before=count))
    return calls


def retained(stored: ManifestRepository, backup_id: BackupId, kind: BackupType = FULL, **given: Any) -> Draft:
    """The retention step after a backup, by a process that made the backup just now."""
    created = datetime.strptime(backup_id, "backup_%Y%m%d_%H%M").replace(tzinfo=UTC)
    draft = Draft(ACME, backup_id, kind, "ann", timestamp(created), leases.new_owner("backup"))
    site = given.pop("site", stored.site)
    shop = OpenDrafts(site)
    shop.take(draft)
    shop.repository(draft)
    given.pop("meanwhile", lambda: None)()
    (done,) = apply_retention(shop, [draft], given.pop("dry_run", False))
    return done


@pytest.mark.parametrize("backups", [5, 60])
def test_the_step_after_a_backup_costs_the_same_however_many_backups_there_are(tmp_path: Path, backups: int) -> None:
    """Known ones are not read again: the figures of docs/decisions/0004-retention-defaults.md."""
    stored = ManifestRepository(tmp_path, full_backups={**LAST_TWO, "keep_last": backups})
    stored.days(backups)
    stored.forget()
    newest = stored.add(START + backups * DAY)
    stored.site.track(ACME, "thing.done", "ann", {})
    whole = counted(stored, lambda site: retained(stored, newest, site=site))
    opening = counted(stored, lambda site: opened_only(stored, newest, site))
    step = {verb: whole[verb] - opening.get(verb, 0) for verb in whole}
    assert {verb: number for verb, number in step.items() if number} == {
        "list": 4,  # manifests, holds, index (for packs found damaged), holds once more
        "get": 1,  # the doomed manifest; listing.json was read when the repository was opened
        "get_with_etag": 1,  # where the audit trail ends: the catalog's key was read for whose the repository is
        "create": 1,  # the event
        "replace": 2,  # the lease, proved; where the trail ends
        "delete": 1,
        "put": 1,  # listing.json
    }


def opened_only(stored: ManifestRepository, backup_id: BackupId, site: Site) -> None:
    draft = Draft(ACME, backup_id, FULL, "ann", "", leases.new_owner("backup"))
    shop = OpenDrafts(site)
    shop.take(draft)
    shop.repository(draft)
    shop.end(draft)


def test_the_listing_is_written_only_when_it_changed(stored: ManifestRepository) -> None:
    stored.days(2)
    stored.forget()
    before = (stored.folder / "listing.json").stat().st_mtime_ns
    assert "put" not in counted(stored, lambda site: stored.forget(site=site))
    assert (stored.folder / "listing.json").stat().st_mtime_ns == before


def _changed(text: bytes) -> bytes:
    document = json.loads(text)
    document["backups"] = [{**b, "type": "incremental"} for b in document["backups"]]
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "spoil",
    [lambda text: None, lambda text: b"", lambda text: text[:-20], lambda text: b"[]", lambda text: b"{}", _changed],
    ids=["missing", "empty", "cut", "a list", "nothing", "changed"],
)
def test_a_listing_that_is_not_ours_is_made_anew(
    stored: ManifestRepository, spoil: Callable[[bytes], bytes | None]
) -> None:
    """Missing, damaged or forged, it decides nothing: the manifests do."""
    made = stored.days(3)
    expected = stored.forget(dry_run=True)
    stored.site.repository(ACME)
    forgetting.write_listing(stored.repository(), forgetting.read_backups(stored.repository()))
    file = stored.folder / "listing.json"
    spoiled = spoil(file.read_bytes())
    file.unlink() if spoiled is None else file.write_bytes(spoiled)
    assert as_document(stored.forget()) == {**as_document(expected), "dry_run": False}
    assert [b["id"] for b in stored.listing()["backups"]] == made[1:]


def test_the_listing_of_another_tenant_or_a_manifest_is_not_believed(stored: ManifestRepository) -> None:
    """Neither in place of this tenant's listing; and a listing is no manifest."""
    made = stored.days(3)
    stored.days(3, INCREMENTAL, BOLT)
    forget(stored.site, BOLT, "ann", None, False)
    others = stored.folder.parents[1] / "bolt" / "backups" / "listing.json"
    for stranger in (others, stored.folder / "manifests" / f"{made[0]}.json"):
        shutil.copy(stranger, stored.folder / "listing.json")
        assert {b.type for b in stored.forget(dry_run=True).backups} == {"full"}


def test_a_signed_document_is_of_one_kind_and_one_tenant(stored: ManifestRepository) -> None:
    """A genuine one does not pass for one of another kind, nor with the same key for another tenant's."""
    repository = stored.repository()
    repository.store.put(repository.prefix + "x.json", signed(repository, "hold", {"backups": []}))
    assert read_signed(repository, "x.json", "hold") == {"backups": []}
    namesake = Repository(repository.store, repository.prefix, BOLT.id, repository.sealer)
    for reader, kind in ((repository, "listing"), (namesake, "hold")):
        with pytest.raises(CorruptObject):
            read_signed(reader, "x.json", kind)


def test_the_listing_never_makes_a_backup_exist(stored: ManifestRepository) -> None:
    """One whose manifest was deleted by hand is gone, whatever the listing says."""
    made = stored.days(2)
    stored.forget()
    (stored.folder / "manifests" / f"{made[1]}.json").unlink()
    third = stored.add(START + 5 * DAY)
    assert set(reasons(stored.forget())) == {made[0], third}


# damage


def test_a_damaged_manifest_is_told_and_never_forgotten_by_the_policy(stored: ManifestRepository) -> None:
    """Nor does it take the place of one that can be restored."""
    made = stored.days(4)
    (stored.folder / "manifests" / f"{made[2]}.json").write_bytes(b"{}")
    outcome = stored.forget()
    assert stored.there() == [made[1], made[2], made[3]]
    assert [(e.code, made[2] in e.on) for e in outcome.errors] == [("SBH-601", True)]
    assert stored.forget(made[2]).forgotten == [made[2]]
    assert stored.there() == [made[1], made[3]]


@pytest.mark.parametrize("newest", [FULL, INCREMENTAL])
def test_the_last_full_is_one_that_can_be_read_also_where_the_listing_knows_a_newer(
    tmp_path: Path, newest: BackupType
) -> None:
    """Its manifest was damaged after it was listed: before anything is dropped, it is read again."""
    stored = ManifestRepository(tmp_path, full_backups={**LAST_TWO, "keep_last": 0})
    made = [stored.add(START), stored.add(START + DAY), stored.add(START + 2 * DAY, newest)]
    forgetting.write_listing(stored.repository(), forgetting.read_backups(stored.repository()))
    victim = made[2] if newest is FULL else made[1]
    (stored.folder / "manifests" / f"{victim}.json").write_bytes(b"{}")
    outcome = stored.forget()
    good = made[1] if newest is FULL else made[0]
    assert good in stored.there()
    assert "newest full" in reasons(outcome)[good]
    assert victim in stored.there()
    assert [e.code for e in outcome.errors] == ["SBH-601"]


def test_a_full_older_than_the_finding_of_a_damaged_pack_is_not_the_last_good_one(tmp_path: Path) -> None:
    """Until a full is made after it, all stay; then that one is the last good one."""
    stored = ManifestRepository(tmp_path, full_backups={**LAST_TWO, "keep_last": 1})
    now = utc_now()
    old = [stored.add(now - n * DAY) for n in (9, 8, 7)]
    tick = stored.add(now - timedelta(hours=1), INCREMENTAL)
    stored.repository().condemn(bytes(32))
    stored.forget()
    assert stored.there() == [*old, tick]
    with pytest.raises(ForgetRefused, match="last good full"):
        stored.forget(old[0])
    good = stored.add(now + timedelta(hours=1))
    stored.forget()
    assert stored.there() == [tick, good]


# one backup


def test_one_backup_is_forgotten_though_the_policy_keeps_it(stored: ManifestRepository) -> None:
    made = stored.days(2)
    outcome = stored.forget(made[0])
    assert stored.there() == [made[1]]
    assert reasons(outcome) == {made[0]: "ann asked to forget it"}
    with pytest.raises(UnknownBackup):
        stored.forget(made[0])


def test_the_newest_and_the_last_full_are_refused(stored: ManifestRepository) -> None:
    """Also where another full backup is there but cannot be read."""
    made = [stored.add(START), stored.add(START + DAY), stored.add(START + 2 * DAY, INCREMENTAL)]
    with pytest.raises(ForgetRefused, match="newest"):
        stored.forget(made[2])
    stored.forget(made[1], dry_run=True)
    forgetting.write_listing(stored.repository(), forgetting.read_backups(stored.repository()))
    (stored.folder / "manifests" / f"{made[1]}.json").write_bytes(b"{}")
    with pytest.raises(ForgetRefused, match="last good full"):
        stored.forget(made[0])
    assert stored.there() == made


# pins and holds


def test_pinned_and_held_backups_stay_and_say_so(stored: ManifestRepository) -> None:
    made = stored.days(6)
    stored.pin(made[0], "before the migration")
    stored.pin(made[1])
    held = [stored.hold("case 7", made[1]), stored.hold("case 8", made[1])]
    said = reasons(stored.forget())
    assert stored.there() == [made[0], made[1], made[4], made[5]]
    assert said[made[0]] == "pinned: before the migration"
    for reason in ("pinned", f"legal hold {held[0].id}: case 7", f"legal hold {held[1].id}: case 8"):
        assert reason in said[made[1]].split(", ")
    for backup_id in made[:2]:
        with pytest.raises(ForgetRefused, match="pinned"):
            stored.forget(backup_id)
    holds.release(stored.repository(), f"pin-{made[0]}")
    holds.release(stored.repository(), f"pin-{made[1]}")
    holds.release(stored.repository(), held[0].id)
    with pytest.raises(ForgetRefused, match="case 8"):
        stored.forget(made[1])
    stored.forget()
    assert stored.there() == [made[1], made[4], made[5]]


def test_a_hold_on_the_tenant_keeps_all_backups_and_those_to_come(stored: ManifestRepository) -> None:
    held = stored.hold()
    made = stored.days(5)
    assert stored.forget().forgotten == []
    assert retained(stored, made[-1]).retention.forgotten == ()  # type: ignore[union-attr]
    with pytest.raises(ForgetRefused, match="case 7"):
        stored.forget(made[0])
    holds.release(stored.repository(), held.id)
    assert len(stored.forget().forgotten) == 3


def test_holds_say_who_placed_them_when_and_why(stored: ManifestRepository) -> None:
    made = stored.days(1)
    pin, hold = stored.pin(made[0], "ü\n"), stored.hold("Fall 7 §")
    assert holds.read_holds(stored.repository()) == [hold, pin]
    assert (hold.placed_by, hold.placed_at, hold.reason) == ("ann", timestamp(stored.now), "Fall 7 §")
    assert stored.pin(made[0], "another reason").id == pin.id
    assert [h.reason for h in holds.read_holds(stored.repository())] == ["Fall 7 §", "another reason"]


def test_what_cannot_be_held_is_refused_and_leaves_nothing(stored: ManifestRepository) -> None:
    stored.days(1)
    before = stored.objects()
    for call in (
        lambda: stored.pin(BackupId("backup_20200101_0000")),
        lambda: stored.hold("x", BackupId("backup_20200101_0000")),
    ):
        with pytest.raises(UnknownBackup):
            call()
    for reason in ("", " \n", "x" * 501):
        with pytest.raises(RequestError, match="reason"):
            stored.hold(reason)
    for hold_id in ("pin-backup_20260101_0200", "", "../manifests/backup_20260101_0200", "legal-tenant-00000000"):
        with pytest.raises(UnknownHold):
            holds.release(stored.repository(), hold_id)
    assert stored.objects() == before


def forged(text: bytes) -> bytes:
    return json.dumps({**json.loads(text), "reason": "forged"}).encode()


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda text: text[:-9], forged], ids=["empty", "cut", "forged"])
def test_a_damaged_hold_holds_and_is_told(stored: ManifestRepository, spoil: Callable[[bytes], bytes]) -> None:
    """Its key says what it protects; an admin can take it away."""
    made = stored.days(6)
    placed = [stored.pin(made[0]), stored.hold("case 7", made[1])]
    for one in placed:
        file = stored.folder / one.key
        file.write_bytes(spoil(file.read_bytes()))
    outcome = stored.forget()
    assert stored.there() == [*made[:2], *made[4:]]
    assert reasons(outcome)[made[0]] == "pinned, which is damaged"
    assert [e.code for e in outcome.errors] == ["SBH-601"] * 2
    for one in placed:
        assert holds.release(stored.repository(), one.id).id == one.id
    stored.forget()
    assert stored.there() == made[4:]


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
def test_an_object_that_nobody_knows_holds_everything(stored: ManifestRepository, name: str) -> None:
    """It may be a hold of a newer release, or one whose key was changed."""
    made = stored.days(4)
    file = stored.folder / "holds" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"?")
    outcome = stored.forget()
    assert (stored.there(), len(outcome.errors)) == (made, 1)
    assert retained(stored, made[-1]).retention.forgotten == ()  # type: ignore[union-attr]
    (unknown,) = holds.list_holds(stored.repository())
    holds.release(stored.repository(), unknown.id)
    assert len(stored.forget().forgotten) == 2


def test_a_hold_copied_from_elsewhere_is_damaged_where_it_is(stored: ManifestRepository) -> None:
    """From another backup or another tenant: it protects by its key, and does not pass for genuine."""
    made = stored.days(2)
    stored.days(1, tenant=BOLT)
    mine = stored.pin(made[0], "mine")
    theirs = holds.place_hold(stored.repository(BOLT), None, "theirs", "bob", lambda: stored.now)
    shutil.copy(stored.folder / mine.key, stored.folder / "holds" / f"pin-{made[1]}.json")
    shutil.copy(stored.folder.parents[1] / "bolt" / "backups" / theirs.key, stored.folder / theirs.key)
    found = {h.id: h for h in holds.read_holds(stored.repository())}
    assert found[mine.id].damage is None
    for copied in (theirs.id, f"pin-{made[1]}"):
        assert found[copied].damage
        assert found[copied].reason == ""


# races and kills


@pytest.mark.parametrize("whole_tenant", [False, True])
def test_a_hold_placed_while_manifests_are_deleted_counts(stored: ManifestRepository, whole_tenant: bool) -> None:
    """Whoever forgets looks again after deleting, and puts back what is held by then."""
    made = stored.days(5)
    before = stored.objects()

    def meanwhile(verb: str, key: str) -> None:
        if verb == "delete":
            stored.hold("case 7", None if whole_tenant else made[1])

    outcome = stored.forget(site=stored.another(before=meanwhile))
    stay = made if whole_tenant else [made[1], *made[3:]]
    assert stored.there() == stay
    assert all(stored.objects()[f"manifests/{backup}.json"] == before[f"manifests/{backup}.json"] for backup in stay)
    assert sorted(outcome.forgotten) == [b for b in made if b not in stay]
    assert [b["id"] for b in stored.listing()["backups"]] == stay


def test_a_hold_that_came_too_late_says_so(stored: ManifestRepository) -> None:
    """The backup went between the look and the hold: no hold stays behind, and nobody believes that it holds."""
    made = stored.days(3)

    def meanwhile(verb: str, key: str) -> None:
        if verb == "create" and "/holds/" in key:
            stored.forget()

    repository = stored.another(before=meanwhile).repository(ACME)
    with pytest.raises(UnknownBackup):
        holds.place_hold(repository, made[0], "case 7", "ann", lambda: stored.now)
    assert holds.list_holds(stored.repository()) == []


def test_a_kill_at_any_write_leaves_what_the_next_run_finishes(tmp_path: Path) -> None:
    """At each point no kept backup is missing, each that is left can be read, and the next run comes to the same end."""
    for nth in range(1, 20):
        stored = ManifestRepository(tmp_path)
        made = stored.days(5)
        dies = DiesAtWrite(nth)
        try:
            stored.forget(site=stored.another(dies.before, dies.after))
            break
        except Killed:
            pass
        assert set(made[3:]) <= set(stored.there())
        stored.now += timedelta(minutes=5)
        assert not stored.forget().errors
        assert stored.there() == made[3:]
        assert [b["id"] for b in stored.listing()["backups"]] == made[3:]
        shutil.rmtree(tmp_path / "objects")
    assert nth == 8  # after seven writes: lease, its proof, event, end of trail, manifests, listing, release


def test_half_of_the_manifests_deleted_is_no_harm(stored: ManifestRepository) -> None:
    """A bulk delete that was cut short: the listing names backups that are gone."""
    made = stored.days(6)
    forgetting.write_listing(stored.repository(), forgetting.read_backups(stored.repository()))
    for backup_id in made[1:3]:
        (stored.folder / "manifests" / f"{backup_id}.json").unlink()
    assert stored.forget().forgotten == [made[3], made[0]]
    assert stored.there() == made[4:]


def test_whoever_lost_the_lease_deletes_nothing(stored: ManifestRepository) -> None:
    """It was asleep between deciding and deleting, and another writer took the tenant."""
    made = stored.days(4)
    store, prefix = stored.site.backup_store(ACME)
    taken: list[leases.Lease] = []

    def sleep(verb: str, key: str) -> None:
        if key.endswith("/holds/") and not taken:
            stored.now += timedelta(minutes=5)
            taken.append(leases.acquire(store, prefix, "another", "backup", 60, lambda: stored.now))

    with pytest.raises(LeaseLost):
        stored.forget(site=stored.another(before=sleep))
    assert taken
    assert stored.there() == made


# the step after a backup


def test_the_step_forgets_and_releases_the_lease(stored: ManifestRepository) -> None:
    made = stored.days(4)
    done = retained(stored, made[3])
    assert done.status is DraftStatus.COMPLETED
    assert done.retention
    assert done.retention.forgotten == (made[1], made[0])
    assert set(done.retention.reasons) == set(made)
    assert done.retention.error is None
    assert stored.there() == made[2:]
    assert Draft.from_dict(json.loads(json.dumps(done.as_dict()))) == done
    stored.forget()  # at once: the lease was released


def test_a_dry_step_forgets_nothing(stored: ManifestRepository) -> None:
    made = stored.days(4)
    done = retained(stored, made[3], dry_run=True)
    assert done.retention
    assert (done.retention.forgotten, done.retention.dry_run) == ((made[1], made[0]), True)
    assert stored.there() == made
    assert not (stored.folder / "listing.json").exists()


def test_a_backup_is_not_forgotten_by_its_own_step(stored: ManifestRepository) -> None:
    """Not even where a clock that ran ahead dated the others after it."""
    later = [stored.add(START + (50 + n) * DAY) for n in range(3)]
    own = stored.add(START)
    done = retained(stored, own)
    assert done.retention
    assert done.retention.reasons[own] == ("made just now",)
    assert stored.there() == [own, *later[1:]]


@pytest.mark.parametrize("verb", ["list", "delete", "put", "replace"])
def test_a_failure_of_the_step_leaves_the_backup_completed_and_is_told(stored: ManifestRepository, verb: str) -> None:
    """The backup was published before; only `retention` says that something is left to do."""
    made = stored.days(4)
    broken: list[str] = []

    def fail(called: str, key: str) -> None:
        if called in broken:
            raise StoreUnavailable("Cannot do it", on=key)

    def breaks() -> None:
        stored.now += timedelta(seconds=1)
        broken.append(verb)

    done = retained(stored, made[3], site=stored.another(before=fail), meanwhile=breaks)
    assert (done.status, done.error) == (DraftStatus.COMPLETED, None)
    assert done.retention
    assert done.retention.error
    assert done.retention.error.code == "SBH-401"
    assert set(made[2:]) <= set(stored.there())
    assert not (stored.folder / "failures").exists()
    stored.now += timedelta(minutes=5)
    stored.forget()
    assert stored.there() == made[2:]


def test_a_lost_lease_stops_the_step_and_not_the_backup(stored: ManifestRepository) -> None:
    made = stored.days(4)
    store, prefix = stored.site.backup_store(ACME)

    def overtaken() -> None:
        stored.now += timedelta(minutes=5)
        leases.acquire(store, prefix, "another", "backup", 60, lambda: stored.now)

    done = retained(stored, made[3], meanwhile=overtaken)
    assert done.status is DraftStatus.COMPLETED
    assert done.retention
    assert done.retention.error
    assert done.retention.error.code == "SBH-604"
    assert stored.there() == made


def test_under_a_dead_process_s_lease_nothing_is_forgotten(stored: ManifestRepository) -> None:
    """Of machines that were resumed from one image each takes the other's processes for its own: it may be at work."""
    made = stored.days(4)
    store, prefix = stored.site.backup_store(ACME)
    leases.acquire(store, prefix, "killed", "backup_1", 60, lambda: stored.now, in_one_process=True)
    document = json.loads((stored.folder / "lease.json").read_bytes())
    document["process"] = " ".join([*document["process"].split(" ")[:3], "999999999", "1"])
    store.put(prefix + "lease.json", json.dumps(document).encode())
    done = retained(stored, made[3]).retention
    assert done is not None
    assert (done.error, done.forgotten, done.reasons[made[0]]) == (None, (), (forgetting.OF_ORPHAN,))
    assert stored.there() == made
    done = retained(stored, made[3]).retention
    assert done is not None
    assert (done.forgotten, stored.there()) == ((made[1], made[0]), made[2:])


def test_a_defect_is_told_as_one_and_undoes_no_backup(
    stored: ManifestRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of this tenant, and the others' retention goes on."""
    made = stored.days(1)
    monkeypatch.setattr(forgetting, "decide", lambda *_, **__: 1 / 0)
    done = retained(stored, made[0])
    assert done.status is DraftStatus.COMPLETED
    assert done.retention
    assert done.retention.error
    assert "ZeroDivisionError at" in done.retention.error.why


@pytest.mark.parametrize("status", [DraftStatus.UNCHANGED, DraftStatus.FAILED])
def test_drafts_without_a_backup_pass_untouched(stored: ManifestRepository, status: DraftStatus) -> None:
    """They have no manifest and hold no lease."""
    stored.days(4)
    draft = Draft(ACME, BackupId("backup_20260401_0000"), FULL, "ann", "", "", status=status)
    before = stored.objects()
    assert apply_retention(OpenDrafts(stored.site), [draft], False) == [draft]
    assert stored.objects() == before


# who may, and the command line


def test_only_admins_of_the_tenant_forget_and_hold(stored: ManifestRepository) -> None:
    """Refused before the tenant is looked up, and before the store is asked."""
    service = BackupService(stored.settings)
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
    store, prefix = site_of(sample_service).backup_store(sample_service.tenants.find(slug))
    store.delete([o.key for o in store.list(prefix)])  # what other tests have left
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
