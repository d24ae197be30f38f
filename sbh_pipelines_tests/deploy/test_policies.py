"""The policies of deploy/policies against what the code really asks: each role works behind a proxy that enforces its policy.

A new verb of the code is refused there until the policy has it; an action of a policy that nothing needs is found as well.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.create.moment.file_source import file_source
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.doctor.buckets import protection, residency
from sbh_pipelines.doctor.buckets.storage import _Bucket, _files, _write
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import StoreDenied
from sbh_pipelines.files.moment import FileSource
from sbh_pipelines.placement import Place
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings.places.copies import CopySettings, check_copies
from sbh_pipelines.stores.bucket_rules import LifecycleRule, denies_foreign_writes, denies_plaintext
from sbh_pipelines.stores.s3 import open_s3
from sbh_pipelines.stores.s3_control import S3Control
from sbh_pipelines_tests.repository.journal.journals import LATER, TenantKeys, written
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets, s3_client
from sbh_pipelines_tests.support.iam import FOLDER, Policy
from sbh_pipelines_tests.support.recording_proxy import Answer, Proxy, recording
from sbh_pipelines_tests.support.site import site_of

EU = "eu-west-1"
OTHER = UserContext("another", "*", Role.ADMIN)
COPY_HOME = "eu-central-1"
COPY_ROLES = ("copier", "copy-verifier", "copy-upkeep")
ROLES = ("writer", "reader", "api", "restorer", "pruner", "releaser", "eraser")
FILES = ("docs/a", "odd//name", "empty")
# What these tests do not reach: a file that changes at the right moment, an upload in parts that breaks off, KMS keys of
# tenants' own (tested with the keys).
_CHANGED_FILE = {"s3:ListBucketVersions", "s3:GetObjectVersion", "s3:GetObjectVersionTagging"}
_LOCKING = {
    "s3:PutObjectRetention",
    "s3:GetBucketObjectLockConfiguration",
}  # of locks: the copy of this test has none
_UNTRIED = {
    "writer": {*_CHANGED_FILE - {"s3:ListBucketVersions"}, "s3:AbortMultipartUpload"},
    "restorer": {*_CHANGED_FILE, "s3:AbortMultipartUpload"},
    "pruner": {"s3:AbortMultipartUpload"},
    "copier": {"s3:AbortMultipartUpload", *_LOCKING},
    "copy-upkeep": {
        "s3:AbortMultipartUpload",
        "s3:GetObjectRetention",
        "kms:Encrypt",
        *_LOCKING,
    },  # when epochs are ended
    "eraser": {"s3:AbortMultipartUpload", "kms:DescribeKey", "kms:ScheduleKeyDeletion"},
}


@dataclass
class Site:
    """An application whose files and backups are in a bucket of moto's, keys in its KMS, behind a proxy."""

    stack: Stack
    application: Application
    proxy: Proxy
    template: str

    @property
    def bucket(self) -> str:
        return self.template.replace("{region}", EU)

    def service(self) -> BackupService:
        """A process of its own: it remembers nothing."""
        return self.application.service(
            storage={"kind": "s3", "endpoint_url": self.proxy.url, "bucket": self.template, "retries": 0, **ACCESS}
            | {"regions": [EU]},
            files={"bucket": self.template, "connections": 2},
            keys={"provider": "aws-kms", "kms_endpoint_url": self.proxy.url},
            residency={"prove": "always"},
            platform={"pg_dump": str(postgres.binaries() / "pg_dump"), "keep_last": 1},
        )

    @contextmanager
    def acting_as(self, role: str) -> Iterator[Policy]:
        """Only what the role's policy allows gets through."""
        filled = {"sbh-files-REGION": self.bucket, "REGION": EU, "ACCOUNT_ID": "123456789012", "key/KEY_ID": "key/*"}
        policy = Policy(role, **filled)
        self.proxy.before = policy.judge
        try:
            yield policy
        finally:
            self.proxy.before = lambda _: None

    def lose_files(self) -> None:
        s3 = s3_client(self.stack, EU)
        for name in FILES[:2]:
            s3.delete_object(Bucket=self.bucket, Key=f"files/{ACME}/{name}")
        s3.put_object(Bucket=self.bucket, Key=f"files/{ACME}/stranger", Body=b"new")


