"""The doctor: holds the settings against the real world, and says how to mend what does not fit.

    findings   what a check says: level, what, detail, remedy; and the report of all
    database     reachable, version, programs
    role         everything that backups, restores and drills ask for as the role, and the statements that grant it
    tables       the tenancy map: every table accounted for, rows of nobody, tables of other schemas
    journal      what a change journal needs of the server and of each table, and what it would break
    looks        schemas of old rows beside the live ones
    contents     what rows hold: large objects, rows that are too large, text without an encoding
    tenants      the tenants table: slugs, regions, tiers; slugs that changed hands
    suggest      a room of its own: settings that map a stranger's schema
    transit      TLS: the session with the database, the addresses in the settings; whether Dagster asks who calls
    buckets      a room of its own: buckets of backups, of files, and of copies
    keys         a round trip through the key provider, in every region
    access       whom users are taken for, where passwords go
    machine      the settings file and the secrets on this machine, clocks, disk

Changes nothing, unless `write` is asked for, and then removes what it wrote.
"""

from collections.abc import Callable
from pathlib import Path

from sbh_pipelines.doctor import access, database, keys, machine, tenants, transit
from sbh_pipelines.doctor.buckets import copies, residency, storage
from sbh_pipelines.doctor.findings import Finding, Level, Report
from sbh_pipelines.settings import Settings

__all__ = ["Finding", "Level", "Report", "examine"]


def examine(
    settings: Settings,
    *,
    settings_file: Path | None = None,
    write: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Check everything; `write` also puts, reads and deletes a test object in every bucket. Never raises SbhError."""
    report = Report()
    say("settings and machine")
    machine.check(report, settings, settings_file)
    transit.check_addresses(report, settings)
    transit.check_dagster(report, settings)
    access.check(report, settings)
    say("database")
    homes = database.check(report, settings, say)
    say("buckets")
    storage.check(report, settings, list(homes), write=write)
    say("keys")
    keys.check(report, settings)
    say("copies")
    copies.check(report, settings, write=write)
    say("moved tenants")
    residency.check_moved(report, settings, homes)
    if homes:
        tenants.check_owners(report, settings)
    return report
