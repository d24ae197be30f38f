"""One listing for the files of many tenants: where each has few, a request of its own costs more than what it lists.

The prefixes of a region's tenants begin alike, so the bucket is listed from there on, a page at a time, and a page tells of as many
tenants as it holds. What is not theirs is passed over: behind the end of a page the next begins where something wanted is.

All of a *folder* (what follows the common beginning, up to the next `/`) comes one after another, whatever the order of a server;
S3 has `acme-2/` before `acme/`, servers that walk directories the other way round. No more is relied on: a tenant is told of when
its folder was seen from its first key on, and either a key of another folder after it or the end. Who is not told of is to be
listed by itself: who has many files, who did not come by, everybody where the bucket may not be listed so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import SbhError
from sbh_pipelines.files.listing import ListingPrint, is_file
from sbh_pipelines.stores.base import FileStore, Page

_AT_ONCE = 8
_STRETCH = 100  # tenants that are worth a walk of their own
_TRIAL = 4  # pages after which it is looked at whether they tell of more tenants than as many listings would
_BEHIND = "\U0010fffd"  # sorts behind what a name is likely to begin with


@dataclass(slots=True)
class Known:
    """A tenant whose files are looked for.

    Attributes:
        prefix: Of its files; ends with `/`.
        besides: Keys below it that are looked for as well.
        found: The fingerprint of its files.
        missing: Those of `besides` that did not come by.
    """

    prefix: str
    besides: Sequence[str] = ()
    found: ListingPrint = field(default_factory=ListingPrint)
    missing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.missing = set(self.besides)


def list_together(
    store: FileStore, start: str, tenants: Sequence[Known], exclude: Sequence[str]
) -> Mapping[str, Known]:
    """Those of the tenants that the listing told of, by prefix. All prefixes begin with `start`; at least one request is made.

    Of a file its exact key counts, so fingerprints are those of exact listings.
    """
    by_folder = {_folder(tenant.prefix, len(start)): tenant for tenant in tenants}
    folders = sorted(by_folder, key=str.encode)
    each = max(_STRETCH, -(-len(folders) // _AT_ONCE))
    stretches = [folders[at : at + each] for at in range(0, len(folders), each)]

    def walk(stretch: Sequence[str]) -> list[Known]:
        one = _Walk(store, start, {folder: by_folder[folder] for folder in stretch}, exclude)
        try:
            one.run()
        except (SbhError, _Disorder):
            return []
        return one.told

    walked = side_by_side(walk, stretches, name="unchanged", threads=_AT_ONCE)
    return {tenant.prefix: tenant for told in walked for tenant in told}


class _Disorder(Exception):
    """A folder came twice, or a page of nothing."""


_NOBODY = Known("")


class _Walk:
    """A stretch of a bucket, gone through from its first folder to its last."""

    def __init__(self, store: FileStore, start: str, wanted: Mapping[str, Known], exclude: Sequence[str]) -> None:
        self._store, self._start, self._exclude = store, start, exclude
        self._wanted = dict(wanted)  # not come to yet
        self._last = max(wanted, key=str.encode).encode()
        self._folder, self._tenant = "", _NOBODY
        self._skipped: tuple[str, ...] = ()
        self._files = 0  # of the tenant that this page shows
        self._seen = set[str]()
        self.told = list[Known]()

    def run(self) -> None:
        """Raises _Disorder, and the store's errors."""
        after, pages = self._before(min(self._wanted, key=str.encode)), 0
        while (page := self._store.page(self._start, after)) is not None:
            pages += 1
            is_beyond = self._take(page)
            if is_beyond or not page.more:
                self._end_folder()
                return
            if not self._wanted and self._tenant is _NOBODY:
                return
            if pages >= _TRIAL and pages > len(self.told):
                return
            after = self._next(page)

    def _take(self, page: Page) -> bool:
        """Whether the page goes beyond the stretch."""
        self._files = 0
        for info in page.objects:
            if not self._folder or not info.key.startswith(self._folder):
                self._end_folder()
                self._folder = folder = _folder(info.key, len(self._start))
                if folder in self._seen:
                    raise _Disorder
                self._seen.add(folder)
                if folder.encode("utf-8", "surrogatepass") > self._last:
                    return True
                self._tenant, self._files = self._wanted.pop(folder, _NOBODY), 0
                self._skipped = tuple(self._tenant.prefix + name for name in self._exclude)
            if (tenant := self._tenant) is not _NOBODY and info.key.startswith(tenant.prefix):
                tenant.missing.discard(info.key)
                if is_file(info, self._skipped):
                    tenant.found.add(info.key[len(tenant.prefix) :], info.size, info.etag, info.modified)
                    self._files += 1
        return False

    def _end_folder(self) -> None:
        if self._tenant is not _NOBODY:
            self.told.append(self._tenant)
            self._tenant = _NOBODY

    def _next(self, page: Page) -> str:
        """Behind which key the next page is to begin: the last of this one, or a later one with nothing wanted between."""
        if not page.objects:
            raise _Disorder
        last = page.objects[-1].key
        if self._files == len(page.objects):
            self._tenant = _NOBODY  # has many files
        return max(last, self._target(last), key=lambda key: key.encode("utf-8", "surrogatepass"))

    def _target(self, last: str) -> str:
        tenant = self._tenant
        if tenant is _NOBODY:
            ahead = [
                folder for folder in self._wanted if folder.encode() > self._folder.encode("utf-8", "surrogatepass")
            ]
            return self._before(min(ahead, key=str.encode)) if ahead else last
        for skipped in self._skipped:
            if skipped.endswith("/") and last.startswith(skipped):
                # Not to the folder's end in terms of names: `backups-old/` is behind `backups/` for some servers.
                looked_for = [key for key in tenant.missing if key.startswith(skipped) and key > last]
                return min(looked_for)[:-1] if looked_for else skipped + _BEHIND
        return last

    @staticmethod
    def _before(folder: str) -> str:
        """What sorts right before all of a folder. A server that walks directories has passed the folder by then."""
        return f"{folder[:-1]}.{_BEHIND}"


def _folder(key: str, at: int) -> str:
    """The key up to the first `/` from there on; all of a key without one."""
    end = key.find("/", at)
    return key[: end + 1] if end >= 0 else key