@pytest.fixture
def site(embedded_stack: Stack, tmp_path: Path) -> Iterator[Site]:
    """Nothing is backed up yet."""
    with fresh_database(embedded_stack) as database, recording(embedded_stack.kms_endpoint) as proxy:
        application = Application(database, tmp_path)
        application.create()
        template = make_buckets(embedded_stack, eu_west_1=EU)
        s3 = s3_client(embedded_stack, EU)
        versioning = {"Status": "Enabled"}
        s3.put_bucket_versioning(Bucket=template.replace("{region}", EU), VersioningConfiguration=versioning)
        for name in FILES:
            body = b"" if name == "empty" else b"x" * 1000
            tags = {"Tagging": "kind=invoice"} if name == FILES[0] else {}
            s3.put_object(Bucket=template.replace("{region}", EU), Key=f"files/{ACME}/{name}", Body=body, **tags)
        yield Site(embedded_stack, application, proxy, template)


@pytest.fixture
def backed_up(site: Site) -> Site:
    """Two tenants with three backups each, the newest of `acme` pinned, and a platform backup."""
    make_backups(site)
    return site


def make_backups(site: Site) -> None:
    service = site.service()
    for kind in ("full", "incremental", "full"):
        site.application.database.run("UPDATE notes SET body = body || '.'")
        for draft in service.backups.create_all([ACME, BOLT], ADMIN, kind):
            assert draft.error is None, draft.error
    service.platform.create(ADMIN)
    latest = service.list_backups(ACME, ADMIN)[0]["id"]
    service.retention.pin(latest, ACME, ADMIN, "because")


def files_then(site: Site) -> None:
    """The files of a moment, from the bucket's versions."""
    then, tenant = site_of(site.service()), site.application.tenant()
    with then.repository(tenant) as repository, file_source(then, tenant, repository, datetime.now(UTC)) as source:
        assert (source.facts.source, source.facts.why) == (FileSource.VERSIONS, "")


def test_a_writer_needs_no_delete(site: Site) -> None:
    with site.acting_as("writer") as policy:
        make_backups(site)
        large = site_of(site.service()).backup_store(site.application.tenant())
        large[0].put(large[1] + "in-parts", b"x" * (17 << 20))  # packs of the default size go up in parts
        files_then(site)
    assert {asked.action for asked in policy.refused} <= {"s3:DeleteObject"}
    assert policy.allowed_actions - policy.used == _UNTRIED["writer"]
    assert not any("Delete" in action for action in policy.allowed_actions)


def test_a_reader_reads_and_records_that_it_did(backed_up: Site, tmp_path: Path) -> None:
    with backed_up.acting_as("reader") as policy:
        service = backed_up.service()
        latest = service.list_backups(ACME, ADMIN)[0]["id"]
        assert service.validate_backup(latest, ACME, ADMIN, deep=True)["valid"]
        service.restores.plan(latest, ACME, ADMIN)
        service.exports.export(latest, ACME, ADMIN, tmp_path / "export")
        service.backups.recovery_points([], ADMIN)
        service.platform.backups(ADMIN)
        service.restores.of(ACME, ADMIN)
    assert policy.refused == []
    assert policy.used == policy.allowed_actions
    store, prefix = site_of(backed_up.service()).backup_store(backed_up.application.tenant())
    with backed_up.acting_as("reader"), pytest.raises(StoreDenied):
        store.put(prefix + "manifests/forged.json", b"{}")


def test_the_api_launches_pins_and_asks_for_approval(backed_up: Site) -> None:
    with backed_up.acting_as("api") as policy:
        service = backed_up.service()
        (latest, *_) = service.backups.overview(ACME, ADMIN)[0]
        assert service.validate_backup(latest.id, ACME, ADMIN)["valid"]
        with service.launches.claim(service.tenants.find(ACME), "backup"):
            pass
        service.retention.pin(latest.id, ACME, ADMIN, "because")
        asked = as_document(service.approvals.request_restore(latest.id, ACME, ADMIN, reason="ticket 4711"))
        service.approvals.reject(asked["approval_id"], ACME, OTHER)
        service.audit.events(ADMIN, ACME)
        assert policy.refused == []
        assert policy.used == policy.allowed_actions
        store, prefix = site_of(service).backup_store(backed_up.application.tenant())
        with pytest.raises(StoreDenied):
            store.put(prefix + "packs/forged", b"")
        with pytest.raises(StoreDenied):
            service.retention.unpin(latest.id, ACME, ADMIN)


