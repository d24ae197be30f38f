"""What a drain did, for whoever asked for it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegionFigures:
    """What a drain wrote for a region.

    Attributes:
        region: The region.
        segment: Name of the segment below the region's prefix.
        bytes: Its size.
        changes: Changes in it.
        tenants: Tenants that have changes in it.
        skipped: Changes of tenants without a public key, which were dropped.
    """

    region: str
    segment: str
    bytes: int
    changes: int
    tenants: int
    skipped: int


@dataclass(frozen=True, slots=True)
class DrainResult:
    """What a drain did.

    Attributes:
        incarnation: Name of the incarnation.
        start: Where its range starts.
        end: Where its range ends.
        fence: 64-bit id of its fence's transaction.
        fence_time: The server's clock in it, microseconds since 1970 UTC.
        before: The same of the fence before, up to which the chain told already; None where a chain begins.
        transactions: Transactions of the window that touched journaled tables.
        changes: Changes of rows of tenants in them.
        events: What could not be told as changes.
        covered: Tables whose changes are told up to the fence.
        not_covered: The other journaled ones: they are from the next backup on.
        left_out: Tables with backups only, and why.
        regions: What was written.
        gap: Why the chain before could not go on; None where it did.
        publication: What was altered of the publication, or why it could not be.
        held_bytes: Of the server's log, that the slot holds after it.
        seconds: How long it took.
    """

    incarnation: str
    start: int
    end: int
    fence: int
    fence_time: int
    before: int | None
    transactions: int
    changes: int
    events: int
    covered: tuple[str, ...]
    not_covered: tuple[str, ...]
    left_out: Mapping[str, str]
    regions: tuple[RegionFigures, ...]
    gap: str | None
    publication: tuple[str, ...]
    held_bytes: int
    seconds: float
