"""One request as the routes see it: by whom, for which tenant, and the threads its work runs in."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Query, Request
from starlette.responses import JSONResponse, Response

from sbh_pipelines.api.app.limits import Rates, Streams, Workers
from sbh_pipelines.api.app.middleware import REQUEST_ID, USER
from sbh_pipelines.api.runs.dagster import Dagster
from sbh_pipelines.api.runs.launches import Launch, Launcher
from sbh_pipelines.api.runs.operations import MadeByRuns, accepted
from sbh_pipelines.api.schema.bodies import FROM_COPY
from sbh_pipelines.api.schema.problems import error_fields, shown
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import AccessDenied, RequestError, SettingsError
from sbh_pipelines.model import TenantId
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext
from sbh_pipelines.settings.api import ApiSettings
from sbh_pipelines.settings.places.copies import CopyName, copy_named

T = TypeVar("T")

PLANS, LAUNCHES, REQUESTS = "plans", "launches", "requests"  # each has a rate of its own

_KEY_PATTERN = r"^[\x21-\x7e]{1,128}$"
_LONGEST_NAMED = 64


@dataclass(frozen=True, slots=True)
class Api:
    """What all calls of a process share.

    Attributes:
        settings: Those of `[api]`.
        service: The engine.
        copies: The engine over the backups of each copy, by its name.
        dagster: What long work is launched in.
        launcher: Launches it, once.
        made: What it made, by run.
        reads: Threads of what is read, and of whether something is permitted.
        expensive: Threads of plans and validations, of which each tenant has its share.
        urgent: Threads of launches, cancels and approvals, which wait for no plan.
        rates: How often somebody may ask for what is expensive.
        streams: What is sent piece by piece.
    """

    settings: ApiSettings
    service: BackupService
    copies: Mapping[str, BackupService]
    dagster: Dagster
    launcher: Launcher
    made: MadeByRuns
    reads: Workers
    expensive: Workers
    urgent: Workers
    rates: Rates
    streams: Streams


@dataclass(frozen=True, slots=True)
class Call:
    """`slug` is the header X-Tenant-Slug as it came; routes ask `tenant`."""

    api: Api
    user: UserContext
    request_id: str
    slug: str | None
    key: str | None

    @property
    def service(self) -> BackupService:
        return self.api.service

    def at(self, from_copy: str | None) -> BackupService:
        """The engine over the backups of a copy; of None, over those that are made here.

        Raises RequestError for a name that the settings have not; users of a tenant are not told which they have.
        """
        if from_copy is None:
            return self.service
        if from_copy in self.api.copies:
            return self.api.copies[from_copy]
        try:
            copy_named(self.service.settings, from_copy)
        except SettingsError as error:  # not the settings are wrong: the name is the caller's
            if self.platform:
                raise RequestError(error.what, on=error.on, why=error.why, remedy=error.remedy) from None
            raise RequestError(error.what, on=error.on, remedy="GET /api/copies lists them") from None
        raise AssertionError("every copy of the settings has a service")

    @property
    def platform(self) -> bool:
        return self.user.tenant_id == ALL_TENANTS

    @property
    def foreign(self) -> bool:
        """Whether it is for a tenant that the caller does not belong to."""
        return not self.platform and self.slug not in (None, self.user.tenant_id)

    def tenant(self) -> str:
        """The tenant that the call is about. Raises AccessDenied, the same whether the other tenant exists; InvalidId."""
        if not self.platform:
            if self.foreign:
                raise AccessDenied(
                    "The token is for another tenant",
                    remedy="leave X-Tenant-Slug out, or use a token of that tenant",
                )
            return self.user.tenant_id
        if self.slug is None:
            raise RequestError(
                "The tenant is missing",
                why="a platform user's token is for all of them",
                remedy="name it in the header X-Tenant-Slug",
            )
        return TenantId.parse(self.slug)

    def tenant_or_all(self) -> str | None:
        """The tenant that the call is about; None for a platform user who names none. Raises as `tenant` does."""
        return None if self.platform and self.slug is None else self.tenant()

    def answer(self, result: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """A result as JSON. Its errors, and its recovery points, say as much as the caller may see."""
        document = as_document(result, lambda error: error_fields(error, self.user))
        return JSONResponse(shown(document, self.user), status, headers)

    @property
    def whose(self) -> str:
        """Who shares threads and downloads with whom: the users of a tenant; a platform user with nobody."""
        return f"{ALL_TENANTS}:{self.user.user_id}" if self.platform else self.user.tenant_id

    async def read(self, work: Callable[[], T]) -> T:
        return await self.api.reads.run(work, self.whose)

    async def permit(self, action: str, from_copy: str | None = None) -> None:
        """Raises AccessDenied and the like. Asked before anything is counted or begun, in threads that no plan holds."""
        tenant, launches = self.tenant_or_all(), self.at(from_copy).launches
        if tenant is None:
            await self.read(lambda: launches.permit_platform(self.user, action))
        else:
            await self.read(lambda: launches.permit(tenant, self.user, action))

    async def expensive(self, action: str, work: Callable[[], T], from_copy: str | None = None) -> T:
        """A plan or a validation. Raises AccessDenied, TooManyRequests."""
        await self.permit(action, from_copy)
        self._count(PLANS)
        return await self.api.expensive.run(work, self.whose)

    async def urgent(
        self, action: str, work: Callable[[], T], *, counted: str | None = None, from_copy: str | None = None
    ) -> T:
        """What nobody else's plans may keep waiting. `counted`: of which rate. Raises AccessDenied, TooManyRequests."""
        await self.permit(action, from_copy)
        if counted is not None:
            self._count(counted)
        return await self.api.urgent.run(work, self.whose)

    def _count(self, kind: str) -> None:
        """Raises TooManyRequests. Launches have a rate of their own, which neither plans nor requests use up; of a tenant's
        requests for approval one user has half.
        """
        tenant = self.tenant_or_all() or ALL_TENANTS
        who = f"user:{kind}:{self.user.tenant_id}:{self.user.user_id}"
        self.api.rates.take(who, f"tenant:{kind}:{tenant}", halved={who} if kind == REQUESTS else frozenset())

    async def launch(self, action: str, wanted: Callable[[], Launch], from_copy: str | None = None) -> Response:
        """202 and where the operation is. `wanted` raises what is wrong with the request; it is asked once `action` is
        permitted, and before anything is launched.
        """
        return await self._launch(self.tenant(), action, wanted, from_copy)

    async def launch_for_all(self, action: str, wanted: Callable[[], Launch], from_copy: str | None = None) -> Response:
        """As `launch`, of what is of the platform, and of no tenant alone."""
        return await self._launch(None, action, wanted, from_copy)

    async def _launch(
        self, tenant: str | None, action: str, wanted: Callable[[], Launch], from_copy: str | None
    ) -> Response:
        service = self.at(from_copy)

        def work() -> tuple[str, str, bool]:
            launch = wanted()
            return launch.call, *self.api.launcher.launch(service, self.user, tenant, launch, self.key)

        call, operation_id, repeated = await self.urgent(action, work, counted=LAUNCHES, from_copy=from_copy)
        answer = accepted(operation_id, call, tenant or ALL_TENANTS)
        headers = {"Location": answer.links["self"]}
        if repeated:
            headers["Idempotency-Replayed"] = "true"
        return self.answer(answer, 202, headers)


