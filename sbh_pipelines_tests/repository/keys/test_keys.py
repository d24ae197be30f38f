"""Tenants' data keys: wrapped by a key file or by AWS KMS, bound to their tenant, and missed when they are gone."""

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    CorruptObject,
    KeyServiceError,
    KeyServiceUnavailable,
    SbhError,
    SettingsError,
    UnknownBackup,
)
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.catalog.owners import OwnerDocument
from sbh_pipelines.repository.keys.data_key import KeyPlace, create_data_key
from sbh_pipelines.repository.keys.epochs import set_owner
from sbh_pipelines.repository.open_repository import open_repository
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.keys import AwsKms, KeyProvider, LocalKeyFile
from sbh_pipelines.stores.base import MOST_BYTES
from sbh_pipelines_tests.support.memory_store import MemoryStore

REGION = "eu-west-1"
OWNER = OwnerDocument("00000000", "0" * 64, (), ())
ACCESS = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto-secret-value"}
DATA_KEY = bytes(range(32))
KEY_FILE_BYTES = bytes(range(32, 64))
KEY_OBJECT = "acme/keys/0001.json"


def key_file(path: Path, content: bytes = KEY_FILE_BYTES) -> LocalKeyFile:
    path.write_bytes(base64.b64encode(content) + b"\n")
    return LocalKeyFile(path)


@dataclass
class Own:
    """A KMS key of this test's own, so that disabling it disturbs nobody."""

    client: Any
    key_id: str
    provider: AwsKms


@pytest.fixture
def kms(embedded_stack: Stack) -> Own:
    client = embedded_stack.kms_client(REGION)
    key_id = client.create_key(Description="of a test")["KeyMetadata"]["KeyId"]
    return Own(client, key_id, AwsKms(key_id, embedded_stack.kms_endpoint, ACCESS))


@pytest.fixture(params=["local", "aws-kms"])
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> KeyProvider:
    if request.param == "local":
        return key_file(tmp_path / "backup.key")
    own: Own = request.getfixturevalue("kms")
    return own.provider


def opened(store: MemoryStore, provider: KeyProvider, *, create: bool, tenant: str = "acme") -> Repository:
    return open_repository(store, f"{tenant}/", TenantId(tenant), REGION, provider, create=create)


def with_a_backup(store: MemoryStore) -> None:
    store.put("acme/manifests/backup_20260101_0000.json", b"{}")


def test_a_wrapped_key_unwraps(provider: KeyProvider) -> None:
    wrapped = provider.wrap(DATA_KEY, "acme", REGION)
    assert wrapped["provider"] == provider.name
    assert base64.b64encode(DATA_KEY).decode() not in json.dumps(wrapped)
    assert provider.unwrap(wrapped, "acme", REGION) == DATA_KEY


def test_a_key_is_bound_to_its_tenant(provider: KeyProvider) -> None:
    """Copied to another tenant's folder, with the name in it changed, it still does not unwrap."""
    wrapped = provider.wrap(DATA_KEY, "acme", REGION)
    for other in ("bolt", "acm", "acme ", "ACME"):
        with pytest.raises(KeyServiceError) as caught:
            provider.unwrap(wrapped, other, REGION)
        assert not caught.value.transient


@pytest.mark.parametrize("wrapped", ["", "not base64!", "AAAA", base64.b64encode(bytes(100)).decode()])
def test_a_damaged_wrapping_is_an_error_of_ours(provider: KeyProvider, wrapped: str) -> None:
    good = provider.wrap(DATA_KEY, "acme", REGION)
    with pytest.raises(KeyServiceError):
        provider.unwrap({**good, "wrapped": wrapped}, "acme", REGION)


def test_the_wrong_key_file_does_not_unwrap(tmp_path: Path) -> None:
    wrapped = key_file(tmp_path / "one").wrap(DATA_KEY, "acme", REGION)
    other = key_file(tmp_path / "other", bytes(32))
    with pytest.raises(KeyServiceError, match="key file"):
        other.unwrap(wrapped, "acme", REGION)


