"""The proof of a move: both sites are what the final backup says.

Rows are compared with the live tables of both sites, as a restore's plan compares them: row group by row group, and row by row
where a group differs. Files are compared at the source by their listing, as a backup does it, and at the target by their content.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.move.files import same_files
from sbh_pipelines.backup.move.plan import WHOLE, Ends, TableRows
from sbh_pipelines.backup.restore.plan import RestorePlan
from sbh_pipelines.backup.restore.restore import plan_restore, target_of
from sbh_pipelines.backup.site.moves import site_name
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import MoveUnproven
from sbh_pipelines.model import BackupId, ProgressSink, Tenant
from sbh_pipelines.repository.documents import list_manifest_ids

_NAMED = 10  # tables in an error


@dataclass(frozen=True, slots=True)
class MoveProof:
    """What was found equal.

    Attributes:
        tables: The tenant's tables, each with as many rows at both sites as the final backup has, and the same ones.
        rows: Rows of all of them.
        files: Files that are the same at both sites.
        source_as_of: The instant at which the source was compared, UTC, ISO 8601.
        target_as_of: The instant at which the target was.
    """

    tables: Sequence[TableRows]
    rows: int
    files: int
    source_as_of: str
    target_as_of: str


def prove_target(ends: Ends, final: BackupId, progress: ProgressSink) -> tuple[RestorePlan, int]:
    """(the rows of the target against the final backup, how many files are the same). Raises MoveUnproven."""
    plan, changed = _compared(ends.target, ends.tenant, final, progress), list[str]()
    with ends.target.repository(ends.tenant) as repository:
        files, are_same = same_files(ends.target, ends.tenant, repository, final)
    changed += _changed_rows(plan) + ([] if are_same else ["files"])
    if changed:
        raise _unproven(ends, ends.target, "what arrived is not what the final backup has", changed)
    return plan, files


def prove_source(ends: Ends, final: BackupId, brought: frozenset[BackupId], progress: ProgressSink) -> RestorePlan:
    """The source against the final backup; call it under the tenant's lease there. `brought`: the backups it had before.

    Raises MoveUnproven where anything changed.
    """
    if late := sorted(set(list_manifest_ids(*ends.source.backup_store(ends.tenant))) - brought):
        raise _unproven(ends, ends.source, "backups were made there meanwhile, which were not brought", late)
    plan = _compared(ends.source, ends.tenant, final, progress)
    changed = _changed_rows(plan)
    if files := plan.files.missing + plan.files.different + plan.files.extra:
        changed.append(f"{files} files")
    changed += [f"{one.table}: {one.change}" for one in plan.schema]
    if changed:
        raise _unproven(ends, ends.source, "it changed after the final backup", changed)
    return plan


def proof_of(source: RestorePlan, target: RestorePlan, files: int) -> MoveProof:
    """What both comparisons found, which raised nothing."""
    tables = [TableRows(table.table, table.rows_in_backup) for table in target.tables]
    return MoveProof(tables, sum(table.rows for table in tables), files, source.compared_at, target.compared_at)


def _compared(site: Site, tenant: Tenant, final: BackupId, progress: ProgressSink) -> RestorePlan:
    with site.repository(tenant) as repository:
        return plan_restore(site, repository, tenant, final, WHOLE, target_of(site, None, WHOLE), progress)


def _changed_rows(plan: RestorePlan) -> list[str]:
    """What a restore would have to do; nothing where the rows are the backup's."""
    counts = ((table.table, table.insert, table.update, table.delete) for table in plan.tables)
    return [
        f"{table}: {gone} rows gone, {changed} changed, {new} new"
        for table, gone, changed, new in counts
        if gone or changed or new
    ]


def _unproven(ends: Ends, site: Site, why: str, changed: Sequence[str]) -> MoveUnproven:
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return MoveUnproven(
        "The move is not finished: a proof failed",
        on=f"{ends.tenant.id} at {site_name(site.settings)}",
        why=f"{why}: {'; '.join(changed[:_NAMED])}{more}",
        remedy="stop what writes for the tenant, at both sites, then give the same command again: it makes another final backup"
        " and brings the difference. Until then backups go on at the source",
    )
