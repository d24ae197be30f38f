"""The change journal: what the server, the role and the tables bring for it, and whether publishing breaks the application."""

from collections.abc import Sequence
from contextlib import closing, suppress

from sbh_pipelines.database.journal.grades import Grade, GradeKind, grade
from sbh_pipelines.database.journal.identity import TableIdentity, read_identities
from sbh_pipelines.database.journal.probe import Problem, probe
from sbh_pipelines.database.journal.readiness import Readiness, read_readiness
from sbh_pipelines.database.journal.server import journal_session
from sbh_pipelines.database.journal.slot import SlotState, read_left_slot, read_slot
from sbh_pipelines.database.schema.definition import read_definitions
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, look
from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.database.session.targets import journal_database
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.errors import SbhError
from sbh_pipelines.settings import JournalSettings, Settings

AREA = "journal"
_OLDEST = 140000
_FAILOVER = 170000  # from here on a slot can be kept in step on standbys
_GIB = 1 << 30
_SHOWN = 10
_OLD_XMIN = 50_000_000  # transactions whose catalogue rows cannot be vacuumed
_LEAST_IDLE_S = 86_400


def check(report: Report, settings: Settings, tenancy: TenancyMap) -> None:
    """Where the journal is off, only whether a slot was left behind."""
    journal = settings.journal
    if not journal.enabled:
        _left(report, settings)
        return
    with report.trying(AREA), journal_session(journal_database(settings), "doctor") as connection:
        ready = read_readiness(connection)
        if not _same_database(report, settings, ready) or not _server(report, journal, ready):
            return
        with report.trying(AREA):
            _slot(report, journal, ready, read_slot(connection, journal.slot))
        with report.trying(AREA):
            _tables(report, connection, settings, tenancy.tables, ready)


def _left(report: Report, settings: Settings) -> None:
    slot = None
    # Who has turned it off may have taken the role away, too.
    with suppress(SbhError), closing(look(journal_database(settings), "doctor")) as connection:
        slot = read_left_slot(connection, settings.journal.slot)
    if slot is not None:
        report.warn(
            AREA,
            "The change journal is off, and its slot is still there",
            f"{slot.name} holds {slot.held_bytes / (1 << 20):.1f} MiB of the server's log, more and more, and nobody drains it",
            f"sbh journal drop --confirm {slot.name}",
        )


def statements(connection: Connection, tables: Sequence[MappedTable]) -> list[str]:
    """SQL that lets the journal cover more tables, each after a comment that says why; the cheapest way for each table."""
    found: list[str] = []
    for one in _grades(connection, tables)[0]:
        if one.choices:
            why = one.why or "tables whose rows follow its own need more of it"
            found.append(f"-- {one.table}: {why}; {one.choices[0].what}")
            found += one.choices[0].statements
    return found


def _same_database(report: Report, settings: Settings, ready: Readiness) -> bool:
    """A journal of another database would tell of other rows under the same names."""
    if settings.journal.dsn is None:
        return True
    with closing(look(settings.database, "doctor")) as connection:
        of_backups = read_readiness(connection)
    same = (ready.database, ready.system_id) == (of_backups.database, of_backups.system_id)
    if not same:
        report.fail(
            AREA,
            "journal.dsn leads to another database than database.dsn",
            f"{ready.database} of cluster {ready.system_id}, and {of_backups.database} of cluster {of_backups.system_id}",
            'leave out of journal.dsn what is the same, e.g. dsn = "user=sbh_journal"',
        )
    return same


