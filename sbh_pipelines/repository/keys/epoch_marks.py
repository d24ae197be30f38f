"""Which key epochs a repository has begun and ended, outside of its own word.

`keys/0001.json` says which epoch is the newest, and whoever may write to the bucket can put an earlier one back: the key in it
still unwraps. So each epoch that begins, and each whose key is destroyed, leaves a mark in the catalog of the region. A ring of
keys is refused where the epoch after its newest was begun, and a key where its epoch was ended.

A repository is known by a name derived from the key that names its chunks, which is the same in all its epochs: nothing of the
tenant is in a mark, and a tenant that was erased begins without any. The name of a mark carries the id of the catalog's key
besides: where that key was lost, the marks under it count no more, and the next backup leaves them again under the new one.
"""

from collections.abc import Collection
from itertools import takewhile

from sbh_pipelines.errors import KeyEpochRolledBack
from sbh_pipelines.model import Clock, timestamp
from sbh_pipelines.repository.catalog.marks import MarkPlace, make_mark, mark_key_id, read_mark
from sbh_pipelines.repository.format import FIRST_EPOCH
from sbh_pipelines.repository.seal import derive

FOLDER = "epochs/"
_BEGUN, _ENDED = "begun", "ended"
MOST_LISTED = 10_000  # marks of a region that are remembered: some 150 bytes each


class MarkList:
    """Which marks of a region the last listing of its catalog showed. Thread-safe."""

    def __init__(self) -> None:
        self._seen: tuple[float, frozenset[str] | None] = float("-inf"), None

    def take(self, begun: float, names: Collection[str]) -> None:
        """The names of all marks, below the catalog's prefix, by a listing that began then, by the monotonic clock."""
        self._seen = begun, frozenset(names) if len(names) <= MOST_LISTED else None

    def lacks(self, name: str, since: float) -> bool:
        """Whether a listing that began at `since` or later shows no mark of this name; False where that is not known."""
        begun, names = self._seen
        return names is not None and begun >= since and name not in names


class EpochMarks:
    """Of all repositories of a region."""

    def __init__(
        self, catalog: MarkPlace, clock: Clock, listed: MarkList | None = None, since: float | None = None
    ) -> None:
        """`listed`: may tell that there is no mark, by a listing that is not older than `since`, from when on none comes."""
        self._catalog, self._clock = catalog, clock
        self._listed, self._since = listed, since

    def begun(self, name_key: bytes, epoch: int) -> bool:
        return self._is_there(name_key, epoch, _BEGUN)

    def ended(self, name_key: bytes, epoch: int) -> bool:
        return self._is_there(name_key, epoch, _ENDED)

    def begin(self, name_key: bytes, newest: int) -> None:
        """Mark an epoch, and those before it that have no mark: they began under an earlier release, or their writer was killed."""
        missing = takewhile(lambda epoch: not self.begun(name_key, epoch), range(newest, FIRST_EPOCH, -1))
        for epoch in reversed(list(missing)):  # the newest last: killed on the way, the next one goes on
            self._make(name_key, epoch, _BEGUN)

    def end(self, name_key: bytes, epoch: int) -> None:
        self._make(name_key, epoch, _ENDED)

    def _make(self, name_key: bytes, epoch: int, state: str) -> None:
        make_mark(self._catalog, self._name(name_key, epoch, state), {"at": timestamp(self._clock())})

    def _is_there(self, name_key: bytes, epoch: int, state: str) -> bool:
        """Where the catalog has no key, none is. Raises CorruptObject and the key provider's errors where its key does not open."""
        if not self._catalog.has_key:
            return False
        name = self._name(name_key, epoch, state)
        if self._listed is not None and self._since is not None and self._listed.lacks(name, self._since):
            return False
        return read_mark(self._catalog, name) is not None

    def _name(self, name_key: bytes, epoch: int, state: str) -> str:
        return f"{FOLDER}{repository_name(name_key)}/{mark_key_id(self._catalog)}/{epoch:04d}-{state}.json"

    def url(self, name_key: bytes) -> str:
        return self._catalog.store.url(f"{self._catalog.prefix}{FOLDER}{repository_name(name_key)}/")


def repository_name(name_key: bytes) -> str:
    """32 hex digits that say which repository it is and nothing about the key."""
    return derive(name_key, b"sbh repository name")[:16].hex()


def rolled_back(on: str, owner: str, epoch: int, later: int) -> KeyEpochRolledBack:
    tenant = "--all" if owner.startswith("_") else owner
    return KeyEpochRolledBack(
        "The tenant's key object is older than its newest key epoch",
        on=on,
        why=f"it says that epoch {epoch} is the newest, and epoch {later} was begun: an earlier copy was put back, whose key"
        " may be known to somebody",
        remedy=f"see who can write to the bucket; `sbh keys rotate {tenant}` puts the object right",
    )
