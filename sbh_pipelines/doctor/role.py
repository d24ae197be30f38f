"""The role that backups, restores and drills run as: everything that they will ask for, and the statement that grants it."""

from sbh_pipelines.database.schema import inspect
from sbh_pipelines.database.schema.inspect import ServerFacts
from sbh_pipelines.database.schema.tenancy import TENANTS, TenancyMap
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.functions import ClosedFunction, closed_functions, closed_to_tables, code_of_others
from sbh_pipelines.database.session.pinned import QUIET, UNSAFE
from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.doctor.findings import Finding, Level, Report
from sbh_pipelines.settings import JournalSettings, RestoreSettings, Settings
from sbh_pipelines.settings.section import toml

AREA = "database"
_READ_ALL = 140000  # from here on there is pg_read_all_data
_PARAMETERS = 150000  # from here on SET on a parameter can be granted
_SHOWN = 10
_CODE_RUNS = (
    "code of tables' owners (functions of indexes, CHECKs, triggers) runs with its rights in backups and restores"
)
_RESTORE_APART = (
    "use two roles: back up with one that is no superuser, and restore with another, which restore.dsn names"
    " (docs/operations.md, The database role)"
)


def check(report: Report, connection: Connection, settings: Settings, facts: ServerFacts) -> None:
    """What does not depend on the tables: attributes of the role, functions of the server, settings that superusers made."""
    _reads(report, facts)
    if settings.restore.dsn is None:
        _writes(report, settings, facts)
    _too_much(report, settings, facts)
    if facts.version >= _PARAMETERS:
        _log(report, connection, facts)
    with report.trying(AREA):
        _functions(report, closed_functions(connection, facts.role), facts, "of the server's")
        for name in inspect.switched_on(connection, list(UNSAFE)):
            report.fail(
                AREA,
                f"{name} is on for the role {facts.role}",
                UNSAFE[name],
                f"ALTER ROLE {ident(facts.role)} SET {name} = off;",
            )


def _log(report: Report, connection: Connection, facts: ServerFacts) -> None:
    """Whether the server's log may hold values of rows. Only told: who reads that log is the server's administrator's to say."""
    with report.trying(AREA):
        if loud := inspect.not_settable(connection, list(QUIET)):
            report.findings.append(
                Finding(
                    Level.OK,
                    AREA,
                    "The server's log may hold values of rows where a statement of ours fails, or statements are logged",
                    f"the role {facts.role} may not turn it off in its sessions: {', '.join(loud)}",
                    f"GRANT SET ON PARAMETER {', '.join(loud)} TO {ident(facts.role)};",
                )
            )


def check_writer(report: Report, connection: Connection, settings: Settings, facts: ServerFacts) -> None:
    """The same of the role of restores, where that is another."""
    check(
        report,
        connection,
        settings.model_copy(update={"restore": RestoreSettings(), "journal": JournalSettings()}),
        facts,
    )


def check_writers_tables(
    report: Report, connection: Connection, settings: Settings, tenancy: TenancyMap, facts: ServerFacts
) -> None:
    """What restores ask for on the tables."""
    _privileges(report, connection, tenancy, facts, writes=True)
    _parents(report, connection, tenancy, facts)
    with report.trying(AREA):
        tables = [mapped.table.oid for mapped in tenancy.tables]
        _functions(
            report, closed_to_tables(connection, tables, facts.role), facts, "in indexes, constraints and columns"
        )


def check_tables(
    report: Report, connection: Connection, settings: Settings, tenancy: TenancyMap, facts: ServerFacts
) -> None:
    """Privileges on tables, their sequences and schemas, on the functions that they bring along, and on the schemas of these."""
    both = settings.restore.dsn is None
    _privileges(report, connection, tenancy, facts, writes=both)
    if both:
        _parents(report, connection, tenancy, facts)
    else:
        _only_reads(report, connection, tenancy, facts)
    _code_of_others(report, connection, settings, tenancy)
    with report.trying(AREA):
        tables = [mapped.table.oid for mapped in tenancy.tables]
        closed = closed_to_tables(connection, tables, facts.role)
        _functions(report, closed, facts, "in indexes, constraints and columns")
    with report.trying(AREA):
        _path(report, connection, facts)
    with report.trying("platform"):
        _of_platform(report, connection, facts)


