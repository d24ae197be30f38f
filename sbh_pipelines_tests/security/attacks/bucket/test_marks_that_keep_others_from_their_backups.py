"""Who may put objects, and has no key, wants tenants to count as erased, packs as damaged, and work as going on for years.

Such marks are signed with the tenant's or the catalog's key; unsigned ones, which earlier releases wrote, are believed only where the world agrees with them, and a lease ends when the longest that can be set would.
"""

import json
from datetime import UTC, datetime, timedelta

import pytest

from sbh_pipelines.errors import LeaseHeld, TenantErased
from sbh_pipelines.repository import repository as repositories
from sbh_pipelines_tests.security.attacks.bucket.conftest import Hands
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.site import site_of

FORGED = {
    "tenant_id": ACME,
    "state": "erased",
    "erasure_id": "erase_20240115_120000_abcdef",
    "region": "eu-west-1",
    "requested_by": "somebody",
    "reason": "none",
    "begun_at": "2024-01-15T12:00:00+00:00",
    "found": {"objects": 1, "versions": 1, "bytes": 1},
    "keys": [],
    "certificate": f"certificates/{ACME}/erase_20240115_120000_abcdef.json",
}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        json.dumps(FORGED).encode(),
        json.dumps({**FORGED, "mark": f"erased/{ACME}.json", "signature": "ab" * 32}).encode(),
    ],
    ids=["empty", "unsigned", "wrong signature"],
)
def test_a_forged_record_of_an_erasure_erases_nobody(hands: Hands, body: bytes) -> None:
    """Not from listing, restoring and backing up, not from the catalog, and not from a recovery of everything."""
    service = hands.service()
    made = service.backups.create(ACME, ADMIN)
    hands.put(f"{hands.catalog}erased/{ACME}.json", body)
    hands.delete(hands.key("lease.json"))  # where there is none, the record is looked for
    again = hands.service()
    assert [manifest.id for manifest in again.backups.of(ACME, ADMIN)] == [made.id]
    assert again.backups.create(ACME, ADMIN, "incremental").document["unchanged_as_of"]
    site, tenant = site_of(again), hands.application.tenant()
    assert not site.is_erased(tenant)
    assert ACME in site.catalog("eu-west-1").read()


def test_a_genuine_record_counts_wherever_the_world_disagrees(hands: Hands) -> None:
    """Somebody puts the keys of an erased tenant back, or takes the certificate away: nothing begins all the same."""
    service = hands.service()
    service.backups.create(ACME, ADMIN)
    kept = hands.copy(hands.key(""))
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
    for key in hands.keys(f"{hands.catalog}certificates/"):
        hands.delete(key)
    for key, body in kept.items():
        if key.endswith("keys/0001.json"):
            hands.put(key, body)
    with pytest.raises(TenantErased):
        hands.service().backups.create(ACME, ADMIN)
    assert site_of(hands.service()).is_erased(hands.application.tenant())


def readmitted(hands: Hands) -> bytes:
    """ACME was erased, and has backups again; the record of the erasure, as somebody kept it."""
    service = hands.service()
    service.backups.create(ACME, ADMIN)
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
    record = hands.get(f"{hands.catalog}erased/{ACME}.json")
    service.keys.readmit(ACME, ADMIN)
    service.backups.create(ACME, ADMIN)
    return record


@pytest.mark.parametrize("signed", [True, False], ids=["kept", "made from a certificate"])
def test_a_tenant_that_was_readmitted_is_not_erased_by_its_former_record(hands: Hands, signed: bool) -> None:
    """Nor is a later erasure taken for one that is done already."""
    kept = readmitted(hands)
    (certificate,) = hands.keys(f"{hands.catalog}certificates/")
    made = {**FORGED, "erasure_id": certificate.rsplit("/", 1)[1].removesuffix(".json")}
    hands.put(f"{hands.catalog}erased/{ACME}.json", kept if signed else json.dumps(made).encode())
    hands.delete(hands.key("lease.json"))
    again = hands.service()
    assert again.backups.of(ACME, ADMIN)
    again.backups.create(ACME, ADMIN, "incremental")
    assert not site_of(again).is_erased(hands.application.tenant())
    assert ACME in site_of(again).catalog("eu-west-1").read()
    again.keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
    assert not hands.keys(hands.key("manifests/"))
    with pytest.raises(TenantErased):
        hands.service().backups.create(ACME, ADMIN)


def test_a_readmission_that_was_killed_goes_on(hands: Hands) -> None:
    """Between the mark and the deletion of the record: the same call deletes it. A forged mark readmits nobody."""
    kept = readmitted(hands)
    hands.put(f"{hands.catalog}erased/{ACME}.json", kept)
    hands.service().keys.readmit(ACME, ADMIN)
    assert not hands.keys(f"{hands.catalog}erased/")
    hands.service().keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
    record = json.loads(hands.get(f"{hands.catalog}erased/{ACME}.json"))
    name = f"readmitted/{ACME}/{record['erasure_id']}.json"
    hands.put(hands.catalog + name, json.dumps({"mark": name, "signature": "ab" * 32}).encode())
    with pytest.raises(TenantErased):
        hands.service().backups.create(ACME, ADMIN)


