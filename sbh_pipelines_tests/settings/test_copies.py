"""`[[copies]]`: a list of tables at the top, read from both sources, and refused where a copy would be none."""

import json
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.cli.settings_docs import fields
from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import Settings, load_settings
from sbh_pipelines.settings.places.copies import CopySettings, at_copy
from sbh_pipelines_tests.settings.test_reading import bare, refused

__all__ = ["bare"]

EU, CENTRAL, US = "eu-west-1", "eu-central-1", "us-east-1"
COPY = {"name": "dr", "from": [EU], "to": CENTRAL}


def settings_with(*copies: dict[str, Any], **sections: Any) -> Settings:
    """As from a file."""
    Path("sbh.toml").unlink(missing_ok=True)
    return Settings(copies=list(copies), **{"storage": {"regions": [EU, US]}, **sections})  # type: ignore[arg-type]


def complaint(*copies: dict[str, Any], **sections: Any) -> str:
    with pytest.raises(ValueError) as raised:
        settings_with(*copies, **sections)
    return str(raised.value)


def test_a_variable_gives_all_of_them_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBH_COPIES", json.dumps([COPY, {**COPY, "name": "b", "bucket": "b-{region}"}]))
    assert [(copy.name, copy.from_) for copy in load_settings().copies] == [("dr", [EU]), ("b", [EU])]
    assert {row.env for row in fields() if row.section == "copies"} == {""}


def _rows() -> list[str]:
    return [row.name for row in fields() if row.section == "copies"]


def test_the_page_has_the_names_of_the_file() -> None:
    assert {"from", "to", "retention"} <= set(_rows())
    assert "from_" not in _rows()


@pytest.mark.parametrize(
    ("name", "value", "why", "remedy"),
    [
        ("SBH_COPIES", "dr", "a list of objects in JSON", 'SBH_COPIES=\'[{"name": "dr", "to": "eu-central-1"}]\''),
        ("SBH_COPIES", '{"name": "dr", "to": "x"}', "SBH_COPIES", 'SBH_COPIES=\'[{"name": "dr", "to": "eu-central-1"}]\''),
        ("SBH_COPIES", "[1]", "SBH_COPIES", 'SBH_COPIES=\'[{"name": "dr", "to": "eu-central-1"}]\''),
        ("SBH_COPIES", '[{"name": "dr"}]', "SBH_COPIES (copies.0.to)", '"to": "eu-central-1"'),
        ("SBH_COPIES", '[{"name": "dr", "to": "x", "tier": []}]', "copies.0.tier) is no setting", "copies.0.tiers"),
        ("SBH_COPIES", "", "is empty", "unset SBH_COPIES"),
        ("SBH_COPIES__0__NAME", "dr", "is no setting", "did you mean SBH_COPIES?"),
        ("SBH_COPIE", "[]", "is no setting", "did you mean SBH_COPIES?"),
    ],
)  # fmt: skip
def test_a_variable_that_is_wrong(
    name: str, value: str, why: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    error = refused()
    assert why in error.why
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("text", "why", "remedy"),
    [
        ("[[copies]]\nname = 'dr'\nto = 'x'\nfrom_ = ['y']", "copies.0.from_ is no setting", "did you mean copies.0.from?"),
        ("[[copies]]\nname = 'dr'\nto = 'x'\nform = ['y']", "copies.0.form is no setting", "did you mean copies.0.from?"),
        ("[[copies]]\nname = 'dr'\nto = 'x'\nfrom = 'y'", "copies.0.from", "\n[[copies]]\nname = \"dr\"\nto = \"eu-central-1\"\n"),
        ("[[copies]]\nto = 'x'", "copies.0.name", '\n[[copies]]\nname = "dr"\n'),
        ("[copies]\nname = 'dr'\nto = 'x'", "copies: ", '\n[[copies]]\nname = "dr"\n'),
        ("[[copys]]\nname = 'dr'", "copys is no setting", "did you mean copies?"),
        ("[[copies]]\nname = 'dr'\nto = 'x'\n[copies.retention.full_backups]\nkeep_dayly = 3",
         "copies.0.retention.full_backups.keep_dayly is no setting", "did you mean copies.0.retention.full_backups.keep_daily?"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong(text: str, why: str, remedy: str) -> None:
    Path("sbh.toml").write_text(text)
    error = refused()
    assert why in error.why
    assert remedy in error.remedy


def test_paths_of_a_copy_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    text = "[[copies]]\nname = 'dr'\nto = 'eu-central-1'\nkey_file = 'dr.key'\naccess_key_id = 'x'\n"
    (folder / "sbh.toml").write_text(text + "secret_access_key_file = 'secrets/dr'\n")
    (copy,) = load_settings(folder / "sbh.toml").copies
    assert (copy.key_file, copy.secret_access_key_file) == (folder / "dr.key", folder / "secrets/dr")


def test_a_copys_secret_is_shown_as_stars() -> None:
    copied = settings_with({**COPY, "access_key_id": "k", "secret_access_key": "hunter2"})
    shown = [repr(copied), repr(copied.copies), copied.model_dump_json(), repr(at_copy(copied, "dr"))]
    assert [text for text in shown if "hunter2" in text] == []
    assert at_copy(copied, "dr").storage.secret_access_key.get_secret_value() == "hunter2"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"bucket": "sbh-files-eu-west-1"}, "it lies in sbh-files-eu-west-1"),
        ({"bucket": "sbh-files-us-east-1"}, "it lies in sbh-files-us-east-1"),  # another region's backups
        ({"bucket": "backups"}, ""),
        ({"bucket": "a-{tenant}"}, "must not depend on the tenant"),
        ({"bucket": "a-{zone}"}, "in which {region} may stand"),
        ({"bucket": "a/b"}, "in which {region} may stand"),
        ({"bucket": ""}, "in which {region} may stand"),
        ({"from": ["mars"]}, "from names mars"),
        ({"from": [EU, EU]}, "a region twice"),
        ({"from": [], "bucket": "one"}, "write {region} into its bucket"),
        ({"name": "Dr"}, "name"),
        ({"name": "dr\n"}, "name"),
        ({"name": "../x"}, "name"),
        ({"hours": "22:00-06:00"}, ""),
        ({"hours": "24:00-06:00"}, "24:00 is no time of a day"),
        ({"hours": "22:00-06:60"}, "06:60 is no time of a day"),
        ({"hours": "22:00-22:00"}, "begin when they end"),
        ({"hours": "22-6"}, "hours"),
        ({"hours": "\u0662\u0662:00-06:00"}, "hours"),
        ({"access_key_id": "x"}, "access_key_id needs a secret"),
        ({"secret_access_key_file": "x"}, "needs its access_key_id"),
        ({"kms_key_id": "arn:aws:kms:us-east-1:1:key/x"}, "a key of another region than eu-central-1"),
        ({"kms_key_id": "arn:aws:kms:{region}:1:key/x"}, ""),
        ({"kms_key_id": "own-{tenant}"}, "must be an alias"),
        ({"endpoint_url": "http://s3.example.com"}, "storage.allow_http = true"),
        ({"endpoint_url": "ftp://s3.example.com"}, "endpoint_url is not encrypted"),
        ({"endpoint_url": "s3.example.com"}, "endpoint_url is not encrypted"),
        ({"kms_endpoint_url": "http://kms.example.com"}, "storage.allow_http = true"),
        ({"endpoint_url": "http://127.0.0.1:9000"}, ""),
        ({"to": EU}, ""),  # of the same region: not a second one, but a second place
    ],
)  # fmt: skip
def test_what_a_copy_may_say(fields: dict[str, Any], why: str) -> None:
    if why:
        assert why in complaint({**COPY, **fields})
    else:
        settings_with({**COPY, **fields})


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("https://S3.example.com/", "https://s3.example.com:443", True),
        ("https://s3.example.com", "https://s3.example.com:9000", False),
        ("https://s3-{region}.example.com", "https://s3-eu-central-1.example.com", False),
        (None, "https://s3.eu-central-1.amazonaws.com", True),
        (None, "https://s3.example.com", False),
    ],
)
def test_the_bucket_of_the_backups_is_known_on_its_own_server_only(ours: str | None, theirs: str, same: bool) -> None:
    storage = {"regions": [EU], "endpoint_url": ours, "bucket": "one", "access_key_id": "k"}
    copy = {**COPY, "bucket": "one", "endpoint_url": theirs}
    if same:
        assert "it lies in one" in complaint(copy, storage=storage)
    else:
        settings_with(copy, storage=storage)