def _server(report: Report, journal: JournalSettings, ready: Readiness) -> bool:
    """Whether there can be a journal at all."""
    broken = len(report.errors)
    if ready.version < _OLDEST:
        report.fail(AREA, "The server is too old for a change journal", "PostgreSQL 14 is the oldest", "upgrade it")
    if ready.standby:
        report.fail(
            AREA,
            "The change journal needs the primary, and the server is a standby",
            ready.database,
            'name the primary under [journal]: dsn = "host=..."',
        )
    if ready.wal_level != "logical":
        report.fail(
            AREA,
            f"wal_level is {ready.wal_level}: the server's log does not say what was changed",
            "",
            "ALTER SYSTEM SET wal_level = logical; then restart the server (Amazon RDS: rds.logical_replication = 1)",
        )
    if not ready.may_replicate:
        report.fail(
            AREA,
            f"The role {ready.role} may not replicate",
            "only such a role may use a replication slot",
            f"ALTER ROLE {ident(ready.role)} REPLICATION; (Amazon RDS: GRANT rds_replication TO {ident(ready.role)};)",
        )
    _limits(report, journal, ready)
    return len(report.errors) == broken


def _limits(report: Report, journal: JournalSettings, ready: Readiness) -> None:
    """What the server does to a slot that holds back too much of its log."""
    ours = journal.max_lag_gib * _GIB
    advice = f"ALTER SYSTEM SET max_slot_wal_keep_size = '{max(1, round(2 * journal.max_lag_gib))}GB'; SELECT pg_reload_conf();"
    if ready.keeps_bytes is None:
        report.warn(
            AREA,
            "A slot that nobody reads may hold back the server's log until its disk is full",
            f"a drain drops the slot at journal.max_lag_gib = {journal.max_lag_gib:g}; where no drain runs, nothing does",
            advice,
        )
    elif ready.keeps_bytes < ours:
        report.warn(
            AREA,
            "The server gives a slot up before the journal would",
            f"max_slot_wal_keep_size is {ready.keeps_bytes / _GIB:.1f} GB, journal.max_lag_gib {journal.max_lag_gib:g}",
            advice,
        )
    if ready.idle_timeout_s is not None and ready.idle_timeout_s < _LEAST_IDLE_S:
        report.warn(
            AREA,
            "The server gives up slots that are idle for a while",
            f"idle_replication_slot_timeout is {ready.idle_timeout_s:,} s: drains that pause so long lose the slot",
            "ALTER SYSTEM SET idle_replication_slot_timeout = '1d'; SELECT pg_reload_conf();",
        )


def _slot(report: Report, journal: JournalSettings, ready: Readiness, slot: SlotState | None) -> None:
    if slot is None:
        if ready.slots >= ready.most_slots:
            report.fail(
                AREA,
                "The server has no room for another replication slot",
                f"max_replication_slots is {ready.most_slots}, and {ready.slots} are there",
                f"ALTER SYSTEM SET max_replication_slots = {ready.most_slots + 5}; then restart the server",
            )
        else:
            report.ok(AREA, "There is no slot yet", "`sbh journal setup` makes it, and the publication")
        return
    if slot.database != ready.database:
        report.fail(
            AREA,
            f"The slot {slot.name} is of another database",
            slot.database,
            "name another one under [journal]: slot",
        )
    elif slot.lost:
        report.fail(
            AREA,
            f"The slot {slot.name} is lost: what was committed since is in no journal",
            slot.invalidation_reason or slot.wal_status,
            "sbh journal drain    # makes a new one, and records the gap",
        )
    elif slot.wal_status == "unreserved" or slot.held_bytes > journal.max_lag_gib * _GIB / 2:
        report.warn(
            AREA,
            f"The slot {slot.name} holds back {slot.held_bytes / _GIB:.1f} GB of the server's log",
            f"state {slot.wal_status}; it is dropped at journal.max_lag_gib = {journal.max_lag_gib:g}",
            "sbh journal drain    # and see why drains do not run, or what long transaction keeps them from going on",
        )
    else:
        report.ok(AREA, f"The slot {slot.name} is in order", f"{slot.held_bytes / (1 << 20):.1f} MiB of log held")
    if slot.catalog_xmin_age > _OLD_XMIN:
        report.warn(
            AREA,
            f"The slot {slot.name} keeps the catalogue from being vacuumed",
            f"for {slot.catalog_xmin_age:,} transactions",
            "sbh journal drain",
        )
    _failover(report, ready, slot)


