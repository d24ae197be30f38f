"""What the steps of a restore share, and what they say of foreign keys that would not hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.backup.restore.left_rows import LeftRows
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.merge.foreign_keys import BrokenForeignKey
from sbh_pipelines.database.merge.kept import NOTHING, Kept
from sbh_pipelines.database.schema.tenancy import TenancyMap
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.model import RecoveryPoint, Tenant
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import DatabaseSettings

Notice = Callable[[str, float, float], None]  # (step, done, of)


@dataclass(frozen=True, slots=True)
class RestoreContext:
    """What the rows of a restore are put into: one transaction of one database, for one tenant, from one backup.

    Attributes:
        site: settings, and what they lead to.
        repository: the tenant's, open, its index read.
        database: the one whose rows are changed.
        connection: in the restore's transaction.
        tenant: whose rows they are.
        manifest: of the backup.
        components: its documents, by their names.
        tenancy: which tables the database has, and whose their rows are.
        point: the instant of the restore's snapshot.
        request: what is to be restored, and how.
        notice: takes notices of progress.
        dry_run: nothing will be written.
        undo_since: of an undo, where rows written since can be told: the snapshot of the backup; else empty.
        left_rows: of an undo: rows that were nobody's before the restore, by table.
        kept: what is left as it is.
        undoing: it is an undo, of whatever that restore wrote.
        names_others: whether a plan may say which other tenants hold keys of the backup's rows.
    """

    site: Site
    repository: Repository
    database: DatabaseSettings
    connection: Connection
    tenant: Tenant
    manifest: Manifest
    components: Mapping[str, Component]
    tenancy: TenancyMap
    point: RecoveryPoint
    request: RestoreRequest
    notice: Notice
    dry_run: bool
    names_others: bool = False
    undo_since: str = ""
    left_rows: Mapping[str, LeftRows] = field(default_factory=dict)
    kept: Kept = NOTHING
    undoing: bool = False


def describe_broken_keys(keys: Sequence[BrokenForeignKey]) -> str:
    """The first five, for an error's `why`."""
    return "; ".join(f"{b.constraint}: {b.rows} rows of {b.table} without {b.parent}" for b in keys[:5])


def remedy_for_broken_keys(request: RestoreRequest, keys: Sequence[BrokenForeignKey]) -> str:
    """What helps where foreign keys would not hold: the parents of rows that come back are not there."""
    parents = ", ".join(dict.fromkeys(key.parent for key in keys[:5]))
    if request.whole:
        return (
            f"put back the rows of {parents} that they refer to (shared tables are in the platform backup), or leave the tables"
            " that refer to them out: --all-but"
        )
    return f"choose {parents} as well, or put back the rows that are gone there, or the mode missing-only"