async def the_call(
    request: Request,
    x_tenant_slug: Annotated[
        str | None,
        Header(
            description="The tenant, by slug. A tenant's own token needs none; a platform user's token does, except where all"
            " tenants are meant.",
            examples=["tenant-1"],
        ),
    ] = None,
) -> Call:
    scope = request.scope
    call = Call(request.app.state.api, scope[USER], scope[REQUEST_ID], x_tenant_slug, None)
    if x_tenant_slug is not None and call.foreign:
        named = ascii(x_tenant_slug)[1:-1][:_LONGEST_NAMED]
        with suppress(AccessDenied):  # asked so that it is recorded, as a denial of every face is; `tenant` says it
            await call.read(lambda: call.service.launches.permit_platform(call.user, "backup.list", named))
    return call


def the_launching_call(
    call: Annotated[Call, Depends(the_call)],
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=_KEY_PATTERN,
            description="A key of the caller's choice. The same request with the same key within 24 hours launches nothing"
            " anew: it gets the same answer.",
            examples=["7c0e2c7e-4b0b-4a53-9c0e-6a4f0a9d8f11"],
        ),
    ] = None,
) -> Call:
    return Call(call.api, call.user, call.request_id, call.slug, idempotency_key)


ACall = Annotated[Call, Depends(the_call)]
ALaunchingCall = Annotated[Call, Depends(the_launching_call)]
FromCopy = Annotated[CopyName | None, Query(description=FROM_COPY)]
