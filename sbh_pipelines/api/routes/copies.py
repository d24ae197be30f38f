"""Copies: how far behind each is, tenant by tenant; brought up to date, and verified, as operations."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Path
from starlette.responses import Response

from sbh_pipelines.api.app.calls import ACall, ALaunchingCall, Call
from sbh_pipelines.api.runs import jobs
from sbh_pipelines.api.schema import answers
from sbh_pipelines.api.schema.bodies import CopyRunBody, CopyVerifyBody
from sbh_pipelines.api.schema.responses import LAUNCHES, READS, model_of
from sbh_pipelines.backup.service.results import CopyStatus
from sbh_pipelines.errors import RequestError

router = APIRouter(tags=["Copies"])

_NAME = Path(min_length=1, max_length=40, description="The copy's name.", examples=["dr"])


@router.get(
    "/api/copies",
    summary="List copies",
    responses=READS,
    response_model=model_of(answers.CopyList),
)
async def list_copies(call: ACall) -> Response:
    """Each copy of the settings: until when each tenant was verified there, how old that is, what is left out and why."""
    return call.answer(answers.CopyList(await call.read(lambda: _copies(call))))


@router.get(
    "/api/copies/{name}",
    summary="How a copy stands",
    responses=READS,
    response_model=model_of(CopyStatus),
)
async def get_copy(call: ACall, name: Annotated[str, _NAME]) -> Response:
    """One of them. A tenant's users see the tenant's own line."""

    def work() -> CopyStatus:
        if (found := next((copy for copy in _copies(call) if copy.name == name), None)) is None:
            raise RequestError(
                "There is no copy of this name that the tenant is in",
                on=ascii(name)[1:-1],
                remedy="GET /api/copies lists them",
            )
        return found

    return call.answer(await call.read(work))


@router.post(
    "/api/copies/{name}/run",
    summary="Bring a copy up to date",
    status_code=202,
    responses=LAUNCHES,
    response_model=model_of(answers.Accepted),
)
async def run_copy(
    call: ALaunchingCall,
    name: Annotated[str, _NAME],
    body: Annotated[CopyRunBody, Body()] = CopyRunBody(),  # noqa: B008
) -> Response:
    """Launches a run that brings to the copy what it has not yet, and verifies it there. For users of the platform.

    Where `X-Tenant-Slug` names a tenant, for that tenant alone. One run of a copy at a time: 409 while another is under way.
    """
    tenants = await _tenants(call, "copies.run", name, body)
    return await call.launch_for_all("copies.run", lambda: jobs.copy_run(name, tenants))


@router.post(
    "/api/copies/{name}/verify",
    summary="Verify a copy",
    status_code=202,
    responses=LAUNCHES,
    response_model=model_of(answers.Accepted),
)
async def verify_copy(
    call: ALaunchingCall,
    name: Annotated[str, _NAME],
    body: Annotated[CopyVerifyBody, Body()] = CopyVerifyBody(),  # noqa: B008
) -> Response:
    """Launches a run that reads what is at the copy, by the copy alone. For users of the platform.

    Where `X-Tenant-Slug` names a tenant, of that tenant alone. The operation fails if something is not whole there.
    """
    tenants = await _tenants(call, "copies.verify", name, body)
    # Claimed at the copy: the first place may be gone.
    return await call.launch_for_all("copies.verify", lambda: jobs.copy_verify(name, tenants, body.deep), name)


async def _tenants(call: Call, action: str, name: str, body: CopyRunBody) -> Sequence[str]:
    """Those of the body; where it names none, the one of the header.

    Raises AccessDenied, RequestError also where there is no copy of this name, InvalidId, UnknownTenant.
    """
    named = call.tenant_or_all()
    await call.read(lambda: call.service.launches.permit_platform(call.user, action))
    if named is not None and set(body.tenants) - {named}:
        raise RequestError(
            "Two different tenants are named",
            on=named,
            why="one in the header X-Tenant-Slug, and others in `tenants`",
            remedy="leave one of them out",
        )
    slugs = list(dict.fromkeys(body.tenants)) or ([] if named is None else [named])
    for slug in slugs:
        await call.read(partial(call.service.tenants.find, slug))
    call.at(name)
    return slugs


def _copies(call: Call) -> Sequence[CopyStatus]:
    """Those that the caller may see; of the tenant that is named alone, where one is."""
    tenant = call.tenant_or_all()
    if tenant is None or not call.platform:
        return call.service.copies.status(call.user)
    call.service.launches.permit(tenant, call.user, "copies.status")
    found = (
        replace(copy, tenants=[line for line in copy.tenants if line.tenant_id == tenant])
        for copy in call.service.copies.status(call.user)
    )
    return [
        replace(copy, worst_lag_s=max((line.lag_s for line in copy.tenants if line.lag_s is not None), default=None))
        for copy in found
        if copy.tenants
    ]
