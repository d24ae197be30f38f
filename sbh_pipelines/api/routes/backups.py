"""Backups: made, listed, looked at, validated, compared, kept, restored."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Header, Path, Query
from starlette.responses import Response

from sbh_pipelines.api.app.calls import ACall, ALaunchingCall, Call, FromCopy
from sbh_pipelines.api.routes.approvals import check_approval, refuse_unconfirmed
from sbh_pipelines.api.runs import jobs
from sbh_pipelines.api.runs.launches import Launch
from sbh_pipelines.api.schema import answers, documents, pages
from sbh_pipelines.api.schema.bodies import (
    BACKUP_PATTERN,
    CreateBody,
    DiffBody,
    PinBody,
    RestoreBody,
    ScopeBody,
    ValidateBody,
)
from sbh_pipelines.api.schema.responses import LAUNCHES, READS, answered, model_of
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.service.results import BackupStatus, HoldLine, RestorePlan, Validation
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import parse_timestamp

router = APIRouter(prefix="/api/backup", tags=["Backups"])

BackupIdPath = Annotated[
    str,
    Path(
        pattern=BACKUP_PATTERN,
        description="A backup's id; `latest`; or `@` and a time: the newest that is not later. Of a restore or a comparison, where"
        " a change journal is kept: the tenant as it was then; `@xid:` and a number: just before that transaction; `@lsn:` and a"
        " position of the server's log, its slash written as a hyphen, as in `@lsn:16-B374D848`: at that position.",
        examples=["backup_20240115_1200"],
    ),
]
Before = Annotated[pages.Moment | None, Query(description="Only those made before this time, ISO 8601.")]
After = Annotated[pages.Moment | None, Query(description="Only those made at this time or later, ISO 8601.")]


@router.post(
    "",
    summary="Make a backup",
    status_code=202,
    responses=LAUNCHES,
    response_model=model_of(answers.Accepted),
)
async def create(call: ALaunchingCall, body: Annotated[CreateBody, Body()] = CreateBody()) -> Response:  # noqa: B008
    """Launches a run that backs up the tenant: rows, files and configuration at one recovery point.

    With `at`, `before` or `lsn` that point is a moment of the past: the backup is put together of one from before it and the change
    journal. It is listed like any other, and `latest` passes it over.

    While another operation of the tenant that writes is under way, the answer is 409 and says which.
    """
    tenant = call.tenant()
    if body.moment is not None:
        moment = Target.parse(body.moment).text  # a date that no calendar has is refused here
        return await call.launch(
            "backup.create",
            lambda: jobs.create_at(tenant, moment, body.description, body.tables, body.as_of_backup),
        )
    return await call.launch("backup.create", lambda: jobs.create(tenant, body.type, body.description))


@router.get(
    "",
    summary="List backups",
    responses=READS,
    response_model=model_of(answers.BackupPage, damaged=Sequence[answers.DamagedBackup]),
)
async def list_backups(
    call: ACall,
    limit: pages.Limit = 50,
    cursor: pages.Cursor = None,
    type: Annotated[Literal["full", "incremental", "differential"] | None, Query(description="Only this type.")] = None,
    status: Annotated[
        Literal["completed", "running", "failed"],
        Query(description="`completed` ones exist; of `running` and `failed` ones there is only a record."),
    ] = "completed",
    created_after: After = None,
    created_before: Before = None,
    from_copy: FromCopy = None,
) -> Response:
    """The newest first. `damaged` are those whose manifest cannot be read: they are shown on every page."""
    tenant, service = call.tenant(), call.at(from_copy)

    def work() -> answers.BackupPage:
        errors: Sequence[SbhError] = ()
        if status == "completed":
            found, errors = service.backups.overview(tenant, call.user)
            kept = [m for m in found if type in (None, m.type) and _within(m.created_at, created_after, created_before)]
            shown, following = pages.page(kept, lambda m: (m.created_at, m.id), 2, limit, cursor)
            lines = [documents.backup(manifest) for manifest in shown]
        else:  # of what type they were to be is not known
            statuses = service.backups.unfinished(tenant, call.user, status)
            begun = [(documents.begun_at(at.backup_id), at) for at in statuses if type is None]
            named = [pair for pair in begun if _within(pair[0], created_after, created_before)]
            part, following = pages.page(named, lambda pair: (pair[0], pair[1].backup_id), 2, limit, cursor)
            lines = [documents.unfinished(at, call.user) for _, at in part]
        return answers.BackupPage(lines, [documents.damaged(error, call.user) for error in errors], following)

    return await call.read(lambda: call.answer(work()))


def _within(made_at: str, after: datetime | None, before: datetime | None) -> bool:
    if after is None and before is None:
        return True
    made = parse_timestamp(made_at)
    return (after is None or made >= after) and (before is None or made < before)


@router.get(
    "/{backup_id}", summary="Show a backup", responses=answered(READS, 304), response_model=model_of(answers.Manifest)
)
async def get_backup(
    call: ACall,
    backup_id: BackupIdPath,
    if_none_match: Annotated[
        str | None, Header(description="An ETag that the caller has: 304 if it still is the one.")
    ] = None,
    from_copy: FromCopy = None,
) -> Response:
    """The whole manifest, its signature checked; for a tenant's user without what it says of the database server. It never changes:
    its checksum is the ETag.
    """
    tenant, service = call.tenant(), call.at(from_copy)
    manifest = await call.read(lambda: service.backups.get(backup_id, tenant, call.user))
    headers = {"ETag": f'"{manifest.checksum}"', "Cache-Control": "private, no-cache"}
    if if_none_match is not None and headers["ETag"] in [
        tag.strip().removeprefix("W/") for tag in if_none_match.split(",")
    ]:
        return Response(status_code=304, headers=headers)
    return call.answer(manifest.document, headers=headers)


@router.get("/{backup_id}/status", summary="Status of a backup", responses=READS, response_model=model_of(BackupStatus))
async def get_status(
    call: ACall,
    backup_id: BackupIdPath,
) -> Response:
    """Running, completed or failed, and why; also of one that never came to be a backup."""
    tenant = call.tenant()
    found = await call.read(lambda: call.service.backups.status(backup_id, tenant, call.user))
    return call.answer(documents.backup_status(found, call.user))


@router.post(
    "/{backup_id}/restore",
    summary="Restore a backup",
    status_code=202,
    responses=answered(LAUNCHES, 200, RestorePlan, "Only planned: `validate_only` was true."),
    response_model=model_of(answers.Accepted),
)
async def restore(
    call: ALaunchingCall,
    backup_id: BackupIdPath,
    body: Annotated[RestoreBody, Body()] = RestoreBody(),  # noqa: B008
) -> Response:
    """Makes the live tenant, or the chosen part of it, what it was in the backup. Needs `confirm: true`.

    With `validate_only: true` the plan is the answer, at once, and nothing is written. With `into_schema` the live tables
    are not touched.
    """
    tenant, service = call.tenant(), call.at(body.from_copy)
    if body.validate_only:
        return await _plan(call, tenant, backup_id, body)
    if not body.confirm and body.into_schema is None:
        await refuse_unconfirmed(call, "A restore overwrites live data", backup_id, body.from_copy)

    permission = "backup.restore" if body.into_schema is None else service.restores.look_permission
    named = backup_id
    if backup_id.startswith("@"):  # a backup of that moment may have to be put together: not among what must not wait
        chosen = body.request()
        named = await call.expensive(
            permission,
            lambda: service.restores.resolve(backup_id, tenant, call.user, chosen, action=permission),
            body.from_copy,
        )

    def wanted() -> Launch:
        request = body.request()
        if body.into_schema is None:
            check_approval(call, tenant, body, body.from_copy)
            service.restores.check_place(tenant, call.user, request)
        staged = service.restores.is_staged(named)
        exact = named if staged else service.backups.get(named, tenant, call.user).id
        if body.into_schema is None:
            sealed = service.restores.sealed(exact, tenant, call.user, request)
            options = {**body.options(), **body.permission(), **body.copied()}
            return jobs.restore(tenant, exact, backup_id, options, sealed)
        tables = list(request.tables)
        return jobs.into_schema(tenant, exact, backup_id, body.into_schema, tables, permission, body.copied())

    return await call.launch(permission, wanted, body.from_copy)


@router.post(
    "/{backup_id}/diff", summary="Compare with the live tenant", responses=READS, response_model=model_of(RestorePlan)
)
async def diff(
    call: ACall,
    backup_id: BackupIdPath,
    body: Annotated[DiffBody, Body()] = DiffBody(),  # noqa: B008
) -> Response:
    """What a restore would change, table by table; `problems` are the reasons for which it would refuse. Writes nothing."""
    return await _plan(call, call.tenant(), backup_id, body)


@router.get(
    "/{backup_id}/diff",
    summary="Compare with the live tenant, whole",
    responses=READS,
    response_model=model_of(RestorePlan),
)
async def whole_diff(call: ACall, backup_id: BackupIdPath, from_copy: FromCopy = None) -> Response:
    """What a restore of the whole tenant would change."""
    return await _plan(call, call.tenant(), backup_id, DiffBody(from_copy=from_copy))


async def _plan(call: Call, tenant: str, backup_id: str, body: ScopeBody) -> Response:
    restores, request = call.at(body.from_copy).restores, body.request()
    found = await call.expensive(
        "restore.plan", lambda: restores.plan(backup_id, tenant, call.user, request), body.from_copy
    )
    return call.answer(documents.plan(found, call.user))


@router.post(
    "/{backup_id}/validate",
    summary="Validate a backup",
    responses=answered(LAUNCHES, 200, Validation, "What was found; damage is an answer, not an error."),
    response_model=model_of(Validation),
)
async def validate(
    call: ALaunchingCall,
    backup_id: BackupIdPath,
    body: Annotated[ValidateBody, Body()] = ValidateBody(),  # noqa: B008
) -> Response:
    """Checks that the backup can be restored, without restoring it. With `deep: true` everything is read: an operation."""
    tenant, backups = call.tenant(), call.at(body.from_copy).backups
    if body.deep:

        def wanted() -> Launch:
            return jobs.validate_deep(tenant, backups.get(backup_id, tenant, call.user).id, backup_id, body.copied())

        return await call.launch("backup.validate", wanted, body.from_copy)

    found = await call.expensive(
        "backup.validate", lambda: backups.validate(backup_id, tenant, call.user), body.from_copy
    )
    return call.answer(documents.validation(found, call.user))


@router.get(
    "/{backup_id}/holds", summary="What keeps a backup", responses=READS, response_model=model_of(answers.Holds)
)
async def holds(call: ACall, backup_id: BackupIdPath) -> Response:
    """Pins and legal holds that protect it, also those of all backups of the tenant."""
    tenant = call.tenant()

    def work() -> list[HoldLine]:
        wanted = call.service.backups.get(backup_id, tenant, call.user).id
        return [h for h in call.service.retention.holds(tenant, call.user) if h.backup_id in (None, wanted)]

    return call.answer(answers.Holds(await call.read(work)))


@router.post("/{backup_id}/pin", summary="Pin a backup", responses=READS, response_model=model_of(HoldLine))
async def pin(
    call: ACall,
    backup_id: BackupIdPath,
    body: Annotated[PinBody, Body()] = PinBody(),  # noqa: B008
) -> Response:
    """Keeps it until it is unpinned, whatever the retention policy says."""
    tenant = call.tenant()

    def work() -> HoldLine:
        call.service.launches.permit(tenant, call.user, "backup.hold")
        return call.service.retention.pin(backup_id, tenant, call.user, body.reason)

    return await call.read(lambda: call.answer(work()))


@router.delete("/{backup_id}/pin", summary="Unpin a backup", responses=READS, response_model=model_of(HoldLine))
async def unpin(call: ACall, backup_id: BackupIdPath) -> Response:
    """The pin that was taken away."""
    tenant = call.tenant()

    def work() -> HoldLine:
        call.service.launches.permit(tenant, call.user, "backup.hold")
        return call.service.retention.unpin(backup_id, tenant, call.user)

    return await call.read(lambda: call.answer(work()))
