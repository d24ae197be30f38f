"""Which servers are known to refuse a put whose condition does not hold.

By them a lease is taken without being read, and an event is put behind the end of a trail that was not looked for.
"""

import logging
import threading

from sbh_pipelines.errors import SbhError
from sbh_pipelines.placement import Place
from sbh_pipelines.repository.lease import Lease
from sbh_pipelines.settings import StorageSettings
from sbh_pipelines.stores.open_store import is_aws

_log = logging.getLogger(__name__)


class ConditionalPuts:
    """Which buckets are known to refuse a put whose condition (If-Match, If-None-Match) does not hold, as all have to. Thread-safe.

    Where it is not known a lease is read before it is taken, so that one that another writer holds shows. AWS's server is known.
    Any other is tried once, under the second lease that a process takes: one that takes no more would gain nothing.
    """

    def __init__(self, storage: StorageSettings) -> None:
        self._storage, self._lock = storage, threading.Lock()
        self._takes: dict[tuple[str, str], int] = {}
        self._refused: dict[tuple[str, str], bool] = {}

    def are_sure(self, place: Place) -> bool:
        return is_aws(self._storage, place.region) or self._refused.get((place.bucket, place.region), False)

    def try_under(self, held: Lease, place: Place) -> None:
        """Find out by a lease that was taken just now. Says so in the log where the server does not refuse."""
        bucket = place.bucket, place.region
        with self._lock:
            self._takes[bucket] = nth = self._takes.get(bucket, 0) + 1
        if nth != 2 or self.are_sure(place):
            return
        try:
            self._refused[bucket] = held.is_guarded()
        except SbhError:  # the lease's holder meets it again
            self._takes[bucket] = 1
            return
        if not self._refused[bucket]:
            _log.warning(
                "The server of %s ignores If-Match or If-None-Match on a put: two writers of one tenant may not notice each"
                " other. Use a store with conditional writes; `sbh doctor` tries it",
                place.bucket,
            )
