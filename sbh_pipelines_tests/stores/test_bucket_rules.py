"""What policies and lifecycle rules mean, in tables."""

from typing import Any

import pytest

from sbh_pipelines.stores.bucket_rules import LifecycleRule, denies_plaintext

DENY: dict[str, Any] = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}


@pytest.mark.parametrize(
    ("changes", "denies"),
    [
        ({}, True),
        ({"Principal": {"AWS": "*"}}, True),
        ({"Principal": {"AWS": ["arn:aws:iam::1:root", "*"]}}, True),
        ({"Action": ["s3:*"]}, True),
        ({"Action": "*"}, True),
        ({"Resource": "arn:aws:s3:::*"}, True),
        ({"Resource": "*"}, True),
        ({"Condition": {"Bool": {"aws:securetransport": ["false"]}}}, True),
        ({"Condition": {"Bool": {"aws:SecureTransport": False}}}, True),
        ({"Effect": "Allow"}, False),
        ({"Principal": {"AWS": "arn:aws:iam::1:role/x"}}, False),
        ({"Principal": None}, False),
        ({"Action": "s3:GetObject"}, False),
        ({"Resource": "arn:aws:s3:::b"}, False),
        ({"Resource": "arn:aws:s3:::other/*"}, False),
        ({"Condition": {"Bool": {"aws:SecureTransport": "true"}}}, False),
        ({"Condition": None}, False),
        ({"Condition": {"Bool": {"aws:SecureTransport": "false", "aws:ViaAWSService": "false"}}}, False),
        ({"Condition": {**DENY["Condition"], "StringEquals": {"aws:PrincipalTag/a": "b"}}}, False),
    ],
)
def test_only_a_denial_of_everything_to_everybody_counts(changes: dict[str, Any], denies: bool) -> None:
    statement = {**DENY, **changes}
    assert denies_plaintext({"Statement": [{"Effect": "Allow"}, statement]}, "b") is denies
    assert denies_plaintext({"Statement": statement}, "b") is denies


@pytest.mark.parametrize("policy", [{}, {"Statement": None}, {"Statement": "x"}, {"Statement": [None, 1, []]}])
def test_what_is_no_policy_denies_nothing(policy: dict[str, Any]) -> None:
    assert not denies_plaintext(policy, "b")


@pytest.mark.parametrize(
    ("wanted", "reaches"),
    [
        ("", True),
        ("f", True),
        ("files", True),
        ("files/", True),
        ("files/tenant-1/", True),
        ("files/tenant-1/backups/packs/ab", True),
        ("files/tenant-1/back", True),
        ("files/tenant-1/uploads/", False),
        ("files/tenant-1/backups2/", False),
        ("logs/", False),
        ("filesystem/", False),
    ],
)
def test_a_rule_reaches_a_prefix_where_some_key_begins_with_both(wanted: str, reaches: bool) -> None:
    prefix = "files/{tenant}/backups/"
    expiring = {"Status": "Enabled", "Expiration": {"Days": 1}}
    for narrowed in ({"Filter": {"Prefix": wanted}}, {"Prefix": wanted}, {"Filter": {"And": {"Prefix": wanted}}}):
        assert LifecycleRule.parse({**expiring, **narrowed}).expires(prefix) is reaches
    moving = {"Status": "Enabled", "Transitions": [{"StorageClass": "GLACIER"}], "Filter": {"Prefix": wanted}}
    assert LifecycleRule.parse(moving).moves_away(prefix) is reaches


def test_a_tag_does_not_make_a_rule_harmless() -> None:
    """Who knows what is tagged tomorrow."""
    tagged = {"Status": "Enabled", "Expiration": {"Days": 1}, "Filter": {"Tag": {"Key": "tmp", "Value": "1"}}}
    assert LifecycleRule.parse(tagged).expires("files/{tenant}/backups/")
    assert not LifecycleRule.parse({**tagged, "Expiration": {"ExpiredObjectDeleteMarker": True}}).expires(
        "files/{tenant}/backups/"
    )
