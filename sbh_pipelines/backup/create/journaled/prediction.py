"""The journal's prediction: a full backup has read every table, and compares it with what the journal leads to.

Rows and hashes of keys, of each tenant and table that the journal covers. Where they differ the backup is right, it is what the
tables hold; the journal is not, and a gap ends what it tells of that table of that tenant. Nothing here fails a backup.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.ownership import is_own
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import SIDE_BY_SIDE, OpenDrafts
from sbh_pipelines.backup.create.journaled.journal_view import Directories, JournalView
from sbh_pipelines.backup.create.journaled.tenant_journal import CONTRADICTS, TenantJournal
from sbh_pipelines.backup.create.parent import Parent, find_parent, incomparable, incomparable_table
from sbh_pipelines.backup.create.snapshot_view import View
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.database.capture.keyed_rows import WantedKey, hash_keys
from sbh_pipelines.database.schema.name_types import exact_names
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, connect, savepoint
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType, TenantId
from sbh_pipelines.repository.repository import Repository

DIFFERS = "journal.differs"
_WAIT_S = 20.0  # for the drain of another
_KEYS = 2_000  # sent to the server at once
_NAMED = 50  # tables in an event


@dataclass
class _Proof:
    """One tenant's. `wrong`: tables of which the journal told something else, and what."""

    draft: Draft
    seed: int
    parent: Parent
    then: Mapping[str, TableSummary]
    now: Mapping[str, TableSummary]
    told: TenantJournal
    compared: int = 0
    wrong: dict[str, str] = field(default_factory=dict)

    def counted(self) -> Draft:
        return self.draft.with_counters(
            journal_compared=self.compared,
            journal_differs=len(self.wrong),
            journal_uncompared=len(self.now) - self.compared,
        )

    def compare(self, table: str, rows: int, key_hash: int) -> None:
        """With what the journal leads to."""
        self.compared += 1
        read = self.now[table]
        if (read.rows, read.key_hash) != (rows, f"{key_hash:016x}"):
            self.wrong[table] = (
                f"the full backup read {read.rows:,} rows (keys {read.key_hash}), and from {self.parent.id} the journal leads to"
                f" {rows:,} (keys {key_hash:016x}){self._doubt(table)}"
            )

    def contradiction(self, table: str) -> None:
        self.compared += 1
        self.wrong[table] = f"{CONTRADICTS} since {self.parent.id}{self._doubt(table)}"

    def _doubt(self, table: str) -> str:
        if not self.then[table].layers:
            return ""
        return (
            "; incremental and differential backups since the full one before may have been misled, that one among them"
        )


def prove_journal(
    open_drafts: OpenDrafts, view: View, drafts: Sequence[Draft], directories: Directories
) -> list[Draft]:
    """The drafts; those that read everything with how many tables were compared, and how many differ.

    `view` is of their snapshot, which need not be open any more. More changes than a read of the tables is worth are not gone
    through; tables that are not compared are counted.
    """
    asked = [d for d in drafts if d.status is DraftStatus.RUNNING and d.type is BackupType.FULL and d.reason is None]
    if not asked or not open_drafts.site.settings.journal.enabled:
        return list(drafts)
    proofs: dict[TenantId, _Proof] = {}
    with closing(JournalView(open_drafts.site, view.point, view.definitions, directories, _WAIT_S)) as journal:
        with suppress(SbhError, OSError, sqlite3.Error):  # the changes are merged in a temporary file
            begun = side_by_side(
                lambda draft: _begin(open_drafts, view, draft, journal), asked, name="proof", threads=SIDE_BY_SIDE
            )
            proofs = {proof.draft.tenant.id: proof for proof in begun if proof is not None}
            journal.collect(
                {proof.draft.tenant: proof.told for proof in proofs.values()},
                {proof.draft.tenant: open_drafts.repository(proof.draft).sealer for proof in proofs.values()},
            )
            _compare(open_drafts, view, list(proofs.values()))
        for proof in proofs.values():
            if proof.wrong:
                _record(open_drafts, journal, proof)
    return [proofs[d.tenant.id].counted() if d.tenant.id in proofs else d for d in drafts]


