"""Somebody who may compare a backup with another database wants the password of the application's database sent to theirs.

What stops them: that password goes to the host, port and user of `database.dsn` and nowhere else, no password goes in clear over
what is not encrypted, and another database is for administrators of the platform.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.rebuild.throwaway import drill_server
from sbh_pipelines.database.session import tls
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.database.session.targets import named
from sbh_pipelines.errors import AccessDenied, RequestError, SbhError
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.greedy_server import GreedyServer, greedy_server

SECRET = "pr0d-database-passw0rd"
EVE = UserContext("eve", ACME, Role.OPERATOR, "cli")
OWN = UserContext("ann", ACME, Role.ADMIN, "cli")
OPERATOR = UserContext("ole", "*", Role.OPERATOR, "cli")


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GreedyServer]:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    with greedy_server() as server:
        yield server


@pytest.fixture
def service(application: Application) -> BackupService:
    """Its settings have the password themselves, which the database really takes."""
    parts = parse_dsn(application.database.dsn)
    lines = Path(parts.pop("passfile")).read_text("utf-8").splitlines()
    password = next(line.rpartition(":")[2] for line in lines if f":{parts['user']}:" in line)
    made = application.service(database={"dsn": make_dsn(**parts), "password": password})
    made.backups.create(ACME, ADMIN)
    return made


def test_who_may_name_another_database(service: BackupService, listening: GreedyServer) -> None:
    """Before anything connects: all of the tenant's rows would be read into it."""
    target = {"into_database": listening.dsn()}
    for user in (EVE, OWN, OPERATOR):
        for wish in (service.restores.plan, service.restores.run):
            with pytest.raises(AccessDenied):
                wish("latest", ACME, user, **target)  # type: ignore[operator]
    for user in (EVE, OWN):
        with pytest.raises(AccessDenied):
            service.approvals.request_restore("latest", ACME, user, reason="x", **target)  # type: ignore[arg-type]
    assert listening.asked == 0


@pytest.mark.parametrize("environment", [False, True])
def test_nobodys_target_is_told_the_password(
    service: BackupService, listening: GreedyServer, monkeypatch: pytest.MonkeyPatch, environment: bool
) -> None:
    """Not by those who may name one either, who can be mistaken; nor that of PGPASSWORD, nor a recovery's."""
    if environment:
        monkeypatch.setenv("PGPASSWORD", SECRET)
    for target in (listening.dsn(), listening.dsn("require_auth=password"), listening.dsn("require_auth=''")):
        for wish in (
            lambda: service.restores.plan("latest", ACME, ADMIN, into_database=target),  # noqa: B023
            lambda: service.restores.run("latest", ACME, ADMIN, into_database=target),  # noqa: B023
            lambda: service.platform.recover(target, ADMIN, files=False, confirm=True),  # noqa: B023
        ):
            with pytest.raises(SbhError) as refused:
                wish()
            assert "password" in str(refused.value)
    assert listening.asked > 0
    assert listening.passwords == []


def test_the_server_of_drills_is_not_told_it_either(application: Application, listening: GreedyServer) -> None:
    """Whoever sets up another server for drills gets the password of the role that writes only by being told it."""
    more: dict[str, Any] = {"database": {"dsn": SITE, "password": SECRET}}
    for restore in ({}, {"dsn": SITE, "password": SECRET}):
        drilling = application.service(drill={"dsn": listening.dsn("require_auth=password")}, restore=restore, **more)
        with pytest.raises(SbhError) as refused:
            connect(drill_server(drilling.settings), "drill")
        assert "drill.password_file" in refused.value.remedy
    assert (listening.asked > 0, listening.passwords) == (True, [])
    for drill in (
        {"dsn": listening.dsn("require_auth=password"), "password": "own"},
        {"dsn": listening.dsn("require_auth=password password=own")},
    ):
        with pytest.raises(SbhError, match="authentication failed"):
            connect(drill_server(application.service(drill=drill, **more).settings), "drill")
    assert listening.passwords == ["own", "own"]