def _failover(report: Report, ready: Readiness, slot: SlotState) -> None:
    """Only told: a gap after a failover is what everybody has who does not ask for more."""
    if slot.failover or not ready.standbys:
        return
    if ready.version < _FAILOVER:
        detail = "PostgreSQL before 17 keeps no slot in step on standbys"
    else:
        detail = (
            "for none: drop the slot, make it with failover => true under the same name, and set on the standby"
            " sync_replication_slots = on, hot_standby_feedback = on, primary_slot_name, and dbname in primary_conninfo; on the"
            " primary synchronized_standby_slots"
        )
    report.ok(AREA, "After a failover the journal has a gap, which the next backups close", detail)


def _grades(
    connection: Connection, tables: Sequence[MappedTable], publication: str | None = None
) -> tuple[list[Grade], dict[str, TableIdentity]]:
    identities = read_identities(connection, tables, publication)
    return grade(tables, identities, read_definitions(connection, tuple(tables))), identities


def _tables(
    report: Report, connection: Connection, settings: Settings, tables: Sequence[MappedTable], ready: Readiness
) -> None:
    grades, identities = _grades(connection, tables, settings.journal.publication)
    good = [one for one in grades if one.kind is GradeKind.JOURNALED]
    report.ok(AREA, f"{len(good)} of {len(grades)} tables can be journaled", ", ".join(one.table for one in good))
    for one in grades:
        if one.kind is GradeKind.POSSIBLE:
            report.warn(
                AREA,
                f"{one.table} is not journaled: between backups nothing of it can be brought back",
                one.why,
                "\n".join(_mend(one)),
            )
    if never := [one for one in grades if one.kind is GradeKind.IMPOSSIBLE]:
        told = "; ".join(f"{one.table}: {one.why}" for one in never[:_SHOWN])
        report.ok(AREA, f"{len(never)} tables have backups only", told + (" ..." if len(never) > _SHOWN else ""))
    if warned := [one for one in good if one.warning]:
        report.ok(
            AREA,
            f"Tables whose identity somebody could break: {len(warned)}",
            "; ".join(f"{one.table}: {one.warning}" for one in warned[:_SHOWN])
            + (" ..." if len(warned) > _SHOWN else ""),
        )
    names = {one.table for one in good}
    _probed(report, ready, probe(connection, [t for t in tables if t.full_name in names], identities))
    unpublished = sorted(name for name in names if not identities[name].published)
    if unpublished and not ready.may_publish:
        report.warn(
            AREA,
            f"The role {ready.role} may not make publications",
            "the publication is altered by drains where tables come and go",
            f"GRANT CREATE ON DATABASE {ident(ready.database)} TO {ident(ready.role)};",
        )


def _mend(one: Grade) -> list[str]:
    """The cheapest choice as SQL; the others in comments."""
    if not one.choices:
        return [f"-- first {', '.join(one.parents)}, on the way to the tenant"]
    first, *others = one.choices
    lines = [f"-- {first.what}", *first.statements]
    for other in others:
        lines += [f"-- or: {other.what}", *(f"-- {statement}" for statement in other.statements)]
    return lines


def _probed(report: Report, ready: Readiness, problems: dict[str, Problem]) -> None:
    unknown = [name for name, problem in problems.items() if not problem.known]
    for name, problem in problems.items():
        if problem.known:
            report.fail(
                AREA,
                f"{problem.statement} on {problem.on} would fail once {name} is published",
                problem.why,
                "the next drain leaves it out; mend its replica identity as `sbh doctor --suggest` says",
            )
    if unknown:
        report.warn(
            AREA,
            f"The role {ready.role} may not publish {len(unknown)} tables, nor try what that would break",
            ", ".join(unknown[:_SHOWN]) + (" ..." if len(unknown) > _SHOWN else ""),
            f"let it be a member of the role that owns them: GRANT ... TO {ident(ready.role)};",
        )
    elif not problems:
        report.ok(AREA, "Published tables refuse none of the application's statements", "each was tried and undone")
