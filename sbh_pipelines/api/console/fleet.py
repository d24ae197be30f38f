"""The fleet: every tenant that the user may see, those first that would lose most."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.api.console.visit import AVisit, Visit, to
from sbh_pipelines.api.routes import platform
from sbh_pipelines.backup.service.results import Examination
from sbh_pipelines.errors import TooManyRequests
from sbh_pipelines.model import timestamp, utc_now

router = APIRouter(prefix=CONSOLE)

_ALL = 1_000_000
_BUDGET_S = 2.0  # for looking at repositories: of tenants that it is too short for the earlier look is shown, or none
_FIRST_BUDGET_S = 0.2  # of the first reading, which somebody waits for; the next follows at once
_ON_A_PAGE = 200
_FRESH_S = 15.0  # a listing of each tenant's backups is a request each: not for every page of everybody
_STALE_S = 45.0


@dataclass(frozen=True, slots=True)
class Known:
    """The fleet, as users of the platform may see it.

    Attributes:
        tenants: As the API lists them, in the order of the page.
        seen: What the list has not, by slug.
        issues: What could not be read.
        at: When it was read, UTC.
        until: How long it is shown, by the monotonic clock.
    """

    tenants: Sequence[Mapping[str, Any]]
    seen: Mapping[str, Mapping[str, Any]]
    issues: Sequence[Mapping[str, Any]]
    at: str
    until: float


@router.get("")
async def fleet(
    visit: AVisit,
    search: Annotated[str, Query(max_length=128)] = "",
    rpo: Annotated[str, Query(pattern="^(|missed|ok|none)$")] = "",
    region: Annotated[str, Query(max_length=64)] = "",
    tier: Annotated[str, Query(max_length=64)] = "",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> Response:
    """Tenants by what would be lost; a tenant's own users go straight to their tenant."""
    call = visit.call
    if not call.platform:
        return to(visit.home)
    await call.permit("backup.list")
    known = await _known(visit)
    chosen = {"search": search, "rpo": rpo, "region": region, "tier": tier}
    return await call.read(lambda: _page(visit, known, chosen, page))


def _page(visit: Visit, known: Known, chosen: Mapping[str, str], page: int) -> Response:
    tenants, seen = known.tenants, known.seen
    shown = [
        tenant
        for tenant in tenants
        if chosen["search"].casefold() in tenant["id"].casefold()
        and all(chosen[name] in ("", tenant[name]) for name in ("rpo", "region", "tier"))
    ]
    first = (page - 1) * _ON_A_PAGE
    return visit.page(
        "fleet.html",
        "Fleet",
        tenants=shown[first : first + _ON_A_PAGE],
        found=len(shown),
        number=page,
        more=len(shown) > first + _ON_A_PAGE,
        everyone=len(tenants),
        missed=sum(tenant["rpo"] == "missed" for tenant in tenants),
        never=sum(tenant["backup_id"] is None for tenant in tenants),
        stored=sum(one["stored"] for one in seen.values()),
        seen=seen,
        regions=sorted({tenant["region"] for tenant in tenants}),
        tiers=sorted({tenant["tier"] for tenant in tenants}),
        chosen=chosen,
        issues=known.issues,
        at=known.at,
    )


async def _known(visit: Visit) -> Known:
    """What is known of all tenants: what was learned some seconds ago, for whomever. A little later it is shown once more while it
    is read anew. It is read once, however many wait for it.
    """
    state, now = visit.request.app.state, time.monotonic()
    held: Known | None = getattr(state, "fleet", None)
    if held is not None and now <= held.until:
        return held
    reading: asyncio.Task[Known] | None = getattr(state, "fleet_reading", None)
    if began := reading is None or reading.done():
        reading = _begin(visit)
    if held is not None and now <= held.until + _STALE_S:
        return held
    try:
        return await asyncio.shield(reading)  # who goes away does not take it from the others
    except TooManyRequests:
        if began:
            raise
    return await _known(visit)  # it was the limit of who began it, and is nobody else's


def _begin(visit: Visit) -> "asyncio.Task[Known]":
    """A reading, which becomes what is known. What is wrong is told to who waits for it, if anybody does."""
    state = visit.request.app.state
    first = getattr(state, "fleet", None) is None

    async def read() -> Known:
        found = await _read(visit, _FIRST_BUDGET_S if first else _BUDGET_S)
        state.fleet = found  # before it has ended: who comes between would begin another first one
        if first and len(found.seen) < len(found.tenants):
            _begin(visit)
        return found

    state.fleet_reading = reading = asyncio.create_task(read())
    reading.add_done_callback(lambda read: read.cancelled() or read.exception())
    return reading


async def _read(visit: Visit, budget_s: float) -> Known:
    call = visit.call
    answer, seen = await asyncio.gather(
        platform.list_tenants(call, limit=_ALL, cursor=None),
        call.read(lambda: _seen(call.service.health.examine(call.user, budget_s))),
    )
    return await call.read(lambda: _of(json.loads(bytes(answer.body)), seen))


def _of(listed: Mapping[str, Any], seen: Mapping[str, Mapping[str, Any]]) -> Known:
    tenants = sorted(listed["tenants"], key=_worst_first)
    return Known(tenants, seen, listed["issues"], timestamp(utc_now()), time.monotonic() + _FRESH_S)


def _worst_first(tenant: Mapping[str, Any]) -> tuple[bool, bool, float, str]:
    """Without any backup; then with the objective missed; then by what would be lost."""
    lost = tenant["rows_lost_s"] if tenant["rows_lost_s"] is not None else tenant["age_s"]
    return tenant["backup_id"] is not None, tenant["rpo"] != "missed", -(lost or 0.0), tenant["id"]


def _seen(examination: Examination) -> dict[str, dict[str, Any]]:
    """What the list of tenants has not: of each the backups that are there, their size, the last drill."""
    return {
        str(slug): {
            "backups": one.backups.count,
            "stored": one.backups.stored,
            "drill": _drill(one.newest_drill),
        }
        for slug, one in examination.observations.items()
    }


def _drill(newest: Any) -> dict[str, str] | None:
    return None if newest is None else {"status": newest.status, "finished_at": newest.finished_at}