def test_a_password_of_the_targets_own_is_sent_to_it(service: BackupService, listening: GreedyServer) -> None:
    """Which it must not ask for in clear, unless that is said to be meant."""
    with pytest.raises(SbhError, match="cleartext") as refused:
        service.restores.plan("latest", ACME, ADMIN, into_database=listening.dsn(), into_password="theirs")
    assert "require_auth=password" in refused.value.remedy
    assert listening.passwords == []
    allowed = listening.dsn("require_auth=password")
    with pytest.raises(SbhError, match="authentication failed"):
        service.restores.plan("latest", ACME, ADMIN, into_database=allowed, into_password="theirs")
    assert listening.passwords == ["theirs"]


SITE = "host=db.example.com port=5432 user=sbh dbname=app sslrootcert=/etc/ca.pem"


@pytest.mark.parametrize(
    ("target", "same"),
    [
        ("host=db.example.com user=sbh dbname=copy", True),
        ("host=db.example.com user=sbh dbname=copy application_name=x options='-c a=b'", True),
        ("postgresql://sbh@db.example.com:5432/copy", True),
        (f"{SITE} dbname=copy", True),
        ("host=db.example.com port=5433 user=sbh dbname=copy", False),
        ("host=db.example.com dbname=copy", False),
        ("host=db.example.com user=other dbname=copy", False),
        ("host=DB.example.com.evil.com user=sbh", False),
        ("host=evil.com,db.example.com port=5432 user=sbh", False),
        ("host=db.example.com,evil.com user=sbh", False),
        ("host=db.example.com hostaddr=10.0.0.6 user=sbh", False),
        ("hostaddr=10.0.0.6 user=sbh", False),
        ("host=db.example.com user=sbh sslmode=require", False),
        ("host=db.example.com user=sbh sslrootcert=/tmp/mine.pem", False),
        ("host=db.example.com user=sbh require_auth=password", False),
        ("host=db.example.com user=sbh sslcrl=/tmp/x", False),
        ("user=sbh dbname=copy", False),
        ("service=mine user=sbh", False),
        ("host=db.example.com user=sbh passfile=/tmp/x", False),
    ],
)
def test_what_is_the_same_server(target: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leads elsewhere, or says that less is checked on the way, is another."""
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    database = DatabaseSettings(dsn=SITE, password=SECRET)  # type: ignore[arg-type]
    made = named(database, target)
    assert made.dsn == target
    assert (made.password is not None, made.password_file, made.password_secret) == (same, None, None)
    assert named(database, target, "theirs").password.get_secret_value() == "theirs"  # type: ignore[union-attr]


def test_a_service_and_pgpassword(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service's file says where it is; libpq would send PGPASSWORD there."""
    database = DatabaseSettings(dsn=SITE, password=SECRET)  # type: ignore[arg-type]
    monkeypatch.setenv("PGPASSWORD", SECRET)
    with pytest.raises(RequestError, match="PGPASSWORD"):
        named(database, "service=mine")


@pytest.mark.parametrize("more", ["", "sslmode=prefer", "sslmode=disable"])
def test_the_sites_own_server_is_not_told_it_in_clear_either(listening: GreedyServer, more: str) -> None:
    """Whoever listens in its place, while it is down, learns nothing; a site whose server asks so on purpose says so."""
    database = DatabaseSettings(dsn=listening.dsn(more), password=SECRET)  # type: ignore[arg-type]
    with pytest.raises(SbhError, match="cleartext") as refused:
        connect(database, "test")
    assert "require_auth=password" in refused.value.remedy
    assert listening.passwords == []
    with pytest.raises(SbhError, match="password authentication failed"):
        connect(database.model_copy(update={"dsn": listening.dsn(f"{more} require_auth=password")}), "test")
    assert listening.passwords == [SECRET]


@pytest.mark.parametrize(
    ("dsn", "clear"),
    [
        ("host=db.example.com", True),
        ("host=db.example.com sslmode=require", True),
        ("host=db.example.com sslmode=verify-ca", True),
        ("host=db.example.com sslmode=prefer", False),
        ("host=db.example.com sslmode=disable", False),
        ("host=localhost", False),
        ("host=/var/run/postgresql", False),
        ("dbname=app", False),
        ("host=localhost require_auth=password", True),
        ("service=app", True),
    ],
)
def test_where_a_password_may_go_in_clear(dsn: str, clear: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TLS is certain, as the tokens of RDS need it, and where the site says so."""
    for name in ("PGSSLMODE", "PGREQUIREAUTH", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    told = tls.unheard(DatabaseSettings(dsn=dsn, allow_plaintext=True))
    assert told == ({} if clear else {"require_auth": "!password"})