def _begin(open_drafts: OpenDrafts, view: View, draft: Draft, journal: JournalView) -> _Proof | None:
    """Ask the journal what happened since the tenant's last backup. None where there is none, or it cannot be read."""
    try:
        repository, catalog = open_drafts.repository(draft), open_drafts.site.catalog(draft.tenant.region)
        parent, _ = find_parent(repository, BackupType.INCREMENTAL, view.point)
        if parent is None or not is_own(repository, read_manifest(repository, parent.id), draft.tenant.key, live=True):
            return None
        now = {table.table: table for part in draft.components.values() for table in part.tables}
        then = {
            name: parent.tables[name]
            for name in now
            if view.codes[name].keyed
            and not incomparable_table(parent.tables.get(name), view.definitions[name], catalog.seed_id)
        }
        if incomparable(parent.point, view.point):
            then = {}
        told = journal.open(draft.tenant, parent.point.snapshot, {}, {name: then[name].rows for name in then})
        return _Proof(draft, catalog.hash_seed, parent, then, now, told)
    except SbhError:
        return None


def _compare(open_drafts: OpenDrafts, view: View, proofs: Sequence[_Proof]) -> None:
    if not any(proof.then for proof in proofs):
        return
    with closing(connect(open_drafts.site.settings.database, "journal proof")) as connection:
        connection.cursor().execute("BEGIN READ ONLY")
        for table in view.tenancy.tables:
            name = table.full_name
            for proof in proofs:
                if name in proof.then and proof.told.reasons.get(name) == CONTRADICTS:
                    proof.contradiction(name)
            changed: list[_Proof] = []
            for proof in proofs:
                if name in proof.told.changed:
                    changed.append(proof)
                elif proof.told.covers(name):
                    proof.compare(name, proof.then[name].rows, int(proof.then[name].key_hash or "0", 16))
            if changed:
                with exact_names(connection, table):
                    _compare_table(connection, view, table, changed)


def _compare_table(connection: Connection, view: View, table: MappedTable, proofs: Sequence[_Proof]) -> None:
    """A key that came or went counts by the hash that the server gives it, as it did when the table was read."""
    name, code = table.full_name, view.codes[table.full_name]
    for proof in proofs:
        key, then = proof.told.key, proof.then[name]
        rows, key_hash = then.rows, int(then.key_hash or "0", 16)
        batch: list[WantedKey] = []
        try:
            with savepoint(connection):
                for result in proof.told.results(name):
                    if result.existed == result.exists:
                        continue
                    rows += 1 if result.exists else -1
                    batch.append(WantedKey(key, result.key))
                    if len(batch) >= _KEYS:
                        key_hash ^= _hash(hash_keys(connection, table, code, batch, {key: proof.seed}))
                        batch = []
                key_hash ^= _hash(hash_keys(connection, table, code, batch, {key: proof.seed}))
        except SbhError:
            if connection.closed:
                raise
            continue
        proof.compare(name, rows, key_hash)


def _hash(found: Sequence[int]) -> int:
    total = 0
    for value in found:
        total ^= value
    return total


def _last_read(repository: Repository, proof: _Proof, table: str, since: Snapshot) -> Snapshot:
    """When all of the table was read the last time: the backups since may be made of what the journal told."""
    state = read_table(repository, proof.then[table]).state
    return Snapshot.parse(state.base.snapshot) if state is not None and state.base.snapshot else since


def _record(open_drafts: OpenDrafts, journal: JournalView, proof: _Proof) -> None:
    """The gap first: it is what keeps others from building on what is wrong."""
    draft, since = proof.draft, proof.told.parent
    repository = open_drafts.repository(draft)
    for table, why in proof.wrong.items():
        with suppress(SbhError):
            if since is not None:
                journal.record_wrong(draft.tenant, since, table, _last_read(repository, proof, table, since), why)
    with suppress(SbhError):
        props: dict[str, object] = {
            "backup_id": draft.backup_id,
            "region": draft.tenant.region,
            "since": proof.parent.id,
            "tables": dict(sorted(proof.wrong.items())[:_NAMED]),
            "differ": len(proof.wrong),
        }
        open_drafts.site.trails.record(draft.tenant, DIFFERS, draft.created_by, props, via=draft.via)
