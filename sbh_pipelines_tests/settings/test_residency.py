"""Settings that would take data out of its zone, or a key out of its region, are refused when they are read."""

from typing import Any

import pytest
from pydantic import ValidationError

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.places.locality import is_local, require_tls
from sbh_pipelines.settings.places.residency import ResidencySettings, key_region

ZONES = {"eu": ["eu-west-1", "eu-central-1"], "us": ["us-east-1"]}
WIDE = {"zones": ZONES, "platform_lists_all": True}


def settings(**sections: Any) -> Settings:
    sections.setdefault("keys", {"provider": "local", "key_file": "key"})
    return Settings(**sections)


def test_without_zones_everything_is_as_before() -> None:
    assert settings().residency.prove == "aws"
    assert settings(storage={"bucket": "one-for-all"}).storage.bucket == "one-for-all"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"residency": {"default": ["mars-1"]}}, "residency.default names mars-1"),
        ({"residency": {"tenants": {"acme": ["atlantis"]}}}, "residency.tenants.acme names atlantis"),
        ({"residency": {"tiers": {"critical": ["eu-central-1"]}, **WIDE}}, "allows none of storage.regions"),
        ({"residency": {"tenants": {"acme": []}}}, "nothing is allowed to acme"),
        ({"residency": {"zones": {"eu": []}}}, "the zone eu has no regions"),
        ({"residency": {"zones": {"eu": ["us"], "us": ["us-east-1"]}}}, "the name of a zone and of a region"),
        ({"residency": WIDE, "storage": {"bucket": "one-for-all"}}, "storage.bucket is one bucket for regions"),
        ({"residency": WIDE, "storage": {"catalog_bucket": "catalogs"}}, "storage.catalog_bucket is one bucket"),
        ({"residency": WIDE, "files": {"bucket": "files"}}, "files.bucket is one bucket for regions"),
        ({"residency": {"zones": ZONES}}, "the platform backup lies in eu-west-1 and lists the tenants of all zones"),
        (
            {"keys": {"provider": "aws-kms", "kms_key_id": "arn:aws:kms:eu-west-1:111122223333:key/abc"}},
            "keys.kms_key_id is a key in eu-west-1, and us-east-1 would use it",
        ),
        (
            {"storage": {"sse": "aws:kms", "sse_kms_key_id": "arn:aws:kms:us-east-1:111122223333:key/abc"}},
            "storage.sse_kms_key_id is a key in us-east-1, and eu-west-1 would use it",
        ),
        ({"storage": {"sse_kms_key_id": "alias/x"}}, "storage.sse_kms_key_id needs storage.sse"),
        ({"storage": {"prefix": "{tenant}/"}, "files": {"prefix": "{tenant}/files/"}}, "lies around files.prefix"),
        ({"storage": {"prefix": "{tenant}/"}}, "lies around files.prefix"),  # of a tenant whose slug is files
        ({"files": {"exclude": []}}, "add 'backups/' to files.exclude"),
        ({"files": {"prefix": "{tenant}/"}, "storage": {"prefix": "all/{tenant}/"}}, "lies within files.prefix"),
    ],
)
def test_what_leaves_its_place_is_refused(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace(".", r"\.")):
        settings(**sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"residency": WIDE},
        {"files": {"bucket": "files-{region}", "exclude": []}, "storage": {"prefix": "{tenant}/"}},  # in another bucket
        {"storage": {"prefix": "backups-{tenant}/"}, "files": {"prefix": "files-{tenant}/"}},
        {"residency": {"zones": ZONES}, "storage": {"regions": ["eu-west-1", "eu-central-1"], "bucket": "one"}},
        {"residency": {"zones": ZONES}, "storage": {"regions": ["us-east-1"]}},
        {"residency": WIDE, "storage": {"bucket": "same", "endpoint_url": "https://s3.{region}.example.com"}},
        {"keys": {"provider": "aws-kms", "kms_key_id": "arn:aws:kms:{region}:111122223333:alias/sbh"}},
        {"residency": {"tenants": {"acme": ["eu"]}, "tiers": {"archive": ["us-east-1"]}, **WIDE}},
    ],
)
def test_what_stays_in_its_place_is_accepted(sections: dict[str, Any]) -> None:
    sections = {k: dict(v) for k, v in sections.items()}
    if "endpoint_url" in sections.get("storage", {}):
        sections["files"] = {"bucket": "same"}
    assert settings(**sections)


def test_a_zone_stands_for_its_regions() -> None:
    residency = ResidencySettings(zones=ZONES)
    assert residency.regions_of(["eu", "ap-south-1"]) == {"eu-west-1", "eu-central-1", "ap-south-1"}
    assert not residency.is_one_zone(["eu-west-1", "us-east-1"])
    assert not residency.is_one_zone(["eu-west-1", "ap-south-1"])


def test_a_key_tells_its_region_only_by_its_arn() -> None:
    assert key_region("arn:aws-cn:kms:cn-north-1:1:key/x") == "cn-north-1"
    assert key_region("alias/sbh-backup") == key_region("1234abcd") == key_region("arn:short") == ""


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("", True),
        ("/var/run/postgresql", True),
        ("@abstract", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("db.internal", False),
        ("10.0.0.5", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("2130706433", False),
        ("localhost@evil.example.com", False),
    ],
)
def test_only_this_machine_is_local(host: str, local: bool) -> None:
    """By the name alone: that some name leads here is no reason to trust it."""
    assert is_local(host) is local


@pytest.mark.parametrize(
    "url", [None, "", "https://s3.example.com", "HTTPS://x", "http://127.0.0.1:1", "http://[::1]:9"]
)
def test_what_is_encrypted_or_here_may_be_spoken_to(url: str | None) -> None:
    require_tls(url, "storage.endpoint_url", allow_http=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://s3.example.com",
        "ftp://x",
        "s3.example.com",
        "http://",
        "http://127.0.0.1@evil.example.com/",
        "http://[::1",
    ],
)
def test_what_is_not_encrypted_may_not(url: str) -> None:
    with pytest.raises(SettingsError, match=r"storage\.endpoint_url"):
        require_tls(url, "storage.endpoint_url", allow_http=False)


def test_a_webhook_is_not_shown_whole() -> None:
    with pytest.raises(SettingsError) as caught:
        require_tls("http://user:pass@hooks.example.com/services/T0/secret", "a webhook", allow_http=False)
    assert "secret" not in str(caught.value)
    assert "pass" not in str(caught.value)
    require_tls("http://hooks.example.com", "a webhook", allow_http=True)
