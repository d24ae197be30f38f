"""An S3 server whose certificate a private CA signed: every half of the data path trusts the CA that is named, and no other."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import SettingsError, StoreUnavailable
from sbh_pipelines.placement import Place
from sbh_pipelines.settings import StorageSettings
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.open_store import open_control, open_store
from sbh_pipelines_tests.support.certificates import Authority
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets
from sbh_pipelines_tests.support.slow_proxy import slow_line

EU = "eu-west-1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "private")


@pytest.fixture
def address(embedded_stack: Stack, authority: Authority, tmp_path: Path) -> Iterator[str]:
    certificate, key = authority.issue(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with slow_line(embedded_stack.kms_endpoint, context) as (url, _):
        yield url


def every_half(storage: StorageSettings, bucket: str) -> None:
    store: Store = open_store(storage, Place(bucket, "", EU))
    store.put("a", b"x")
    store.put_stream("a", [b"x"], {"Expires": "0"})
    assert store.get("a") == b"".join(bytes(piece) for piece in store.stream("a")[1]) == b"x"
    assert [info.key for info in store.list_exactly("a")] == ["a"]
    open_control(storage, EU).check_bucket(bucket)


def settings(address: str, **more: object) -> StorageSettings:
    return StorageSettings(endpoint_url=address, retries=0, timeout_s=60, **ACCESS, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["storage.ca_file", "AWS_CA_BUNDLE"])
def test_the_named_ca_is_trusted(
    embedded_stack: Stack, authority: Authority, address: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    if by == "AWS_CA_BUNDLE":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
        every_half(settings(address), bucket)
    else:
        every_half(settings(address, ca_file=authority.file), bucket)


def test_no_other_is(address: str, tmp_path: Path) -> None:
    for more in ({}, {"ca_file": Authority(tmp_path, "another").file}):
        storage = settings(address, **more)
        store = open_store(storage, Place("b", "", EU))
        for call in (
            lambda store=store: store.get("a"),
            lambda store=store: store.stream("a"),
            lambda storage=storage: open_control(storage, EU).check_bucket("b"),
        ):
            with pytest.raises(StoreUnavailable, match=r"endpoint_url|check the store"):
                call()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_certificates_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"storage\.ca_file = .*ca\.pem"):
        open_store(settings("https://127.0.0.1:1", ca_file=file), Place("b", "", EU))
