"""What the doctor says of whom people are taken for, and of where passwords go."""

from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.doctor import access
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.settings import Settings

ISSUER = {"mode": "oidc", "issuer": "https://idp.example.com", "tenants": {"platform": "*"}}
PASSWORD = {"dsn": "host=db.example.com user=sbh dbname=app", "password": "x"}


def found(**sections: Any) -> list[str]:
    report = Report()
    access.check(report, Settings(keys={"provider": "local", "key_file": "k"}, **sections))  # type: ignore[arg-type]
    assert all(finding.level is Level.WARNING and finding.remedy for finding in report.findings)
    return [finding.what for finding in report.findings]


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"auth": ISSUER}, ""),
        ({"auth": {**ISSUER, "user_claim": "preferred_username"}}, "can change hands"),
        ({"auth": {**ISSUER, "user_claim": "cognito:username"}}, "can change hands"),
        ({"auth": {**ISSUER, "tenants": {}}}, "says \\*"),
        ({"auth": {**ISSUER, "max_ttl_s": 1_000_000}}, "cannot be revoked"),
        ({"auth": {**ISSUER, "max_ttl_s": 1_000_000, "revoked_file": Path("r")}}, ""),
        ({"database": PASSWORD, "drill": {"dsn": "host=drills.example.com user=sbh dbname=x"}}, "Drills have no"),
        ({"database": PASSWORD, "drill": {"dsn": "host=drills.example.com user=sbh dbname=x", "password": "y"}}, ""),
        ({"database": PASSWORD, "drill": {"dsn": "host=db.example.com user=sbh dbname=x"}}, ""),
        ({"api": {"expensive_per_tenant": 4}}, "keep all others' waiting"),
        ({"api": {"expensive_per_tenant": 1, "expensive_threads": 1}}, ""),
        ({"api": {"behind_proxy": True, "keep_alive_s": 30}}, "closes connections"),
        ({"auth": ISSUER, "audit": {"repeats_s": 0}}, "fills the audit trail"),
        ({"database": PASSWORD, "drill": {"dsn": "host=drills.example.com user=sbh password=z"}}, ""),
        ({}, ""),
    ],
)
def test_what_is_left_open(sections: dict[str, Any], says: str) -> None:
    """A finding with its remedy for each, and none where all is well."""
    whats = found(**sections)
    assert len(whats) == bool(says)
    assert all(says.replace("\\", "") in what for what in whats)
