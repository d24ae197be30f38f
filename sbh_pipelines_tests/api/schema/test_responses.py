"""Response models as they are made of results: names, descriptions, what is required."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fastapi import FastAPI

from sbh_pipelines.api.schema.responses import described, model_of
from sbh_pipelines.document import keyed, optional, unshown
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import TenantId


@dataclass(frozen=True, slots=True)
class Inner:
    """Something inside.

    Attributes:
        size: Bytes, of which
            there are many.
    """

    size: int


@dataclass(frozen=True, slots=True)
class Outer:
    """Something with everything.

    Attributes:
        tenant: Whose it is.
        errors: What went wrong.
    """

    tenant: TenantId
    at: datetime
    inner: Mapping[str, Inner] | None
    several: Sequence[Inner]
    errors: Sequence[SbhError]
    schema: str
    since: str = keyed("from")
    note: str | None = optional()
    cause: str = unshown()


def schema_of(**shown: object) -> dict[str, dict[str, object]]:
    app = FastAPI()
    app.get("/", response_model=model_of(Outer, **shown))(lambda: None)
    found: dict[str, dict[str, object]] = app.openapi()["components"]["schemas"]
    return found


def test_a_result_describes_its_fields() -> None:
    assert described(Inner) == ("Something inside.", {"size": "Bytes, of which there are many."})


def test_a_model_says_what_a_result_says() -> None:
    """Ids are text, errors their fields, keys those of the document; what may be absent is not required."""
    schemas = schema_of()
    outer = schemas["Outer"]
    assert outer["description"] == "Something with everything."
    assert outer["required"] == ["tenant", "at", "inner", "several", "errors", "schema", "from"]
    properties = outer["properties"]
    assert isinstance(properties, dict)
    assert (properties["tenant"]["type"], properties["tenant"]["description"]) == ("string", "Whose it is.")
    assert properties["at"]["format"] == "date-time"
    assert properties["errors"]["items"] == {"$ref": "#/components/schemas/ErrorAnswer"}
    assert properties["several"]["items"] == {"$ref": "#/components/schemas/Inner"}
    assert properties["inner"]["anyOf"][0]["additionalProperties"] == {"$ref": "#/components/schemas/Inner"}


def test_a_field_may_be_shown_otherwise() -> None:
    properties = schema_of(errors=Sequence[Inner])["Outer"]["properties"]
    assert isinstance(properties, dict)
    assert properties["errors"]["items"] == {"$ref": "#/components/schemas/Inner"}
