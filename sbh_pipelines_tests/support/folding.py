"""Backups by the change journal, held against the tables: the rows to the byte, and what the next backup compares with."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifest import WITH_TABLES
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.contents.stored_table import read_sums, read_table
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.journal.drain import drain
from sbh_pipelines.backup.journal.drain_result import DrainResult
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.capture.capture import copy_table
from sbh_pipelines.database.capture.changes import Window
from sbh_pipelines.database.capture.deleted_rows import sums
from sbh_pipelines.database.schema.key_hash import key_code
from sbh_pipelines.database.schema.tenancy import MappedTable, load_map
from sbh_pipelines.database.session.connection import Connection, connect
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.model import utc_now
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.mapped import Rows

JOURNAL = {"enabled": True, "dsn": f"user={postgres.ADMIN}"}


@dataclass
class Folding:
    """An application whose changes are journaled; `settings` may be changed."""

    database: Database
    directory: Path
    settings: Settings

    @classmethod
    def of(cls, database: Database, directory: Path, **sections: Mapping[str, Any]) -> "Folding":
        application = Application(database, directory)
        return cls(database, directory, application.configured(**{"journal": JOURNAL, **sections}))

    @property
    def service(self) -> BackupService:
        return BackupService(self.settings)

    def drain(self) -> DrainResult:
        return drain(Site(self.settings, utc_now))

    def back_up(self, tenants: Sequence[str], kind: str = "incremental") -> list[Draft]:
        """Nobody may change anything meanwhile: the backups are compared with the tables as they are afterwards."""
        drafts = self.service.backups.create_all(list(tenants), ADMIN, kind)
        for draft in drafts:
            assert draft.error is None, draft.error
            self.check(draft)
        return drafts

    def check(self, draft: Draft) -> None:
        """All that the backup says of its tables is what they hold now."""
        site = Site(self.settings, utc_now)
        backup_id = draft.unchanged_since if draft.status is DraftStatus.UNCHANGED else draft.backup_id
        assert backup_id is not None
        with (
            closing(connect(self.settings.database, "test")) as connection,
            site.repository(draft.tenant) as repository,
        ):
            connection.cursor().execute("BEGIN READ ONLY")
            tenancy = load_map(connection, self.settings)
            repository.load_index()
            manifest = read_manifest(repository, backup_id)
            found = {t.table: t for name in WITH_TABLES for t in read_component(repository, manifest, name).tables}
            assert found.keys() == {table.full_name for table in tenancy.tables}
            for table in tenancy.tables:
                summary = found[table.full_name]
                text = b"".join(table_rows(repository, read_table(repository, summary)))
                assert sorted(text.splitlines()) == sorted(_live(connection, table, draft.tenant.key)), table.full_name
                assert summary.rows == text.count(b"\n")
                state = read_table(repository, summary).state
                assert state is not None
                if not key_code(table).keyed:
                    continue
                stored = read_sums(repository, state.bits, state.sums, state.rows, state.key_hash)
                seed = site.catalog(draft.tenant.region).hash_seed
                windows = {draft.tenant.key: Window(None, seed, state.bits)}
                live = sums(connection, table, key_code(table), windows)[0][draft.tenant.key]
                assert (state.rows, state.key_hash) == (live.rows, live.key_hash), table.full_name
                assert (summary.rows, summary.key_hash) == (live.rows, live.key_hash), table.full_name
                assert (stored.counts, stored.hashes) == (live.counts, live.hashes), table.full_name

    def drop_slot(self) -> None:
        """Before its database can be dropped."""
        self.database.run(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )


def _live(connection: Connection, table: MappedTable, key: str) -> list[bytes]:
    rows = Rows()
    copy_table(connection, table, key, rows)
    return [line.encode() for line in rows.lines]
