"""The change journal: a tenant's transactions, the moments it can be brought to, and how the journal itself stands."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from sbh_pipelines.api.app.calls import ACall, FromCopy
from sbh_pipelines.api.schema import pages
from sbh_pipelines.api.schema.responses import READS, model_of
from sbh_pipelines.backup.service.results import JournalListing, JournalStatus, RecoveryWindows, ShowRequest

router = APIRouter(tags=["Journal"])

_SINCE = Query(description="No transaction before this time, ISO 8601 with a zone.")
_UNTIL = Query(description="None after this time, ISO 8601 with a zone.")
_TABLES = Query(max_length=100, description="Only changes of these tables.")
_Table = Annotated[str, Query(min_length=1, max_length=200)]


@router.get(
    "/api/journal",
    summary="A tenant's transactions",
    responses=READS,
    response_model=model_of(JournalListing),
)
async def show(
    call: ACall,
    since: Annotated[pages.Moment | None, _SINCE] = None,
    until: Annotated[pages.Moment | None, _UNTIL] = None,
    table: Annotated[Sequence[_Table] | None, _TABLES] = None,
    samples: Annotated[int, Query(ge=0, le=100, description="Rows of each table and kind of change.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="The newest so many.")] = 50,
    from_copy: FromCopy = None,
) -> Response:
    """What was done to the tenant's rows, to find what should not have been. Sensitive values are hidden."""
    tenant, journal = call.tenant(), call.at(from_copy).journal
    request = ShowRequest(since=since, until=until, tables=tuple(table or ()), samples=samples, limit=limit)
    return call.answer(await call.read(lambda: journal.show(tenant, call.user, request)))


@router.get(
    "/api/journal/windows",
    summary="Moments that a tenant can be brought to",
    responses=READS,
    response_model=model_of(RecoveryWindows),
)
async def windows(call: ACall, from_copy: FromCopy = None) -> Response:
    """Ranges of moments, of the tenant and of its tables, by its backups and the journal."""
    tenant, journal = call.tenant(), call.at(from_copy).journal
    return call.answer(await call.read(lambda: journal.recovery_windows([tenant], call.user)))


@router.get(
    "/api/journal/status",
    summary="How the journal stands",
    responses=READS,
    response_model=model_of(JournalStatus),
)
async def status(call: ACall) -> Response:
    """The slot on the server, how far each region is drained, the gaps. For users of the platform."""
    call.tenant_or_all()
    return call.answer(await call.read(lambda: call.service.journal.status(call.user)))