def test_a_record_of_an_earlier_release_counts(hands: Hands) -> None:
    """Unsigned: by its certificate, or where no key is left."""
    service = hands.service()
    service.backups.create(ACME, ADMIN)
    first = hands.get(hands.key("keys/0001.json"))
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
    mark = f"{hands.catalog}erased/{ACME}.json"
    record = json.loads(hands.get(mark))
    del record["signature"]
    hands.put(mark, json.dumps(record).encode())
    with pytest.raises(TenantErased):
        hands.service().backups.of(ACME, ADMIN)
    hands.put(hands.key("keys/0001.json"), first)
    assert site_of(hands.service()).is_erased(hands.application.tenant())  # by the certificate
    assert hands.service().keys.certificate(ACME, ADMIN).tenant_id == ACME


def test_a_mark_that_a_good_pack_is_damaged_is_not_believed(hands: Hands) -> None:
    """Else every backup could be made unrestorable by one small object for each pack."""
    service = hands.service()
    made = service.backups.create(ACME, ADMIN)
    packs = [key.rsplit("/", 1)[1] for key in hands.keys(hands.key("packs/"))]
    for pack in packs:
        hands.put(hands.key(f"index/damaged-{pack}"), json.dumps({"damaged": f"packs/{pack}"}).encode())
    again = hands.service()
    again.restores.run(made.id, ACME, ADMIN)
    with site_of(again).repository(hands.application.tenant()) as repository:
        repository.load_index()
        assert not repository.marked_damaged
        assert {damage.key for damage in repository.damages} == {f"index/damaged-{pack}" for pack in packs}


def test_a_mark_of_an_earlier_release_counts_where_the_pack_is_damaged(hands: Hands) -> None:
    service = hands.service()
    service.backups.create(ACME, ADMIN)
    key = max(hands.keys(hands.key("packs/")), key=lambda key: len(hands.get(key)))
    body = bytearray(hands.get(key))
    body[100] ^= 1
    hands.put(key, bytes(body))
    pack = key.rsplit("/", 1)[1]
    hands.put(hands.key(f"index/damaged-{pack}"), json.dumps({"damaged": f"packs/{pack}"}).encode())
    with site_of(hands.service()).repository(hands.application.tenant()) as repository:
        repository.load_index()
        assert repository.marked_damaged == {bytes.fromhex(pack)}
    again = hands.service()
    again.backups.create(ACME, ADMIN)  # stores anew what was in it
    assert again.backups.validate("latest", ACME, ADMIN, deep=True).valid


def test_of_marks_too_many_to_look_into_nothing_is_believed(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged pack of an earlier release stands behind its good copy, and a good one is read where nothing else has it."""
    monkeypatch.setattr(repositories, "_DOUBTFUL_MARKS", 0)
    made = hands.service().backups.create(ACME, ADMIN)
    key = max(hands.keys(hands.key("packs/")), key=lambda key: len(hands.get(key)))
    pack = key.rsplit("/", 1)[1]
    hands.put(hands.key(f"index/damaged-{pack}"), json.dumps({"damaged": f"packs/{pack}"}).encode())
    hands.service().restores.run(made.id, ACME, ADMIN)  # forged: the pack is whole
    whole = hands.get(key)
    hands.put(key, whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    again = hands.service()
    again.backups.create(ACME, ADMIN)  # stores anew what was in it
    assert again.backups.validate("latest", ACME, ADMIN, deep=True).valid
    assert again.backups.validate(made.id, ACME, ADMIN, deep=True).valid


def leased(application: Application, until: object) -> None:
    """Somebody's lease in place of the one that a backup released."""
    application.service().backups.create(ACME, ADMIN)
    lease = {"owner": "somebody:1:x:abc", "purpose": "restore", "expires_at": until}
    (application.repository(ACME) / "lease.json").write_text(json.dumps(lease))


@pytest.mark.parametrize("until", ["9999-12-31T23:59:59+00:00", "2999-01-01T00:00:00Z", "1e999", None, 5])
def test_a_lease_until_the_end_of_days_is_free(application: Application, until: object) -> None:
    leased(application, until)
    application.service().backups.create(ACME, ADMIN)


def test_a_lease_of_an_hour_is_not(application: Application) -> None:
    leased(application, (datetime.now(UTC) + timedelta(hours=1)).isoformat())
    with pytest.raises(LeaseHeld):
        application.service().backups.create(ACME, ADMIN)