def test_buckets_of_tenants_own_and_of_files_are_known() -> None:
    storage = {"regions": [EU], "bucket": "b-{tenant}-x", "catalog_bucket": "catalogs"}
    for bucket in ("b-acme-x", "catalogs", "sbh-files-eu-west-1"):
        assert f"it lies in {bucket}" in complaint({**COPY, "bucket": bucket}, storage=storage)


def test_two_copies_have_names_and_buckets_of_their_own() -> None:
    assert "two copies have one name" in complaint(COPY, {**COPY, "bucket": "other"})
    assert "where the copy dr is" in complaint(COPY, {**COPY, "name": "b"})
    settings_with(COPY, {**COPY, "name": "b", "endpoint_url": "https://s3.example.com"})


def test_a_copy_stays_in_a_zone() -> None:
    zones = {"eu": [EU, CENTRAL], "us": [US]}
    storage = {"regions": [EU]}
    settings_with(COPY, storage=storage, residency={"zones": zones})
    assert "is in no zone with eu-west-1" in complaint({**COPY, "to": US}, storage=storage, residency={"zones": zones})
    lists_all = {"zones": zones, "platform_lists_all": True}
    settings_with({**COPY, "to": US}, storage=storage, residency=lists_all)


def test_the_region_of_a_copy_can_be_allowed_though_no_backups_are_made_there() -> None:
    residency = {"default": [EU], "tiers": {"critical": [EU, CENTRAL]}}
    settings_with(COPY, storage={"regions": [EU]}, residency=residency)
    assert "neither a zone nor a region" in complaint(storage={"regions": [EU]}, residency=residency)


@pytest.mark.parametrize("section", [
    {"keys": {"kms_key_id": "arn:aws:kms:eu-west-1:1:key/x"}},
    {"storage": {"regions": [EU], "sse": "aws:kms", "sse_kms_key_id": "arn:aws:kms:eu-west-1:1:key/x"}},
])  # fmt: skip
def test_a_key_of_the_origin_is_not_asked_by_the_copy(section: dict[str, Any]) -> None:
    assert "is a key in eu-west-1, and the copy in eu-central-1" in complaint(
        COPY, **{"storage": {"regions": [EU]}, **section}
    )


def test_a_directory_has_no_copies() -> None:
    assert "copies need storage.kind = 's3'" in complaint(COPY, storage={"kind": "local", "path": "x", "regions": [EU]})


def test_a_name_that_is_none() -> None:
    with pytest.raises(SettingsError, match="the settings name dr"):
        at_copy(settings_with(COPY), "nowhere")


def test_regions_left_out_are_all() -> None:
    copied = settings_with({**COPY, "from": []})
    assert copied.copies[0].regions(copied) == [EU, US]
    assert CopySettings.model_fields["from_"].alias == "from"