@pytest.mark.parametrize("content", [None, b"", b"short", base64.b64encode(bytes(31)), b"\xff" * 50])
def test_a_key_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    """Missing or malformed: the error names the file and shows nothing of it."""
    path = tmp_path / "backup.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        LocalKeyFile(path).wrap(DATA_KEY, "acme", REGION)
    assert str(path) in str(caught.value)
    assert not content or content.decode("latin-1") not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("DisabledException", "enable the key in KMS; nothing is lost"),
        ("KMSInvalidStateException", "cancel the key's deletion"),
        ("AccessDeniedException", "kms:Decrypt"),
        ("InvalidCiphertextException", "older version"),
        ("SomethingNewException", "sbh doctor"),
    ],
)
def test_what_kms_refuses_is_no_transient_error(kms: Own, code: str, remedy: str) -> None:
    """A disabled key, one that is to be deleted, no grant. (The embedded KMS does not know these states.)"""
    wrapped = kms.provider.wrap(DATA_KEY, "acme", REGION)
    with Stubber(kms.provider._client(REGION)) as stubbed:
        stubbed.add_client_error("decrypt", code)
        with pytest.raises(KeyServiceError, match=remedy) as caught:
            kms.provider.unwrap(wrapped, "acme", REGION)
    assert not caught.value.transient
    assert code in str(caught.value)
    assert kms.provider.unwrap(wrapped, "acme", REGION) == DATA_KEY


@pytest.mark.parametrize("code", ["ThrottlingException", "KMSInternalException", "DependencyTimeoutException"])
def test_what_kms_cannot_do_now_is_transient(kms: Own, code: str) -> None:
    wrapped = kms.provider.wrap(DATA_KEY, "acme", REGION)
    with Stubber(kms.provider._client(REGION)) as stubbed:
        stubbed.add_client_error("decrypt", code)
        with pytest.raises(KeyServiceUnavailable):
            kms.provider.unwrap(wrapped, "acme", REGION)


def test_an_alias_that_does_not_exist(embedded_stack: Stack) -> None:
    missing = AwsKms("alias/no-such-key", embedded_stack.kms_endpoint, ACCESS)
    with pytest.raises(KeyServiceError, match="alias/no-such-key"):
        missing.wrap(DATA_KEY, "acme", REGION)


def test_a_kms_that_is_down_is_unavailable() -> None:
    down = AwsKms("alias/x", "http://127.0.0.1:9", ACCESS)
    with pytest.raises(KeyServiceUnavailable) as caught:
        down.wrap(DATA_KEY, "acme", REGION)
    assert caught.value.transient
    assert "moto-secret-value" not in str(caught.value) + repr(vars(caught.value))


# a repository's key


def test_a_repository_keeps_its_key(provider: KeyProvider) -> None:
    """Made once; every later opening reads the same; another tenant has another."""
    store = MemoryStore()
    first, again = opened(store, provider, create=True), opened(store, provider, create=False)
    other = opened(store, provider, create=True, tenant="bolt")
    assert first.sealer.name(b"x") == again.sealer.name(b"x") != other.sealer.name(b"x")
    document = json.loads(store.objects[KEY_OBJECT])
    assert (document["tenant_id"], document["provider"], document["epoch"]) == ("acme", provider.name, 1)


def test_writers_that_begin_at_once_agree_on_the_key(tmp_path: Path) -> None:
    store, provider = MemoryStore(), key_file(tmp_path / "backup.key")
    barrier, names = threading.Barrier(8), set[bytes]()

    def begin() -> None:
        barrier.wait()
        names.add(opened(store, provider, create=True).sealer.name(b"x"))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 1


def test_without_a_repository_there_are_no_backups(provider: KeyProvider) -> None:
    store = MemoryStore()
    with pytest.raises(UnknownBackup):
        opened(store, provider, create=False)
    assert store.objects == {}


