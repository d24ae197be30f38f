"""Restores: what one would change, the restore itself once the tenant's slug was typed, how far it is, its proof, and undoing it.

What is chosen travels in forms, not in addresses: conditions and paths say what people look for. A form carries a key, by which
the same form sent twice launches one restore.
"""

import secrets
from collections.abc import Mapping, Set
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.api.console.backup import tables_of
from sbh_pipelines.api.console.tenant import part_of
from sbh_pipelines.api.console.visit import AVisit, Form, Visit, answer_of, to
from sbh_pipelines.api.routes import backups, operations, restores
from sbh_pipelines.api.routes.backups import BackupIdPath
from sbh_pipelines.api.routes.operations import OperationId
from sbh_pipelines.api.routes.restores import RestoreIdPath
from sbh_pipelines.api.runs import operations as ops
from sbh_pipelines.api.schema.bodies import DiffBody, RestoreBody, UndoBody
from sbh_pipelines.errors import NotConfirmed, RequestError
from sbh_pipelines.model import MergeMode, ReferencePolicy

router = APIRouter(prefix=f"{CONSOLE}/tenants/{{slug}}")

_SAMPLES = 5
_SCOPES = {
    "tenant": "The whole tenant: rows, files, configuration",
    "parts": "Only some tables or files",
    "rows": "Only some rows, and what hangs on them",
    "config": "Only the configuration",
    "all_but": "Everything but some tables",
}
_PARTS: Mapping[
    str, tuple[Set[str], Set[str]]
] = {  # fields of the form: one of these has to be filled; all that may be
    "tenant": (frozenset(), frozenset()),
    "parts": ({"tables", "files"}, {"tables", "files"}),
    "rows": ({"rows"}, {"rows", "files"}),
    "config": (frozenset(), frozenset()),
    "all_but": ({"tables"}, {"tables", "files"}),
}
_MODES = {
    MergeMode.EXACT: "Exactly as it was: what is newer in the chosen part goes",
    MergeMode.MISSING_ONLY: "Only what is gone comes back; nothing else changes",
    MergeMode.NEWEST_WINS: "What is gone comes back, and what is later in the backup",
}
_REFERENCES = {
    ReferencePolicy.REFUSE: "refuse the restore",
    ReferencePolicy.DECLARED: "do what their foreign keys say",
    ReferencePolicy.KEEP: "keep what they refer to",
}
_KINDS = {
    ops.CREATE: "Backup",
    ops.RESTORE: "Restore",
    ops.UNDO: "Undo of a restore",
    ops.VALIDATE: "Validation",
    ops.SCHEMA: "Old rows beside the live ones",
}
_CHOICES = (
    "scope", "tables", "files", "rows", "mode", "references", "keep_extra_files", "accept_schema_changes", "approval_id",
)  # fmt: skip


@router.get("/backups/{backup_id}/diff")
async def choice(visit: AVisit, backup_id: BackupIdPath) -> Response:
    """What is to be compared, and how it would be restored."""
    await visit.call.permit("restore.plan")
    return await _diff_page(visit, backup_id, Form({}), None)


@router.post("/backups/{backup_id}/diff")
async def diff(visit: AVisit, backup_id: BackupIdPath) -> Response:
    """What a restore would change, and the form that restores."""
    form = await visit.form()
    plan = await answer_of(backups.diff(visit.call, backup_id, DiffBody(**options_of(form), samples=_SAMPLES)))
    return await _diff_page(visit, backup_id, form, plan)


@router.post("/backups/{backup_id}/restore")
async def run(visit: AVisit, backup_id: BackupIdPath) -> Response:
    """Launches the restore, and goes on to its progress."""
    form = await visit.form()
    _confirmed(visit, form)
    more = {**_permission(form), "safety_backup": form.one("safety_backup") != "no"}
    body = RestoreBody(**options_of(form), **more, confirm=True)
    launched = await answer_of(backups.restore(visit.once(form.one("once")).call, backup_id, body))
    return to(f"{visit.home}/operations/{launched['operation_id']}")


@router.get("/operations/{operation_id}")
async def operation(visit: AVisit, operation_id: OperationId) -> Response:
    """How far it is. The page keeps itself up to date where scripts may run."""
    found, record = await _operation(visit, operation_id)
    kind = _KINDS.get(found["kind"], "Operation")
    return visit.page("operation.html", f"{kind} of {visit.slug}", operation=found, record=record)


@router.get("/operations/{operation_id}/state")
async def state(visit: AVisit, operation_id: OperationId) -> Response:
    """The part of that page that changes."""
    found, record = await _operation(visit, operation_id)
    return visit.page("state.html", "Operation", operation=found, record=record)


@router.post("/operations/{operation_id}/cancel")
async def cancel(visit: AVisit, operation_id: OperationId) -> Response:
    await visit.form()
    await answer_of(operations.cancel(visit.call, operation_id))
    return to(f"{visit.home}/operations/{operation_id}")


