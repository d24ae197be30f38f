"""Backups under AWS KMS whose key is disabled, pending deletion, denied, lost, throttled or out of reach, over real HTTP."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import KeyRotationFailed, KeyServiceError, KeyServiceUnavailable, SbhError
from sbh_pipelines.security import aws_kms
from sbh_pipelines.security.keys import AwsKms
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.kms_proxy import KmsProxy, kms_proxy

REGION = "eu-west-1"
SECRET = "moto-secret-value"
ACCESS = {"aws_access_key_id": "moto", "aws_secret_access_key": SECRET}


@dataclass
class Vault:
    """KMS behind the proxy, and keys of this test's own: one of the region, under an alias."""

    proxy: KmsProxy
    alias: str
    key_id: str

    @property
    def client(self) -> Any:
        return self.proxy.client

    def new_key(self) -> str:
        key_id: str = self.client.create_key(Description="of a test")["KeyMetadata"]["KeyId"]
        return key_id

    def point(self, key_id: str) -> None:
        self.client.update_alias(AliasName=self.alias, TargetKeyId=key_id)


@pytest.fixture
def vault(embedded_stack: Stack) -> Iterator[Vault]:
    client = embedded_stack.kms_client(REGION)
    with kms_proxy(embedded_stack.kms_endpoint, client) as proxy:
        key_id = client.create_key(Description="of a test")["KeyMetadata"]["KeyId"]
        alias = f"alias/test-{key_id}"
        client.create_alias(AliasName=alias, TargetKeyId=key_id)
        yield Vault(proxy, alias, key_id)


def service(application: Application, vault: Vault, **keys: Any) -> BackupService:
    """Each call is another process: nothing is unwrapped yet."""
    return application.service(
        storage={"access_key_id": "moto", "secret_access_key": SECRET, "regions": [REGION]},
        keys={
            "provider": "aws-kms",
            "key_file": None,
            "kms_key_id": vault.alias,
            "kms_endpoint_url": vault.proxy.url,
            "kms_timeout_s": 30,
            **keys,
        },
    )


def stored(application: Application) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in application.bucket.rglob("*") if f.is_file() and "/backups/" in str(f)}


def _disable(vault: Vault) -> None:
    vault.client.disable_key(KeyId=vault.key_id)


def _schedule(vault: Vault) -> None:
    vault.client.schedule_key_deletion(KeyId=vault.key_id, PendingWindowInDays=7)


def _mend(vault: Vault) -> None:
    if vault.client.describe_key(KeyId=vault.key_id)["KeyMetadata"]["KeyState"] == "PendingDeletion":
        vault.client.cancel_key_deletion(KeyId=vault.key_id)
    vault.client.enable_key(KeyId=vault.key_id)
    vault.proxy.denied.clear()
    vault.proxy.deleted.clear()
    vault.proxy.failure, vault.proxy.gone = "", False


STATES: dict[str, tuple[Callable[[Vault], Any], type[SbhError], str]] = {
    "disabled": (_disable, KeyServiceError, "is disabled.*DisabledException.*enable the key"),
    "pending deletion": (_schedule, KeyServiceError, "pending deletion.*KMSInvalidState.*cancel-key-deletion"),
    "denied": (lambda v: v.proxy.denied.update({"Decrypt", "Encrypt"}), KeyServiceError, "AccessDenied.*grant kms:"),
    "lost": (lambda v: v.proxy.deleted.add(v.key_id), KeyServiceError, "does not exist.*NotFound.*is lost"),
    "throttled": (
        lambda v: setattr(v.proxy, "failure", "ThrottlingException"),
        KeyServiceUnavailable,
        "too many.*try again",
    ),
    "unreachable": (lambda v: setattr(v.proxy, "gone", True), KeyServiceUnavailable, "Cannot reach KMS.*network"),
}


