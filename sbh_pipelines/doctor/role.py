"""What the role must be allowed, apart from the privileges on tables: each with the statement that grants it."""

from sbh_pipelines.database.schema.inspect import ServerFacts, unholdable_parents
from sbh_pipelines.database.schema.tenancy import TenancyMap, ident
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.doctor.findings import Report

_AREA = "database"


def check(report: Report, facts: ServerFacts) -> None:
    role = ident(facts.role)
    needs = (
        (facts.bypasses_row_security, "see all rows where tables have row security", f"ALTER ROLE {role} BYPASSRLS;"),
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
            report.ok(_AREA, f"The role {facts.role} may {what}")
        else:
            old = facts.version < 150000 and "PARAMETER" in remedy
            report.fail(
                _AREA, f"The role {facts.role} may not {what}", "", f"ALTER ROLE {role} SUPERUSER;" if old else remedy
            )
    if facts.may_create_schemas:
        report.ok(_AREA, f"The role {facts.role} may create schemas, which `sbh restore run --into-schema` needs")
    else:
        # Nothing else needs it, so that its want is no warning.
        grant = f"GRANT CREATE ON DATABASE {ident(facts.database)} TO {role};"
        report.ok(_AREA, f"The role {facts.role} may not create schemas: no `sbh restore run --into-schema`", grant)
    if facts.superuser:
        report.warn(
            _AREA,
            f"The role {facts.role} is a superuser: more than it needs",
            "",
            f"ALTER ROLE {role} NOSUPERUSER BYPASSRLS; then run `sbh doctor` for the grants",
        )


def check_parents(report: Report, connection: Connection, tenancy: TenancyMap, facts: ServerFacts) -> None:
    """May a restore hold the rows of shared tables that tenants' rows refer to?"""
    with report.trying(_AREA):
        for privileges in unholdable_parents(connection, tenancy, facts.role):
            report.fail(
                _AREA,
                f"The role {facts.role} may not hold rows of {privileges.name}: restores fail",
                f"tenants' rows refer to it; missing {', '.join(privileges.missing)}",
                privileges.statement,
            )
