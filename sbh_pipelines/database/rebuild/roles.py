"""Roles, their memberships and settings, and what was granted on the database itself: put into another server.

A role that is there already stays as it is, password included; one that is made has no password, and cannot log in with one
until it is set.
"""

from collections.abc import Callable, Iterable, Sequence

from sbh_pipelines.database.rebuild.shared import Fact
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import ident, literal

_ATTRIBUTES = {
    "rolsuper": "SUPERUSER",
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolcanlogin": "LOGIN",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}
# Settings whose value is a list of quoted names, which must not be quoted once more (PostgreSQL's GUC_LIST_QUOTE).
_LISTS = frozenset(
    (
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    )
)
_OPTIONS_FROM = 160_000  # INHERIT and SET of a membership


def make_roles(connection: Connection, facts: Callable[[str], Sequence[Fact]]) -> list[str]:
    """Create the roles that are missing, with their settings, and grant the memberships that are missing; the roles made."""
    with translated("read the target's roles"):
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
    for fact in facts("setting"):
        if fact["role"] in made and not fact["database"]:
            statements.append((f"ALTER ROLE {ident(fact['role'])} SET {_assignment(fact)}", fact["role"]))
    for fact in facts("parameter_grant"):
        if fact["grantee"] in made:
            statements.append((_grant(fact, f"PARAMETER {_parameter(fact['parameter'])}"), fact["grantee"]))
    _all(connection, statements, "create a role")
    return made


def set_up_database(connection: Connection, facts: Callable[[str], Sequence[Fact]]) -> int:
    """Settings of the database and of roles in it, and the privileges on it; how many statements that took."""
    with translated("read the target's name"):
        cursor = connection.cursor()
        cursor.execute("SELECT current_database()")
        database = ident(cursor.fetchone()[0])
    statements = []
    for fact in facts("setting"):
        if fact["database"]:
            whose = f"ROLE {ident(fact['role'])} IN DATABASE {database}" if fact["role"] else f"DATABASE {database}"
            statements.append((f"ALTER {whose} SET {_assignment(fact)}", fact["name"]))
    if grants := facts("database_grant"):  # none: they were never changed
        statements.append((f"REVOKE ALL ON DATABASE {database} FROM PUBLIC", "PUBLIC"))
        statements += [(_grant(fact, f"DATABASE {database}"), fact["grantee"] or "PUBLIC") for fact in grants]
    _all(connection, statements, "set the database up")
    return len(statements)


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
    options = (f"{name} {fact[f'{name.lower()}_option']}" for name in ("ADMIN", "INHERIT", "SET"))
    return f"{grant} WITH {', '.join(options)}"


def _assignment(fact: Fact) -> str:
    value = fact["value"] if fact["name"].lower() in _LISTS else literal(fact["value"])
    return f"{_parameter(fact['name'])} TO {value}"


def _parameter(name: str) -> str:
    return ".".join(map(ident, name.split(".")))


def _grant(fact: Fact, on: str) -> str:
    grantee = ident(fact["grantee"]) if fact["grantee"] else "PUBLIC"
    return f"GRANT {fact['privilege']} ON {on} TO {grantee}" + (" WITH GRANT OPTION" if fact["grantable"] else "")
