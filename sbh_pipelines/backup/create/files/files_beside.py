"""A tenant's files and its repository in one listing, where the one lies beside the other and both are small.

By default the backups lie below the prefix of the files, so a listing of the files goes through the repository as well. Right after
the lease was taken, which for an incremental backup is after the snapshot, one request tells of both. So the files step makes a
listing of its own only where there are many files, or keys that are not listed alike in every way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError
from sbh_pipelines.files.listing import ListingPrint, is_file
from sbh_pipelines.model import Tenant, utc_now
from sbh_pipelines.placement import files_place, lies_beside
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import ODD_KEY, ObjectInfo

_MOST_FILES = 500  # a page holds a thousand objects, and those of the repository are to be among them


@dataclass(frozen=True, slots=True)
class FilesBeside:
    """What one listing showed.

    Attributes:
        objects: Of the repository.
        fingerprint: Of the files, by their exact keys.
        files: In order of their keys' UTF-8 bytes; None where they did not change, or a quick listing would not give these keys.
        listed_at: When it was begun, UTC.
    """

    objects: Sequence[ObjectInfo]
    fingerprint: ListingPrint
    files: Sequence[ObjectInfo] | None
    listed_at: datetime


def list_beside(site: Site, tenant: Tenant, repository: Repository, known: str) -> tuple[FilesBeside | None, bool]:
    """(what a listing of both shows, whether one page does not hold them).

    Nothing where they do not lie so, where the fingerprint `known` is of many files, or where one page does not hold them.
    """
    if not site.settings.files.enabled or int(known.partition("-")[0]) > _MOST_FILES:
        return None, False
    if not lies_beside(site.settings, files_place(site.settings, tenant), site.backup_place(tenant)):
        return None, False
    store, prefix = site.files_store(tenant)
    begun = utc_now()
    try:
        page = store.page(prefix, "")
    except SbhError:
        return None, False  # whatever it is, the listings apart meet it again
    if page is None or page.more:
        return None, page is not None
    skipped, found = tuple(prefix + name for name in site.settings.files.exclude), ListingPrint()
    files = [info for info in page.objects if is_file(info, skipped)]
    for info in files:
        found.add(info.key[len(prefix) :], info.size, info.etag, info.modified)
    ours = [o for o in page.objects if o.key.startswith(repository.prefix) and not ODD_KEY.search(o.key)]
    odd = any(ODD_KEY.search(info.key) or "\ufffd" in info.key for info in page.objects)
    files.sort(key=lambda info: info.key.encode("utf-8", "surrogatepass"))
    unused = odd or found.text(exactly=False) == known
    return FilesBeside(ours, found, None if unused else files, begun), False
