"""All checks, one after the other; each works whatever the others found, as far as it can."""

from collections.abc import Callable
from pathlib import Path

from sbh_pipelines.doctor import database, keys, machine, storage, transit, whereabouts
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.settings import Settings


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
    say("database")
    homes = database.check(report, settings, say)
    say("buckets")
    storage.check(report, settings, list(homes), write=write)
    say("keys")
    keys.check(report, settings)
    say("moved tenants")
    whereabouts.check_moved(report, settings, homes)
    return report
