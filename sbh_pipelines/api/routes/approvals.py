"""Approvals: where the settings want a second person before something is overwritten."""

from typing import Annotated, NoReturn

from fastapi import APIRouter, Body, Path
from starlette.responses import Response

from sbh_pipelines.api.app.calls import REQUESTS, ACall, Call, FromCopy
from sbh_pipelines.api.schema import answers, pages
from sbh_pipelines.api.schema.bodies import AskBody, DecideBody, OverwritingBody
from sbh_pipelines.api.schema.responses import READS, model_of
from sbh_pipelines.backup.service.results import Approval
from sbh_pipelines.errors import ApprovalNeeded, NotConfirmed

router = APIRouter(prefix="/api/approvals", tags=["Approvals"])

ApprovalIdPath = Annotated[
    str, Path(pattern=r"^approval_\d{8}_\d{6}_[0-9a-f]{6}$", examples=["approval_20240115_120000_0a1b2c"])
]


@router.get("", summary="List approvals", responses=READS, response_model=model_of(answers.ApprovalPage))
async def list_approvals(
    call: ACall, limit: pages.Limit = 50, cursor: pages.Cursor = None, from_copy: FromCopy = None
) -> Response:
    """What was asked for the tenant, and what became of it; the newest first. Approvals lie where the backup lies."""
    tenant, approvals = call.tenant(), call.at(from_copy).approvals
    found, errors = await call.read(lambda: approvals.of(tenant, call.user))
    shown, following = pages.page(found, lambda a: (a.approval_id,), 1, limit, cursor)
    return call.answer(answers.ApprovalPage(shown, errors, following))


@router.get("/{approval_id}", summary="Show an approval", responses=READS, response_model=model_of(Approval))
async def get_approval(call: ACall, approval_id: ApprovalIdPath, from_copy: FromCopy = None) -> Response:
    tenant, approvals = call.tenant(), call.at(from_copy).approvals
    return call.answer(await call.read(lambda: approvals.get(approval_id, tenant, call.user)))


@router.post("", summary="Ask for an approval", responses=READS, response_model=model_of(Approval))
async def ask(call: ACall, body: Annotated[AskBody, Body()]) -> Response:
    """Of exactly this restore, or of undoing this one. Another admin approves it; then its id goes with the restore."""
    tenant, approvals = call.tenant(), call.at(body.from_copy).approvals

    def work() -> Approval:
        if body.restore_id is not None:
            return approvals.request_undo(body.restore_id, tenant, call.user, reason=body.reason)
        wanted = body.backup_id or ""
        return approvals.request_restore(wanted, tenant, call.user, body.request(), reason=body.reason)

    return call.answer(await call.urgent("restore.request", work, counted=REQUESTS, from_copy=body.from_copy))


@router.post("/{approval_id}/approve", summary="Approve", responses=READS, response_model=model_of(Approval))
async def approve(
    call: ACall,
    approval_id: ApprovalIdPath,
    body: Annotated[DecideBody, Body()] = DecideBody(),  # noqa: B008
) -> Response:
    """By another person than the one who asked."""
    tenant, approvals = call.tenant(), call.at(body.from_copy).approvals
    found = await call.urgent(
        "restore.approve",
        lambda: approvals.approve(approval_id, tenant, call.user, body.comment),
        from_copy=body.from_copy,
    )
    return call.answer(found)


@router.post("/{approval_id}/reject", summary="Reject", responses=READS, response_model=model_of(Approval))
async def reject(
    call: ACall,
    approval_id: ApprovalIdPath,
    body: Annotated[DecideBody, Body()] = DecideBody(),  # noqa: B008
) -> Response:
    """For good."""
    tenant, approvals = call.tenant(), call.at(body.from_copy).approvals
    found = await call.urgent(
        "restore.approve",
        lambda: approvals.reject(approval_id, tenant, call.user, body.comment),
        from_copy=body.from_copy,
    )
    return call.answer(found)


async def refuse_unconfirmed(call: Call, what: str, on: str, from_copy: str | None) -> NoReturn:
    """Raises AccessDenied for callers who may not restore, else NotConfirmed."""
    await call.permit("backup.restore", from_copy)
    raise NotConfirmed(
        f"{what} and was not confirmed",
        on=on,
        remedy='confirm it: {"confirm": true}; {"validate_only": true} shows what it would do',
    )


def check_approval(call: Call, tenant: str, body: OverwritingBody, from_copy: str | None) -> None:
    """Only whether one is given, and there; whether it allows exactly this is for the service, when the run uses it up.

    Raises ApprovalNeeded, RequestError.
    """
    if body.approval_id is not None:
        call.at(from_copy).approvals.get(body.approval_id, tenant, call.user)
    elif call.service.settings.approval.restore != "none" and body.break_glass is None:
        raise ApprovalNeeded(
            "Another person has to approve this",
            why="approval.restore = 'two-person'",
            remedy="ask for it: POST /api/approvals; then give its id as `approval_id`",
        )
