"""Who read the bucket before a data key was changed, and may write to it, wants later backups sealed with the key they know.

Each epoch that begins and each key that is destroyed leaves a signed, create-only mark beside the catalog: a ring of keys that is older is refused, and a destroyed key by its number.
"""

import json
import time

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import CorruptObject, KeyEpochRolledBack, KeyServiceError
from sbh_pipelines.model import BackupType
from sbh_pipelines.repository.format import canonical, checksum
from sbh_pipelines.repository.keys import epoch_marks
from sbh_pipelines.repository.seal import Sealer
from sbh_pipelines_tests.security.attacks.bucket.conftest import Hands
from sbh_pipelines_tests.support.application import ACME, ADMIN
from sbh_pipelines_tests.support.site import site_of

FIRST = "keys/0001.json"


@pytest.fixture
def service(hands: Hands) -> BackupService:
    return hands.service(prune={"min_age_hours": 0})


def rotate(service: BackupService, *, ended: list[int]) -> None:
    """Another data key, everything sealed anew, the old key destroyed."""
    service.keys.rotate([ACME], ADMIN, new_data_key=True, re_encrypt=True)
    time.sleep(1.1)  # by the store's clock, which counts seconds, what was retired is old then
    report = service.keys.rotate([ACME], ADMIN, re_encrypt=True)
    assert list(report.rotated[0].epochs_destroyed or ()) == ended


def test_an_old_key_object_that_is_put_back_is_refused_and_put_right(hands: Hands, service: BackupService) -> None:
    """Twice rotated: neither a backup is sealed, nor anything listed or restored, until an administrator has looked."""
    service.backups.create(ACME, ADMIN)
    old = hands.get(hands.key(FIRST))
    rotate(service, ended=[1])
    rotate(service, ended=[2])
    good = service.backups.create(ACME, ADMIN)
    hands.put(hands.key(FIRST), old)

    again = hands.service()  # a process that knows nothing of what was
    for call in (
        lambda: again.backups.create(ACME, ADMIN),
        lambda: again.backups.of(ACME, ADMIN),
        lambda: again.restores.plan("latest", ACME, ADMIN),
        lambda: again.retention.prune(ACME, ADMIN),
    ):
        with pytest.raises(KeyEpochRolledBack, match=f"`sbh keys rotate {ACME}` puts the object right"):
            call()
    assert hands.keys(hands.key("keys/")) == [hands.key(FIRST), hands.key("keys/0003.json")]

    again.keys.rotate([ACME], ADMIN)
    document = json.loads(hands.get(hands.key(FIRST)))
    assert (document["newest"], "wrapped" in document) == (3, False)
    assert good.id in [manifest.id for manifest in again.backups.of(ACME, ADMIN)]
    again.restores.run(good.id, ACME, ADMIN)
    again.backups.create(ACME, ADMIN)
    events = [event.event for event in again.audit.events(ADMIN, ACME).events]
    assert "key.restored" in events


