"""The configuration of the jobs that restore, made of the options that `RestoreRequest` declares."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field, create_model

from sbh_pipelines.backup.contents.manifest import LATEST
from sbh_pipelines.backup.create.moment.way.target import AT
from sbh_pipelines.backup.restore.request import Face, RestoreOption, RestoreRequest, offered
from sbh_pipelines.errors import RequestError
from sbh_pipelines.model import MergeMode, ReferencePolicy
from sbh_pipelines.orchestration.common.config import JobConfig, from_copy_field

_KINDS: Mapping[Any, Any] = {tuple[str, ...]: list[str], MergeMode: str, ReferencePolicy: str, bool | None: bool}
_TENANT = Field(None, description="Tenant, by slug. Only for runs without a partition.")
_APPROVAL_ID = Field(
    None, description="Where the setting `approval.restore` wants a second person: the approval of exactly this."
)
_BREAK_GLASS = Field(
    None, description="Instead of an approval, in an emergency: the reason. It is recorded, and people are alerted."
)


class _Start(JobConfig):
    tenant: str | None = _TENANT
    backup_id: str = Field(
        LATEST, description="A backup id such as backup_20240115_1200, or `latest`, which no safety backup is."
    )
    at: str | None = Field(
        None,
        description="Instead of a backup: a moment that the change journal tells of, e.g. 2026-01-15T14:32:07 (UTC), or xid:812345"
        " for the moment before that transaction. A backup of it is put together first. `journal_show_job` shows the moments.",
    )
    confirm: bool = Field(
        False,
        description="Must be true. What is chosen of the tenant's rows, files and configuration becomes what it was in the"
        " backup; what was written since is gone, unless `mode` keeps it. Other tenants are not touched.",
    )
    validate_only: bool = Field(
        False, description="Only plan: what would change, and why a restore would refuse. Nothing is restored."
    )


def _key(option: RestoreOption) -> tuple[Any, Any]:
    """The type of a key of the configuration, and the field of it."""
    default = option.offered_default
    if isinstance(default, tuple | StrEnum):
        default = list(default) if isinstance(default, tuple) else str(default)
    return _KINDS.get(option.kind, option.kind), Field(default, description=option.help[Face.DAGSTER])


_OPTIONS = offered(Face.DAGSTER)
_KEYS: Any = {option.name: _key(option) for option in _OPTIONS}
_Options: Any = create_model("_Options", __base__=_Start, **_KEYS)


class RestoreConfig(_Options):  # its options are made of the declaration
    """What to restore, and how. Overwrites the live tenant: needs `confirm: true`, or `validate_only: true`."""

    from_copy: str | None = from_copy_field(
        " Needs `safety_backup: false`, for a copy takes no backups, and such a restore cannot be undone."
    )
    sealed: str | None = Field(
        None,
        description="Written by the API: `rows` and `files`, sealed with the tenant's key. By hand these two are given as they"
        " are, and whoever may see the run reads them in its configuration.",
    )
    approval_id: str | None = _APPROVAL_ID
    break_glass: str | None = _BREAK_GLASS

    @property
    def source(self) -> str:
        """What to restore from: a backup, or `@` and a moment. Raises RequestError where both are given."""
        if self.at is None:
            return self.backup_id
        if self.backup_id != LATEST:
            raise RequestError(
                "A backup and a moment are given",
                on=self.backup_id,
                remedy="give one of them: backup_id, or at",
            )
        return AT + self.at.removeprefix(AT)

    def request(self) -> RestoreRequest:
        """Raises RequestError."""
        return RestoreRequest.chosen(**{option.name: getattr(self, option.name) for option in _OPTIONS})


class UndoConfig(JobConfig):
    """Which restore to undo. Overwrites live data: needs `confirm: true`, or `validate_only: true`."""

    tenant: str | None = _TENANT
    restore_id: str = Field(description="The id of the restore, from the metadata of its run or `sbh restore list`.")
    confirm: bool = Field(
        False,
        description="Must be true. The tables and files that the restore touched become what they were before it; what was"
        " written to them since is gone.",
    )
    validate_only: bool = Field(False, description="Only plan: what would change. Nothing is written.")
    from_copy: str | None = from_copy_field(" A restore from a copy is on record there.")
    approval_id: str | None = _APPROVAL_ID
    break_glass: str | None = _BREAK_GLASS
