"""Results as documents: what faces print and answer."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sbh_pipelines.document import as_document, optional, unshown
from sbh_pipelines.model import BackupType, TenantId


@dataclass(frozen=True, slots=True)
class Part:
    rows: int
    took: float | None = None
    error: str | None = optional()
    cause: str = unshown()


@dataclass(frozen=True, slots=True)
class Result:
    tenant: TenantId
    type: BackupType
    at: datetime
    parts: tuple[Part, ...]
    by_name: dict[str, Part]


def test_a_result_is_a_document_in_the_order_of_its_fields() -> None:
    """Optional fields without a value are left out, and those that only faces know; all others stay."""
    result = Result(
        TenantId.parse("acme"),
        BackupType.FULL,
        datetime(2026, 1, 15, 14, 32, tzinfo=UTC),
        (Part(1), Part(2, 0.5, "lost", cause="a crash")),
        {"tasks": Part(3)},
    )
    assert as_document(result) == {
        "tenant": "acme",
        "type": "full",
        "at": "2026-01-15T14:32:00Z",
        "parts": [{"rows": 1, "took": None}, {"rows": 2, "took": 0.5, "error": "lost"}],
        "by_name": {"tasks": {"rows": 3, "took": None}},
    }
    assert type(as_document(result)["tenant"]) is str
    assert list(as_document(result)) == ["tenant", "type", "at", "parts", "by_name"]


def test_paths_and_sets_have_a_form_and_objects_have_none() -> None:
    assert as_document({Path("a"): {"c", "b"}}) == {"a": ["b", "c"]}
    with pytest.raises(TypeError, match="object has no form"):
        as_document(object())
