"""Evidence: the audit trail, a page at a time, and the compliance report of a period; of a tenant, or of the platform."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BeforeValidator
from starlette.responses import Response

from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.api.console.visit import AVisit, answer_of
from sbh_pipelines.api.routes import platform
from sbh_pipelines.api.schema import pages
from sbh_pipelines.api.schema.problems import error_fields
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import RequestError

router = APIRouter(prefix=CONSOLE)

_PERIOD = timedelta(days=90)

EventName = Annotated[str, Query(pattern=r"^[a-z_.*]{0,64}$")]
# A field of a form that was left empty is there, and empty.
Day = Annotated[date | None, BeforeValidator(lambda given: given or None), Query()]


@router.get("/audit")
@router.get("/tenants/{slug}/audit")
async def audit(
    visit: AVisit,
    event: EventName = "",
    user: Annotated[str, Query(max_length=200)] = "",
    since: Day = None,
    until: Day = None,
    cursor: pages.Cursor = None,
) -> Response:
    """The events of a trail, the newest first."""
    listed = await answer_of(
        platform.audit(
            visit.call,
            limit=100,
            cursor=cursor,
            event=event or "*",
            user=user or None,
            since=None if since is None else _begin(since),
            until=None if until is None else _begin(until, 1),
        )
    )
    chosen = {"event": event, "user": user, "since": since or "", "until": until or ""}
    return visit.page("audit.html", "Audit trail", listed=listed, chosen=chosen)


@router.get("/compliance")
@router.get("/tenants/{slug}/compliance")
async def compliance(visit: AVisit, since: Day = None, until: Day = None) -> Response:
    """The figures of a period; every trail is verified while it is read."""
    call, slug = visit.call, visit.call.tenant_or_all()
    last = until or datetime.now(UTC).date()
    first = since or max(last, date.min + _PERIOD) - _PERIOD
    start, end = _begin(first), _begin(last, 1)
    tenants = [slug] if slug is not None else []
    report = await call.expensive(
        "report.read", lambda: call.service.audit.compliance_report(call.user, start, end, tenants)
    )
    shown = as_document(report, lambda error: error_fields(error, call.user))
    return visit.page("compliance.html", "Compliance report", report=shown, first=first, last=last)


def _begin(day: date, more: int = 0) -> datetime:
    """The beginning of a day, UTC, or of the one so many days later. Raises RequestError past the last day that there is."""
    try:
        return datetime.combine(day, time(), UTC) + timedelta(days=more)
    except OverflowError:
        raise RequestError(
            "The day is out of range", on=str(day), why="no day follows it", remedy="choose an earlier one"
        ) from None
