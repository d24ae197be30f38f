"""The settings of keys, and which provider they give."""

import base64
from pathlib import Path

import pytest

from sbh_pipelines.errors import KeyServiceError, SettingsError
from sbh_pipelines.security.aws_kms import AwsKms
from sbh_pipelines.security.key_file import LocalKeyFile
from sbh_pipelines.security.keys import open_key_provider
from sbh_pipelines.settings import Settings, load_settings

DATA_KEY = bytes(range(32))


def read(folder: Path, keys: str) -> Settings:
    file = folder / "sbh.toml"
    file.write_text(f"[keys]\n{keys}\n")
    return load_settings(file)


def key_file(path: Path, seed: int) -> Path:
    path.write_bytes(base64.b64encode(bytes([seed]) * 32))
    return path


def test_key_files_are_relative_to_the_settings(tmp_path: Path) -> None:
    found = read(
        tmp_path, 'provider = "local"\nkey_file = "new.key"\nprevious_key_files = ["old/a.key", "/b.key"]'
    ).keys
    assert (found.key_file, found.previous_key_files) == (
        tmp_path / "new.key",
        [tmp_path / "old/a.key", Path("/b.key")],
    )


@pytest.mark.parametrize(
    "keys", ['kms_key_id = "0000-{tenant}"', "kms_deletion_days = 6", "kms_deletion_days = 31", 'provider = "local"']
)
def test_settings_that_cannot_be_meant(tmp_path: Path, keys: str) -> None:
    with pytest.raises(SettingsError, match="keys"):
        read(tmp_path, keys)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "make one: `umask 077; openssl rand -base64 32 > FILE`"),
        (bytes(range(224, 256)), "32 bytes in base64, and has them as they are"),
        (b"0123456789abcdef" * 2, "32 bytes in base64, and has them as they are"),
        (b"00" * 32, "32 bytes in base64, not 48"),
        (b"nothing of a key", "`sbh settings init`"),
    ],
)
def test_a_file_that_is_no_key_says_how_one_is_made(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "a.key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        LocalKeyFile(file).wrap(DATA_KEY, "acme", "eu-west-1")
    assert says in str(caught.value)
    assert caught.value.remedy
    assert content is None or content.decode("latin-1") not in str(caught.value)


def test_what_a_previous_file_wrapped_is_read_and_never_wrapped_again(tmp_path: Path) -> None:
    old, new = key_file(tmp_path / "old.key", 1), key_file(tmp_path / "new.key", 2)
    wrapped = LocalKeyFile(old).wrap(DATA_KEY, "acme", "eu-west-1")
    both = open_key_provider(read(tmp_path, f'provider = "local"\nkey_file = "{new}"\nprevious_key_files = ["{old}"]'))
    assert both.unwrap(wrapped, "acme", "eu-west-1") == DATA_KEY
    again = both.wrap(DATA_KEY, "acme", "eu-west-1")
    assert again["key_id"] != wrapped["key_id"]
    assert LocalKeyFile(new).unwrap(again, "acme", "eu-west-1") == DATA_KEY
    # An object of an earlier release does not say which file: each is tried.
    assert both.unwrap({**wrapped, "key_id": "local"}, "acme", "eu-west-1") == DATA_KEY
    with pytest.raises(KeyServiceError, match=wrapped["key_id"]):
        LocalKeyFile(new).unwrap(wrapped, "acme", "eu-west-1")


def test_a_tenants_own_key_has_a_name_of_its_own() -> None:
    """Dots become slashes, which no slug has: two tenants never share a key by accident."""
    kms = AwsKms("alias/sbh-{region}-{tenant}", None)
    names = {kms.key_of(slug, "eu-west-1") for slug in ("a.b", "a_b", "a-b", "ab")}
    assert len(names) == 4
    assert "alias/sbh-eu-west-1-a/b" in names
