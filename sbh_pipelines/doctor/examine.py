"""All checks, one after the other; each works whatever the others found, as far as it can."""

from collections.abc import Callable
from pathlib import Path

from sbh_pipelines.doctor import database, keys, machine, storage
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
    say("database")
    slugs = database.check(report, settings, say)
    say("buckets")
    storage.check(report, settings, slugs, write=write)
    say("keys")
    keys.check(report, settings)
    return report
