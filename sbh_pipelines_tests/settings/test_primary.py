"""`primary`: one line by which the backups are at a copy's place; what other copies leave out is as it was written."""

from pathlib import Path

import pytest

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.placement import backup_place, files_place, lies_beside
from sbh_pipelines.settings import Settings, load_settings
from sbh_pipelines.settings.places.copies import at_copy, copy_named, primary_copy, with_primary
from sbh_pipelines_tests.settings.test_reading import bare, refused

__all__ = ["bare"]

FILE = """
[storage]
regions = ["eu-west-1"]
bucket = "sbh-files-{region}"
access_key_id = "first"
secret_access_key_file = "first.secret"
sse = "aws:kms"
sse_kms_key_id = "arn:aws:kms:{region}:1:key/sse"

[keys]
kms_key_id = "alias/first"
kms_endpoint_url = "https://kms.{region}.example.com"

[retention.full_backups]
keep_daily = 3

[[copies]]
name = "dr"
to = "eu-central-1"
bucket = "sbh-copy-{region}"
endpoint_url = "https://s3.second.example.com"
access_key_id = "second"
secret_access_key_file = "second.secret"
kms_key_id = "alias/second"
lock_days = 30
[copies.retention.full_backups]
keep_daily = 5

[[copies]]
name = "third"
to = "eu-north-1"
bucket = "sbh-third-{region}"
"""


def loaded(text: str) -> Settings:
    Path("sbh.toml").write_text(text)
    return load_settings()


def test_the_backups_are_at_the_copys_place() -> None:
    settings = loaded('primary = "dr"\n' + FILE)
    storage, keys = settings.storage, settings.keys
    assert (storage.bucket, storage.endpoint_url, storage.access_key_id) == (
        "sbh-copy-{region}",
        "https://s3.second.example.com",
        "second",
    )
    assert storage.secret_access_key_file == Path("second.secret").resolve()
    assert storage.real_region("eu-west-1") == keys.real_region("eu-west-1") == "eu-central-1"
    assert (keys.kms_key_id, keys.kms_endpoint_url) == ("alias/second", "https://kms.eu-central-1.example.com")
    assert storage.sse_kms_key_id == "arn:aws:kms:eu-central-1:1:key/sse"
    assert (storage.of_files.bucket, storage.of_files.access_key_id) == ("sbh-files-{region}", "first")
    assert settings.retention.full_backups.keep_daily == 5
    assert settings.prune.min_age_hours == 30 * 24
    assert [copy.name for copy in settings.copies] == ["third"]
    copy = primary_copy(settings)
    assert copy is not None
    assert copy.lock_days == 30


@pytest.mark.parametrize(
    ("bucket", "endpoint_url", "beside"),
    [
        ("sbh-files-{region}", "https://s3.first.example.com", True),
        ("sbh-files-{region}", "https://s3.second.example.com", False),
        ("sbh-copy-{region}", "https://s3.first.example.com", False),
    ],
)
def test_backups_lie_beside_the_files_on_one_server_only(bucket: str, endpoint_url: str, beside: bool) -> None:
    """A copy's bucket may have the same name on a server of its own; what lies in it is not where the files are."""
    settings = loaded(FILE.replace("[storage]", '[storage]\nendpoint_url = "https://s3.first.example.com"'))
    (copy, _), tenant = settings.copies, Tenant(TenantId("acme"), "1", "eu-west-1", "")
    copy = copy.model_copy(update={"bucket": bucket, "endpoint_url": endpoint_url, "to": "eu-west-1"})
    there = with_primary(settings.model_copy(update={"copies": [copy], "primary": "dr"}))
    assert lies_beside(settings, files_place(settings, tenant), backup_place(settings, tenant))
    assert lies_beside(there, files_place(there, tenant), backup_place(there, tenant)) is beside


def test_what_another_copy_leaves_out_is_as_it_was_written() -> None:
    """Not as the primary has it: neither its server, nor its credentials, nor the keys of its region, nor its policy."""
    before, after = at_copy(loaded(FILE), "third"), at_copy(loaded('primary = "dr"\n' + FILE), "third")
    assert after.storage == before.storage
    assert after.keys == before.keys
    assert (after.storage.access_key_id, after.storage.endpoint_url) == ("first", None)
    assert after.storage.sse_kms_key_id == "arn:aws:kms:eu-north-1:1:key/sse"
    assert after.keys.kms_endpoint_url == "https://kms.eu-north-1.example.com"
    assert after.storage.real_region("eu-west-1") == "eu-north-1"
    assert after.retention.full_backups.keep_daily == before.retention.full_backups.keep_daily == 3
    assert after.prune == before.prune


def test_the_settings_as_they_were_written_are_kept() -> None:
    settings = loaded('primary = "dr"\n' + FILE)
    assert settings.as_written.primary is None
    assert settings.as_written.storage == loaded(FILE).storage
    assert [copy.name for copy in settings.as_written.copies] == ["dr", "third"]
    assert loaded(FILE).as_written.storage == loaded(FILE).storage
    with pytest.raises(SettingsError, match="no copy of this name"):
        copy_named(settings, "dr")


def test_a_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBH_PRIMARY", "dr")
    assert loaded(FILE).storage.access_key_id == "second"
    monkeypatch.setenv("SBH_PRIMARY", "")
    error = refused()
    assert "unset SBH_PRIMARY" in error.remedy


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('primary = "nowhere"\n' + FILE, "nowhere is none of them: dr, third"),
        ('primary = "dr"', "dr is none of them: none"),
        ('primary = "DR"\n' + FILE, "primary"),
        (
            ('primary = "dr"\n' + FILE).replace('["eu-west-1"]', '["eu-west-1", "us-east-1"]').replace(
                'name = "dr"', 'name = "dr"\nfrom = ["eu-west-1"]'
            ),
            "the copy dr is not of us-east-1",
        ),
        ('primary = "dr"\n' + FILE.replace("sbh-third-", "sbh-files-"), "where the backups themselves or the files are"),
    ],
)  # fmt: skip
def test_what_cannot_be_one(text: str, why: str) -> None:
    Path("sbh.toml").write_text(text)
    assert why in refused().why


def test_a_line_that_came_below_a_section_says_where_it_belongs() -> None:
    Path("sbh.toml").write_text(FILE + 'primary = "dr"\n')
    assert "did you mean primary?" in refused().remedy
