"""What a restore is asked to do: which part of the tenant, and how what is there meets what was backed up. No I/O."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from sbh_pipelines.errors import RequestError
from sbh_pipelines.model import MergeMode


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """The whole tenant where nothing is chosen. Tables or rows can be combined with files."""

    tables: tuple[str, ...] = ()  # `schema.table` or `table`
    rows: str | None = None  # `projects where id in (1, 2)`
    files: tuple[
        str, ...
    ] = ()  # patterns of paths below the tenant's prefix: * ? [..] within a folder, ** over folders
    config_only: bool = False  # the tables of the config component
    mode: MergeMode = MergeMode.EXACT
    keep_extra_files: bool = False
    accept_schema_changes: bool = False  # go on although something of the backup has no place any more
    samples: int = 0  # rows shown of each table in a plan
    show_sensitive: bool = False  # show values of columns declared sensitive
    safety_backup: bool | None = None  # None: as the settings say

    def __post_init__(self) -> None:
        if self.rows is not None and (self.tables or self.config_only):
            raise _contradictory("rows", "tables, config_only")
        if self.config_only and (self.tables or self.files):
            raise _contradictory("config_only", "tables, files")
        if not 0 <= self.samples <= 100:
            raise RequestError("samples is out of bounds", on=str(self.samples)[:20], remedy="0 to 100")

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """From what a face was given: the mode may be text, the lists any sequences. Raises RequestError."""
        made = {**fields, "mode": MergeMode.parse(fields.get("mode", MergeMode.EXACT))}
        for name in ("tables", "files"):
            made[name] = tuple(fields.get(name) or ())
        return cls(**made)

    @property
    def whole(self) -> bool:
        """Everything of the tenant."""
        return not (self.tables or self.rows is not None or self.files or self.config_only)

    @property
    def with_rows(self) -> bool:
        return self.whole or bool(self.tables) or self.rows is not None or self.config_only

    @property
    def with_files(self) -> bool:
        return self.whole or bool(self.files)

    def only(self, *, tables: tuple[str, ...], files: tuple[str, ...]) -> Self:
        """The same for these tables and files, of which there must be some."""
        return replace(self, tables=tables, rows=None, config_only=False, files=files)

    def scope(self) -> dict[str, Any]:
        """What is restored, as plans and results say it."""
        if self.whole:
            return {"kind": "tenant"}
        parts: dict[str, Any] = {"kind": "part"}
        if self.tables:
            parts["tables"] = list(self.tables)
        if self.rows is not None:
            parts["rows"] = self.rows
        if self.files:
            parts["files"] = list(self.files)
        if self.config_only:
            parts["config_only"] = True
        return parts

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tables": list(self.tables), "files": list(self.files)}


def _contradictory(one: str, others: str) -> RequestError:
    return RequestError("These choices exclude each other", on=f"{one}; {others}", remedy="choose one")
