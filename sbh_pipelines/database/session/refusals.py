"""Why a server, or the way to it, refuses a connection: whether that passes, and what mends it.

The driver gives no code for these, only words: the server's, in its language, and libpq's. Unknown words get the remedy of
last resort.
"""

import os
from collections.abc import Mapping

from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.errors import SourceError, SourceUnavailable

_LAST = "check database.dsn, the password and the network; `sbh doctor` checks all three"

_PASSWORD = ("no password supplied", "password authentication failed")
_IN_CLEAR = (
    "let it ask otherwise: scram-sha-256 in pg_hba.conf, or TLS (sslmode=verify-full). Where it is yours, and asks so for a reason"
    " (LDAP, PAM), add to {dsn}: require_auth=password"
)

# The first whose words are all there counts. {role} and {database} are quoted as SQL needs it.
_TABLE: tuple[tuple[tuple[str, ...], type[SourceError], str], ...] = (
    (("server requested a cleartext password",), SourceError, _IN_CLEAR),
    (
        ("password authentication failed",),
        SourceError,
        "correct the password of {role} in the file that database.password_file names, or by ALTER ROLE {role} PASSWORD",
    ),
    (
        ("no password supplied",),
        SourceError,
        'give the password of {role}, under [database]: password_file = "/etc/sbh/database.password"',
    ),
    (
        ("no pg_hba.conf entry",),
        SourceError,
        "add a line to pg_hba.conf for this role, database and address, as the message has them: hostssl, and scram-sha-256; then"
        " SELECT pg_reload_conf();",
    ),
    (("is not permitted to log in",), SourceError, "ALTER ROLE {role} LOGIN;"),
    (("permission denied for database",), SourceError, "GRANT CONNECT ON DATABASE {database} TO {role};"),
    (
        ("role ", "does not exist"),
        SourceError,
        "correct user in database.dsn, or make the role: docs/operations.md has the statements",
    ),
    (("database ", "does not exist"), SourceError, "correct dbname in database.dsn"),
    (("not currently accepting connections",), SourceError, "ALTER DATABASE {database} ALLOW_CONNECTIONS true;"),
    (("authentication failed",), SourceError, "correct the role in database.dsn and what it logs in with"),
    (
        ("too many connections for role",),
        SourceUnavailable,
        "lower database.connections, or ALTER ROLE {role} CONNECTION LIMIT -1; then try again",
    ),
    (
        ("too many clients",),
        SourceUnavailable,
        "lower database.connections, or raise max_connections on the server; then try again",
    ),
    (
        ("remaining connection slots",),
        SourceUnavailable,
        "lower database.connections, or raise max_connections on the server; then try again",
    ),
    (
        ("max_client_conn",),
        SourceUnavailable,
        "raise the pooler's max_client_conn, or let database.dsn name the server itself; then try again",
    ),
    (("the database system is",), SourceUnavailable, "wait until the server is up, then try again"),
    (
        ("could not translate host name",),
        SourceUnavailable,
        "correct host in database.dsn, or the name service of this machine",
    ),
    (
        ("Connection refused",),
        SourceUnavailable,
        "check host and port in database.dsn, that the server runs, and its listen_addresses",
    ),
    (
        ("timeout expired",),
        SourceUnavailable,
        "check the firewalls between here and the server, or raise database.connect_timeout_s",
    ),
    (
        ("session is not read-only",),
        SourceUnavailable,
        "target_session_attrs in database.dsn asks for a standby: name one",
    ),
    (
        ("session is read-only",),
        SourceUnavailable,
        "target_session_attrs in database.dsn asks for the primary: name it, also after a failover",
    ),
)


def refusal(text: str, parts: Mapping[str, str], *, named: str = "") -> tuple[type[SourceError], str]:
    """(kind of error, remedy) for what libpq says of a connection that was not made to a DSN of these parts.

    `named`: how to give it a password, where it is not the database of the settings.
    """
    if named and any(words in text for words in _PASSWORD):
        return SourceError, named
    role = parts.get("user") or os.environ.get("PGUSER") or "sbh_backup"
    names = {"role": ident(role), "database": ident(parts.get("dbname") or os.environ.get("PGDATABASE") or role)}
    names["dsn"] = "the connection string" if named else "database.dsn"
    for words, kind, remedy in _TABLE:
        if all(word in text for word in words):
            return kind, remedy.format(**names)
    return (SourceError if "does not exist" in text else SourceUnavailable), _LAST
