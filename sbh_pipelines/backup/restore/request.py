"""What a restore is asked to do: which part of the tenant, and how what is there meets what was backed up. No I/O.

Every option of a restore is declared here, once: its name, type, default and help. The command line (`cli/options.py`), the
REST API (`api/schema/bodies.py`) and the restore job (`orchestration/restores/config.py`) make their own of the declaration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from sbh_pipelines.document import optional
from sbh_pipelines.errors import RequestError
from sbh_pipelines.model import MergeMode, ReferencePolicy

MOST_SAMPLES = 100


class Face(StrEnum):
    """Where options are offered."""

    CLI = "cli"
    API = "api"
    DAGSTER = "dagster"


class Use(StrEnum):
    """What an option is for. One that is for plans only changes what is shown, never what a restore does."""

    BOTH = "both"
    PLAN = "plan"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class RestoreOption:
    """One field of a RestoreRequest, as the faces offer it.

    Attributes:
        name: of the field; the key in JSON and in a job's configuration. On the command line `--name`, with hyphens.
        kind: type of the field. `bool | None` is offered as yes or no, where yes is the default and means: as the settings say.
        default: of the field.
        use: plans, restores, or both.
        help: what each face says of it; a face that is missing here does not offer it.
    """

    name: str
    kind: Any
    default: Any
    use: Use
    help: Mapping[Face, str]

    @property
    def offered_default(self) -> Any:
        """What it is where nothing is said."""
        return True if self.kind == bool | None else self.default


def _option(default: Any, help: str, *, use: Use = Use.BOTH, **of_face: str | None) -> Any:
    """A field of the request. `cli`, `api`, `dagster`: what the face says instead; None: it does not offer the option."""
    words = {face: of_face.get(face.value, help) for face in Face}
    return field(default=default, metadata={"use": use, "help": {face: text for face, text in words.items() if text}})


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a tenant a restore is for; what it is not for is absent.

    Attributes:
        kind: `tenant`, all of it, or `part`.
        tables: only these.
        rows: only these, as they were asked for: `projects where id in (1, 2)`.
        files: only files whose path matches one of these patterns.
        config_only: only the tables of the configuration.
        all_but: all but these tables.
    """

    kind: str
    tables: Sequence[str] | None = optional()
    rows: str | None = optional()
    files: Sequence[str] | None = optional()
    config_only: bool | None = optional()
    all_but: Sequence[str] | None = optional()


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """The whole tenant where nothing is chosen. Tables or rows can be combined with files."""

    tables: tuple[str, ...] = _option(
        (),
        "Only these tables, `schema.table` or `table`.",
        cli="Only these, separated by commas.",
        dagster="Only these tables, `schema.table` or `table`. Empty: see the others.",
    )
    all_but: tuple[str, ...] = _option(
        (),
        "Everything but these tables, `schema.table` or `table`.",
        cli="Everything but these tables, separated by commas.",
    )
    rows: str | None = _option(
        None,
        "Only these rows, those that refer to them, and what they refer to where it is gone:"
        " `projects where id in (1, 2)`.",
        cli="Only these rows, those that refer to them, and what they refer to where it is gone:"
        ' "projects where id in (1, 2)".',
    )
    files: tuple[str, ...] = _option(
        (),
        "Only files whose path below the tenant's prefix matches: * and ? within a folder, ** over folders.",
        cli="Only files whose path matches: * and ? within a folder, ** over folders. May be repeated.",
    )
    config_only: bool = _option(
        False,
        "Only the tables of the configuration.",
        dagster="Only the tables of the configuration. Where none of tables, rows, files and this is given: the whole"
        " tenant.",
    )
    mode: MergeMode = _option(  # noqa: RUF009  a field, not a value
        MergeMode.EXACT,
        "exact: what is chosen becomes what it was. missing-only: what is gone comes back, nothing else changes."
        " newest-wins: also rows and files that are later in the backup.",
    )
    references: ReferencePolicy = _option(  # noqa: RUF009  a field, not a value
        ReferencePolicy.REFUSE,
        "For rows outside the restore, of excluded or shared tables, say, that refer to rows which it would remove. refuse: do"
        " nothing. declared: as their foreign keys say: they go too, or lose the reference. keep: what they refer to stays.",
    )
    keep_extra_files: bool = _option(
        False,
        "Keep the tenant's files that the backup does not hold.",
        cli="Leave files that the backup does not have.",
        dagster="Keep the tenant's files that the backup does not hold; by default they are removed.",
    )
    accept_schema_changes: bool = _option(
        False, "Go on although something of the backup has no place in the schema any more."
    )
    as_tenant: bool = _option(
        False,
        "Leave what `restore.kept` names as it is. Restores by the tenant's own users always do.",
    )
    samples: int = _option(
        0,
        "Rows of each kind of change, and files, to show.",
        use=Use.PLAN,
        api="Rows shown of each table; sensitive values are hidden.",
        dagster=None,
    )
    show_sensitive: bool = _option(
        False, "In samples, show the values of columns declared sensitive.", use=Use.PLAN, api=None, dagster=None
    )
    safety_backup: bool | None = _option(
        None,
        "Back the tenant up before, as the settings say, so that the restore can be undone.",
        use=Use.RESTORE,
        cli="Do not back the tenant up before: it cannot be undone then.",
        dagster="Back the tenant up before, as the setting `restore.safety_backup` says, so that the restore can be"
        " undone. False: never.",
    )

    def __post_init__(self) -> None:
        if self.rows is not None and (self.tables or self.config_only):
            raise _contradictory("rows", "tables, config_only")
        if self.all_but and (self.tables or self.config_only or self.rows is not None):
            raise _contradictory("all_but", "tables, rows, config_only")
        if self.config_only and (self.tables or self.files):
            raise _contradictory("config_only", "tables, files")
        if not 0 <= self.samples <= MOST_SAMPLES:
            raise RequestError("samples is out of bounds", on=str(self.samples)[:20], remedy=f"0 to {MOST_SAMPLES}")

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """From what a face was given: the mode may be text, the lists any sequences. Raises RequestError."""
        made = {
            **fields,
            "mode": MergeMode.parse(fields.get("mode", MergeMode.EXACT)),
            "references": ReferencePolicy.parse(fields.get("references", ReferencePolicy.REFUSE)),
        }
        for name in ("tables", "all_but", "files"):
            made[name] = tuple(fields.get(name) or ())
        return cls(**made)

    @classmethod
    def chosen(cls, **offered: Any) -> Self:
        """From the values of options as a face offers them. Raises RequestError."""
        return cls.of(**{**offered, "safety_backup": None if offered.get("safety_backup", True) else False})

    @property
    def whole(self) -> bool:
        """Everything of the tenant."""
        return not (self.tables or self.all_but or self.rows is not None or self.files or self.config_only)

    @property
    def with_rows(self) -> bool:
        return self.whole or bool(self.tables or self.all_but) or self.rows is not None or self.config_only

    @property
    def with_files(self) -> bool:
        return self.whole or bool(self.files or self.all_but)

    def only(self, *, tables: tuple[str, ...], files: tuple[str, ...]) -> Self:
        """A request for these tables and files, of which there must be some; otherwise like this one."""
        return replace(self, tables=tables, all_but=(), rows=None, config_only=False, files=files)

    def scope(self) -> Scope:
        """What is restored, as plans and results say it."""
        if self.whole:
            return Scope("tenant")
        return Scope(
            "part",
            self.tables or None,
            self.rows,
            self.files or None,
            self.config_only or None,
            self.all_but or None,
        )

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "tables": list(self.tables), "all_but": list(self.all_but), "files": list(self.files)}


def _contradictory(one: str, others: str) -> RequestError:
    return RequestError("These choices exclude each other", on=f"{one}; {others}", remedy="choose one")


OPTIONS: Mapping[str, RestoreOption] = {
    f.name: RestoreOption(f.name, f.type, f.default, f.metadata["use"], f.metadata["help"])
    for f in fields(RestoreRequest)
}


def offered(face: Face, *uses: Use) -> list[RestoreOption]:
    """The options that a face offers, in order; of certain uses, where some are given."""
    return [option for option in OPTIONS.values() if face in option.help and (not uses or option.use in uses)]
