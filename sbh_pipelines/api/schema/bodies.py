"""What requests may carry. Strict: an unknown key or a wrong type is refused, never guessed at."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model, model_validator

from sbh_pipelines.backup.restore.request import MOST_SAMPLES, OPTIONS, Face, RestoreRequest, Use, offered
from sbh_pipelines.model import MergeMode, ReferencePolicy

_TIME = r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?"
BACKUP_PATTERN = rf"^(latest|backup_\d{{8}}_\d{{4}}(_\d{{2,4}})?|@{_TIME})$"
RESTORE_PATTERN = r"^restore_\d{8}_\d{6}_[0-9a-f]{6}$"

# PostgreSQL and S3 take no NUL; a name has some length.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=4000)]
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=1000)]
Comment = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=500)]
ApprovalText = Annotated[str, StringConstraints(pattern=r"^approval_\d{8}_\d{6}_[0-9a-f]{6}$")]
Schema = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=63)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class CreateBody(Body):
    """Which backup to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "full", "description": "Weekly backup"}]})

    type: Literal["full", "incremental", "differential"] = Field("full", description="What to make.")
    description: Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=500)] | None = Field(
        None, description="Free text, kept in the manifest."
    )


def _option(name: str, **limits: Any) -> Any:
    """The field of a body that offers an option of restores."""
    option = OPTIONS[name]
    word = isinstance(option.default, StrEnum)
    default = list(option.default) if isinstance(option.default, tuple) else option.offered_default
    return Field(str(default) if word else default, description=option.help[Face.API], **limits)


_KINDS: Mapping[Any, Any] = {
    tuple[str, ...]: (list[Name], {"max_length": 500}),
    str | None: (Text | None, {}),
    bool: (bool, {}),
    MergeMode: (cast(Any, Literal)[tuple(str(mode) for mode in MergeMode)], {}),
    ReferencePolicy: (cast(Any, Literal)[tuple(str(policy) for policy in ReferencePolicy)], {}),
}
_SCOPE: Any = {
    option.name: (_KINDS[option.kind][0], _option(option.name, **_KINDS[option.kind][1]))
    for option in offered(Face.API, Use.BOTH)
}
_DECIDING = {option.name for option in offered(Face.API, Use.BOTH, Use.RESTORE)}
_Scope: Any = create_model("_Scope", __base__=Body, **_SCOPE)


class ScopeBody(_Scope):  # its fields are made of the declaration
    """Which part of the tenant; all of it where nothing is chosen."""

    def options(self) -> dict[str, object]:
        """What is not as by default; the fields of the restore job's configuration."""
        return dict(self.model_dump(include=_DECIDING, exclude_defaults=True))

    def request(self) -> RestoreRequest:
        """What a plan or a restore is made of, as the restore job will have it. Raises RequestError."""
        return RestoreRequest.chosen(**self.model_dump(include=set(OPTIONS)))


class OverwritingBody(Body):
    """What goes with everything that overwrites live data."""

    confirm: bool = Field(
        False, description="Must be true: what is chosen of the live tenant is overwritten. `validate_only` needs none."
    )
    validate_only: bool = Field(
        False, description="Only plan: what would change, and why it would refuse. Nothing is written."
    )
    approval_id: ApprovalText | None = Field(
        None, description="Where the settings want a second person: the approval of exactly this. See `/api/approvals`."
    )
    break_glass: Comment | None = Field(
        None, description="Instead of an approval, in an emergency: the reason. It is recorded, and people are alerted."
    )

    def permission(self) -> dict[str, object]:
        return self.model_dump(include={"approval_id", "break_glass"}, exclude_none=True)


class DiffBody(ScopeBody):
    """What to compare."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tables": ["projects"], "samples": 5}]})

    samples: int = _option("samples", ge=0, le=MOST_SAMPLES)


class RestoreBody(ScopeBody, OverwritingBody):
    """What to restore, and how."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"confirm": True, "validate_only": False}]})

    safety_backup: bool = _option("safety_backup")
    into_schema: Schema | None = Field(
        None,
        description="Put the rows into a new schema beside the live ones, for looking; only `tables` can be chosen then. This"
        " is a label: the schema's name is the system's, and in the operation's result. For users of the platform, unless"
        " `restore.looks_by_tenants` is set.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.into_schema is not None:
            others = self.model_dump(exclude={"into_schema", "tables", "confirm"}, exclude_defaults=True)
            if others:
                raise ValueError("into_schema goes with tables and confirm only")
        return self


class UndoBody(OverwritingBody):
    """Whether to do it, or to show it. What was written since to the tables and files that the restore touched goes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"confirm": True}]})


class AskBody(ScopeBody):
    """What another person is to approve: a restore of `backup_id`, with the fields that it will have; or undoing `restore_id`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"backup_id": "latest", "reason": "a script deleted projects"}]}
    )

    reason: Annotated[str, StringConstraints(pattern=r"^[^\x00]*\S[^\x00]*$", max_length=500)] = Field(
        description="Why it is needed."
    )
    backup_id: Annotated[str, StringConstraints(pattern=BACKUP_PATTERN)] | None = None
    restore_id: Annotated[str, StringConstraints(pattern=RESTORE_PATTERN)] | None = None
    safety_backup: bool = Field(True, description="As the restore will have it.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.backup_id is None) == (self.restore_id is None):
            raise ValueError("give one of backup_id and restore_id")
        return self


class DecideBody(Body):
    """What is said about it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"comment": "agreed"}]})

    comment: Comment = Field("", description="Recorded with the decision.")


class ValidateBody(Body):
    """How thoroughly."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"deep": False}]})

    deep: bool = Field(
        False,
        description="False: signatures, and that every object is there with its size; answered at once. True: also download,"
        " decrypt and hash everything; an operation.",
    )


class PinBody(Body):
    """Why it is kept."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "before the migration"}]})

    reason: Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=500)] = Field(
        "", description="Shown wherever the pin is."
    )
