"""What requests may carry. Strict: an unknown key or a wrong type is refused, never guessed at."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model, model_validator

from sbh_pipelines.backup.restore.request import MOST_SAMPLES, OPTIONS, Face, RestoreRequest, Use, offered
from sbh_pipelines.model import MergeMode, ReferencePolicy
from sbh_pipelines.settings.places.copies import CopyName

_TIME = r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?"
_LSN = r"[0-9A-Fa-f]{1,8}[/-][0-9A-Fa-f]{1,8}"  # a path takes no slash: 16-B374D848 there
BACKUP_PATTERN = rf"^(latest|backup_\d{{8}}_\d{{4}}(_\d{{2,4}})?|@{_TIME}|@xid:\d{{1,19}}|@lsn:{_LSN})$"
RESTORE_PATTERN = r"^restore_\d{8}_\d{6}_[0-9a-f]{6}$"

_FORMS = {
    BACKUP_PATTERN: "a backup is an id such as backup_20240115_1200, latest, or @ and a time such as @2024-01-15T14:32",
    RESTORE_PATTERN: "a restore's id looks like restore_20240115_120000_0a1b2c",
}
_OTHER_FORM = "it is not of the form that is asked for, or has characters that it may not have"


def form_of(pattern: str) -> str:
    """What is said of a value that does not match, in words."""
    return _FORMS.get(pattern, _OTHER_FORM)


# PostgreSQL and S3 take no NUL; a name has some length.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=4000)]
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=1000)]
Comment = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=500)]
ApprovalText = Annotated[str, StringConstraints(pattern=r"^approval_\d{8}_\d{6}_[0-9a-f]{6}$")]
Schema = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=63)]
Slug = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=200)]

FROM_COPY = "Read from this copy, by its name in the settings: only its buckets and keys are asked. `GET /api/copies` lists them."


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class CopyBody(Body):
    """What can be asked of a copy as well."""

    from_copy: CopyName | None = Field(None, description=FROM_COPY)

    def copied(self) -> dict[str, object]:
        """The copy, as a field of a job's configuration; nothing where the backups are those that were made here."""
        return self.model_dump(include={"from_copy"}, exclude_none=True)


class CreateBody(Body):
    """Which backup to make: of the tenant as it is, or, with one of `at`, `before` and `lsn`, as it was at a moment of the past."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"type": "full", "description": "Weekly backup"},
                {"at": "2024-01-15T14:32:07Z", "description": "before the import"},
                {"before": 812345, "tables": ["projects"]},
                {"lsn": "16/B374D848", "as_of_backup": ["all"]},
            ]
        }
    )

    type: Literal["full", "incremental", "differential"] = Field("full", description="What to make.")
    description: Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=500)] | None = Field(
        None, description="Free text, kept in the manifest."
    )
    at: Annotated[str, StringConstraints(pattern=rf"^{_TIME}$")] | None = Field(
        None,
        description="The moment, ISO 8601; UTC unless it says otherwise. Put together of a backup from before it and the change"
        " journal; one that is there already is taken.",
    )
    before: Annotated[int, Field(ge=3, lt=1 << 63)] | None = Field(
        None, description="Just before this transaction: its id, as `GET /api/journal` lists it."
    )
    lsn: Annotated[str, StringConstraints(pattern=rf"^{_LSN}$")] | None = Field(
        None, description="At this position of the server's log, e.g. 16/B374D848."
    )
    tables: list[Name] = Field([], max_length=500, description="Of a moment: only these tables. Empty: all.")
    as_of_backup: list[Name] = Field(
        [],
        max_length=500,
        description="Of a moment: tables that may be as the backup before it has them where the journal does not tell of them;"
        " `all`: whichever they are.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        chosen = [value for value in (self.at, self.before, self.lsn) if value is not None]
        if len(chosen) > 1:
            raise ValueError("give one of at, before and lsn")
        if chosen and "type" in self.model_fields_set:
            raise ValueError("a backup of a moment has no type to choose")
        if not chosen and (self.tables or self.as_of_backup):
            raise ValueError("tables and as_of_backup go with at, before or lsn")
        return self

    @property
    def moment(self) -> str | None:
        """The moment, as the job's configuration has it; None where the backup is of the tenant as it is."""
        if self.before is not None:
            return f"xid:{self.before}"
        return f"lsn:{self.lsn}" if self.lsn is not None else self.at


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
_Scope: Any = create_model("_Scope", __base__=CopyBody, **_SCOPE)


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
        False, description="Only plan: what would change, and why it would refuse. Nothing is restored."
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
            others = self.model_dump(exclude={"into_schema", "tables", "confirm", "from_copy"}, exclude_defaults=True)
            if others:
                raise ValueError("into_schema goes with tables, from_copy and confirm only")
        return self


class UndoBody(CopyBody, OverwritingBody):
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


class DecideBody(CopyBody):
    """What is said about it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"comment": "agreed"}]})

    comment: Comment = Field("", description="Recorded with the decision.")


class ValidateBody(CopyBody):
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


class CopyRunBody(Body):
    """For whom to copy."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tenants": ["tenant-1"]}]})

    tenants: list[Slug] = Field([], max_length=1000, description="Only these, by slug. Empty: all that are copied.")


class CopyVerifyBody(CopyRunBody):
    """Whose backups to verify at the copy, and how thoroughly."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"deep": False}]})

    deep: bool = Field(
        False,
        description="Download, decrypt and hash everything that the newest backups need, not only their documents.",
    )