@pytest.mark.parametrize("create", [True, False])
def test_backups_without_their_key_are_not_no_backups(provider: KeyProvider, create: bool) -> None:
    """No new key is made, and it is not said that the tenant has no backups: both would hide the loss."""
    store = MemoryStore()
    opened(store, provider, create=True)
    with_a_backup(store)
    del store.objects[KEY_OBJECT]
    with pytest.raises(CorruptObject, match=r"keys/0001\.json"):
        opened(store, provider, create=create)
    assert KEY_OBJECT not in store.objects


Spoil = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: {**d, "tenant_id": "bolt"},
        lambda d: {**d, "provider": "other"},
        lambda d: {**d, "epoch": 9},
        lambda d: {**d, "key_id": ""},
        lambda d: {**d, "key_id": None},
        lambda d: {**d, "wrapped": d["wrapped"][:-8] + "AAAAAAA="},
        lambda d: {k: v for k, v in d.items() if k != "key_id"},
        lambda d: {k: v for k, v in d.items() if k != "wrapped"},
        lambda d: {},
    ],
)
def test_a_spoiled_key_object_is_named(provider: KeyProvider, spoil: Spoil) -> None:
    store = MemoryStore()
    opened(store, provider, create=True)
    with_a_backup(store)
    store.put(KEY_OBJECT, json.dumps(spoil(json.loads(store.objects[KEY_OBJECT]))).encode())
    for create in (True, False):
        with pytest.raises(SbhError, match=r"keys/0001\.json") as caught:
            opened(store, provider, create=create)
        assert not caught.value.transient


def test_another_tenants_key_object_is_refused(provider: KeyProvider) -> None:
    """Also when somebody corrects the name in it."""
    store = MemoryStore()
    for tenant in ("acme", "bolt"):
        opened(store, provider, create=True, tenant=tenant)
    stolen = json.loads(store.objects["bolt/keys/0001.json"])
    for document in (stolen, {**stolen, "tenant_id": "acme"}):
        store.put(KEY_OBJECT, json.dumps(document).encode())
        with pytest.raises((CorruptObject, KeyServiceError), match=r"keys/0001\.json"):
            opened(store, provider, create=True)


def test_a_key_of_the_other_provider_says_which(tmp_path: Path, kms: Own) -> None:
    store, local = MemoryStore(), key_file(tmp_path / "backup.key")
    opened(store, local, create=True)
    with pytest.raises(CorruptObject, match=r"provider 'local'.*keys\.provider"):
        opened(store, kms.provider, create=False)


def test_nothing_secret_is_shown(tmp_path: Path, kms: Own) -> None:
    local = key_file(tmp_path / "backup.key")
    repository = opened(MemoryStore(), local, create=True)
    shown = " ".join(map(repr, (local, vars(local), kms.provider, repository, repository.sealer)))
    assert base64.b64encode(KEY_FILE_BYTES).decode() not in shown
    assert "moto-secret-value" not in repr(kms.provider)


class _ChangingLine(MemoryStore):
    """Of the wrapped key a character is another, the first time that it is read."""

    changed = 0

    def get_with_etag(self, key: str, most: int = MOST_BYTES) -> tuple[bytes, str]:
        body, etag = super().get_with_etag(key, most)
        if key == KEY_OBJECT and not self.changed:
            self.changed += 1
            document = json.loads(body)
            document["wrapped"] = ("B" if document["wrapped"][0] == "A" else "A") + document["wrapped"][1:]
            return json.dumps(document).encode(), etag
        return body, etag


def test_what_a_line_changed_is_not_written_back(tmp_path: Path) -> None:
    """Who says whose the repository is does not unwrap the key: nothing else would tell."""
    keys = key_file(tmp_path / "backup.key")
    first = MemoryStore()
    data_key, _ = create_data_key(first, "acme/", "acme", REGION, keys)
    line = _ChangingLine()
    line.objects.update(first.objects)
    set_owner(KeyPlace(line, "acme/", "acme", REGION, keys), lambda _: OWNER)
    assert line.changed
    assert json.loads(line.objects[KEY_OBJECT])["owner"] == OWNER.as_dict()
    assert keys.unwrap(json.loads(line.objects[KEY_OBJECT]), "acme", REGION) == data_key
