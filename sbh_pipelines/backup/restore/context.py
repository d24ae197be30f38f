"""What the steps of a restore share, and what they say of foreign keys that would not hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.merge.foreign_keys import BrokenForeignKey
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
        tenancy: which tables the database has, and whose their rows are.
        point: the instant of the restore's snapshot.
        request: what is to be restored, and how.
        notice: takes notices of progress.
        dry_run: nothing will be written.
        names_others: whether a plan may say which other tenants hold keys of the backup's rows.
    """

    site: Site
    repository: Repository
    database: DatabaseSettings
    connection: Connection
    tenant: Tenant
    manifest: Manifest
    tenancy: TenancyMap
    point: RecoveryPoint
    request: RestoreRequest
    notice: Notice
    dry_run: bool
    names_others: bool = False


def describe_broken_keys(keys: Sequence[BrokenForeignKey]) -> str:
    """The first five, for an error's `why`."""
    return "; ".join(f"{b.constraint}: {b.rows} rows of {b.table} without {b.parent}" for b in keys[:5])


def remedy_for_broken_keys(request: RestoreRequest) -> str:
    """What helps where foreign keys would not hold."""
    if request.whole:
        return "rows that the tenant's rows refer to were removed since the backup: restore them first"
    return "choose the tables at both ends of these keys as well, or the mode missing-only"
