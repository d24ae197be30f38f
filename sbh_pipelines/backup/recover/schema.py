"""The steps of a recovery that are not about tenants: roles, schema, shared rows, foreign keys, sequences, settings.

Of the SQL that pg_dump wrote all must succeed, with these exceptions: settings that an older server does not know; foreign keys
whose rows are not all there, which are added without being validated, and said; and for throw-away databases, owners and
grants that the target's role may not give.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.contents.stored_table import Group, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.recover.platform_backup import OpenPlatformBackup
from sbh_pipelines.database.rebuild.left_out import NOTED, as_facts
from sbh_pipelines.database.rebuild.load import database_facts, load_rows, missing_keys, raise_sequences
from sbh_pipelines.database.rebuild.roles import make_roles, set_up_database
from sbh_pipelines.database.rebuild.run import Run, note_phase, run, transaction
from sbh_pipelines.database.rebuild.shared import copy_shared
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.programs import StatementError, run_script
from sbh_pipelines.errors import ProofFailed, RestoreRefused, SbhError, SourceError
from sbh_pipelines.settings import DatabaseSettings

_UNKNOWN_SETTING = "42704"
_FOREIGN_KEY = "23503"
# What a role without superuser's rights, or a server without the application's roles, cannot run; rows need none of it.
_OWNERSHIP = re.compile(
    r"ALTER [^;]* OWNER TO |GRANT |REVOKE |ALTER DEFAULT PRIVILEGES |SET SESSION AUTHORIZATION |COMMENT ON |CREATE POLICY |"
    r"CREATE PUBLICATION |ALTER PUBLICATION |CREATE EVENT TRIGGER |ALTER EVENT TRIGGER |CREATE USER MAPPING |SECURITY LABEL "
)


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

    psql: str
    target: DatabaseSettings
    control: Run
    platform: OpenPlatformBackup
    owners: bool
    issues: list[SbhError]

    def make_roles(self) -> None:
        begun = time.monotonic()
        with transaction(self.target, "roles") as connection:
            made, left_out = make_roles(connection, self.platform.of)
            self._note(connection, "roles", begun, {"made": made, NOTED: as_facts(left_out)})

    def _note(self, connection: Connection, name: str, begun: float, facts: Mapping[str, object]) -> None:
        run(connection, note_phase(name, time.monotonic() - begun, facts), "note a step", name)

    def script(self, section: str, name: str) -> None:
        begun = time.monotonic()
        memory = f"SET maintenance_work_mem = '{self.target.work_mem_mib}MB'; SET statement_timeout = 0;\n"

        def last(errors: Sequence[StatementError]) -> str:
            skipped = [
                e.statement for e in errors if e.code not in (_FOREIGN_KEY, _UNKNOWN_SETTING) or self._lenient(e)
            ]
            return note_phase(name, time.monotonic() - begun, {"skipped": len(skipped), "first": skipped[:5]})

        run_script(self.target, self.psql, self.platform.script(section), memory, self._tolerated, last)

    def _tolerated(self, error: StatementError) -> bool:
        # A setting of a newer pg_dump that an older server does not know; foreign keys are seen to afterwards.
        if error.code == _UNKNOWN_SETTING and error.statement.startswith("SET "):
            return True
        if error.code == _FOREIGN_KEY and "ALTER TABLE" in error.statement:
            return True
        if error.code == "42501" and error.statement.startswith("COMMENT ON EXTENSION"):
            return True
        return self._lenient(error)

    def _lenient(self, error: StatementError) -> bool:
        return not self.owners and error.code in ("42501", "42704", "0LP01") and bool(_OWNERSHIP.match(error.statement))

    def load_shared(self) -> None:
        begun, rows = time.monotonic(), 0
        tables = self.platform.tables("shared_table")
        with transaction(self.target, "shared rows") as connection:
            for summary in self.platform.shared():
                rows += self._load_shared_table(connection, tables[summary.table], summary)
            self._note(connection, "shared", begun, {"rows": rows})

    def _load_shared_table(self, connection: Connection, table: MappedTable, summary: TableSummary) -> int:
        """Load the rows, and read them back to compare."""
        repository, found = self.platform.repository, list[bytes]()

        def groups() -> Iterator[Group]:
            return read_table(repository, summary).groups

        pieces = repository.read_chunks(group.chunk for group in groups())
        load_rows(connection, table.table.schema, table.table.name, table.captured_columns, pieces, table.encoding)
        plan = (group.rows for group in groups())
        rows = copy_shared(connection, table, lambda text, _: found.append(repository.sealer.name(text)), plan)
        if found != [group.chunk for group in groups()]:
            raise ProofFailed(
                "The shared rows read back are not the backup's; rolled back",
                on=table.full_name,
                why="the server writes or orders values in another way",
                remedy="compare the server's version and locale with the platform backup's",
            )
        return rows

    def set_up(self) -> None:
        begun = time.monotonic()
        with transaction(self.target, "settings") as connection:
            statements, left_out = set_up_database(connection, self.platform.of)
            self._note(connection, "settings", begun, {"statements": statements, NOTED: as_facts(left_out)})

    def foreign_keys(self) -> list[str]:
        """Validate or add the foreign keys that are wanting; the names of those whose rows are not all there."""
        connection = self.control.connection
        for key in missing_keys(connection, self.platform.of("foreign_key")):
            try:
                run(connection, key.statement, "add a foreign key", key.table)
            except RestoreRefused:
                continue  # rows it refers to are still missing
            except SourceError as error:
                self.issues.append(error)
        wanting = missing_keys(connection, self.platform.of("foreign_key"))
        return [f"{key.table}: {key.name}" for key in wanting]

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