@router.get("/restores/{restore_id}")
async def restore(visit: AVisit, restore_id: RestoreIdPath) -> Response:
    """What a restore did, and its proof."""
    record = await answer_of(restores.get_restore(visit.call, restore_id))
    return visit.page("restore.html", restore_id, record=record, plan=None, **_needed(visit, Form({})))


@router.post("/restores/{restore_id}/diff")
async def undo_diff(visit: AVisit, restore_id: RestoreIdPath) -> Response:
    """What undoing it would change, to what was written since as well."""
    form = await visit.form()
    record = await answer_of(restores.get_restore(visit.call, restore_id))
    plan = await answer_of(restores.undo(visit.call, restore_id, UndoBody(validate_only=True)))
    return visit.page("restore.html", f"Undo {restore_id}", record=record, plan=plan, **_needed(visit, form))


@router.post("/restores/{restore_id}/undo")
async def undo(visit: AVisit, restore_id: RestoreIdPath) -> Response:
    """Launches the undo, and goes on to its progress."""
    form = await visit.form()
    _confirmed(visit, form)
    body = UndoBody(confirm=True, **_permission(form))
    launched = await answer_of(restores.undo(visit.once(form.one("once")).call, restore_id, body))
    return to(f"{visit.home}/operations/{launched['operation_id']}")


def options_of(form: Form) -> dict[str, Any]:
    """The options of a restore that a form chose; the API's bodies check them.

    Raises RequestError where nothing is chosen of what the scope is about, or something that it is not about: a mistake in the
    form must not become a restore of more than somebody meant.
    """
    scope = form.one("scope") or "tenant"
    if scope not in _SCOPES:
        raise RequestError("There is no such scope", on=ascii(scope)[1:-1][:40], remedy=f"one of {', '.join(_SCOPES)}")
    parts: dict[str, Any] = {name: _lines(form, name) for name in ("tables", "files")} | {"rows": form.one("rows")}
    given = {name: value for name, value in parts.items() if value}
    needed, taken = _PARTS[scope]
    if needed and not given.keys() & needed:
        raise RequestError(
            "Nothing was chosen",
            on=_SCOPES[scope],
            why=f"it needs {' or '.join(sorted(needed))}, and without them the whole tenant would be restored",
            remedy="go back and choose them, or choose the whole tenant",
        )
    if stray := sorted(given.keys() - taken):
        raise RequestError(
            "More was chosen than the scope is about",
            on=_SCOPES[scope],
            why=f"it does not look at {' and '.join(stray)}",
            remedy="go back, and choose the scope that they are for, or take them out",
        )
    if scope == "all_but":
        given["all_but"] = given.pop("tables")
    return {
        **given,
        "config_only": scope == "config",
        "mode": form.one("mode") or str(MergeMode.EXACT),
        "references": form.one("references") or str(ReferencePolicy.REFUSE),
        "keep_extra_files": form.one("keep_extra_files") == "yes",
        "accept_schema_changes": form.one("accept_schema_changes") == "yes",
    }


def _lines(form: Form, name: str) -> list[str]:
    """What a field has, a line each: of a box of text as of several fields of the same name."""
    return [line.strip() for text in form.all(name) for line in text.splitlines() if line.strip()]


async def _diff_page(visit: Visit, backup_id: str, form: Form, plan: Mapping[str, Any] | None) -> Response:
    tables = await tables_of(visit, backup_id)
    carried = {name: form.all(name) for name in _CHOICES if form.all(name)}
    return visit.page(
        "diff.html",
        f"Compare {backup_id}",
        backup_id=backup_id,
        plan=plan,
        tables=tables,
        carried=carried,
        chosen={name: form.one(name) for name in (*_CHOICES, "safety_backup")} | {"tables": form.all("tables")},
        scopes=_SCOPES,
        modes=_MODES,
        policies=_REFERENCES,
        **_needed(visit, form),
    )


def _needed(visit: Visit, form: Form) -> dict[str, Any]:
    """Whether a second person is needed, and what goes with a restore. `once` is new for each page."""
    needs = visit.call.service.settings.approval
    return {
        "two_person": needs.restore != "none",
        "break_glass": needs.break_glass,
        "approval_id": form.one("approval_id"),
        "once": secrets.token_urlsafe(24),
    }


def _permission(form: Form) -> dict[str, Any]:
    return {name: value for name in ("approval_id", "break_glass") if (value := form.one(name))}


def _confirmed(visit: Visit, form: Form) -> None:
    """Raises NotConfirmed unless the tenant's slug was typed."""
    if form.one("confirm") != visit.slug:
        raise NotConfirmed(
            "Nothing was launched: the tenant's name was not typed",
            on=visit.slug,
            why="what is live is overwritten",
            remedy=f"go back, and type {visit.slug}",
        )


async def _operation(visit: Visit, operation_id: str) -> tuple[Any, Any]:
    """The operation, and the record of its restore where it has one by now."""
    found = await answer_of(operations.get_operation(visit.call, operation_id))
    if found["restore_id"] is None:
        return found, None
    return found, (await part_of(visit, restores.get_restore(visit.call, found["restore_id"]))).found