def test_a_restorer_writes_files_and_deletes_no_backup(backed_up: Site) -> None:
    backed_up.lose_files()
    with backed_up.acting_as("restorer") as policy:
        service = backed_up.service()
        latest = service.list_backups(ACME, ADMIN)[0]["id"]
        service.restore_backup(latest, ACME, ADMIN)
        s3 = s3_client(backed_up.stack, EU)
        kept = {e["Key"] for e in s3.list_objects_v2(Bucket=backed_up.bucket, Prefix=f"files/{ACME}/")["Contents"]}
        assert f"files/{ACME}/stranger" not in kept
        assert f"files/{ACME}/odd//name" in kept
        tags = s3.get_object_tagging(Bucket=backed_up.bucket, Key=f"files/{ACME}/{FILES[0]}")["TagSet"]
        assert tags == [{"Key": "kind", "Value": "invoice"}]
        store, prefix = site_of(service).backup_store(backed_up.application.tenant())
        assert policy.refused == []
        with pytest.raises(StoreDenied):
            store.delete([prefix + f"manifests/{latest}.json"])
    assert policy.allowed_actions - policy.used == _UNTRIED["restorer"]


def test_a_pruner_removes_what_no_backup_needs(backed_up: Site) -> None:
    journal, acme = site_of(backed_up.service()).journal(EU), TenantKeys(ACME, "1")
    journal.public_keys.register([acme.public()])
    old = [written(journal, start, start + 100, {acme.public(): [start + 10]}) for start in (0, 100)]
    last = written(journal, 0, 100, {acme.public(): [10]}, incarnation=LATER)
    with backed_up.acting_as("pruner") as policy:
        service = backed_up.service()
        (pin,) = service.retention.holds(ACME, ADMIN)
        with pytest.raises(StoreDenied):
            service.retention.unpin(pin.backup_id, ACME, ADMIN)
        policy.refused.clear()
        service.retention.forget(BOLT, ADMIN, backup_id=service.list_backups(BOLT, ADMIN)[1]["id"])
        service.retention.prune(BOLT, ADMIN)
        service.retention.compact_catalogs(ADMIN)
        (kept,) = service.retention.keep_journals(ADMIN)
        service.keys.rotate([BOLT], ADMIN)
    assert [one.segment for one in kept.removed] == [name.below for name in old]
    assert journal.listing().segments == (last,)
    assert policy.refused == []
    assert policy.allowed_actions - policy.used == _UNTRIED["pruner"]


def test_who_releases_holds_is_not_who_removes(backed_up: Site) -> None:
    """Otherwise a hold would be a wish."""
    with backed_up.acting_as("releaser") as policy:
        service = backed_up.service()
        (pin,) = service.retention.holds(ACME, ADMIN)
        service.retention.unpin(pin.backup_id, ACME, ADMIN)
        assert service.retention.holds(ACME, ADMIN) == []
        assert policy.refused == []
        assert policy.used == policy.allowed_actions
        store, prefix = site_of(service).backup_store(backed_up.application.tenant())
        with pytest.raises(StoreDenied):
            store.delete([prefix + f"manifests/{pin.backup_id}.json"])


def test_an_eraser_leaves_nothing_in_any_version(backed_up: Site) -> None:
    backed_up.service().keys.rotate([BOLT], ADMIN)  # so that there is an older version of its key object
    with backed_up.acting_as("eraser") as policy:
        service = backed_up.service()
        certificate = service.keys.erase(BOLT, ADMIN, confirm=BOLT, reason="asked for it")
    assert certificate
    assert policy.refused == []
    assert policy.allowed_actions - policy.used == _UNTRIED["eraser"]
    s3 = s3_client(backed_up.stack, EU)
    versions = s3.list_object_versions(Bucket=backed_up.bucket, Prefix=f"files/{BOLT}/backups/").get("Versions", [])
    assert all("/backups/audit/" in version["Key"] for version in versions)


