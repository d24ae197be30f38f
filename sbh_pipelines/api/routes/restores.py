"""Restores that were made: how far they are, what came of them, and undoing them."""

from typing import Annotated

from fastapi import APIRouter, Body, Path
from starlette.responses import Response

from sbh_pipelines.api.app.calls import ACall, ALaunchingCall, FromCopy
from sbh_pipelines.api.routes.approvals import check_approval, refuse_unconfirmed
from sbh_pipelines.api.runs import jobs
from sbh_pipelines.api.runs.launches import Launch
from sbh_pipelines.api.schema import answers, documents, pages
from sbh_pipelines.api.schema.bodies import RESTORE_PATTERN, UndoBody
from sbh_pipelines.api.schema.responses import LAUNCHES, READS, answered, model_of
from sbh_pipelines.backup.service.results import RestorePlan, RestoreRecord

router = APIRouter(prefix="/api/restore", tags=["Restores"])

RestoreIdPath = Annotated[str, Path(pattern=RESTORE_PATTERN, examples=["restore_20240115_120000_0a1b2c"])]


@router.get("", summary="List restores", responses=READS, response_model=model_of(answers.RestorePage))
async def list_restores(
    call: ACall, limit: pages.Limit = 50, cursor: pages.Cursor = None, from_copy: FromCopy = None
) -> Response:
    """Every restore of the tenant that is on record, the newest first. One from a copy is on record there."""
    tenant, restores = call.tenant(), call.at(from_copy).restores
    found = await call.read(lambda: restores.of(tenant, call.user))
    shown, following = pages.page(found, lambda r: (r.restore_id,), 1, limit, cursor)
    return call.answer(answers.RestorePage([documents.restore(r, call.user) for r in shown], following))


@router.get("/{restore_id}", summary="Status of a restore", responses=READS, response_model=model_of(RestoreRecord))
async def get_restore(call: ACall, restore_id: RestoreIdPath, from_copy: FromCopy = None) -> Response:
    """Status, progress in percent, and the result or the error."""
    tenant, restores = call.tenant(), call.at(from_copy).restores
    found = await call.read(lambda: restores.status(restore_id, tenant, call.user))
    return call.answer(documents.restore(found, call.user))


@router.post(
    "/{restore_id}/undo",
    summary="Undo a restore",
    status_code=202,
    responses=answered(LAUNCHES, 200, RestorePlan, "Only planned: `validate_only` was true."),
    response_model=model_of(answers.Accepted),
)
async def undo(
    call: ALaunchingCall,
    restore_id: RestoreIdPath,
    body: Annotated[UndoBody, Body()] = UndoBody(),  # noqa: B008
) -> Response:
    """Makes what the restore touched what it was before, from the backup made then. Needs `confirm: true`."""
    tenant, restores = call.tenant(), call.at(body.from_copy).restores
    if body.validate_only:
        plan = await call.expensive(
            "restore.plan", lambda: restores.plan_undo(restore_id, tenant, call.user), body.from_copy
        )
        return call.answer(documents.plan(plan, call.user))
    if not body.confirm:
        await refuse_unconfirmed(call, "Undoing a restore overwrites live data", restore_id, body.from_copy)

    def wanted() -> Launch:
        check_approval(call, tenant, body, body.from_copy)
        restores.check_undo(restore_id, tenant, call.user)
        return jobs.undo(tenant, restore_id, {**body.permission(), **body.copied()})

    return await call.launch("backup.restore", wanted, body.from_copy)
