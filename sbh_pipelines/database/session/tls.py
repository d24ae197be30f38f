"""TLS to the database: on, with the server verified, wherever the server is another machine and the DSN does not say.

Nor does a password cross in clear what may not be encrypted: whoever answers in the server's place would only have to ask for it.

What the DSN says counts, but plaintext to another machine needs `database.allow_plaintext` besides: `sslmode=prefer`, libpq's own
default, falls back to it whenever a machine on the way asks for it.
"""

import os
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.extensions

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines.settings.places.locality import is_local

VERIFIED = "verify-full"
_PLAINTEXT = ("disable", "allow", "prefer")
_KNOWS_REQUIRE_AUTH = 160000
_TROUBLE = (
    "does not support SSL",
    "certificate verify failed",
    "does not match host name",
    "root certificate file",
    "could not get server's host name from server certificate",
    "unsupported protocol",
)


@dataclass(frozen=True, slots=True)
class TlsState:
    """How the own session is encrypted; `mode` is what libpq was told.

    `encrypted` is what libpq knows, `to_server` what the server does: a pooler in between may end the encryption.
    """

    encrypted: bool
    to_server: bool
    protocol: str
    cipher: str
    mode: str
    local: bool


def secured(settings: DatabaseSettings) -> dict[str, str]:
    """What to tell libpq besides the DSN. Raises SettingsError for plaintext to another machine that is not allowed."""
    parts = _parts(settings.dsn)
    named = parts.get("hostaddr") or parts.get("host") or os.environ.get("PGHOSTADDR") or os.environ.get("PGHOST") or ""
    if not named and "service" in parts:
        return {}  # the service's file has the host and the mode: `check_session` looks at them
    if all(is_local(host) for host in named.split(",")):
        return {}
    mode = parts.get("sslmode") or os.environ.get("PGSSLMODE")
    if mode is None:
        return {"sslmode": VERIFIED}
    _refuse_plaintext(settings, named, mode)
    return {}


def unheard(settings: DatabaseSettings) -> dict[str, str]:
    """What to tell libpq besides: that no password is sent in clear over a connection that may not be encrypted.

    Nothing where the DSN says which ways to sign in are to count, where a service's file may say it, and to a libpq before 16.
    """
    parts = _parts(settings.dsn)
    if parts.get("require_auth") or os.environ.get("PGREQUIREAUTH") or "service" in parts:
        return {}
    mode = parts.get("sslmode") or secured(settings).get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"
    if mode not in _PLAINTEXT or psycopg2.extensions.libpq_version() < _KNOWS_REQUIRE_AUTH:
        return {}
    return {"require_auth": "!password"}


def check_session(settings: DatabaseSettings, connection: Any) -> None:
    """Check an open connection, whose host a service's file may have named.

    Raises SettingsError for plaintext to another machine that is not allowed.
    """
    facts = connection.info.dsn_parameters
    host = facts.get("hostaddr") or facts.get("host") or ""
    if not is_local(host) and not connection.info.ssl_in_use:
        _refuse_plaintext(settings, host, facts.get("sslmode") or "prefer")


def session_state(connection: Any) -> TlsState:
    """How the connection's own session is encrypted."""
    cursor = connection.cursor()
    cursor.execute("SELECT ssl, version, cipher FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()")
    to_server, protocol, cipher = cursor.fetchone() or (False, None, None)
    info, facts = connection.info, connection.info.dsn_parameters
    host = facts.get("hostaddr") or facts.get("host") or ""
    protocol, cipher = (protocol or info.ssl_attribute("protocol"), cipher or info.ssl_attribute("cipher"))
    mode = facts.get("sslmode") or ""
    return TlsState(info.ssl_in_use, bool(to_server), protocol or "", cipher or "", mode, is_local(host))


def trouble(text: str, place: str) -> SettingsError | None:
    """The error for what libpq says of a connection that cannot be secured; None where it speaks of something else."""
    if not any(words in text for words in _TROUBLE):
        return None
    return SettingsError(
        "The connection to the database cannot be secured",
        on=place,
        why=text[:300],
        remedy="name the server's CA in database.dsn (sslrootcert=/path/ca.pem, or sslrootcert=system) and the host as its"
        " certificate does, with ssl = on in the server; or say there which sslmode is to count",
    )


def _refuse_plaintext(settings: DatabaseSettings, host: str, mode: str) -> None:
    if mode in _PLAINTEXT and not settings.allow_plaintext:
        raise SettingsError(
            "The connection to the database may not be encrypted",
            on=f"host={host} sslmode={mode}",
            why="rows of all tenants would cross the network where others can read and change them",
            remedy="leave sslmode out of database.dsn (verify-full counts then); on a network that is trusted all the same set"
            " database.allow_plaintext = true",
        )


def _parts(dsn: str) -> dict[str, str]:
    try:
        return dict(psycopg2.extensions.parse_dsn(dsn))
    except psycopg2.Error:
        return {}  # the connection itself says what is wrong with it
