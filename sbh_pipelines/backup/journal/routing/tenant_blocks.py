"""Changes of many tenants gathered into blocks, each sealed to its tenant and put into the segment of its tenant's region.

All tenants share one budget of memory. Changes of a tenant without a public key, or that may not lie in its region, are counted and
dropped: of such a tenant there is no backup that they could follow. Each region is told of which tenants something went elsewhere:
one that was away for a while, and is back, has backups there that know nothing of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sbh_pipelines.repository.journal.segments.block import BLOCK_BYTES, BlockBuffer
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter

BUDGET_BYTES = 64 << 20
MOST_SKIPPED = 100_000  # tenants that are counted one by one


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tenant's changes go.

    Attributes:
        tenant: The tenant's key.
        region: The tenant's region; None where the tenant is not listed.
        key: What its blocks are sealed to; None for a tenant whose changes are dropped.
    """

    tenant: str
    region: str | None
    key: PublicKey | None


class _Open:
    __slots__ = ("buffer", "changes", "greatest_xid", "place", "size")

    def __init__(self, place: Place) -> None:
        self.place, self.buffer, self.size = place, BlockBuffer(), 0
        self.changes = self.greatest_xid = 0


class TenantBlocks:
    """Not thread-safe. `skipped`: by region (None: of no known region) and tenant, how many changes, and their greatest id."""

    def __init__(
        self, place_of: Callable[[bytes], Place], writers: Mapping[str, SegmentWriter], budget: int = BUDGET_BYTES
    ) -> None:
        self._place_of, self._writers, self._budget = place_of, writers, budget
        self._open: dict[bytes, _Open] = {}
        self._gathered = 0
        self.changes: dict[str, int] = dict.fromkeys(writers, 0)
        self.skipped: dict[str | None, dict[str, tuple[int, int]]] = {}
        self.too_many_skipped = False

    def add(
        self, tenant: bytes, transaction: tuple[int, int, int], layout: int, op: bytes, key: bytes, row: bytes
    ) -> None:
        """A change, by its fields. `transaction`: its commit, time and xid."""
        opened = self._open.get(tenant) or self._opened(tenant)
        place, xid = opened.place, transaction[2]
        opened.changes += 1
        if xid > opened.greatest_xid:
            opened.greatest_xid = xid
        if place.key is None or place.region is None:
            self._skip(place, xid)
            return
        size = opened.buffer.append(transaction, layout, op, key, row)
        self._gathered += size - opened.size
        opened.size = size
        self.changes[place.region] += 1
        if size >= BLOCK_BYTES:
            self._seal(opened, more=True)
        elif self._gathered > self._budget:
            self._make_room()

    def note(self, tenant: bytes, xid: int) -> None:
        """A transaction did something to the tenant that is no change of its rows."""
        opened = self._open.get(tenant) or self._opened(tenant)
        opened.greatest_xid = max(opened.greatest_xid, xid)

    def _opened(self, tenant: bytes) -> _Open:
        opened = self._open[tenant] = _Open(self._place_of(tenant))
        return opened

    def dropped(self, region: str) -> dict[str, tuple[int, int]]:
        """Of tenants of the region, and of those of no known one: how many changes nobody has, and their greatest id."""
        return {**self.skipped.get(region, {}), **self.skipped.get(None, {})}

    def elsewhere(self, region: str) -> dict[str, tuple[int, int]]:
        """Of tenants of other regions: how many changes the region does not have, and the greatest id of what was done to them."""
        return {
            opened.place.tenant: (opened.changes, opened.greatest_xid)
            for opened in self._open.values()
            if opened.place.region not in (region, None)
        }

    def finish(self) -> None:
        """Seal what is left."""
        for opened in self._open.values():
            self._seal(opened, more=False)

    def _make_room(self) -> None:
        """Half of the memory, by the fewest blocks."""
        for opened in sorted(self._open.values(), key=lambda one: -one.size):
            self._seal(opened, more=True)
            if self._gathered <= self._budget // 2:
                return

    def _seal(self, opened: _Open, *, more: bool) -> None:
        place = opened.place
        if place.key is None or place.region is None:
            return
        taken = opened.buffer.take(more=more)
        self._gathered -= opened.size
        opened.size = 0
        if taken is not None:
            self._writers[place.region].add_block(place.key, *taken)

    def _skip(self, place: Place, xid: int) -> None:
        of_region = self.skipped.setdefault(place.region, {})
        count, greatest = of_region.get(place.tenant, (0, 0))
        if not count and sum(map(len, self.skipped.values())) >= MOST_SKIPPED:
            self.too_many_skipped = True
            return
        of_region[place.tenant] = count + 1, max(greatest, xid)
