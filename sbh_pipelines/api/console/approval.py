"""Requests: one person asks for a restore, a second one says yes or no, and both see why."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.responses import Response

from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.api.console.restore import options_of
from sbh_pipelines.api.console.visit import AVisit, Form, Visit, answer_of, to
from sbh_pipelines.api.routes import approvals
from sbh_pipelines.api.routes.approvals import ApprovalIdPath
from sbh_pipelines.api.routes.backups import BackupIdPath
from sbh_pipelines.api.routes.restores import RestoreIdPath
from sbh_pipelines.api.schema import pages
from sbh_pipelines.api.schema.bodies import AskBody, DecideBody, RestoreBody
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service.approvals import restore_subject
from sbh_pipelines.errors import RequestError

router = APIRouter(prefix=f"{CONSOLE}/tenants/{{slug}}")

_PARTS = {"tables", "all_but", "rows", "files", "config_only"}


@router.get("/requests")
async def requests(visit: AVisit, cursor: pages.Cursor = None) -> Response:
    """What was asked for the tenant, and what became of it; the newest first."""
    listed = await answer_of(approvals.list_approvals(visit.call, limit=50, cursor=cursor))
    for one in listed["approvals"]:
        one |= {"asked": _asked(one["subject"]), "fields": _fields_of(one["subject"])}
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


def _asked(subject: Mapping[str, Any]) -> dict[str, str]:
    """All that an approval is bound to, but for what its heading says and what is as by default, by name: whoever approves it
    approves this.
    """
    request = subject.get("request") or {}
    said = {"action", "request", "restore_id" if subject["action"] == "undo" else "backup_id"}
    whole = {**{name: value for name, value in subject.items() if name not in said}, **request}
    plain = RestoreRequest().as_dict()
    found = {name: value for name, value in whole.items() if value != plain.get(name)}
    if subject["action"] != "undo":
        found = ({} if found.keys() & _PARTS else {"scope": "the whole tenant"}) | {"mode": request.get("mode")} | found
    return {name: _text(value) for name, value in found.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _fields_of(subject: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """The fields of the forms that compare and restore; None where these would not do exactly what was asked for."""
    if subject["action"] == "undo":
        return None if subject.keys() & {"references", "from_copy"} else {}
    request = subject.get("request") or {}
    fields = {name: [str(request[name])] for name in ("mode", "references") if name in request}
    fields |= {name: ["yes"] for name in ("keep_extra_files", "accept_schema_changes") if request.get(name)}
    fields |= {name: list(request[name]) for name in ("tables", "files") if request.get(name)}
    if request.get("safety_backup") is False:
        fields["safety_backup"] = ["no"]
    if request.get("rows"):
        fields |= {"scope": ["rows"], "rows": [request["rows"]]}
    elif request.get("config_only"):
        fields |= {"scope": ["config"]}
    elif request.get("all_but"):
        fields |= {"scope": ["all_but"], "tables": request["all_but"]}
    else:
        fields |= {"scope": ["parts" if fields.keys() & {"tables", "files"} else "tenant"]}
    form = Form(fields)
    try:
        body = RestoreBody(**options_of(form), safety_backup=form.one("safety_backup") != "no")
        same = restore_subject(str(subject["backup_id"]), body.request(), None) == subject
    except (RequestError, ValidationError):
        return None
    return fields if same else None
