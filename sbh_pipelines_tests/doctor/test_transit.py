"""What the doctor says of TLS: the real session with a real server, and the addresses in the settings."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.doctor import transit
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.settings import DatabaseSettings, Settings
from sbh_pipelines_tests.database.session.test_tls import afar, set_tls, use_tls
from sbh_pipelines_tests.support.certificates import Authority
from sbh_pipelines_tests.support.own_server import own_server


def session(settings: DatabaseSettings) -> tuple[Level, str, str]:
    report = Report()
    with closing(connect(settings, "doctor")) as connection:
        transit.check_session(report, connection)
    (finding,) = report.findings
    assert finding.remedy or finding.level is Level.OK
    return finding.level, finding.what, finding.detail


def test_the_session_with_the_database(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    trusted = f"sslrootcert={authority.file}"
    with own_server(15) as server:
        level, what, _ = session(DatabaseSettings(dsn=server.dsn()))
        assert (level, "on this machine" in what) == (Level.OK, True)
        level, what, _ = session(afar(server, "sslmode=disable", allow_plaintext=True))
        assert (level, "is not encrypted" in what) == (Level.WARNING, True)
        use_tls(server, authority, tmp_path, "127.0.0.1")
        level, what, detail = session(afar(server, trusted))
        assert (level, "is encrypted" in what) == (Level.OK, True)
        assert detail.startswith("TLSv1.")
        assert detail.endswith("sslmode=verify-full")
        for mode in ("require", "verify-ca"):
            level, what, _ = session(afar(server, f"{trusted} sslmode={mode}"))
            assert (level, "does not verify the server" in what) == (Level.WARNING, True)
        set_tls(server, "off")


def addresses(**sections: Any) -> list[tuple[Level, str]]:
    report = Report()
    transit.check_addresses(report, Settings(keys={"provider": "local", "key_file": "k"}, **sections))  # type: ignore[arg-type]
    return [(finding.level, finding.what) for finding in report.findings]


def test_addresses_in_the_settings() -> None:
    assert addresses() == []
    assert addresses(storage={"endpoint_url": "https://s3.example.com"}) == [
        (Level.OK, "Addresses in the settings that are https or on this machine: 1")
    ]
    plain = {"endpoint_url": "http://s3.example.com"}
    assert addresses(storage=plain) == [(Level.ERROR, "storage.endpoint_url is not encrypted")]
    assert addresses(storage={**plain, "allow_http": True}) == [
        (Level.WARNING, "Addresses on other machines are spoken to without TLS")
    ]
    hook = {"webhook_url": "http://hooks.example.com/secret"}
    assert addresses(restore={"before": [hook]}) == [(Level.ERROR, "restore.before[1].webhook_url is not encrypted")]


def test_no_finding_shows_a_webhook(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    settings = Settings(
        keys={"provider": "local", "key_file": "k"},  # type: ignore[arg-type]
        alerts={"webhook_url": "http://hooks.example.com/secret-token"},  # type: ignore[arg-type]
    )
    transit.check_addresses(report, settings)
    assert report.errors
    assert "secret-token" not in str(report.as_dict())
