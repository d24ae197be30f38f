"""The OpenAPI document: what FastAPI makes of the routes, and what it cannot know of them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response

from sbh_pipelines.api.schema.problems import Problem
from sbh_pipelines.api.schema.responses import model_of

_DESCRIPTION = """\
Backups and restores of single tenants. Every path also answers with a slash at its end.

**Who.** `Authorization: Bearer <token>`. A tenant's token is for that tenant; a platform user's for all of them, the one
that is meant is named in `X-Tenant-Slug`.

**Long work** is answered with 202, and `Location` says where the operation can be watched.

**Errors** are `application/problem+json` with a stable `code`; what is `transient` may succeed when it is tried again.
"""
_TAGS = [
    {"name": "Backups", "description": "Made, listed, looked at, validated, compared, kept, restored."},
    {"name": "Restores", "description": "What was restored, and undoing it."},
    {"name": "Journal", "description": "What changes between two backups, and the moments that can be reached."},
    {"name": "Copies", "description": "The backups once more in a second place, and how far behind it is."},
    {"name": "Approvals", "description": "A second person, where the settings want one."},
    {"name": "Operations", "description": "Long work: watching it, and stopping it."},
    {"name": "Tenants", "description": "Up to when each is safe."},
    {"name": "Health", "description": "Whether backups are as they should be."},
    {"name": "Audit", "description": "Who did what."},
]


def document_of(app: FastAPI) -> None:
    """Serve it at /api/openapi.json."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(_made(app))
        return made

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/api/openapi.json", include_in_schema=False)
    async def document() -> Response:
        return JSONResponse(openapi())


def _made(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=_DESCRIPTION,
        routes=app.routes,
        tags=_TAGS,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = model_of(Problem).model_json_schema(ref_template="#/components/schemas/{model}")
    schemas["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "See docs/access.md."}
    }
    document["security"] = [{"bearer": []}]
    return document