@dataclass
class TwoPlaces:
    """The backups of `Site` with a copy in another region: a bucket of its own, and that region's KMS."""

    site: Site
    bucket: str

    def service(self) -> BackupService:
        settings = self.site.service().settings
        copy = CopySettings(name="dr", to=COPY_HOME, bucket=self.bucket, kms_key_id=f"alias/{self.bucket}")
        settings = settings.model_copy(update={"copies": [copy]})
        check_copies(settings)
        return BackupService(settings)

    @contextmanager
    def acting_as(self, role: str) -> Iterator[Policy]:
        filled = {"sbh-files-REGION": self.site.bucket, "sbh-copy-REGION": self.bucket, "REGION": EU}
        keys = {"key/COPY_KEY_ID": "key/*", "key/KEY_ID": "key/*", "COPY_HOME": COPY_HOME}
        policy = Policy(role, **filled, ACCOUNT_ID="123456789012", **keys)
        policy.homes[self.bucket] = COPY_HOME
        self.site.proxy.before = policy.judge
        try:
            yield policy
        finally:
            self.site.proxy.before = lambda _: None


@pytest.fixture
def two_places(backed_up: Site) -> TwoPlaces:
    bucket = f"{backed_up.bucket}-copy"
    where = {"LocationConstraint": COPY_HOME}
    s3_client(backed_up.stack, COPY_HOME).create_bucket(
        Bucket=bucket, ObjectLockEnabledForBucket=True, CreateBucketConfiguration=where
    )
    kms = backed_up.stack.kms_client(COPY_HOME)
    kms.create_alias(AliasName=f"alias/{bucket}", TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    return TwoPlaces(backed_up, bucket)


def test_a_copy_is_made_verified_and_pruned_by_three_roles(two_places: TwoPlaces) -> None:
    with two_places.acting_as("copier") as policy:
        done = two_places.service().copies.run(ADMIN, "dr")
        assert ([str(one.error) for one in done.tenants if one.error], list(done.issues)) == ([], [])
        assert done.objects > 0
        assert policy.refused == []
        assert policy.allowed_actions - policy.used == _UNTRIED["copier"]
        assert not any("Delete" in action for action in policy.allowed_actions)
        kept = two_places.service().copies.prune(ADMIN, "dr")
        assert isinstance(kept.undeleted, StoreDenied)
        assert {(asked.action, asked.resource.rpartition("/")[2]) for asked in policy.refused} >= {
            ("s3:DeleteObject", "delete-probe")
        }
    with two_places.acting_as("copy-verifier") as policy:
        found = two_places.service().copies.verify(ADMIN, "dr", deep=True)
        assert (found.valid, list(found.issues), policy.refused) == (True, [], [])
        assert policy.allowed_actions - policy.used <= {"s3:PutObject"}
    with two_places.acting_as("copy-upkeep") as policy:
        kept = two_places.service().copies.prune(ADMIN, "dr")
        assert (kept.undeleted, list(kept.issues)) == (None, [])
        assert [str(issue) for one in kept.tenants for issue in one.issues] == []
        assert policy.refused == []
        assert policy.allowed_actions - policy.used == _UNTRIED["copy-upkeep"]


def test_a_doctor_sees_how_the_bucket_is_set_up(site: Site) -> None:
    report = Report()
    with site.acting_as("doctor") as policy:
        service = site.service()
        control = S3Control(EU, endpoint_url=site.proxy.url, **ACCESS)
        control.check_bucket(site.bucket)
        residency.check_bucket(report, service.settings, control, Place(site.bucket, "", EU))
        control.location(site.bucket)
        protection.check(report, service.settings, control, site.bucket, ["files/{tenant}/backups/"], strict=False)
        store = open_s3(site.bucket, EU, endpoint_url=site.proxy.url, retries=0, **ACCESS)
        next(store.list("_doctor/"), None)
        _files(report, control, service.settings, _Bucket(site.bucket, EU, "files", ()), [ACME])
        _write(report, store, site.bucket)
        wrapped = site_of(service).keys.wrap(b"k" * 32, "sbh-doctor", EU)
        site_of(service).keys.unwrap(wrapped, "sbh-doctor", EU)
    assert policy.refused == []
    assert policy.used == policy.allowed_actions
    assert not any("not readable" in finding.detail or "tags" in finding.what for finding in report.findings)


def test_the_doctor_names_archived_files(site: Site) -> None:
    report = Report()
    s3 = s3_client(site.stack, EU)
    for key, storage_class in (("old", "DEEP_ARCHIVE"), ("rare", "STANDARD_IA"), ("backups/x", "GLACIER")):
        s3.put_object(Bucket=site.bucket, Key=f"files/{ACME}/{key}", Body=b"x", StorageClass=storage_class)
    control = S3Control(EU, endpoint_url=site.proxy.url, **ACCESS)
    _files(report, control, site.service().settings, _Bucket(site.bucket, EU, "files", ()), [ACME])
    (finding,) = report.findings
    assert f"files/{ACME}/old (DEEP_ARCHIVE)" in finding.detail
    assert "1 of the" in finding.detail
    assert "restore-object" in finding.remedy
    to_glacier = {"Days": 30, "StorageClass": "GLACIER"}
    rule = {"ID": "away", "Status": "Enabled", "Filter": {"Prefix": "files/"}, "Transitions": [to_glacier]}
    s3.put_bucket_lifecycle_configuration(Bucket=site.bucket, LifecycleConfiguration={"Rules": [rule]})
    report = Report()
    protection.check(report, site.service().settings, control, site.bucket, [], files="files/{tenant}/", strict=False)
    assert [f.what for f in report.findings if "moves files" in f.what]


def test_the_doctor_says_where_tags_cannot_be_read(site: Site) -> None:
    """S3 hides from such a role that there are any: they would be lost without a word."""
    report = Report()
    site.proxy.before = lambda seen: (
        Answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>") if "tagging" in seen.query else None
    )
    control = S3Control(EU, endpoint_url=site.proxy.url, **ACCESS)
    _files(report, control, site.service().settings, _Bucket(site.bucket, EU, "files", ()), ["nobody", ACME])
    (finding,) = report.findings
    assert "tags of files" in finding.what
    assert "s3:GetObjectTagging" in finding.remedy


def documents() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", documents())
def test_every_policy_is_a_document_with_placeholders_of_the_readme(name: str) -> None:
    text = (FOLDER / f"{name}.json").read_text("utf-8")
    document = json.loads(text)
    readme = (FOLDER / "README.md").read_text("utf-8")
    assert f"{name}.json" in readme
    if name == "lifecycle":
        return
    assert document["Version"] == "2012-10-17"
    for statement in document["Statement"]:
        assert statement["Sid"].isalnum()
        assert statement["Effect"] in ("Allow", "Deny")
        assert "*" not in _actions(statement) or statement["Effect"] == "Deny"
    for placeholder in ("REGION", "ACCOUNT_ID", "KEY_ID"):
        assert placeholder not in text or placeholder in readme


def _actions(statement: dict[str, Any]) -> list[str]:
    return statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]