def test_an_old_key_object_is_refused_while_its_epoch_is_not_ended_yet(
    hands: Hands, service: BackupService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the new data key and the end of the old one; whether a listing of the catalog tells of the mark, or it is asked for."""
    service.backups.create(ACME, ADMIN)
    old = hands.get(hands.key(FIRST))
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    hands.put(hands.key(FIRST), old)
    for kind in (BackupType.FULL, BackupType.INCREMENTAL):
        with pytest.raises(KeyEpochRolledBack):
            hands.service().backups.create(ACME, ADMIN, kind)
    monkeypatch.setattr(epoch_marks, "MOST_LISTED", 0)  # more than are remembered
    with pytest.raises(KeyEpochRolledBack):
        hands.service().backups.create(ACME, ADMIN)
    hands.service().keys.rotate([ACME], ADMIN)
    hands.service().backups.create(ACME, ADMIN)
    with site_of(service).repository(hands.application.tenant()) as repository:
        assert repository.sealer.epoch == 2


def test_what_was_listed_before_a_lease_was_taken_says_nothing(hands: Hands, service: BackupService) -> None:
    """Another process changes the key after this one listed the catalog: the mark is asked for."""
    service.backups.create(ACME, ADMIN)
    old, site, tenant = hands.get(hands.key(FIRST)), site_of(service), hands.application.tenant()
    site.records(tenant.region, [tenant])
    hands.service().keys.rotate([ACME], ADMIN, new_data_key=True)
    hands.put(hands.key(FIRST), old)
    with pytest.raises(KeyEpochRolledBack):
        site.repository(tenant, create=True, since=time.monotonic())


def test_what_a_destroyed_key_signed_and_sealed_is_not_believed(hands: Hands, service: BackupService) -> None:
    """The key object of an ended epoch is put back beside the newest one, and a manifest forged with its key."""
    made = service.backups.create(ACME, ADMIN)
    rotate(service, ended=[1])
    known = hands.get(hands.key("keys/0002.json"))
    with site_of(service).repository(hands.application.tenant()) as repository:
        stolen: Sealer = repository.sealer  # of epoch 2: the attacker has its key
    rotate(service, ended=[2])
    hands.put(hands.key("keys/0002.json"), known)

    forged = {**json.loads(hands.get(hands.key(f"manifests/{made.id}.json"))), "id": "backup_20991231_2359"}
    forged = {name: value for name, value in forged.items() if name not in ("checksum", "signature")}
    forged["checksum"] = checksum(forged)
    value = stolen.sign(canonical(forged))
    forged["signature"] = {"algorithm": "HMAC-SHA256", "key_epoch": 2, "value": value}
    hands.put(hands.key("manifests/backup_20991231_2359.json"), json.dumps(forged).encode())

    again = hands.service()
    found, damages = again.backups.overview(ACME, ADMIN)
    assert [manifest.id for manifest in found] == [made.id]
    assert ["epoch 2" in damage.why for damage in damages] == [True]
    with pytest.raises(CorruptObject, match="destroyed"):
        again.restores.run("backup_20991231_2359", ACME, ADMIN)
    again.keys.rotate([ACME], ADMIN)  # takes away what was put back
    assert hands.keys(hands.key("keys/")) == [hands.key(FIRST), hands.key("keys/0003.json")]


@pytest.mark.parametrize("what", ["overwritten", "of another epoch"])
def test_a_mark_that_is_not_genuine_is_not_as_good_as_none(hands: Hands, service: BackupService, what: str) -> None:
    """Who may put and not delete can overwrite it only: then nothing is sealed either."""
    service.backups.create(ACME, ADMIN)
    old = hands.get(hands.key(FIRST))
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    second, third = sorted(hands.keys(f"{hands.catalog}epochs/"))
    hands.put(second, b"{}" if what == "overwritten" else hands.get(third))
    hands.put(hands.key(FIRST), old)
    with pytest.raises(CorruptObject, match="A mark beside the catalog is not genuine"):
        hands.service().backups.create(ACME, ADMIN)


def test_the_newest_epoch_that_an_object_names_is_bound_to_its_key(hands: Hands, service: BackupService) -> None:
    """Only a whole earlier object can be put back: what it says cannot be edited."""
    service.backups.create(ACME, ADMIN)
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    document = json.loads(hands.get(hands.key(FIRST)))
    assert (document["newest"], document["binds"]) == (2, ["epoch", "newest"])
    hands.put(hands.key(FIRST), json.dumps({**document, "newest": 1}).encode())
    with pytest.raises(KeyServiceError):
        hands.service().backups.create(ACME, ADMIN)
    hands.put(hands.key(FIRST), json.dumps({**document, "newest": 1, "binds": []}).encode())
    with pytest.raises(KeyServiceError):
        hands.service().backups.create(ACME, ADMIN)


def test_a_catalog_without_its_marks_gets_them_again(hands: Hands, service: BackupService) -> None:
    """Begun under an earlier release, or by a process that was killed before the mark: the next backup leaves it."""
    service.backups.create(ACME, ADMIN)
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    marks = hands.keys(f"{hands.catalog}epochs/")
    for mark in marks:
        hands.delete(mark)
    hands.service().backups.create(ACME, ADMIN)
    assert hands.keys(f"{hands.catalog}epochs/") == marks


def test_a_lost_key_of_the_catalog_does_not_keep_the_tenants_from_their_backups(
    hands: Hands, service: BackupService
) -> None:
    """The marks under it are nobody's any more: the next backup leaves its own, and an earlier key is refused again."""
    made = service.backups.create(ACME, ADMIN)
    old = hands.get(hands.key(FIRST))
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    lost = hands.keys(f"{hands.catalog}epochs/")
    hands.delete(f"{hands.catalog}{FIRST}")

    again = hands.service(prune={"min_age_hours": 0})
    again.restores.run(made.id, ACME, ADMIN)
    again.backups.create(ACME, ADMIN)
    assert len(hands.keys(f"{hands.catalog}epochs/")) == 2 * len(lost) == 4
    newest = hands.get(hands.key(FIRST))
    hands.put(hands.key(FIRST), old)
    with pytest.raises(KeyEpochRolledBack):
        hands.service().backups.create(ACME, ADMIN)
    hands.put(hands.key(FIRST), newest)
    rotate(again, ended=[1, 3])  # the second was empty, and ended in the first run
    assert hands.keys(hands.key("keys/")) == [hands.key(FIRST), hands.key("keys/0004.json")]
    hands.service().backups.create(ACME, ADMIN)


def test_a_catalog_key_that_does_not_open_makes_no_mark_as_good_as_none(hands: Hands, service: BackupService) -> None:
    """Who may put and not delete can overwrite it: then nothing is sealed either."""
    service.backups.create(ACME, ADMIN)
    old = hands.get(hands.key(FIRST))
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    hands.put(f"{hands.catalog}{FIRST}", b"{}")
    hands.put(hands.key(FIRST), old)
    with pytest.raises(CorruptObject, match="A key object does not belong here"):
        hands.service().backups.create(ACME, ADMIN)


def test_the_audit_trail_remembers_where_the_marks_are_gone(hands: Hands, service: BackupService) -> None:
    """Who may also delete takes the marks away: nothing refuses then, and the trail, which may be under object lock, tells."""
    service.backups.create(ACME, ADMIN)
    old = hands.get(hands.key(FIRST))
    rotate(service, ended=[1])
    for mark in hands.keys(f"{hands.catalog}epochs/"):
        hands.delete(mark)
    hands.put(hands.key(FIRST), old)
    again = hands.service()
    report = again.audit.verify(ADMIN, ACME)
    assert [issue.what for issue in report.issues] == ["The tenant's keys are of an earlier epoch"]


def test_a_forgotten_backup_that_is_put_back_is_told_of(hands: Hands, service: BackupService) -> None:
    """Its manifest is genuine: who kept it can put it back, and a prune refuses while what it needs is gone."""
    made = service.backups.create(ACME, ADMIN)
    service.backups.create(ACME, ADMIN)
    manifest = hands.get(hands.key(f"manifests/{made.id}.json"))
    service.retention.forget(ACME, ADMIN, backup_id=made.id)
    assert not service.audit.verify(ADMIN, ACME).issues
    hands.put(hands.key(f"manifests/{made.id}.json"), manifest)
    (issue,) = hands.service().audit.verify(ADMIN, ACME).issues
    assert issue.what == "A backup is there that was forgotten"
    assert made.id in issue.on
