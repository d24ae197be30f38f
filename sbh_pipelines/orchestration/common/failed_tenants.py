"""The tenants that failed in a run: what a run leaves of them in its failure, and alerts and the API read there.

Knows nothing of Dagster, so that an alert can be made, and sent, without it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.document import optional
from sbh_pipelines.errors import SbhError, error_from_dict

FAILED_TENANTS = "failed_tenants"
"""The key of the records in the metadata of a run's failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTenant:
    """A tenant that failed in a run, and why.

    Attributes:
        tenant: the tenant's slug.
        type: the backup type that was asked for; absent where the run makes no backups.
        step: the step in which it failed.
        code: code of the error, such as SBH-401.
        what: what failed.
        on: on what.
        why: why, as far as that is known.
        remedy: what to do about it.
        transient: whether the same may succeed later.
    """

    tenant: str
    type: str | None = optional()
    step: str = ""
    code: str = ""
    what: str = ""
    on: str = ""
    why: str = ""
    remedy: str = ""
    transient: bool = False

    @classmethod
    def of(cls, tenant: str, step: str, error: SbhError, backup_type: str | None = None) -> Self:
        """The record of an error that concerns one tenant."""
        return cls.from_dict({"tenant": tenant, "type": backup_type, "step": step, **error.as_dict()})

    @classmethod
    def from_dict(cls, document: Mapping[str, object]) -> Self:
        """From its document, which may have been written by an older release. Raises KeyError where it names no tenant."""

        def text(name: str) -> str:
            value = document.get(name)
            return "" if value is None else str(value)

        return cls(
            tenant=str(document["tenant"]),
            type=text("type") or None,
            step=text("step"),
            code=text("code"),
            what=text("what"),
            on=text("on"),
            why=text("why"),
            remedy=text("remedy"),
            transient=bool(document.get("transient")),
        )

    @property
    def error(self) -> SbhError:
        """The error, as it was raised."""
        return error_from_dict(
            {"code": self.code, "what": self.what, "on": self.on, "why": self.why, "remedy": self.remedy}
        )


def failed_among(drafts: Iterable[Draft]) -> list[FailedTenant]:
    """A record for each failed draft, with the type that was asked for."""
    return [
        FailedTenant.of(str(draft.tenant.id), draft.step, draft.error, str(draft.requested or draft.type))
        for draft in drafts
        if draft.status is DraftStatus.FAILED and draft.error is not None
    ]
