"""Requests: one person asks for a restore, a second one says yes or no, and both see why."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.api.console.restore import options_of
from sbh_pipelines.api.console.visit import AVisit, Visit, answer_of, to
from sbh_pipelines.api.routes import approvals
from sbh_pipelines.api.routes.approvals import ApprovalIdPath
from sbh_pipelines.api.routes.backups import BackupIdPath
from sbh_pipelines.api.routes.restores import RestoreIdPath
from sbh_pipelines.api.schema import pages
from sbh_pipelines.api.schema.bodies import AskBody, DecideBody

router = APIRouter(prefix=f"{CONSOLE}/tenants/{{slug}}")


@router.get("/requests")
async def requests(visit: AVisit, cursor: pages.Cursor = None) -> Response:
    """What was asked for the tenant, and what became of it; the newest first."""
    listed = await answer_of(approvals.list_approvals(visit.call, limit=50, cursor=cursor))
    for one in listed["approvals"]:
        one["chosen"] = _fields_of(one["subject"].get("request") or {})
    needed = visit.call.service.settings.approval.restore != "none"
    return visit.page("requests.html", f"Requests of {visit.slug}", listed=listed, needed=needed)


@router.post("/backups/{backup_id}/ask")
async def ask_restore(visit: AVisit, backup_id: BackupIdPath) -> Response:
    """Asks for exactly the restore that the form says."""
    form = await visit.form()
    safety = form.one("safety_backup") != "no"
    return await _ask(
        visit,
        AskBody(backup_id=backup_id, reason=form.one("reason"), safety_backup=safety, **options_of(form)),
    )


@router.post("/restores/{restore_id}/ask")
async def ask_undo(visit: AVisit, restore_id: RestoreIdPath) -> Response:
    """Asks for undoing a restore."""
    form = await visit.form()
    return await _ask(visit, AskBody(restore_id=restore_id, reason=form.one("reason")))


@router.post("/requests/{approval_id}/approve")
async def approve(visit: AVisit, approval_id: ApprovalIdPath) -> Response:
    form = await visit.form()
    await answer_of(approvals.approve(visit.call, approval_id, DecideBody(comment=form.one("comment"))))
    return to(f"{visit.home}/requests")


@router.post("/requests/{approval_id}/reject")
async def reject(visit: AVisit, approval_id: ApprovalIdPath) -> Response:
    form = await visit.form()
    await answer_of(approvals.reject(visit.call, approval_id, DecideBody(comment=form.one("comment"))))
    return to(f"{visit.home}/requests")


async def _ask(visit: Visit, body: AskBody) -> Response:
    await answer_of(approvals.ask(visit.call, body))
    return to(f"{visit.home}/requests")


def _fields_of(request: dict[str, Any]) -> dict[str, list[str]]:
    """What was asked for, as the fields of the form that compares and restores: the same words lead to the same request."""
    fields = {"mode": [request.get("mode", "exact")], "references": [request.get("references", "refuse")]}
    fields |= {name: ["yes"] for name in ("keep_extra_files", "accept_schema_changes") if request.get(name)}
    if request.get("safety_backup") is False:
        fields["safety_backup"] = ["no"]
    if request.get("rows"):
        return {**fields, "scope": ["rows"], "rows": [request["rows"]]}
    if request.get("config_only"):
        return {**fields, "scope": ["config"]}
    if request.get("all_but"):
        return {**fields, "scope": ["all_but"], "tables": request["all_but"]}
    if request.get("tables") or request.get("files"):
        return {
            **fields,
            "scope": ["parts"],
            "tables": request.get("tables") or [],
            "files": request.get("files") or [],
        }
    return {**fields, "scope": ["tenant"]}
