"""The steps of a recovery that are not about rows: roles, schema, sequences, settings.

Which of the statements that pg_dump wrote may fail, and what is made of it, is for `section.py`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.recover.platform_backup import OpenPlatformBackup
from sbh_pipelines.backup.recover.section import Section
from sbh_pipelines.database.rebuild.left_out import NOTED, as_facts
from sbh_pipelines.database.rebuild.load import database_facts, raise_sequences
from sbh_pipelines.database.rebuild.roles import make_roles, set_up_database
from sbh_pipelines.database.rebuild.run import Run, note_phase, run, transaction
from sbh_pipelines.database.rebuild.script import EarlyIndexes, NeededTables, statements
from sbh_pipelines.database.rebuild.script_run import StatementError, run_script
from sbh_pipelines.database.rebuild.set_aside import as_phase_facts, put_back, take_off
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.programs import POST_DATA, PRE_DATA
from sbh_pipelines.database.session.search_path import application_path
from sbh_pipelines.errors import RestoreRefused
from sbh_pipelines.settings import DatabaseSettings


def differences_of(control: Run, platform: OpenPlatformBackup) -> list[str]:
    """How the target differs from the database that was backed up. Raises RestoreRefused where rows could not be kept."""
    there, here = platform.one("database"), database_facts(control.connection)
    if there["encoding"] != here["encoding"]:
        raise RestoreRefused(
            "The target database has another encoding",
            on=f"{here['datname']}: {here['encoding']}",
            why=f"the platform backup is of {there['encoding']}",
            remedy=f"create it anew: CREATE DATABASE ... ENCODING '{there['encoding']}' TEMPLATE template0",
        )
    compared = ("datlocprovider", "datcollate", "datctype", "datlocale", "daticulocale", "datcollversion")
    found = [
        f"{name}: {here[name]!r}, was {there[name]!r}"
        for name in compared
        if name in there and name in here and there[name] != here[name]
    ]
    before, now = platform.manifest.recovery_point.server_version // 10_000, here["version"] // 10_000
    return found + ([f"PostgreSQL {now}, was {before}"] if now != before else [])


@dataclass(frozen=True, slots=True)
class Schema:
    """What is built around the tenants' rows. Every method can be called again after it was cut short."""

    target: DatabaseSettings
    control: Run
    platform: OpenPlatformBackup
    owners: bool

    def make_roles(self) -> None:
        begun = time.monotonic()
        with transaction(self.target, "roles") as connection:
            made, left_out = make_roles(connection, self.platform.of)
            self._note(connection, "roles", begun, {"made": made, NOTED: as_facts(left_out)})

    def _note(self, connection: Connection, name: str, begun: float, facts: Mapping[str, object]) -> None:
        run(connection, note_phase(name, time.monotonic() - begun, facts), "note a step", name)

    def script(self, section: str, name: str) -> None:
        begun = time.monotonic()
        before = f"SET maintenance_work_mem = '{self.target.work_mem_mib}MB'; SET statement_timeout = 0;"
        made = self.control.phases().get("pre_data", {})
        path = application_path(self.target, None, [str(fact["schema"]) for fact in self.platform.of("extension")])
        first = list(statements(b"".join(self.platform.script(PRE_DATA))))
        later = statements(b"".join(self.platform.script(POST_DATA)))
        early = EarlyIndexes(first)
        work = Section(self._needed(), early, owners=self.owners, denied=bool(made.get("denied")), path=path)
        if section == POST_DATA:
            # A run that an earlier release began has made no index before its rows.
            work.add(s for s in later if not (made.get("early") and s in early))
        else:
            work.add([*first, *(s for s in later if s in early)])

        def last(errors: Sequence[StatementError]) -> str:
            found = work.judge(errors)
            facts = {"skipped": len(found.skipped), "first": found.skipped[:5], NOTED: as_facts(found.left_out)}
            facts |= {"denied": found.denied, "early": True}
            return note_phase(name, time.monotonic() - begun, facts)

        run_script(self.target, work.script.steps, before, work.refused, last)

    def _needed(self) -> NeededTables:
        return NeededTables([*self.platform.tables("table").values(), *self.platform.tables("shared_table").values()])

    def set_aside(self) -> None:
        """Take off what would keep rows out, or call functions that are not to be called yet."""
        begun = time.monotonic()
        with transaction(self.target, "schema") as connection:
            checks, left_out = take_off(connection)
            self._note(connection, "set_aside", begun, {"checks": as_phase_facts(checks), NOTED: as_facts(left_out)})

    def checks(self) -> None:
        """Put back what was set aside."""
        begun, noted = time.monotonic(), self.control.phases().get("set_aside", {})
        with transaction(self.target, "schema") as connection:
            left_out = put_back(connection, noted.get("checks", ()))
            self._note(connection, "checks", begun, {NOTED: as_facts(left_out)})

    def set_up(self) -> None:
        begun = time.monotonic()
        with transaction(self.target, "settings") as connection:
            statements, left_out = set_up_database(connection, self.platform.of)
            self._note(connection, "settings", begun, {"statements": statements, NOTED: as_facts(left_out)})

    def set_sequences(self) -> None:
        known: dict[str, list[int]] = {}
        unused: dict[str, int] = {}
        for fact in self.platform.of("sequence"):
            if fact["is_called"]:
                known[fact["name"]] = [int(fact["last_value"])]
            else:
                unused[fact["name"]] = int(fact["last_value"])
        for tenant in self.control.tenants():
            for name, value in tenant.facts.sequences.items():
                values = known.setdefault(name, [value])
                known[name] = [min([*values, value]), max([*values, value])]
        with transaction(self.target, "sequences") as connection:
            raise_sequences(connection, known, unused)