@pytest.mark.parametrize("state", STATES)
def test_a_key_that_cannot_be_used(
    application: Application, vault: Vault, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call says which key and what to do; nothing is written; when the key is usable again, everything works."""
    monkeypatch.setattr(aws_kms, "_ATTEMPTS", 2)
    spoil, kind, message = STATES[state]
    first = service(application, vault).create_backup(ACME, ADMIN)["id"]
    original = application.state(ACME)
    before = stored(application)
    spoil(vault)
    calls: list[Callable[[BackupService], Any]] = [
        lambda s: s.create_backup(ACME, ADMIN),
        lambda s: s.restore_backup(first, ACME, ADMIN),
        lambda s: s.keys.rotate([ACME], ADMIN),
    ]
    calls += [lambda s: s.create_backup(BOLT, ADMIN), lambda s: s.list_backups(ACME, ADMIN)]
    if state == "throttled":  # each waits for the client's own retries
        calls = calls[:1]
    for call in calls:
        with pytest.raises(kind, match=message) as caught:
            call(service(application, vault))
        assert type(caught.value) is kind
        assert vault.key_id in str(caught.value) or vault.alias in str(caught.value)
        assert SECRET not in str(caught.value)
    after = stored(application)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name.rsplit("/", 2)[1] for name in changed} <= {"failures", "backups"}  # records, and the leases
    assert "keys" not in {name.rsplit("/", 2)[1] for name in changed}
    assert application.state(ACME) == original
    _mend(vault)
    mended = service(application, vault)
    assert [m["id"] for m in mended.list_backups(ACME, ADMIN)] == [first]
    assert mended.validate_backup(first, ACME, ADMIN, deep=True)["issues"] == []
    mended.create_backup(BOLT, ADMIN)
    application.wreck(ACME)
    mended.restore_backup(first, ACME, ADMIN)
    assert application.state(ACME) == original


def test_rotation_to_another_kms_key(application: Application, vault: Vault) -> None:
    """The alias points at a new key: after rotating all, the old one may be disabled, even deleted."""
    backups = {tenant: service(application, vault).create_backup(tenant, ADMIN)["id"] for tenant in (ACME, BOLT)}
    new = vault.new_key()
    vault.point(new)
    rotating = service(application, vault)
    assert {s.epochs[0].key_id.rsplit("/")[-1] for s in rotating.keys.status(ADMIN)} == {vault.key_id}
    report = rotating.keys.rotate([], ADMIN, everyone=True)
    assert {done.tenant_id for done in report.rotated} == {ACME, BOLT, f"_catalog/{REGION}"}
    assert {s.epochs[0].key_id.rsplit("/")[-1] for s in rotating.keys.status(ADMIN)} == {new}
    vault.proxy.deleted.add(vault.key_id)
    after = service(application, vault)
    for tenant, backup in backups.items():
        assert after.validate_backup(backup, tenant, ADMIN, deep=True)["issues"] == []
    after.create_backup(ACME, ADMIN)


def test_a_new_key_that_may_encrypt_only_replaces_nothing(application: Application, vault: Vault) -> None:
    """A wrapping that does not unwrap would lock everybody out: it is proved before it takes the old one's place."""
    made = service(application, vault).create_backup(ACME, ADMIN)["id"]
    new = vault.new_key()
    vault.point(new)
    before = {name: body for name, body in stored(application).items() if "/keys/" in name}

    def only_encrypts(action: str, request: dict[str, Any]) -> str:
        return "AccessDeniedException" if action == "Decrypt" and new in request.get("KeyId", "") else ""

    vault.proxy.refusal = only_encrypts  # type: ignore[method-assign]
    with pytest.raises(KeyServiceError, match="kms:Decrypt"):
        service(application, vault).keys.rotate([ACME], ADMIN)
    assert {name: body for name, body in stored(application).items() if "/keys/" in name} == before
    assert service(application, vault).validate_backup(made, ACME, ADMIN)["valid"]


def test_from_a_key_file_to_kms(application: Application, vault: Vault) -> None:
    """The file is read until everything is wrapped by KMS; then it may go."""
    original = application.state(ACME)
    made = application.service(storage={"regions": [REGION]}).create_backup(ACME, ADMIN)["id"]
    file = application.directory / "backup.key"
    moving = service(application, vault, key_file=file)
    assert moving.validate_backup(made, ACME, ADMIN)["valid"]
    assert {done.provider for done in moving.keys.rotate([], ADMIN, everyone=True).rotated} == {"aws-kms"}
    file.unlink()
    alone = service(application, vault)
    application.wreck(ACME)
    alone.restore_backup(made, ACME, ADMIN)
    assert application.state(ACME) == original


def test_a_key_of_each_tenant(application: Application, vault: Vault) -> None:
    """`{tenant}` in the key's name: one tenant's key is no use to another, and its state is its own."""
    keys = {}
    for tenant in (ACME, BOLT, "_catalog"):
        keys[tenant] = vault.new_key()
        vault.client.create_alias(AliasName=f"{vault.alias}-{tenant}", TargetKeyId=keys[tenant])
    template = f"{vault.alias}-{{tenant}}"
    made = service(application, vault, kms_key_id=template)
    for tenant in (ACME, BOLT):
        made.create_backup(tenant, ADMIN)
    found = {s.tenant_id: s.epochs[0].key_id.rsplit("/")[-1] for s in made.keys.status(ADMIN)}
    assert found == {ACME: keys[ACME], BOLT: keys[BOLT], f"_catalog/{REGION}": keys["_catalog"]}
    vault.client.disable_key(KeyId=keys[BOLT])
    with pytest.raises(KeyRotationFailed, match=BOLT):
        service(application, vault, kms_key_id=template).keys.rotate([], ADMIN, everyone=True)
    assert service(application, vault, kms_key_id=template).list_backups(ACME, ADMIN)


def test_a_key_in_another_region_is_refused(vault: Vault) -> None:
    """Whatever a key object says, KMS of another region is not asked."""
    wrapped = AwsKms(vault.alias, vault.proxy.url, ACCESS).wrap(bytes(32), ACME, REGION)
    vault.proxy.calls.clear()
    with pytest.raises(KeyServiceError, match="another region"):
        AwsKms(vault.alias, vault.proxy.url, ACCESS).unwrap(wrapped, ACME, "us-east-1")
    assert vault.proxy.calls == []
