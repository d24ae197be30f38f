"""TLS to the database, against a real server with ssl = on and certificates of our own.

`127.1` leads to this machine and is not this machine by its name: for the rules it is another one.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from sbh_pipelines.database.session import tls
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.database.session.programs import PRE_DATA, dump_section
from sbh_pipelines.database.session.snapshot import exported_snapshot
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.errors import SettingsError, SourceUnavailable
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.certificates import Authority
from sbh_pipelines_tests.support.own_server import VERSIONS, OwnServer, own_server, wait_for

AFAR = "127.1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server(15) as running:  # the embedded version is built without TLS
        yield running


def use_tls(server: OwnServer, authority: Authority, folder: Path, *names: str) -> None:
    """The server takes TLS, with a certificate for these names."""
    owner = server.data.stat()
    for file in authority.issue(folder, *names):
        target = server.data / file.name
        target.write_bytes(file.read_bytes())
        target.chmod(0o600)
        os.chown(target, owner.st_uid, owner.st_gid)
    set_tls(server, "off")
    set_tls(server, "on")


def set_tls(server: OwnServer, value: str) -> None:
    with closing(psycopg2.connect(server.dsn())) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"ALTER SYSTEM SET ssl = {value}")
        connection.cursor().execute("SELECT pg_reload_conf()")

    def taken() -> bool:
        with closing(psycopg2.connect(server.dsn())) as connection:
            cursor = connection.cursor()
            cursor.execute("SHOW ssl")
            return bool(cursor.fetchone()[0] == value)

    wait_for(taken, f"ssl = {value}")


def afar(server: OwnServer, more: str = "", **fields: Any) -> DatabaseSettings:
    return DatabaseSettings(
        dsn=f"host={AFAR} port={server.port} dbname=postgres user={postgres.ADMIN} {more}", **fields
    )


def test_another_machine_is_verified_by_default(server: OwnServer, authority: Authority, tmp_path: Path) -> None:
    use_tls(server, authority, tmp_path, "127.0.0.1")
    with closing(connect(afar(server, f"sslrootcert={authority.file}"), "test")) as connection:
        state = tls.session_state(connection)
        assert (state.encrypted, state.to_server, state.mode, state.local) == (True, True, "verify-full", False)
        assert state.protocol.startswith("TLSv1.")
        assert state.cipher


def test_pg_dump_is_told_the_same(server: OwnServer, authority: Authority, tmp_path: Path) -> None:
    """Otherwise the schema would travel as libpq likes."""
    use_tls(server, authority, tmp_path, "127.0.0.1")
    program = str(VERSIONS[15] / "pg_dump")
    good = afar(server, f"sslrootcert={authority.file}")
    with exported_snapshot(good) as (snapshot, _, _):
        assert b"".join(dump_section(good, program, PRE_DATA, snapshot, "UTF8"))
        with pytest.raises(SettingsError, match="may not be encrypted"):
            list(dump_section(afar(server, "sslmode=prefer"), program, PRE_DATA, snapshot, "UTF8"))


def test_another_authority_is_refused(server: OwnServer, authority: Authority, tmp_path: Path) -> None:
    use_tls(server, authority, tmp_path, "127.0.0.1")
    stranger = Authority(tmp_path, "stranger")
    with pytest.raises(SettingsError, match="certificate verify failed") as caught:
        connect(afar(server, f"sslrootcert={stranger.file}"), "test")
    assert "sslrootcert" in caught.value.remedy
    assert not caught.value.transient


def test_another_host_name_is_refused(server: OwnServer, authority: Authority, tmp_path: Path) -> None:
    use_tls(server, authority, tmp_path, "db.example.com")
    trusted = f"sslrootcert={authority.file}"
    with pytest.raises(SettingsError, match=r"does not match host name|could not get server's host name"):
        connect(afar(server, trusted), "test")
    # Asked for in so many words, it is the operator's decision; the doctor says so.
    with closing(connect(afar(server, f"{trusted} sslmode=verify-ca"), "test")) as connection:
        assert tls.session_state(connection).encrypted


def test_no_authority_is_an_error_that_says_so(
    server: OwnServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tls(server, authority, tmp_path, "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="cannot be secured"):
        connect(afar(server, f"sslrootcert={tmp_path / 'none'}"), "test")


def test_a_server_without_tls_is_refused_by_default(server: OwnServer, authority: Authority) -> None:
    set_tls(server, "off")
    with pytest.raises(SettingsError, match="does not support SSL"):
        connect(afar(server, f"sslrootcert={authority.file}"), "test")
    with pytest.raises(SettingsError, match="may not be encrypted") as caught:
        connect(afar(server, "sslmode=disable"), "test")
    assert "allow_plaintext" in caught.value.remedy
    with closing(connect(afar(server, "sslmode=disable", allow_plaintext=True), "test")) as connection:
        assert not tls.session_state(connection).encrypted


def test_this_machine_stays_as_it_was(server: OwnServer) -> None:
    set_tls(server, "off")
    with closing(connect(DatabaseSettings(dsn=server.dsn()), "test")) as connection:
        state = tls.session_state(connection)
        assert (state.encrypted, state.local) == (False, True)


def test_a_service_file_does_not_open_a_way_around(
    server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_tls(server, "off")
    file = tmp_path / "pg_service.conf"
    file.write_text(f"[app]\nhost={AFAR}\nport={server.port}\ndbname=postgres\nuser={postgres.ADMIN}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    with pytest.raises(SettingsError, match="may not be encrypted"):
        connect(DatabaseSettings(dsn="service=app"), "test")
    with closing(connect(DatabaseSettings(dsn="service=app", allow_plaintext=True), "test")) as connection:
        assert not tls.session_state(connection).local


@pytest.mark.parametrize(
    ("dsn", "environment", "expected"),
    [
        ("host=127.0.0.1", {}, {}),
        ("host=/run/postgresql", {}, {}),
        ("dbname=app", {}, {}),
        ("postgresql://u@localhost/app", {}, {}),
        ("host=db.example.com", {}, {"sslmode": "verify-full"}),
        ("postgresql://u@db.example.com:5432/app", {}, {"sslmode": "verify-full"}),
        ("host=127.0.0.1,db.example.com", {}, {"sslmode": "verify-full"}),
        ("host=db.example.com hostaddr=10.0.0.1", {}, {"sslmode": "verify-full"}),
        ("host=db.example.com hostaddr=127.0.0.1", {}, {}),
        ("dbname=app", {"PGHOST": "db.example.com"}, {"sslmode": "verify-full"}),
        ("host=db.example.com sslmode=require", {}, {}),
        ("host=db.example.com", {"PGSSLMODE": "verify-ca"}, {}),
        ("host=db.example.com sslmode=disable", {}, None),
        ("host=db.example.com sslmode=allow", {}, None),
        ("host=db.example.com", {"PGSSLMODE": "prefer"}, None),
        ("not a dsn at all", {}, {}),
    ],
)
def test_what_libpq_is_told(
    dsn: str, environment: dict[str, str], expected: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = DatabaseSettings(dsn=dsn)
    if expected is None:
        with pytest.raises(SettingsError, match="may not be encrypted"):
            tls.secured(settings)
        assert tls.secured(settings.model_copy(update={"allow_plaintext": True})) == {}
    else:
        assert tls.secured(settings) == expected


def test_a_server_that_is_down_is_still_only_down() -> None:
    with pytest.raises(SourceUnavailable):
        connect(DatabaseSettings(dsn=f"host={AFAR} port=1 dbname=x"), "test")
