"""Tenants and how they stand, what retention would forget, health, metrics, the audit trail."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from sbh_pipelines.api.app.calls import ACall, Call, FromCopy
from sbh_pipelines.api.app.middleware import USER
from sbh_pipelines.api.schema import answers, pages
from sbh_pipelines.api.schema.problems import ErrorAnswer, error_fields
from sbh_pipelines.api.schema.responses import READS, answered, model_of
from sbh_pipelines.backup.service.results import BackupMetrics, HealthReport, LatestPoint, RetentionOutcome
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import RequestError, error_from_dict
from sbh_pipelines.model import Tenant
from sbh_pipelines.repository.trail.event import AT_COPY
from sbh_pipelines.security.policy import ALL_TENANTS

router = APIRouter()

_AUDIT_SINCE = Query(description="Only events at this time or later, ISO 8601 with a zone.")
_AUDIT_UNTIL = Query(description="Only events before this time, ISO 8601 with a zone.")
_WORK_THERE = Query(
    alias="work",
    description="With `from_copy`: what was done at the copy, which no trail that was brought there tells.",
)


@router.get(
    "/api/tenants",
    summary="List tenants",
    tags=["Tenants"],
    responses=READS,
    response_model=model_of(answers.TenantPage),
)
async def list_tenants(call: ACall, limit: pages.Limit = 50, cursor: pages.Cursor = None) -> Response:
    """Those that the caller may see, by slug, each with its newest recovery point and whether that is recent enough."""

    def work() -> answers.TenantPage:
        tenants = _visible(call)
        tenants.sort(key=lambda tenant: tenant.id)
        if cursor is not None:
            after = pages.decode(cursor, 1)[0]
            tenants = [tenant for tenant in tenants if tenant.id > after]
        shown = tenants[:limit]
        points = call.service.backups.recovery_points([t.id for t in shown], call.user) if shown else None
        found = {p.tenant_id: p for p in points.recovery_points} if points else {}
        return answers.TenantPage(
            [_tenant(call, tenant, found[tenant.id]) for tenant in shown],
            points.issues if points else [],
            pages.encode((shown[-1].id,)) if len(tenants) > len(shown) else None,
        )

    return await call.read(lambda: call.answer(work()))


def _visible(call: Call) -> list[Tenant]:
    tenant = call.tenant_or_all()
    if tenant is not None:
        return [call.service.launches.permit(tenant, call.user, "backup.list")]
    call.service.launches.permit_platform(call.user, "backup.list")
    return call.service.tenants.all()


def _tenant(call: Call, tenant: Tenant, point: LatestPoint) -> answers.TenantLine:
    objective = call.service.settings.recovery_point_objective_s(tenant.tier)
    lost = point.rows_lost_s
    met = objective is None or (lost is not None and lost <= objective)
    return answers.TenantLine(
        id=tenant.id,
        region=tenant.region,
        tier=tenant.tier,
        backup_id=point.backup_id,
        recovery_point=point.recovery_point.time if point.recovery_point else None,
        recorded_as=point.recorded_as,
        age_s=point.age_s,
        rows_until=point.rows_until,
        rows_lost_s=lost,
        rpo_objective_s=objective,
        rpo="none" if objective is None else "ok" if met else "missed",
    )


@router.get(
    "/api/retention/preview",
    summary="What retention would forget",
    tags=["Backups"],
    responses=READS,
    response_model=model_of(RetentionOutcome),
)
async def preview_retention(call: ACall) -> Response:
    """Every backup with its verdict and the rules behind it. Nothing is forgotten."""
    tenant = call.tenant()
    return call.answer(await call.read(lambda: call.service.retention.forget(tenant, call.user, dry_run=True)))


@router.get(
    "/api/health/live",
    summary="Liveness",
    tags=["Health"],
    response_model=model_of(answers.Live),
    openapi_extra={"security": []},
)
async def live() -> Response:
    """That the server answers, and nothing else. Needs no token."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/api/health",
    summary="Health of the backups",
    tags=["Health"],
    responses=READS,
    response_model=model_of(HealthReport, issues=Sequence[ErrorAnswer]),
)
async def health(call: ACall) -> Response:
    """Of the tenant; for a platform user who names none, of all. What is wrong is in `issues`."""
    tenant = call.tenant_or_all()
    found = await call.read(lambda: call.service.health.check(call.user, tenant))
    issues = [error_fields(error_from_dict(as_document(issue)), call.user) for issue in found.issues]
    return JSONResponse({**as_document(found), "issues": issues})


@router.get(
    "/api/metrics", summary="Backup metrics", tags=["Health"], responses=READS, response_model=model_of(BackupMetrics)
)
async def metrics(call: ACall) -> Response:
    """The specification's figures, of the tenant; for a platform user who names none, of all."""
    tenant = call.tenant_or_all()
    return call.answer(await call.read(lambda: call.service.health.metrics(call.user, tenant)))


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    tags=["Health"],
    responses=answered(READS, 200, None, "Prometheus' text format."),
    response_class=Response,
    openapi_extra={
        "responses": {"200": {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    },
)
async def prometheus(request: Request) -> Response:
    """For a platform viewer's token, or the one in `api.metrics_token_file`."""
    api, user = request.app.state.api, request.scope[USER]
    if user.tenant_id != ALL_TENANTS:
        await api.reads.run(lambda: api.service.launches.permit_platform(user, "health.read"))
    text = await api.reads.run(lambda: api.service.health.prometheus_text(user))
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get(
    "/api/audit", summary="The audit trail", tags=["Audit"], responses=READS, response_model=model_of(answers.AuditPage)
)
async def audit(
    call: ACall,
    limit: pages.Limit = 50,
    cursor: pages.Cursor = None,
    event: Annotated[str, Query(pattern=r"^[a-z_.*]{1,64}$", description="Only these events: `backup.*`.")] = "*",
    user: Annotated[str | None, Query(max_length=200, description="Only events of this user.")] = None,
    since: Annotated[pages.Moment | None, _AUDIT_SINCE] = None,
    until: Annotated[pages.Moment | None, _AUDIT_UNTIL] = None,
    from_copy: FromCopy = None,
    work_there: Annotated[bool, _WORK_THERE] = False,
) -> Response:
    """The tenant's events, the newest first; for a platform user who names no tenant, the platform's own."""
    tenant, trails = call.tenant_or_all() or ALL_TENANTS, call.at(from_copy).audit
    after = pages.decode(cursor, 1)[0] if cursor is not None else None
    if work_there:
        if from_copy is None or tenant != ALL_TENANTS:
            raise RequestError(
                "Which trail?",
                why="what was done at a copy is one trail for all tenants",
                remedy="from_copy, and no tenant",
            )
        tenant = f"{AT_COPY}{from_copy}"

    def work() -> answers.AuditPage:
        found = trails.events(
            call.user, tenant, event=event, since=since, until=until, user=user, limit=limit, cursor=after
        )
        following = pages.encode((found.next,)) if found.next else None
        return answers.AuditPage(found.tenant_id, found.region, found.events, found.errors, following)

    return await call.read(lambda: call.answer(work()))
