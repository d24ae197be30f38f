"""Where a tenant's files of a moment come from: the versions that its bucket keeps, else the newest backup before."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import optional
from sbh_pipelines.errors import CorruptObject, MomentOutOfReach, StoreDenied, StoreError, UnknownBackup
from sbh_pipelines.files.moment import FileSource, MomentFiles, MomentListing, Window
from sbh_pipelines.model import RECOVERED, BackupId, Tenant, parse_timestamp, timestamp, utc_now
from sbh_pipelines.repository.format import FILES
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.versions import BucketVersions, IncompleteVersions

_DIRECTORY = "files are in a directory, which keeps no versions"
_NO_RULES = "the bucket's lifecycle rules cannot be read: versions may have been removed"


@dataclass(frozen=True, slots=True)
class FilesWindow:
    """From when on files can be had as they were at any moment.

    Attributes:
        source: `versions`; or `backup`, where there are only those of each backup.
        why: What to know of it, in words.
        since: From when on, of versions; None where that is not known.
    """

    source: FileSource
    why: str = ""
    since: datetime | None = optional()


@dataclass(frozen=True, slots=True)
class FromVersions:
    """The files of a moment, from the bucket's versions.

    Attributes:
        listing: The files; open as long as the source is.
        facts: What is not sure of them.
        kept_days: After how many days the bucket's rules remove older versions; None: never, or not known.
    """

    listing: MomentListing
    facts: MomentFiles
    kept_days: int | None


@dataclass(frozen=True, slots=True)
class FromBackup:
    """The files of a backup, in place of those of a moment."""

    id: BackupId
    component: Component
    facts: MomentFiles


def files_window(site: Site, tenant: Tenant) -> FilesWindow:
    """From when on the tenant's files can be had as they were; lists all versions of them. Raises the store's errors."""
    if not site.settings.files.enabled:
        return FilesWindow(FileSource.NONE, "files are not backed up")
    history = site.file_versions(tenant)
    try:
        if refused := _refused(history):
            return FilesWindow(FileSource.BACKUP, refused)
        assert history is not None
        _, prefix = site.files_store(tenant)
        skipped, window = [prefix + e for e in site.settings.files.exclude], Window()
        for version in history.versions(prefix, skipped):
            if not version.key.startswith(tuple(skipped)):
                window.saw(version)
    except (StoreDenied, IncompleteVersions) as error:
        return FilesWindow(FileSource.BACKUP, _said(error))
    kept_days, why = _kept_days(history, prefix)
    since = window.begin(kept_days, utc_now())
    return FilesWindow(FileSource.VERSIONS, why, since) if since else FilesWindow(FileSource.BACKUP, _unknown(None))


@contextmanager
def file_source(
    site: Site, tenant: Tenant, repository: Repository, moment: datetime
) -> Iterator[FromVersions | FromBackup]:
    """The source of the tenant's files at `moment`, open for the length of the block.

    Raises MomentOutOfReach where there is none, and the store's errors.
    """
    listed, why = _versions(site, tenant, moment)
    if listed is None:
        yield _newest_backup(repository, tenant, moment, why)
        return
    with listed.listing:
        yield listed


def _versions(site: Site, tenant: Tenant, moment: datetime) -> tuple[FromVersions | None, str]:
    """The files by the bucket's versions; or None, and why not by them."""
    history = site.file_versions(tenant)
    store, prefix = site.files_store(tenant)
    try:
        if refused := _refused(history):
            return None, refused
        assert history is not None
        listing = MomentListing(history, store, prefix, moment, site.settings.files.exclude)
    except (StoreDenied, IncompleteVersions) as error:
        return None, _said(error)
    except StoreError as error:
        if site.copy_name is None:
            raise
        return None, _said(error)  # the application's bucket may be what was lost
    try:
        kept_days, why = _kept_days(history, prefix)
        facts = listing.facts(kept_days, utc_now())
    except BaseException:
        listing.close()
        raise
    if facts.window_from is None or moment < facts.window_from:
        listing.close()
        return None, _unknown(facts.window_from)
    return FromVersions(listing, facts.explained(why), kept_days), ""


def _refused(history: BucketVersions | None) -> str:
    """Why versions do not tell; '' where they may."""
    if history is None:
        return _DIRECTORY
    status = history.status()
    if status == "Enabled":
        return ""
    return "the bucket's versioning is suspended" if status else "the bucket keeps no versions"


def _kept_days(history: BucketVersions, prefix: str) -> tuple[int | None, str]:
    try:
        return history.kept_days(prefix), ""
    except StoreDenied:
        return None, _NO_RULES


def _unknown(since: datetime | None) -> str:
    if since is None:
        return "nothing shows since when the bucket keeps versions"
    return f"the bucket surely has all versions only from {timestamp(since)} on"


def _said(error: StoreError) -> str:
    return f"{error.what}: {error.why}" if error.why else error.what


def _newest_backup(repository: Repository, tenant: Tenant, moment: datetime, why: str) -> FromBackup:
    """The newest backup of the tenant whose files were listed no later than `moment`. Raises MomentOutOfReach.

    Those that were recovered themselves are left out: their files may be older than they say.
    """
    for backup_id in sorted(repository.manifest_ids(), reverse=True):
        try:
            manifest = read_manifest(repository, backup_id)
            short = manifest.components.get(FILES)
            if short is None or manifest.purpose == RECOVERED or manifest.tenant_key not in (None, tenant.key):
                continue
            listed_at = parse_timestamp(short.listed_at or manifest.created_at)
            if listed_at > moment:
                continue
            component = read_component(repository, manifest, FILES)
        except (CorruptObject, UnknownBackup):  # the one before has files of the tenant as well
            continue
        told = f"source: {backup_id}, listed at {timestamp(listed_at)}: {why}"
        facts = MomentFiles(FileSource.BACKUP, listed_at, told, backup=str(backup_id))
        return FromBackup(backup_id, component, facts)
    raise MomentOutOfReach(
        "The tenant's files of that moment cannot be had",
        on=f"{tenant.id}, {timestamp(moment)}",
        why=f"{why}; and no backup's files were listed before it",
        remedy="choose a later moment, or one of the backups: `sbh backup list`",
    )
