"""Who we are for AWS: every half of the data path takes what the `aws` command would, and renews it."""

import json
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import SettingsError, StoreDenied
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import open_s3
from sbh_pipelines.stores.signed.credentials import Credentials
from sbh_pipelines_tests.support.fix_moto import make_buckets
from sbh_pipelines_tests.support.recording_proxy import Proxy, recording

EU = "eu-west-1"


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any credentials; what a test writes into `config` and `creds` counts."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "creds"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def proxy(embedded_stack: Stack) -> Iterator[Proxy]:
    with recording(embedded_stack.kms_endpoint) as running:
        yield running


@pytest.fixture(scope="module")
def bucket(embedded_stack: Stack) -> str:
    return make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)


def opened(bucket: str, proxy: Proxy) -> Store:
    return open_s3(bucket, EU, endpoint_url=proxy.url, retries=0, timeout_s=60)


def every_half(store: Store) -> None:
    key = uuid.uuid4().hex
    store.put(key, b"x")
    store.put_stream(key, [b"x"], {"Expires": "0"})
    assert store.get(key) == b"".join(bytes(piece) for piece in store.stream(key)[1]) == b"x"
    assert [info.key for info in store.list_exactly(key)] == [key]


def who(proxy: Proxy) -> set[str]:
    """The access keys that requests were signed with."""
    return {seen.headers["authorization"].split("Credential=")[1].split("/")[0] for seen in proxy.seen}


def program(folder: Path, **more: Any) -> str:
    """A credential_process; each call of it gives another key and leaves a line in `calls`."""
    answer = json.dumps({"Version": 1, "SecretAccessKey": "s", **more})
    file = folder / "program"
    file.write_text(
        f"#!/bin/sh\necho call >> {folder}/calls\nn=$(wc -l < {folder}/calls)\n"
        f'echo \'{answer}\' | sed "s/{{/{{\\"AccessKeyId\\": \\"PROCESS$n\\", /"\n'
    )
    file.chmod(0o700)
    return str(file)


@pytest.mark.parametrize("form", ["default", "AWS_PROFILE", "credential_process", "environment", "temporary"])
def test_every_half_takes_what_aws_would(
    bucket: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    pair = "aws_access_key_id = FILED\naws_secret_access_key = s\n"
    wanted = "FILED"
    if form == "default":
        (tmp_path / "creds").write_text(f"[default]\n{pair}")
    elif form == "AWS_PROFILE":
        (tmp_path / "creds").write_text(f"[prod]\n{pair}")
        monkeypatch.setenv("AWS_PROFILE", "prod")
    elif form == "credential_process":
        (tmp_path / "config").write_text(f"[default]\ncredential_process = {program(tmp_path)}\n")
        wanted = "PROCESS1"
    elif form == "environment":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        wanted = "ENVIRONMENT"
    else:
        (tmp_path / "creds").write_text(f"[default]\n{pair}aws_session_token = temporary\n")
    every_half(opened(bucket, proxy))
    assert who(proxy) == {wanted}
    if form == "temporary":
        assert {seen.headers["x-amz-security-token"] for seen in proxy.seen} == {"temporary"}


def test_the_settings_keys_come_first(bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """And alone: a session token of the environment belongs to other keys."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "environment")
    every_half(open_s3(bucket, EU, endpoint_url=proxy.url, access_key_id="OURS", secret_access_key="s"))
    assert who(proxy) == {"OURS"}
    assert not any("x-amz-security-token" in seen.headers for seen in proxy.seen)


def test_keys_are_renewed_before_they_end(tmp_path: Path) -> None:
    """And the process is not asked at every request."""
    soon = (datetime.now(UTC) + timedelta(minutes=8)).isoformat()
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program(tmp_path, Expiration=soon)}\n")
    assert [Credentials().keys().access for _ in range(2)] == ["PROCESS2", "PROCESS3"]  # each is about to end
    late = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    program(tmp_path, Expiration=late)
    assert len({Credentials().keys().access for _ in range(4)}) == 1
    given = Credentials().provided()
    assert given["expires_at"] < datetime.now(UTC) + timedelta(minutes=10)
    assert "'s'" not in repr(Credentials().keys())


def test_without_any_it_is_said_what_to_do(bucket: str, proxy: Proxy) -> None:
    store = opened(bucket, proxy)
    calls = (lambda: store.get("x"), lambda: store.stream("x"), lambda: list(store.list_exactly("x")))
    for call in calls:
        with pytest.raises(StoreDenied, match=r"There are no AWS credentials.*aws sso login") as raised:
            call()
        assert raised.value.transient is False


def test_a_profile_that_is_not_there_is_named(bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "prodd")
    store = opened(bucket, proxy)
    for call in (lambda: store.stream("x"), lambda: list(store.list_exactly("x"))):
        with pytest.raises(SettingsError, match="prodd"):
            call()