def _functions(report: Report, closed: list[ClosedFunction], facts: ServerFacts, which: str) -> None:
    if closed:
        report.fail(
            AREA,
            f"The role {facts.role} may not call functions {which}: {len(closed)}; backups, restores or drills fail",
            ", ".join(function.signature for function in closed),
            "\n".join(function.statement for function in closed),
        )


def _path(report: Report, connection: Connection, facts: ServerFacts) -> None:
    """The schemas in which code of the application finds names."""
    found = inspect.schemas_of_path(connection)
    for missing in inspect.missing_of_path(connection, [name for name, _, _ in found]):
        report.warn(
            AREA,
            f"The schema {missing} is not there, and code of the application looks for names in it",
            f"whoever may create schemas can make it, and what is in it then runs as {facts.role}",
            f"CREATE SCHEMA {ident(missing)}; or take it out of the search path: ALTER DATABASE ... SET search_path, or"
            " database.search_path",
        )
    for name, usable, open_to_all in found:
        if not usable:
            report.warn(
                AREA,
                f"The role {facts.role} may not use the schema {name}, in which code of the application finds names",
                "functions in indexes and constraints that use them fail in backups and restores",
                f"GRANT USAGE ON SCHEMA {ident(name)} TO {ident(facts.role)};",
            )
        if open_to_all:
            report.warn(
                AREA,
                f"Every role may create objects in the schema {name}, in which code of the application finds names",
                f"what is put there under a name that such code uses runs as {facts.role}, which reads every tenant",
                f"REVOKE CREATE ON SCHEMA {ident(name)} FROM PUBLIC;",
            )


def _of_platform(report: Report, connection: Connection, facts: ServerFacts) -> None:
    """pg_dump locks every table before it reads its definition, and the values of all sequences are kept."""
    if names := inspect.unreadable_relations(connection):
        every = f"GRANT pg_read_all_data TO {ident(facts.role)};"
        each = "\n".join(f"GRANT SELECT ON {name} TO {ident(facts.role)};" for name in names)
        report.warn(
            "platform",
            f"The role {facts.role} may not read {len(names)} tables or sequences: the platform cannot be backed up",
            ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else ""),
            every if facts.version >= _READ_ALL else each,
        )


def _only_reads(report: Report, connection: Connection, tenancy: TenancyMap, facts: ServerFacts) -> None:
    with report.trying(AREA):
        if written := inspect.writable_tables(connection, tenancy):
            report.warn(
                AREA,
                f"The role {facts.role} may write {len(written)} tables, and restores have a role of their own",
                f"{_CODE_RUNS}: {', '.join(written[:_SHOWN])}{' ...' if len(written) > _SHOWN else ''}",
                f"REVOKE pg_write_all_data FROM {ident(facts.role)};\n"
                f"REVOKE INSERT, UPDATE, DELETE ON {', '.join(written[:_SHOWN])} FROM {ident(facts.role)};",
            )


def _privileges(
    report: Report, connection: Connection, tenancy: TenancyMap, facts: ServerFacts, *, writes: bool
) -> None:
    with report.trying(AREA):
        missing = inspect.missing_privileges(connection, tenancy, facts.role, writes=writes)
        for privileges in missing:
            # Without these there is no backup; without the others only no restore. Both are needed one day.
            blocks = "backups" if {"SELECT", "USAGE"} & set(privileges.missing) else "restores"
            report.fail(
                AREA,
                f"The role {facts.role} lacks privileges on {privileges.name}: {blocks} fail",
                ", ".join(privileges.missing),
                privileges.statement,
            )
        if not missing:
            may = "read and write" if writes else "read"
            report.ok(AREA, f"The role {facts.role} may {may} all {len(tenancy.tables)} tables of tenants")


def _reads(report: Report, facts: ServerFacts) -> None:
    what = "see all rows where tables have row security"
    if facts.bypasses_row_security:
        report.ok(AREA, f"The role {facts.role} may {what}")
    else:
        report.fail(AREA, f"The role {facts.role} may not {what}", "", f"ALTER ROLE {ident(facts.role)} BYPASSRLS;")


