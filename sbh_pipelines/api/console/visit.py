"""One request as pages see it: by whom, for which tenant, and what the API's routes answer to it."""

import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import RedirectResponse, Response

from sbh_pipelines.api.app.calls import Call, the_call
from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.api.console.render import render
from sbh_pipelines.api.console.session import Session
from sbh_pipelines.errors import RequestError
from sbh_pipelines.security.policy import ALL_TENANTS, allows


@dataclass(frozen=True, slots=True)
class Visit:
    """A page that is asked for.

    Attributes:
        call: The call of the API that it stands for.
        request: As it came.
        session: Whose form it may carry.
    """

    call: Call
    request: Request
    session: Session

    @property
    def slug(self) -> str:
        """The tenant that the page is about. Raises AccessDenied, InvalidId."""
        return self.call.tenant()

    @property
    def home(self) -> str:
        """The path of the tenant's page."""
        return f"{CONSOLE}/tenants/{self.slug}"

    def may(self, action: str) -> bool:
        """Whether the user may do this to the page's tenant: for what a page offers; what is done asks again."""
        return allows(self.call.user, action, self.call.tenant_or_all() or ALL_TENANTS)

    def page(self, template: str, title: str, status: int = 200, **shown: Any) -> Response:
        """A page of the console."""
        user = self.call.user
        return render(
            template,
            status,
            title=title,
            user=user,
            platform=self.call.platform,
            slug=self.call.tenant_or_all(),
            may=self.may,
            mark=self.session.mark(self.request.headers),
            path=self.request.url.path,
            query=self.request.query_params,
            **shown,
        )

    def document(self, found: object) -> Any:
        """What the service answered, as the API would show it to this user."""
        return json.loads(bytes(self.call.answer(found).body))

    async def form(self) -> "Form":
        """What one of our own forms carries. Raises AccessDenied for others."""
        return Form(await self.session.form(self.request))

    def once(self, key: str) -> "Visit":
        """The same visit, whose launch is not repeated where the form is sent twice."""
        return replace(self, call=replace(self.call, key=key[:64] or None))


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form."""

    fields: Mapping[str, list[str]]

    def one(self, name: str) -> str:
        """A field's value without spaces around it; empty where there is none."""
        return next(iter(self.fields.get(name, [])), "").strip()

    def all(self, name: str) -> list[str]:
        return [value for value in self.fields.get(name, []) if value]

    def number(self, name: str) -> int:
        """A field's number; 0 where there is none. Raises RequestError."""
        text = self.one(name) or "0"
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise RequestError("Not a number", on=name, remedy="load the page again")
        return int(text)


async def answer_of(route: Awaitable[Response]) -> Any:
    """What a route of the API answers, as a document."""
    return json.loads(bytes((await route).body))


def to(path: str) -> Response:
    """On to another page, after a form."""
    return RedirectResponse(path, 303)


async def the_visit(request: Request) -> Visit:
    """Of the path's tenant. That somebody reaches for another tenant is recorded, as the API records it."""
    call = await the_call(request, request.path_params.get("slug"))
    return Visit(call, request, request.app.state.session)


AVisit = Annotated[Visit, Depends(the_visit)]
