"""How the copies stand, where there are any: what is older there than was promised, and what is not whole there.

Findings are of a copy, not of a tenant: where a copy stands still, that is one alert for the whole fleet. Of the copy
itself only its catalog is asked; what was verified there is in the catalog of the source.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sbh_pipelines.backup.copies.results import CopyLine, CopyStatus
from sbh_pipelines.backup.copies.status import copy_status
from sbh_pipelines.backup.health.findings import COPIES, ERROR, WARNING, Finding, span_text
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CopyBehind, CopyError, CopyUnverified, ResidencyError
from sbh_pipelines.model import Tenant, TenantId, timestamp
from sbh_pipelines.placement import PLATFORM

_NAMED = 3  # tenants that a finding names


@dataclass(frozen=True, slots=True)
class CopiesState:
    """How the copies stand.

    Attributes:
        copies: Each of them.
        findings: What is wrong.
        unseen: Names of those that were not looked at wholly, so that what is not found of them may be there.
    """

    copies: Sequence[CopyStatus] = ()
    findings: Sequence[Finding] = ()
    unseen: frozenset[str] = frozenset()

    def lags(self, tenant_id: TenantId) -> Mapping[str, float]:
        """How old the tenant's recovery point is at each copy that has one, s."""
        return self._lags.get(tenant_id, {})

    _lags: Mapping[TenantId, Mapping[str, float]] = field(default_factory=dict, repr=False)


def look_at_copies(
    site: Site, tenants: Sequence[Tenant], oldest: Mapping[TenantId, datetime], now: datetime, *, everyone: bool
) -> CopiesState:
    """`oldest`: when the first backup that is there of each tenant was made: who has none is behind nothing.

    `everyone`: the tenants are all there are, and findings are of them.
    """
    found = [copy_status(site, copy.name, tenants, now, everyone=everyone) for copy in site.settings.copies]
    lags: dict[TenantId, dict[str, float]] = {}
    for copy in found:
        for line in copy.tenants:
            if line.lag_s is not None and line.tenant_id != PLATFORM:
                lags.setdefault(line.tenant_id, {})[copy.name] = line.lag_s
    unseen = frozenset(copy.name for copy in found if copy.issues)
    if not everyone:
        return CopiesState((), (), unseen, lags)
    findings = [finding for copy in found for finding in _findings(copy, oldest, now)]
    return CopiesState(found, findings, unseen, lags)


def _findings(copy: CopyStatus, oldest: Mapping[TenantId, datetime], now: datetime) -> Iterator[Finding]:
    if copy.issues:  # what is not known of its tenants is not held against them
        yield Finding(COPIES, "copy_unreadable", copy.name, copy.issues[0], WARNING)
    elif copy.damages:  # anybody who may put at the source can make one: it holds nothing back
        yield Finding(COPIES, "copy_unreadable", copy.name, copy.damages[0], WARNING)
    late, copied = [line for line in copy.tenants if _is_behind(line, copy, oldest, now)], _copied(copy)
    if late:
        worst = max((line.lag_s for line in late if line.lag_s is not None), default=None)
        old = f"the oldest is {span_text(worst)} old" if worst is not None else "nothing was verified there yet"
        error = CopyBehind(
            "What is at a copy is older than was promised",
            on=f"{copy.name} in {copy.to}",
            why=f"{len(late):,} of {copied:,} tenants, where {span_text(copy.objective_s)} was promised; {old}: {_names(late)}",
            remedy=f"see the runs that copy; now: `sbh copies {_verb(copy)} {copy.name}`",
        )
        yield Finding(COPIES, "copy_behind", copy.name, error, ERROR)
    yield from _of_regions(copy)
    yield from _left(copy)
    broken = [line for line in copy.tenants if line.standing == "failed" and not copy.issues]
    if broken:
        broken_error = CopyUnverified(
            "What is at a copy is not whole, or could not be verified",
            on=f"{copy.name} in {copy.to}",
            why=f"{len(broken):,} of {copied:,} tenants: {_names(broken)}; the first: {broken[0].why[:400]}",
            remedy=f"`sbh copies status {copy.name}` says what of each",
        )
        yield Finding(COPIES, "copy_unverified", copy.name, broken_error, ERROR)


def _of_regions(copy: CopyStatus) -> Iterator[Finding]:
    """What no tenant's line tells: without the catalog, the trail and the journal a copy is only half of one."""
    if not copy.steps:
        return
    named = "; ".join(f"{one.step} of {one.region} since {timestamp(one.since)}" for one in copy.steps[:_NAMED])
    first = copy.steps[0].error
    error = CopyError(
        "What belongs to whole regions does not come to a copy",
        on=f"{copy.name} in {copy.to}",
        why=f"{named}; the first: [{first.code}] {first.what} ({first.on}): {first.why}"[:800],
        remedy=first.remedy or f"sbh copies run {copy.name}",
    )
    yield Finding(COPIES, "copy_incomplete", copy.name, error, ERROR)


def _left(copy: CopyStatus) -> Iterator[Finding]:
    """What was copied of who is not copied any more."""
    kept = [line for line in copy.tenants if line.kept_backups]
    misplaced = [line for line in kept if line.misplaced]
    if misplaced:
        forbidden = ResidencyError(
            "Backups lie at a copy where they may not lie any more",
            on=f"{copy.name} in {copy.to}",
            why=f"{len(misplaced):,} tenants: {_names(misplaced)}; the first: {misplaced[0].why[:400]}",
            remedy=f"sbh copies forget {copy.name} --tenant {misplaced[0].tenant_id} --confirm",
        )
        yield Finding(COPIES, "copy_misplaced", copy.name, forbidden, ERROR)
    others = [line for line in kept if not line.misplaced]
    if others:
        error = CopyBehind(
            "Tenants that were copied are not continued at a copy",
            on=f"{copy.name} in {copy.to}",
            why=f"{len(others):,} tenants: {_names(others)}; the first: {others[0].why[:400]}",
            remedy=f"copy them again by what the reason names; or remove what is there:"
            f" `sbh copies forget {copy.name} --tenant {others[0].tenant_id} --confirm`",
        )
        yield Finding(COPIES, "copy_left", copy.name, error, WARNING)


def _is_behind(line: CopyLine, copy: CopyStatus, oldest: Mapping[TenantId, datetime], now: datetime) -> bool:
    if line.standing in ("left_out", "ended"):
        return False
    if line.lag_s is not None:
        return line.lag_s > copy.objective_s
    first = oldest.get(line.tenant_id)
    return not copy.issues and first is not None and now - first > timedelta(seconds=copy.objective_s)


def _copied(copy: CopyStatus) -> int:
    return sum(line.standing not in ("left_out", "ended") for line in copy.tenants)


def _names(lines: Sequence[CopyLine]) -> str:
    named = ", ".join(line.tenant_id for line in lines[:_NAMED])
    return named + (f" and {len(lines) - _NAMED:,} more" if len(lines) > _NAMED else "")


def _verb(copy: CopyStatus) -> str:
    return "verify" if copy.kind == "external" else "run"