def _writes(report: Report, settings: Settings, facts: ServerFacts) -> None:
    role = ident(facts.role)
    needs = (
        (
            facts.may_set_replication_role,
            "keep triggers from firing in a restore",
            f"GRANT SET ON PARAMETER session_replication_role TO {role};",
        ),
        (
            facts.may_use_temporary,
            "create temporary tables, which a restore stages rows in",
            f"GRANT TEMPORARY ON DATABASE {ident(facts.database)} TO {role};",
        ),
    )
    for granted, what, remedy in needs:
        if granted:
            report.ok(AREA, f"The role {facts.role} may {what}")
        else:
            old = facts.version < _PARAMETERS and "PARAMETER" in remedy
            report.fail(
                AREA,
                f"The role {facts.role} may not {what}",
                "before PostgreSQL 15 only a superuser may: backups need none, restores do" if old else "",
                _RESTORE_APART if old else remedy,
            )
    if facts.may_create_schemas:
        report.ok(AREA, f"The role {facts.role} may create schemas, which `sbh restore run --into-schema` needs")
    else:
        # Nothing else needs it, so that its want is no warning.
        grant = f"GRANT CREATE ON DATABASE {ident(facts.database)} TO {role};"
        report.ok(AREA, f"The role {facts.role} may not create schemas: no `sbh restore run --into-schema`", grant)
    if facts.may_create_databases or settings.drill.dsn is not None:
        where = "on the server of drill.dsn" if settings.drill.dsn is not None else "here"
        report.ok(AREA, f"Drills make their databases {where}")
    else:
        report.warn(
            AREA,
            f"The role {facts.role} may not create databases, which drills make and drop",
            "",
            f"ALTER ROLE {role} CREATEDB; or let drill.dsn name another server",
        )


def _too_much(report: Report, settings: Settings, facts: ServerFacts) -> None:
    role = ident(facts.role)
    # Who drains the change journal has to.
    drains = settings.journal.enabled and settings.journal.dsn is None
    needless = [name for name in facts.more_than_needed if not (drains and name == "REPLICATION")]
    if facts.superuser:
        # Before PostgreSQL 15 a restore has no other way.
        say = report.fail if facts.version >= _PARAMETERS else report.warn
        say(
            AREA,
            f"The role {facts.role} is a superuser",
            f"{_CODE_RUNS}; as a superuser it may do anything on the server, and on its machine",
            f"ALTER ROLE {role} NOSUPERUSER BYPASSRLS; then run `sbh doctor` for the grants"
            if facts.version >= _PARAMETERS
            else _RESTORE_APART,
        )
    elif needless:
        takes = [
            f"ALTER ROLE {role} NO{name};" if name.isupper() else f"REVOKE {name} FROM {role};" for name in needless
        ]
        report.fail(
            AREA,
            f"The role {facts.role} may do more than backups and restores need: {', '.join(needless)}",
            _CODE_RUNS,
            "\n".join(takes),
        )


def _code_of_others(report: Report, connection: Connection, settings: Settings, tenancy: TenancyMap) -> None:
    """Whose code runs with the rights of the role: that of the application's owner is trusted, as its tables are."""
    with report.trying(AREA):
        tables = [mapped.table.oid for mapped in tenancy.tables]
        (tenants,) = [mapped.table.oid for mapped in tenancy.tables if mapped.status == TENANTS] or [0]
        found = code_of_others(connection, tables, tenants, settings.database.trusted_owners)
        if found:
            owners = list(dict.fromkeys(owner for _, owner in found))
            report.warn(
                AREA,
                f"Tables and functions that run code in backups and restores are not the application's owner's: {len(found)}",
                f"{_CODE_RUNS}: "
                + ", ".join(f"{what} of {owner}" for what, owner in found[:_SHOWN])
                + (" ..." if len(found) > _SHOWN else ""),
                "give them to the application's owner (ALTER ... OWNER TO), or say that these roles are trusted, under [database]:"
                f" trusted_owners = {toml(owners)}",
            )


def _parents(report: Report, connection: Connection, tenancy: TenancyMap, facts: ServerFacts) -> None:
    """Whether a restore may hold the rows of shared tables that tenants' rows refer to."""
    with report.trying(AREA):
        for privileges in inspect.unholdable_parents(connection, tenancy, facts.role):
            report.fail(
                AREA,
                f"The role {facts.role} may not hold rows of {privileges.name}: restores fail",
                f"tenants' rows refer to it; missing {', '.join(privileges.missing)}",
                privileges.statement,
            )
