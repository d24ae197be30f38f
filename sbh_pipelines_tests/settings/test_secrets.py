"""Secrets of AWS Secrets Manager, against moto's: bare, in JSON as RDS writes them, in whichever region they are."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import KeyServiceError, KeyServiceUnavailable, SettingsError
from sbh_pipelines.placement import Place
from sbh_pipelines.security.keys import open_key_provider
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.places.copies import at_copy
from sbh_pipelines.settings.secrets import resolve
from sbh_pipelines.stores.open_store import open_store
from sbh_pipelines_tests.support.recording_proxy import Seen, recording

HOME = "eu-west-1"
Make = Callable[..., tuple[str, str]]


@pytest.fixture
def make(embedded_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a secret in a region; its name and its ARN. The machine has AWS credentials, and no region of its own."""
    for name, value in {
        "ENDPOINT_URL": embedded_stack.kms_endpoint,
        "ACCESS_KEY_ID": "moto",
        "SECRET_ACCESS_KEY": "moto",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")

    def new(value: str | bytes | dict[str, Any], region: str = HOME) -> tuple[str, str]:
        text = json.dumps(value) if isinstance(value, dict) else value
        given = {"SecretBinary" if isinstance(text, bytes) else "SecretString": text}
        client = boto3.client("secretsmanager", region_name=region)
        made = client.create_secret(Name=f"prod/{uuid.uuid4().hex[:12]}", **given)
        return made["Name"], made["ARN"]

    return new


def password(secret: str) -> str | None:
    settings = Settings(database={"password_secret": secret}, storage={"regions": [HOME, "us-east-1"]})  # type: ignore[arg-type]
    return resolve(settings.database, "password")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("pw", "pw"),
        ("pw\n", "pw"),
        ({"username": "sbh_backup", "password": "p\u00e4ss\"w{rd"}, "p\u00e4ss\"w{rd"),
        ({"password": 12345}, "12345"),
        ("{not json", "{not json"),
        ('"quoted"', '"quoted"'),
    ],
)  # fmt: skip
def test_the_text_or_the_key_of_a_json_object_counts(make: Make, value: Any, read: str) -> None:
    name, arn = make(value)
    assert password(name) == password(arn) == read


def test_a_field_of_another_name_has_a_key_of_its_own(make: Make) -> None:
    name, _ = make({"webhook_url": "https://h/x", "password": "no"})
    settings = Settings(alerts={"webhook_url_secret": name}, storage={"regions": [HOME]})  # type: ignore[arg-type]
    assert resolve(settings.alerts, "webhook_url") == "https://h/x"


def test_other_keys_are_named_and_not_their_values(make: Make) -> None:
    name, arn = make({"user": "hidden-1", "pass": "hidden-2"})
    with pytest.raises(SettingsError) as raised:
        password(name)
    assert "key password; its keys are: pass, user" in raised.value.why
    assert "hidden" not in str(raised.value)
    assert password(f"{arn}:pass::") == "hidden-2"


@pytest.mark.parametrize("value", [{"password": None}, {"password": ["x"]}, {"password": ""}, {}, b"\x00\x01"])
def test_what_holds_no_text_is_refused(make: Make, value: Any) -> None:
    name, _ = make(value)
    with pytest.raises(SettingsError, match="Secrets Manager"):
        password(name)


def test_the_region_is_the_arns_else_the_machines_else_the_sites(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    far_name, far = make("far", "ap-south-1")
    home, _ = make("home")
    assert (password(far), password(home)) == ("far", "home")
    with pytest.raises(KeyServiceError, match=f"{far_name} in {HOME}"):
        password(far_name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    assert (password(far_name), password(home)) == ("far", "home")
    with pytest.raises(KeyServiceError, match=f"nowhere in ap-south-1, {HOME}") as raised:
        password("nowhere")
    assert "ARN" in raised.value.remedy


def test_a_store_reads_its_secret_in_its_region_or_at_home(make: Make) -> None:
    name, _ = make({"secret_access_key": "s3"})
    settings = Settings(storage={"secret_access_key_secret": name, "regions": [HOME, "us-east-1"]})  # type: ignore[arg-type]
    assert resolve(settings.storage, "secret_access_key", "us-east-1") == "s3"


def test_a_copys_secret_is_asked_for_where_the_copy_lies(make: Make, embedded_stack: Stack) -> None:
    """Not in the region that the copy is of, which may be lost."""
    name, _ = make({"secret_access_key": "s3"}, "eu-central-1")
    copy = {"name": "dr", "to": "eu-central-1", "access_key_id": "copy", "secret_access_key_secret": name}
    keys = {"provider": "aws-kms", "kms_endpoint_url": embedded_stack.kms_endpoint}
    settings = Settings(storage={"regions": [HOME]}, keys=keys, copies=[copy])  # type: ignore[arg-type]
    there = at_copy(settings, "dr")
    with recording(embedded_stack.kms_endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        open_store(there.storage, Place("bucket", "", HOME))
        open_key_provider(there)
        regions = {seen.headers["authorization"].split("/")[2] for seen in proxy.seen}
    assert regions == {"eu-central-1"}


def test_a_region_that_is_away_is_passed_over(
    make: Make, monkeypatch: pytest.MonkeyPatch, embedded_stack: Stack
) -> None:
    name, _ = make("here", HOME)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    settings = Settings(storage={"secret_access_key_secret": name, "regions": [HOME]})  # type: ignore[arg-type]

    def lost(seen: Seen) -> None:
        if "/us-east-1/" in seen.headers["authorization"]:
            raise ConnectionResetError  # ends the connection without an answer

    with recording(embedded_stack.kms_endpoint) as proxy:
        proxy.before = lost
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert resolve(settings.storage, "secret_access_key", "us-east-1") == "here"
        missing = Settings(storage={"secret_access_key_secret": "nowhere", "regions": [HOME]})  # type: ignore[arg-type]
        with pytest.raises(KeyServiceUnavailable, match="nowhere in us-east-1"):
            resolve(missing.storage, "secret_access_key", "us-east-1")


def test_what_went_wrong_is_told_with_its_remedy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = make("pw")
    boto3.client("secretsmanager", region_name=HOME).delete_secret(SecretId=name)
    with pytest.raises(KeyServiceError, match="restore-secret"):
        password(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(KeyServiceUnavailable, match="network"):
        password(name)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(KeyServiceError, match=r"NoCredentialsError.*AWS_PROFILE"):
        password(name)
