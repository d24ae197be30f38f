"""Operations: watching long work, and stopping it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from sbh_pipelines.api.app.calls import ACall, Call
from sbh_pipelines.api.runs import operations as ops
from sbh_pipelines.api.runs.dagster import Run
from sbh_pipelines.api.schema import answers, pages
from sbh_pipelines.api.schema.problems import Refusal
from sbh_pipelines.api.schema.responses import READS, answered, model_of
from sbh_pipelines.errors import OrchestratorError, OrchestratorUnavailable, RequestError, SbhError
from sbh_pipelines.model import parse_timestamp

router = APIRouter(tags=["Operations"])

OperationId = Annotated[
    str,
    Path(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        examples=["0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11"],
    ),
]


@router.get(
    "/api/operations", summary="List operations", responses=READS, response_model=model_of(answers.OperationPage)
)
async def list_operations(call: ACall, limit: pages.Limit = 50, cursor: pages.Cursor = None) -> Response:
    """Those that this API launched for the tenant, or for all where a platform user names none; the newest first."""
    call.tenant_or_all()

    def work() -> answers.OperationPage:
        whose = permitted(call, "backup.status")
        after = pages.decode(cursor, 1)[0] if cursor is not None else None
        runs = call.api.dagster.runs(whose.tags, cursor=after, limit=limit + 1)
        own = [run for run in runs[:limit] if whose.has(run)]
        url, ids = call.api.settings.dagster_public_url, call.api.made.of(own)
        shown = [ops.brief(run, call.user, url, ids.get(run.id, ops.NOTHING_MADE)) for run in own]
        following = pages.encode((runs[limit - 1].id,)) if len(runs) > limit else None
        return answers.OperationPage(shown, following)

    return call.answer(await call.read(work))


@router.get(
    "/api/operations/{operation_id}",
    summary="Watch an operation",
    responses=READS,
    response_model=model_of(answers.Operation),
)
@router.get("/api/operation/{operation_id}", include_in_schema=False)
async def get_operation(call: ACall, operation_id: OperationId) -> Response:
    """Status, progress in percent, then the result or the error with its code."""
    call.tenant_or_all()

    def work() -> answers.Operation:
        run = _found(call, operation_id, "backup.status")
        known = ops.full(run, call.api.dagster.events(run.id), call.user, call.api.settings.dagster_public_url)
        if run.under_way and known.kind in (ops.RESTORE, ops.UNDO) and known.status != "queued":
            known = _with_restore(call, run, known)
        return known

    return call.answer(await call.read(work))


@router.post(
    "/api/operations/{operation_id}/cancel",
    summary="Cancel an operation",
    status_code=202,
    responses=answered(READS, 202, answers.Accepted, "Its end was asked for; it ends when it has cleaned up."),
    response_model=model_of(answers.Accepted),
)
@router.post("/api/operation/{operation_id}/cancel", include_in_schema=False)
async def cancel(call: ACall, operation_id: OperationId) -> Response:
    """A backup is abandoned; a restore is rolled back where it had not committed. One that has ended stays as it is: 409."""
    call.tenant_or_all()
    run = await call.read(lambda: _found(call, operation_id, "run.cancel"))

    def work() -> answers.Accepted:
        _refuse_ended(run)
        if run.status != "CANCELING":
            try:
                call.api.dagster.terminate(run.id)
            except OrchestratorUnavailable:
                raise
            except OrchestratorError as error:  # it may have ended, or its process begun, just now
                _refuse_ended(_found(call, operation_id, "run.cancel"))
                raise _not_now(error) from None
        status: answers.Status = "canceled" if run.status in ("QUEUED", "NOT_STARTED") else "canceling"
        return ops.accepted(run.id, run.tags.get(ops.CALL_TAG, ""), run.tags[ops.TENANT_TAG], status)

    answer = await call.urgent("run.cancel", work, from_copy=_copy_of(call, run))
    return call.answer(answer, 202, {"Location": f"/api/operations/{operation_id}"})


def _refuse_ended(run: Run) -> None:
    if not run.under_way:
        ended = RequestError(
            "The operation has ended", on=f"{run.id}: {ops.status_of(run)}", remedy="nothing is left to cancel"
        )
        raise Refusal(ended, status=409)


def _not_now(error: OrchestratorError) -> Refusal:
    later = OrchestratorUnavailable(
        "The operation cannot be canceled just now", on=error.on, why=error.why, remedy="try again in some seconds"
    )
    return Refusal(later, status=409)


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose operations the caller may know of.

    Attributes:
        tags: Those that their runs have.
        owner: What the runs say of their tenant, if they say it; None for those of all tenants.
    """

    tags: Mapping[str, str]
    owner: str | None = None

    def has(self, run: Run) -> bool:
        own = self.owner is None or run.tags.get(ops.OWNER_TAG, self.owner) == self.owner
        return own and self.tags.items() <= run.tags.items()


def permitted(call: Call, action: str, from_copy: str | None = None) -> Whose:
    """Asked where the backups are made, or at a copy of them. Raises AccessDenied and the like."""
    slug, service = call.tenant_or_all(), call.at(from_copy)
    launches = service.launches
    if slug is None:
        launches.permit_platform(call.user, action)
        return Whose({ops.VIA_TAG: ops.VIA})
    tenant = launches.permit(slug, call.user, action)
    tags, owner = {ops.VIA_TAG: ops.VIA, ops.TENANT_TAG: slug}, ops.owner_tag(tenant)
    if service.tenants.housed(tenant).home == slug:  # nobody else had it, also before runs said whose they are
        return Whose(tags, owner)
    return Whose({**tags, ops.OWNER_TAG: owner}, owner)


def _found(call: Call, operation_id: str, action: str) -> Run:
    """The run, if it is one that this caller may know of; else the same answer as for one that never was.

    What is permitted is asked where the run works: at a copy that is all there is, where the first place is gone.
    """
    slug = call.tenant_or_all()
    tags = {ops.VIA_TAG: ops.VIA, **({ops.TENANT_TAG: slug} if slug is not None else {})}
    try:
        runs = call.api.dagster.runs(tags, run_id=operation_id, limit=1)
    except OrchestratorError:
        permitted(call, action)  # who may not is told so, and that is recorded
        raise
    whose = permitted(call, action, _copy_of(call, runs[0]) if runs else None)
    if not runs or not whose.has(runs[0]):
        raise Refusal(RequestError("No such operation", on=operation_id, remedy="see GET /api/operations"), status=404)
    return runs[0]


def _copy_of(call: Call, run: Run) -> str | None:
    """The copy that the run works at; None for one that works here, or at a copy that the settings have no more."""
    copy = run.tags.get(ops.COPY_TAG)
    return copy if copy in call.api.copies else None


def _with_restore(call: Call, run: Run, known: answers.Operation) -> answers.Operation:
    """How far the restore is, from its own record: one tenant has one at a time, and it began after the run."""
    try:
        records = call.at(run.tags.get(ops.COPY_TAG)).restores.of(known.tenant_id, call.user)
    except SbhError:
        return known  # the record is only about progress; the operation is known without it
    for record in records[:1]:
        begun = parse_timestamp(record.started_at).timestamp() if record.started_at else 0.0
        if record.status == "running" and begun >= int(run.started or run.created):
            return replace(
                known,
                restore_id=record.restore_id,
                progress=record.progress or 0,
                step=record.step if record.step is not None else known.step,
                links={**known.links, "restore": f"/api/restore/{record.restore_id}{ops.place_of(run)}"},
            )
    return known
