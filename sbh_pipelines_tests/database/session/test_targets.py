"""The journal's connection: to the application's database as another role, and no password for a role that it is not of."""

import pytest
from psycopg2.extensions import parse_dsn
from pydantic import SecretStr

from sbh_pipelines.database.session.targets import NamedDatabase, journal_database
from sbh_pipelines.settings import DatabaseSettings, JournalSettings, Settings

OWN = "host=db.example.com port=5433 dbname=app user=sbh_backup sslmode=verify-full"
PASSWORD = SecretStr("of the backup role")


def settings(dsn: str | None, password: SecretStr | None = None, own: str = OWN) -> Settings:
    return Settings(
        database=DatabaseSettings(dsn=own, password=PASSWORD), journal=JournalSettings(dsn=dsn, password=password)
    )


def test_without_a_dsn_the_journal_connects_as_backups_do() -> None:
    assert journal_database(settings(None)) == settings(None).database


def test_what_is_left_out_is_as_backups_have_it() -> None:
    found = journal_database(settings("user=sbh_journal", SecretStr("its own")))
    assert parse_dsn(found.dsn) == {**parse_dsn(OWN), "user": "sbh_journal"}
    assert found.password == SecretStr("its own")


@pytest.mark.parametrize("dsn", ["user=sbh_journal", "host=primary.example.com", "port=5432"])
def test_another_role_or_host_is_not_sent_the_password_of_backups(dsn: str) -> None:
    found = journal_database(settings(dsn))
    assert isinstance(found, NamedDatabase)
    assert (found.password, found.password_file, found.password_secret) == (None, None, None)
    inside = journal_database(settings(dsn, own=f"{OWN} password=inside"))
    assert "inside" not in inside.dsn


def test_the_same_role_needs_no_second_password() -> None:
    assert journal_database(settings("user=sbh_backup connect_timeout=3")).password == PASSWORD
