"""Which settings a session has, whatever the role, the database and the server bring."""

from contextlib import closing

import pytest

from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.database.session.pinned import DEFAULT, PINNED, TIMEOUTS, UNPINNED
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.databases import Database

# What a role's settings were when values came back changed, or a session was ended.
HOSTILE = {
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "gin_fuzzy_search_limit": "1",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1s",
    "transaction_timeout": "1s",
    "tcp_user_timeout": "1",
    "client_encoding": "LATIN1",
    "datestyle": "German",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "xmlbinary": "hex",
    "xmloption": "document",
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "row_security": "on",
    "synchronize_seqscans": "on",
    "enable_seqscan": "off",
    "geqo_threshold": "2",
    "plan_cache_mode": "force_generic_plan",
    "default_tablespace": "nowhere",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "synchronous_commit": "off",
    "search_path": "nowhere",
}


def of_server(database: Database) -> dict[str, tuple[str, str]]:
    """(context, built-in default) of the server's own settings, by name in lower case."""
    rows = database.ask("SELECT lower(name), context, boot_val FROM pg_settings WHERE name NOT LIKE '%.%'")
    return {name: (context, default) for name, context, default in rows}


def test_every_setting_that_a_session_may_change_is_pinned_or_has_a_reason_not_to_be(either: Database) -> None:
    """A new version brings new settings: each is to be decided on, in `pinned.py`."""
    mine = {name for name, (context, _) in of_server(either).items() if context == "user"}
    assert mine - PINNED.keys() - UNPINNED.keys() == set()
    assert PINNED.keys() & UNPINNED.keys() == set()


def test_a_session_has_the_pinned_settings_whatever_its_role_brings(either: Database) -> None:
    known = of_server(either)
    role = f"ALTER ROLE sbh_backup IN DATABASE {either.name} SET"
    either.run(*(f"{role} {name} = '{value}'" for name, value in HOSTILE.items() if name in known))
    with closing(connect(DatabaseSettings(dsn=either.dsn), "test")) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT lower(name), setting FROM pg_settings")
        now = dict(cursor.fetchall())
    for name, value in PINNED.items():
        if name in known and known[name][0] == "user":
            assert now[name] == (known[name][1] if value is DEFAULT else value), name
    assert now["synchronous_commit"] == "on"
    assert now["search_path"] == "pg_catalog, public, pg_temp"


def test_a_stronger_commit_than_on_stays(either: Database) -> None:
    either.run(f"ALTER ROLE sbh_backup IN DATABASE {either.name} SET synchronous_commit = remote_apply")
    with closing(connect(DatabaseSettings(dsn=either.dsn), "test")) as connection:
        assert shown(connection, "synchronous_commit") == "remote_apply"


def test_the_settings_bound_a_statement(either: Database) -> None:
    settings = DatabaseSettings(dsn=either.dsn, statement_timeout_s=7, work_mem_mib=3)
    with closing(connect(settings, "test")) as connection:
        assert (shown(connection, "statement_timeout"), shown(connection, "work_mem")) == ("7s", "3MB")


@pytest.mark.parametrize(
    ("more", "idle"), [("", "60"), (" keepalives_idle=7", "7"), (" keepalives=0 keepalives_idle=7", "7")]
)
def test_a_silent_connection_is_kept_alive(more: str, idle: str, embedded_stack: object, database: Database) -> None:
    """Where the DSN says nothing of it; else as it says."""
    with closing(connect(DatabaseSettings(dsn=database.dsn + more), "test")) as connection:
        assert connection.info.dsn_parameters["keepalives_idle"] == idle


def test_all_timeouts_are_pinned() -> None:
    assert TIMEOUTS.items() <= PINNED.items()


def shown(connection: object, name: str) -> str:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute(f"SHOW {name}")
    return str(cursor.fetchone()[0])
