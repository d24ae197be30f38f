"""Restore in place: check, plan, stage, merge, prove, put the files back, commit.

Until the staged rows are merged nothing has been written; until the commit nothing of the rows is visible. Everything
this restore will need from the repository is downloaded and authenticated before the first write.

    check    the backup verifies, everything it names is there
    compare  the live rows are read as a backup would read them; groups with the backup's chunk ids are equal
    stage    differing groups, of both sides, into temporary tables
    files    every slice that will be written is read and authenticated once
    merge    delete and insert the differing rows
    prove    the tables are read back group by group and must give the backup's chunk ids; foreign keys must hold
    files    missing and different files are put back
    commit   then files that were not in the backup are removed
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import Any

from sbh_pipelines.backup.assemble import table_rows
from sbh_pipelines.backup.restore_files import FileRestore
from sbh_pipelines.backup.restore_status import RestoreStatus
from sbh_pipelines.backup.restore_tables import ChunkSet, LiveGroups, Merging, Prover, Sorted
from sbh_pipelines.backup.site import Site
from sbh_pipelines.backup.tables import Group, read_table
from sbh_pipelines.backup.verify import read_component, verify_backup
from sbh_pipelines.errors import ProofFailed, RestoreRefused, SbhError, SchemaMismatch
from sbh_pipelines.model import BackupId, Progress, ProgressSink, RestoreId, Tenant, timestamp
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.sources.database.capture import copy_table
from sbh_pipelines.sources.database.connection import Connection
from sbh_pipelines.sources.database.merge import (
    TableChanges,
    TableMerge,
    check_foreign_keys,
    commit,
    restore_transaction,
)
from sbh_pipelines.sources.database.tenancy import MappedTable, TenancyMap, load_map

STEPS = ("check", "compare", "merge", "prove", "files", "commit")


@dataclass(frozen=True, slots=True)
class TableResult:
    """What happened to one table."""

    table: str
    rows: int
    groups: int
    groups_matching: int
    inserted: int
    updated: int
    deleted: int


def restore_in_place(
    site: Site,
    tenant: Tenant,
    backup_id: BackupId,
    requested_by: str,
    keep_extra_files: bool,
    progress: ProgressSink,
) -> dict[str, Any]:
    """Make the tenant what it was at the backup. Returns the result that `restore_backup` documents.

    Raises RestoreRefused and CorruptObject before anything is written, ProofFailed and SourceConflict with the rows
    rolled back, LeaseHeld while the tenant is being backed up or restored.
    """
    restore_id = RestoreId.at(site.clock(), os.urandom(3).hex())
    store, prefix = site.backup_store(tenant)
    owner = leases.new_owner("restore")
    with ExitStack() as stack:
        repository = site.repository(tenant)
        stack.callback(repository.close)
        held = leases.acquire(store, prefix, owner, "restore", site.settings.backup.lease_s, site.clock)
        stack.callback(_let_go, held)
        stack.enter_context(leases.LeaseKeeper(lambda: [held], site.settings.backup.lease_s / 6))
        status = RestoreStatus(site, repository, restore_id, backup_id, tenant, requested_by, owner)
        status.step("check", 0)
        try:
            result = _Restore(site, repository, tenant, backup_id, keep_extra_files, held, status, progress).run()
        except BaseException as error:
            status.failed(error)
            raise
        result = {"restore_id": restore_id, "backup_id": backup_id, "tenant_id": tenant.id, **result}
        status.completed(result)
    return result


def _let_go(held: leases.Lease) -> None:
    with suppress(SbhError):  # it expires by itself; what the restore did or did not do stands
        held.release()


class _Restore:
    def __init__(
        self,
        site: Site,
        repository: Repository,
        tenant: Tenant,
        backup_id: BackupId,
        keep_extra_files: bool,
        held: leases.Lease,
        status: RestoreStatus,
        progress: ProgressSink,
    ) -> None:
        self.site, self.repository, self.tenant, self.backup_id = site, repository, tenant, backup_id
        self.held = held
        self.status, self.progress = status, progress
        self.keep_extra_files = keep_extra_files
        self.downloaded = 0

    def run(self) -> dict[str, Any]:
        begun = time.monotonic()
        manifest = self._check()
        summaries = {
            summary["table"]: summary
            for name in ("database", "config")
            for summary in read_component(self.repository, manifest, name)["table_details"]
        }
        files = FileRestore(self.site, self.repository, self.tenant, manifest, self.keep_extra_files)
        with restore_transaction(self.site.settings.database) as connection:
            tenancy = load_map(connection, self.site.settings)
            pairs = self._match_tables(tenancy, summaries)
            merges = [
                self._compare(connection, table, summary, number) for number, (table, summary) in enumerate(pairs, 1)
            ]
            self._step("files", 0, 1)
            files.plan()
            files.authenticate()
            tables, proof = self._merge(connection, tenancy, merges)
            # Whoever lost the lease, because the process was asleep, must not write: renewing tells.
            self.held.renew()
            files.put_back(lambda done, total: self._step("files", done, total))
            self._step("commit", 0, 1)
            self.held.renew()
            commit(connection)
        files.remove_extra()
        return {
            "status": "completed",
            "tables": [asdict(t) for t in tables],
            "rows_inserted": sum(t.inserted for t in tables),
            "rows_updated": sum(t.updated for t in tables),
            "rows_deleted": sum(t.deleted for t in tables),
            **files.counts(),
            "bytes_downloaded": self.downloaded + files.downloaded,
            "recovery_point": manifest["recovery_point"],
            "proof": {**proof, "files": files.proven},
            "finished_at": timestamp(self.site.clock()),
            "seconds": round(time.monotonic() - begun, 3),
        }

    def _step(self, step: str, done: int, total: int) -> None:
        at = STEPS.index(step)
        self.status.step(step, int(100 * (at + done / max(total, 1)) / len(STEPS)))
        self.progress(
            Progress(f"restore: {step}", self.tenant.id, done, total, "tables" if step != "files" else "files")
        )

    def _check(self) -> Mapping[str, Any]:
        manifest = self.repository.manifest(self.backup_id)
        self.repository.load_index()
        verification = verify_backup(self.repository, manifest, deep=False, own_only=True)
        if verification.issues:
            raise RestoreRefused(
                "The backup is damaged; nothing was written",
                on=f"{self.backup_id} of {self.tenant.id}",
                why="; ".join(str(e) for e in verification.issues[:3]),
                remedy="restore another backup: `sbh backup list`, `sbh backup validate --deep`",
            )
        return manifest

    def _match_tables(
        self, tenancy: TenancyMap, summaries: Mapping[str, Mapping[str, Any]]
    ) -> list[tuple[MappedTable, Mapping[str, Any]]]:
        """Each captured table with its part of the backup, parents first. Raises SchemaMismatch, all reasons at once."""
        problems = []
        pairs = []
        for table in tenancy.tables:
            summary = summaries.get(table.full_name)
            if summary is None:
                problems.append(f"{table.full_name} was not in the backup")
                continue
            header = read_table(self.repository, summary).header
            then = {name: kind for name, kind, *_ in header["columns"]}
            now = {c.name: c.type for c in table.table.columns if not c.generated}
            for column in sorted(then.keys() | now.keys()):
                if then.get(column) != now.get(column):
                    problems.append(
                        f"{table.full_name}.{column} was {then.get(column, 'not there')}, is {now.get(column, 'not there')}"
                    )
            if tuple(header["key"]) != table.table.primary_key:
                problems.append(
                    f"{table.full_name} had the primary key {header['key']}, has {list(table.table.primary_key)}"
                )
            if list(then) != list(table.captured_columns):
                problems.append(f"{table.full_name} has its columns in another order")
            pairs.append((table, summary))
        gone = [name for name in summaries if tenancy.find(name) is None]
        problems += [f"{name} is gone, or is no longer mapped" for name in gone]
        if problems:
            raise SchemaMismatch(
                "The schema changed since the backup; nothing was written",
                on=f"{self.backup_id} of {self.tenant.id}",
                why="; ".join(dict.fromkeys(problems[:10])),
                remedy="bring the live schema back to the backup's for the restore",
            )
        return pairs

    def _compare(self, connection: Connection, table: MappedTable, summary: Mapping[str, Any], number: int) -> Merging:
        """Find the groups that differ and stage both sides' rows of them."""
        self._step("compare", number, number + 1)
        stored = read_table(self.repository, summary)
        if stored.layers:
            return self._stage_layered(connection, table, summary, number)
        wanted = ChunkSet()
        for group in stored.groups:
            wanted.add(group.chunk)
        live = LiveGroups(self.repository, wanted)
        copy_table(connection, table, [self.tenant.key], lambda *_: live)
        merge = TableMerge(connection, table, self.tenant.key, number)
        matching = live.matching
        if live.differ or matching < summary["groups"]:
            missing = (g for g in read_table(self.repository, summary).groups if not live.has(g.chunk))
            merge.stage(self._download(missing), live.spool)
            live.spool.close()
            return Merging(table, summary, merge, matching)
        live.spool.close()
        return Merging(table, summary, None, matching)

    def _stage_layered(
        self, connection: Connection, table: MappedTable, summary: Mapping[str, Any], number: int
    ) -> Merging:
        """Stage all rows of both sides: where a layered table's rows lie among each other is known when they are sorted."""
        merge = TableMerge(connection, table, self.tenant.key, number)
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for text in table_rows(self.repository, read_table(self.repository, summary)):
                size += len(text)
                self.downloaded += len(text)
                yield text

        merge.stage_all(counted())
        sorted_rows = Sorted(self.repository)
        merge.copy_wanted(sorted_rows)
        if (sorted_rows.bytes, sorted_rows.rows) != (size, summary["rows"]):
            raise RestoreRefused(
                "Rows of the backup do not go through the server unchanged; nothing was written",
                on=table.full_name,
                why=f"{size} bytes in, {sorted_rows.bytes} bytes out",
                remedy="restore a full backup, or into a server of the version the backup was made on",
            )
        return Merging(table, summary, merge, 0, sorted_rows.groups)

    def _download(self, groups: Iterator[Group]) -> Iterator[bytes]:
        def chunks() -> Iterator[bytes]:
            for group in groups:
                self.downloaded += self.repository.locate(group.chunk).length
                yield group.chunk

        return self.repository.read_chunks(chunks())

    def _merge(
        self, connection: Connection, tenancy: TenancyMap, merges: list[Merging]
    ) -> tuple[list[TableResult], dict[str, int]]:
        changes: dict[str, TableChanges] = {}
        for one in reversed(merges):  # children first: an inherited row is found by its parent
            if one.merge is not None:
                one.merge.delete()
        for number, one in enumerate(merges):
            self._step("merge", number, len(merges))
            if one.merge is not None:
                changes[one.table.full_name] = one.merge.insert()
                one.merge.raise_sequences()
        groups = 0
        for number, one in enumerate(merges):
            self._step("prove", number, len(merges))
            if one.merge is not None:
                groups += self._prove(connection, one)
            else:
                groups += one.summary["groups"]  # found equal by the same comparison
        staged = [m.merge for m in merges if m.merge is not None]
        for merge in staged:
            for constraint, rows in merge.conflicts():
                raise RestoreRefused(
                    "Rows of the backup are in conflict with other rows; rolled back",
                    on=merge.table.full_name,
                    why=f"{rows} rows break the constraint {constraint}",
                    remedy="a row outside the tenant holds the same key: resolve it, then try again",
                )
        checked, broken = check_foreign_keys(connection, tenancy, self.tenant.key, staged)
        if broken:
            raise ProofFailed(
                "Foreign keys would not hold after the restore; rolled back",
                on=self.tenant.id,
                why="; ".join(f"{b.constraint}: {b.rows} rows of {b.table} without {b.parent}" for b in broken[:5]),
                remedy="rows that the tenant's rows refer to were removed since the backup: restore them first",
            )
        unchanged = TableChanges(0, 0, 0)
        tables = [
            TableResult(
                m.table.full_name,
                m.summary["rows"],
                m.summary["groups"],
                m.matching,
                **asdict(changes.get(m.table.full_name, unchanged)),
            )
            for m in merges
        ]
        return tables, {"groups": groups, "foreign_keys": checked}

    def _prove(self, connection: Connection, one: Merging) -> int:
        """Read the merged table back, cut as the backup was, and compare every chunk id. Returns groups compared."""

        def expected() -> Iterator[Group]:
            return iter(one.groups) if one.groups is not None else read_table(self.repository, one.summary).groups

        reader = Prover(self.repository, expected(), one.table.full_name)
        plan = (group.rows for group in expected())
        copy_table(connection, one.table, [self.tenant.key], lambda *_: reader, plan=lambda _: plan)
        return reader.finish()