def test_the_doctor_is_content_with_the_buckets_policy_and_lifecycle() -> None:
    policy = json.loads((FOLDER / "bucket-policy.json").read_text("utf-8").replace("REGION", EU))
    assert denies_plaintext(policy, f"sbh-files-{EU}")
    for prefix in ("files/{tenant}/backups/", "_sbh-catalog/", "_sbh-platform/", "_sbh-journal/"):
        assert denies_foreign_writes(policy, f"sbh-files-{EU}", prefix)
    assert not denies_foreign_writes(policy, f"sbh-files-{EU}", "elsewhere/{tenant}/")
    for rule in json.loads((FOLDER / "lifecycle.json").read_text("utf-8"))["Rules"]:
        for prefix in ("files/{tenant}/backups/", "_sbh-catalog/", "_sbh-platform/", "_sbh-journal/"):
            assert not LifecycleRule.parse(rule).expires(prefix)
            assert not LifecycleRule.parse(rule).moves_away(prefix)


def test_the_keys_policy_names_the_roles_that_unwrap() -> None:
    """Each role whose own policy has a verb on the key, and no other verb than those."""
    text = (FOLDER / "kms-key-policy.json").read_text("utf-8")
    given: dict[str, set[str]] = {}
    for statement in json.loads(text)["Statement"]:
        listed = statement["Principal"]["AWS"]
        for principal in listed if isinstance(listed, list) else [listed]:
            given.setdefault(principal.rpartition("/")[2], set()).update(_actions(statement))
    for role in (*ROLES, *COPY_ROLES, "doctor"):
        here = [s for s in Policy(role).statements if str(s["Resource"]).endswith("REGION:ACCOUNT_ID:key/KEY_ID")]
        on_the_key = {action for statement in here for action in _actions(statement)}
        assert given[f"sbh-{role}"] == on_the_key
