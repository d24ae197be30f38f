"""Where a bucket really is, asked of its server before anything is written there, once per process, bucket and hour.

Refuses a bucket that is elsewhere or of which nothing says where it is. A server that cannot be asked is an error of the
store, which may pass; it is never taken for a bucket in the wrong place, nor for one in the right place.
"""

import threading
import time
from collections.abc import Callable

from sbh_pipelines.errors import ResidencyError
from sbh_pipelines.placement import Place


class RegionProof:
    """Remembers what was proved for `max_age_s`; what failed is asked again. Thread-safe."""

    def __init__(
        self, ask: Callable[[Place], str], max_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._max_age_s, self._clock = ask, max_age_s, clock
        self._proved: dict[tuple[str, str], float] = {}
        self._asking: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def check(self, place: Place) -> None:
        """Raises ResidencyError, StoreUnavailable, StoreDenied, ObjectMissing (no such bucket)."""
        name = (place.bucket, place.region)
        if self._fresh(name):
            return
        with self._lock:
            asking = self._asking.setdefault(name, threading.Lock())
        with asking:  # one asks, the others wait for the answer
            if self._fresh(name):
                return
            begun = self._clock()
            require_region(place, self._ask(place))
            self._proved[name] = begun

    def _fresh(self, name: tuple[str, str]) -> bool:
        proved = self._proved.get(name)
        return proved is not None and self._clock() - proved < self._max_age_s


def require_region(place: Place, found: str) -> None:
    """Raises ResidencyError unless `found`, the region that the server names, is the place's."""
    if found == place.region:
        return
    if not found:
        raise ResidencyError(
            "Nothing proves in which region the bucket is",
            on=f"s3://{place.bucket}, which stands for {place.region}",
            why="the server does not say",
            remedy="for a server that knows no regions set residency.prove; on AWS grant s3:GetBucketLocation",
        )
    raise ResidencyError(
        "The bucket is in another region",
        on=f"s3://{place.bucket}",
        why=f"it stands for {place.region} and is in {found}; nothing was written",
        remedy=f"make the bucket in {place.region}, or correct storage.bucket, files.bucket or storage.endpoint_url",
    )
