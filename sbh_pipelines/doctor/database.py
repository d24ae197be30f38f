"""The database: can a backup read it, can a restore write it, is every table and every tenant accounted for."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing

from sbh_pipelines.database.schema import inspect
from sbh_pipelines.database.schema.inspect import ServerFacts, TenantRow, unholdable_parents
from sbh_pipelines.database.schema.tenancy import AMBIGUOUS, UNMAPPED, TenancyMap, survey_map
from sbh_pipelines.database.session.connection import Connection, connect, describe_dsn
from sbh_pipelines.database.session.programs import program_version
from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.doctor import transit
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.doctor.machine import check_clock
from sbh_pipelines.errors import InvalidId, PrivilegeMissing, SbhError, SourceConflict
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.placement import allowed_regions
from sbh_pipelines.settings import Settings

AREA = "database"
OLDEST_VERSION = 130000
STRAY_TIMEOUT_S = 20.0
_TIERS = ("critical", "important", "archive")
_SHOWN = 10


def check(report: Report, settings: Settings, say: Callable[[str], None]) -> dict[str, str]:
    """Check the database; the regions of the tenants found, by slug, for checks of what belongs to them."""
    with report.trying(AREA), closing(connect(settings.database, "doctor")) as connection:
        facts = inspect.server_facts(connection)
        _server(report, settings, facts)
        transit.check_session(report, connection)
        _programs(report, settings, facts)
        _check_role(report, facts)
        with report.trying("tenancy"):
            tenancy = survey_map(connection, settings)
            _tables(report, tenancy)
            _privileges(report, connection, tenancy, facts)
            _check_parents(report, connection, tenancy, facts)
            say("rows of no tenant")
            _stray(report, connection, settings, tenancy)
            with report.trying("tenants"):
                return _tenants(report, connection, settings, tenancy)
    return {}


def _server(report: Report, settings: Settings, facts: ServerFacts) -> None:
    place = describe_dsn(settings.database.dsn)
    report.ok(AREA, "The database answers", f"{place}, PostgreSQL {facts.version_text}")
    if facts.version < OLDEST_VERSION:
        report.fail(
            AREA, "The server is too old", f"PostgreSQL {facts.version_text}; 13 is the oldest", "upgrade the server"
        )
    if facts.in_recovery:
        report.warn(
            AREA,
            "The database is a standby: backups work, restores do not",
            place,
            "for restores point database.dsn at the primary",
        )
    check_clock(report, "the database server", facts.clock_offset_s)


def _programs(report: Report, settings: Settings, facts: ServerFacts) -> None:
    """pg_dump refuses a server that is newer than itself."""
    for name, program in (("pg_dump", settings.platform.pg_dump), ("psql", settings.platform.psql)):
        with report.trying("platform", level=Level.WARNING):
            version = program_version(program)
            if version // 10_000 < facts.version // 10_000:
                report.warn(
                    "platform",
                    f"{name} is older than the server: the platform cannot be backed up",
                    f"{program}: {version // 10_000}; the server: {facts.version // 10_000}",
                    f"install the server's client programs, and name {name} in platform.{name}",
                )
            else:
                report.ok("platform", f"{name} is as new as the server", f"{program}, version {version // 10_000}")


def _tables(report: Report, tenancy: TenancyMap) -> None:
    report.tables.extend(tenancy.statuses)
    for status in tenancy.statuses:
        if status.status in (UNMAPPED, AMBIGUOUS):
            name = f"{status.schema}.{status.name}"
            report.fail(
                "tenancy", f"The table {name} is {status.status}: backups are refused", status.why, status.remedy
            )
    counts = Counter(status.status for status in tenancy.statuses)
    if tenancy.statuses:
        report.ok("tenancy", f"Tables: {len(tenancy.statuses)}", ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    else:
        report.fail("tenancy", "There is no table", "", "correct database.schemas, or database.dsn")
    if secured := inspect.row_secured(tenancy):
        report.ok("tenancy", f"Tables with row security: {len(secured)}", ", ".join(secured[:_SHOWN]))
    keyless = [mapped.full_name for mapped in tenancy.tables if not mapped.table.primary_key]
    if keyless:
        report.warn(
            "tenancy",
            f"Tables without a primary key: {len(keyless)}; a restore compares their rows as a whole, which takes longer",
            ", ".join(keyless[:_SHOWN]),
            "add primary keys where you can",
        )


def _privileges(report: Report, connection: Connection, tenancy: TenancyMap, facts: ServerFacts) -> None:
    with report.trying(AREA):
        missing = inspect.missing_privileges(connection, tenancy, facts.role)
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
            report.ok(AREA, f"The role {facts.role} may read and write all {len(tenancy.tables)} tables of tenants")


def _stray(report: Report, connection: Connection, settings: Settings, tenancy: TenancyMap) -> None:
    clean = True
    for mapped in tenancy.tables:
        try:
            found = inspect.stray_rows(
                connection, mapped, settings.tenants, tenancy.catalog, settings.database.schemas, STRAY_TIMEOUT_S
            )
        except SourceConflict:
            clean = False
            report.warn(
                "tenancy",
                f"Not looked for rows of no tenant in {mapped.full_name}",
                f"it takes longer than {STRAY_TIMEOUT_S:g} s",
                f"declare {mapped.tenant_column.name} NOT NULL with a foreign key to {settings.tenants.table}",
            )
            continue
        except PrivilegeMissing:
            clean = False  # said already, with its GRANT
            continue
        except SbhError as error:
            clean = False
            report.warn("tenancy", error.what, f"{error.on}: {error.why}", error.remedy)
            continue
        column = mapped.hops[0].columns if mapped.hops else (mapped.tenant_column.name,)
        if found and found.unlinked:
            clean = False
            report.warn(
                "tenancy",
                f"Rows of no tenant in {found.table}: {found.unlinked:,}; no backup has them",
                f"{', '.join(column) or 'the declared condition'} leads to none",
                "give them a tenant, or delete them; then declare the column NOT NULL",
            )
        if found and found.unknown_tenant:
            clean = False
            report.warn(
                "tenancy",
                f"Rows of unlisted tenants in {found.table}: {found.unknown_tenant:,}; no backup has them",
                f"{settings.tenants.table} does not list these tenants",
                f"delete them, or list their tenants; then add a foreign key to {settings.tenants.table}",
            )
    if clean:
        report.ok("tenancy", "Every row of every table of tenants belongs to a listed tenant")


def _tenants(report: Report, connection: Connection, settings: Settings, tenancy: TenancyMap) -> dict[str, str]:
    names = settings.tenants
    if tenancy.catalog.find(names.table, settings.database.schemas) is None:
        report.fail("tenants", "There is no tenants table", names.table, "correct tenants.table")
        return {}
    rows = inspect.tenant_rows(connection, names, tenancy.catalog, settings.database.schemas)
    bad = [row for row in rows if not _valid(row.slug)]
    repeated = [slug for slug, times in Counter(row.slug for row in rows).items() if times > 1 and slug]
    folded = Counter((row.slug or "").lower() for row in rows if row.slug not in repeated)
    alike = [slug for slug, times in folded.items() if times > 1 and slug]
    elsewhere = [row for row in rows if row.region not in settings.storage.regions]
    astray = [row for row in rows if row not in elsewhere and not _at_home(settings, row)]
    tierless = [row for row in rows if names.tier and row.tier is not None and row.tier not in _TIERS]
    _tenant_finding(
        report,
        Level.ERROR,
        "that cannot be backed up, for want of a valid slug",
        [f"{_key(r)}={ascii(r.slug)[:80]}" for r in bad],
        f"UPDATE {names.table} SET {names.slug} = ... (1 to 128 of A-Z a-z 0-9 . _ -, no '..')",
    )
    _tenant_finding(
        report,
        Level.ERROR,
        "that share a slug, so that their backups would mix",
        repeated,
        f"give each its own; then ALTER TABLE {names.table} ADD UNIQUE ({names.slug})",
    )
    _tenant_finding(report, Level.WARNING, "that differ from another only by case", alike, "rename one of each pair")
    _tenant_finding(
        report,
        Level.ERROR,
        "in regions where no backup may be written",
        [f"{ascii(r.slug)[1:-1]} ({r.region})" for r in elsewhere],
        f"add the region to storage.regions (now {', '.join(settings.storage.regions)}), or correct the tenant's",
    )
    _tenant_finding(
        report,
        Level.ERROR,
        "in regions where their data may not lie: nothing of them is written",
        [f"{ascii(r.slug)[1:-1]} ({r.region})" for r in astray],
        "correct the tenant's region in the application, or what residency.tenants, .tiers or .default allow",
    )
    _tenant_finding(
        report,
        Level.WARNING,
        "with a tier that no policy knows",
        [f"{r.slug} ({r.tier})" for r in tierless],
        f"use one of {', '.join(_TIERS)}",
    )
    good = {row.slug: row.region or "" for row in rows if row.slug and _valid(row.slug)}
    if rows:
        regions = Counter(row.region for row in rows)
        report.ok("tenants", f"Tenants: {len(rows)}", ", ".join(f"{n} in {region}" for region, n in regions.items()))
    else:
        report.warn("tenants", "There is no tenant", names.table, "nothing will be backed up until there is one")
    return good


def _tenant_finding(report: Report, level: Level, what: str, names: list[str], remedy: str) -> None:
    if names:
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        say = report.fail if level is Level.ERROR else report.warn
        say("tenants", f"Tenants {what}: {len(names)}", shown, remedy)


def _at_home(settings: Settings, row: TenantRow) -> bool:
    if not row.slug or not _valid(row.slug):
        return True  # said already
    tenant = Tenant(TenantId.parse(row.slug), "", row.region or "", row.tier or settings.tenants.default_tier)
    return tenant.region in allowed_regions(settings, tenant)


def _key(row: TenantRow) -> str:
    return row.key or "(no key)"


def _valid(slug: str | None) -> bool:
    try:
        return bool(TenantId.parse(slug or ""))
    except InvalidId:
        return False


def _check_role(report: Report, facts: ServerFacts) -> None:
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
            report.ok(AREA, f"The role {facts.role} may {what}")
        else:
            old = facts.version < 150000 and "PARAMETER" in remedy
            report.fail(
                AREA, f"The role {facts.role} may not {what}", "", f"ALTER ROLE {role} SUPERUSER;" if old else remedy
            )
    if facts.may_create_schemas:
        report.ok(AREA, f"The role {facts.role} may create schemas, which `sbh restore run --into-schema` needs")
    else:
        # Nothing else needs it, so that its want is no warning.
        grant = f"GRANT CREATE ON DATABASE {ident(facts.database)} TO {role};"
        report.ok(AREA, f"The role {facts.role} may not create schemas: no `sbh restore run --into-schema`", grant)
    if facts.superuser:
        report.warn(
            AREA,
            f"The role {facts.role} is a superuser: more than it needs",
            "",
            f"ALTER ROLE {role} NOSUPERUSER BYPASSRLS; then run `sbh doctor` for the grants",
        )


def _check_parents(report: Report, connection: Connection, tenancy: TenancyMap, facts: ServerFacts) -> None:
    """Whether a restore may hold the rows of shared tables that tenants' rows refer to."""
    with report.trying(AREA):
        for privileges in unholdable_parents(connection, tenancy, facts.role):
            report.fail(
                AREA,
                f"The role {facts.role} may not hold rows of {privileges.name}: restores fail",
                f"tenants' rows refer to it; missing {', '.join(privileges.missing)}",
                privileges.statement,
            )
