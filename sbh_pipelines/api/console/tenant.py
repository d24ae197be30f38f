"""One tenant: up to when it is safe, everything it can be brought back to, and what was done to it.

What cannot be read now (Dagster is away, the tenant has no backup yet) is said in its place; the rest of the page stands.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.api.console.render import part_of_path
from sbh_pipelines.api.console.timeline import draw
from sbh_pipelines.api.console.visit import AVisit, Visit, answer_of, to
from sbh_pipelines.api.routes import backups, copies, journal, operations, platform, restores
from sbh_pipelines.api.schema import pages
from sbh_pipelines.api.schema.problems import ErrorAnswer, Refusal, error_answer
from sbh_pipelines.errors import RequestError, SbhError
from sbh_pipelines.model import parse_timestamp, timestamp

router = APIRouter(prefix=f"{CONSOLE}/tenants/{{slug}}")

Moment = Annotated[str, Query(max_length=40)]

_SHOWN = 200
_DAYS = {"1": "a day", "7": "a week", "30": "30 days", "0": "everything"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a page: what it shows, or why it cannot."""

    found: Any
    error: ErrorAnswer | None = None


async def part_of(visit: Visit, route: Awaitable[Response]) -> Part:
    """What the API answers, or its error."""
    return await _guarded(visit, answer_of(route))


async def read_part(visit: Visit, work: Callable[[], Any]) -> Part:
    """What the service answers where the API has no route, as the API would show it; or its error."""

    async def read() -> Any:
        return visit.document(await visit.call.read(work))

    return await _guarded(visit, read())


async def _guarded(visit: Visit, asked: Awaitable[Any]) -> Part:
    try:
        return Part(await asked)
    except (SbhError, Refusal) as error:
        return Part(None, error_answer(error.error if isinstance(error, Refusal) else error, visit.call.user))


@router.get("")
async def tenant(visit: AVisit, days: Annotated[str, Query(pattern="^(0|1|7|30)$")] = "7") -> Response:
    """All that the tenant can be brought back to."""
    call, slug = visit.call, visit.slug
    user, service = call.user, call.service
    line = (await answer_of(platform.list_tenants(call, limit=1)))["tenants"][0]
    made, done, held, drilled, moments, copied, at_work = await asyncio.gather(
        part_of(visit, backups.list_backups(call, limit=_SHOWN)),
        part_of(visit, restores.list_restores(call, limit=50)),
        read_part(visit, lambda: service.retention.holds(slug, user)),
        read_part(visit, lambda: service.drills.of(slug, user)),
        part_of(visit, journal.windows(call)),
        part_of(visit, copies.list_copies(call)),
        part_of(visit, operations.list_operations(call, limit=10)),
    )
    listed = made.found or {"backups": [], "damaged": [], "next_cursor": None}
    told = moments.found["tenants"][0] if moments.found else None
    now = datetime.now(UTC)
    times = [parse_timestamp(b["created_at"]) for b in listed["backups"]]
    since = min(times, default=now - timedelta(days=1))  # before it there is nothing to be shown
    if days != "0":
        since = max(since, now - timedelta(days=int(days)))
    picture = draw(
        visit.home,
        since - (now - since) / 50,
        now,
        backups=listed["backups"],
        restores=(done.found or {"restores": []})["restores"],
        drills=drilled.found or [],
        windows=[w for w in told["windows"] if w["end"] > w["start"]] if told else [],
    )
    return visit.page(
        "tenant.html",
        slug,
        line=line,
        listed=listed,
        made=made,
        done=done,
        held=held,
        drilled=drilled,
        told=told,
        moments=moments,
        copied=copied,
        at_work=at_work,
        picture=picture,
        days=days,
        choices=_DAYS,
    )


@router.get("/moment")
async def moment(visit: AVisit, at: Moment = "") -> Response:
    """On to what changed since a moment, which the page's field says in UTC."""
    chosen = _moment(at)
    return to(f"{visit.home}/backups/{part_of_path('@' + timestamp(chosen))}/diff" if chosen else visit.home)


@router.get("/journal")
async def transactions(
    visit: AVisit,
    since: Moment = "",
    until: Moment = "",
) -> Response:
    """What was done to the tenant's rows, to find what should not have been."""
    first, last = _moment(since), _moment(until)
    listed = await answer_of(journal.show(visit.call, since=first, until=last, samples=0, limit=200))
    return visit.page("journal.html", f"Journal of {visit.slug}", listed=listed, since=since, until=until)


def _moment(text: str) -> datetime | None:
    """What a field for a time holds, in UTC; a time without an offset is in UTC. Raises RequestError."""
    if not text.strip():
        return None
    try:
        found = parse_timestamp(text.strip().replace(" ", "T"))
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise RequestError("Not a time", on=ascii(text)[1:-1], remedy="write it as 2026-01-15T14:32:07") from None


@router.get("/backups")
async def more_backups(visit: AVisit, cursor: pages.Cursor = None) -> Response:
    """All backups, a page at a time."""
    listed = await answer_of(backups.list_backups(visit.call, limit=_SHOWN, cursor=cursor))
    return visit.page("backups.html", f"Backups of {visit.slug}", listed=listed)
