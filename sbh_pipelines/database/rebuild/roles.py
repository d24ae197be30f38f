"""Roles, their memberships and settings, and what was granted on the database itself: put into another server.

A role that is there already stays as it is, password included; one that is made has no password, and cannot log in with one
until it is set. Values of settings are data, whoever set them: any role may write what it likes into its own.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from string import ascii_lowercase, ascii_uppercase

import psycopg2

from sbh_pipelines.database.rebuild.left_out import LeftOut
from sbh_pipelines.database.rebuild.shared import Fact
from sbh_pipelines.database.session.connection import Connection, translate, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident, literal

_ATTRIBUTES = {
    "rolsuper": "SUPERUSER",
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolcanlogin": "LOGIN",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}
# Settings whose value is a list of names (PostgreSQL's GUC_LIST_QUOTE; extensions may not have any): whether names that are not
# quoted in it are meant in lower case.
_LISTS = {
    "local_preload_libraries": False,
    "search_path": True,
    "session_preload_libraries": False,
    "shared_preload_libraries": False,
    "temp_tablespaces": True,
    "unix_socket_directories": False,
}
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_WORD = re.compile(r"[A-Z]+")
_SPACES = " \t\n\r\f\v"
_OPTIONS_FROM = 160_000  # INHERIT and SET of a membership


def make_roles(connection: Connection, facts: Callable[[str], Sequence[Fact]]) -> tuple[list[str], list[LeftOut]]:
    """Create the roles that are missing, with their settings, and grant the memberships that are missing.

    The roles made, and the settings that this server does not take.
    """
    with translated("read the target's roles"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute("SELECT current_setting('server_version_num')::int")
        version = cursor.fetchone()[0]
        cursor.execute("SELECT rolname FROM pg_roles")
        present = {name for (name,) in cursor.fetchall()}
        cursor.execute(
            "SELECT r.rolname, u.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
            " JOIN pg_roles u ON u.oid = m.member"
        )
        members = set(cursor.fetchall())
    made = [role["rolname"] for role in facts("role") if role["rolname"] not in present]
    statements = [(_creation(role), role["rolname"]) for role in facts("role") if role["rolname"] in made]
    known = present | set(made)
    for fact in facts("member"):
        pair = (fact["role"], fact["member"])
        if pair not in members and known.issuperset(pair):
            statements.append((_membership(fact, version), fact["member"]))
            members.add(pair)
    for fact in facts("parameter_grant"):
        if fact["grantee"] in made:
            statements.append((_grant(fact, f"PARAMETER {_parameter(fact['parameter'])}"), fact["grantee"]))
    _all(connection, statements, "create a role")
    own = [fact for fact in facts("setting") if fact["role"] in made and not fact["database"]]
    return made, _set_all(connection, [(f"ROLE {ident(fact['role'])}", fact) for fact in own])


def set_up_database(connection: Connection, facts: Callable[[str], Sequence[Fact]]) -> tuple[int, list[LeftOut]]:
    """Settings of the database and of roles in it, and the privileges on it.

    How many statements that took, and the settings that this server does not take.
    """
    database = _own_name(connection)
    settings = []
    for fact in facts("setting"):
        if fact["database"]:
            whose = f"ROLE {ident(fact['role'])} IN DATABASE {database}" if fact["role"] else f"DATABASE {database}"
            settings.append((whose, fact))
    statements = []
    if grants := facts("database_grant"):  # none: they were never changed
        statements.append((f"REVOKE ALL ON DATABASE {database} FROM PUBLIC", "PUBLIC"))
        statements += [(_grant(fact, f"DATABASE {database}"), fact["grantee"] or "PUBLIC") for fact in grants]
    _all(connection, statements, "set the database up")
    return len(settings) + len(statements), _set_all(connection, settings)


def _own_name(connection: Connection) -> str:
    with translated("read the target's name"):
        cursor = connection.cursor()
        cursor.execute("SELECT current_database()")
        return ident(cursor.fetchone()[0])


def search_path(facts: Callable[[str], Sequence[Fact]]) -> list[str]:
    """The schemas of the search path that the database had for all roles; none where it had none of its own."""
    found = [f for f in facts("setting") if f["database"] and not f["role"] and f["name"].lower() == "search_path"]
    with suppress(ValueError):
        return list_elements(found[0]["value"], lower=True) if found else []
    return []


def _set_all(connection: Connection, settings: Sequence[tuple[str, Fact]]) -> list[LeftOut]:
    """Set each for its owner, within a transaction; those that cannot be set here: of an extension or a release that is missing."""
    left_out, cursor = list[LeftOut](), connection.cursor()
    for whose, fact in settings:
        named = f"{whose} SET {fact['name']}"
        try:
            statement = f"ALTER {whose} SET {_assignment(fact)}"
        except ValueError as error:
            left_out.append(LeftOut(named, str(error)))
            continue
        with translated("set a setting", named):
            cursor.execute("SAVEPOINT sbh_setting")
            try:
                cursor.execute(statement)
            except psycopg2.Error as error:
                refused = translate(error, "set a setting", named)
                if refused.transient:
                    raise
                cursor.execute("ROLLBACK TO SAVEPOINT sbh_setting")
                left_out.append(LeftOut(named, refused.why))
            cursor.execute("RELEASE SAVEPOINT sbh_setting")
    return left_out


def _all(connection: Connection, statements: Iterable[tuple[str, str]], what: str) -> None:
    cursor = connection.cursor()
    for statement, on in statements:
        with translated(what, on):
            cursor.execute(statement)


def _creation(role: Fact) -> str:
    words = [word for name, word in _ATTRIBUTES.items() if role.get(name)]
    if not role.get("rolinherit", True):
        words.append("NOINHERIT")
    if role.get("rolconnlimit", -1) != -1:
        words.append(f"CONNECTION LIMIT {int(role['rolconnlimit'])}")
    if role.get("rolvaliduntil"):
        words.append(f"VALID UNTIL {literal(role['rolvaliduntil'])}")
    return " ".join([f"CREATE ROLE {ident(role['rolname'])}", *words])


def _membership(fact: Fact, version: int) -> str:
    grant = f"GRANT {ident(fact['role'])} TO {ident(fact['member'])}"
    if version < _OPTIONS_FROM or "inherit_option" not in fact:
        return grant + (" WITH ADMIN OPTION" if fact["admin_option"] else "")
    options = (f"{name} {bool(fact[f'{name.lower()}_option'])}" for name in ("ADMIN", "INHERIT", "SET"))
    return f"{grant} WITH {', '.join(options)}"


def _assignment(fact: Fact) -> str:
    """`name TO value`. Raises ValueError for a list that is none."""
    name, value = fact["name"], fact["value"]
    lower = _LISTS.get(name.lower())
    values = [value] if lower is None else list_elements(value, lower=lower) or [""]
    return f"{_parameter(name)} TO {', '.join(map(literal, values))}"


def list_elements(value: str, *, lower: bool) -> list[str]:
    """The names in the value of a setting that is a list of names. Raises ValueError where it is none.

    `lower`: those without quotes stand for their lower case.
    """
    found, at = list[str](), _skipped(value, 0)
    while at < len(value):
        if value[at] == '"':
            name, at = _quoted(value, at + 1)
        else:
            end = next((n for n in range(at, len(value)) if value[n] in "," + _SPACES), len(value))
            name, at = value[at:end], end
            if not name:
                raise ValueError("its value is no list of names")
            name = name.translate(_LOWER) if lower else name
        found.append(name)
        at = _skipped(value, at)
        if at < len(value):
            at = _skipped(value, at + 1) if value[at] == "," else len(value) + 1
            if at >= len(value):
                raise ValueError("its value is no list of names")
    return found


def _quoted(value: str, at: int) -> tuple[str, int]:
    """The name in quotes that begins at `at`, and where it ends."""
    name = ""
    while (end := value.find('"', at)) >= 0:
        name += value[at:end]
        if value[end + 1 : end + 2] != '"':
            return name, end + 1
        name, at = name + '"', end + 2
    raise ValueError("its value is no list of names: a quote is open")


def _skipped(value: str, at: int) -> int:
    while at < len(value) and value[at] in _SPACES:
        at += 1
    return at


def _parameter(name: str) -> str:
    return ".".join(map(ident, name.split(".")))


def _grant(fact: Fact, on: str) -> str:
    grantee = ident(fact["grantee"]) if fact["grantee"] else "PUBLIC"
    privilege = " ".join(_WORD.findall(fact["privilege"]))  # words of the server's, such as ALTER SYSTEM
    return f"GRANT {privilege} ON {on} TO {grantee}" + (" WITH GRANT OPTION" if fact["grantable"] else "")
