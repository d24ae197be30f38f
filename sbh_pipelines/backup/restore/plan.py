"""The plan of a restore: one value for the CLI's table, the API's JSON and Dagster's metadata. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sbh_pipelines.errors import RestoreConflict, SbhError


@dataclass(frozen=True, slots=True)
class RowSample:
    """One row that a restore would write or keep. Values are text; None is NULL."""

    change: str  # insert, update, delete, kept
    key: Mapping[str, str | None]
    columns: Sequence[tuple[str, str | None, str | None]]  # (column, live value, backup's value)

    def as_dict(self) -> dict[str, Any]:
        columns = [{"column": c, "before": before, "after": after} for c, before, after in self.columns]
        return {"change": self.change, "key": dict(self.key), "columns": columns}


@dataclass(frozen=True, slots=True)
class Conflict:
    """Rows that cannot come back because of others that are there now."""

    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What is to happen to one table. `groups` are the backup's row groups; those that match the live rows are not read."""

    table: str
    rows_in_backup: int
    groups: int
    groups_matching: int
    insert: int
    update: int
    delete: int
    kept: int = 0  # live rows that differ from the backup's and stay, as the mode says
    conflicts: tuple[Conflict, ...] = ()
    samples: tuple[RowSample, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        document = {f: getattr(self, f) for f in self.__slots__}
        document["conflicts"] = [asdict(c) for c in self.conflicts]
        document["samples"] = [s.as_dict() for s in self.samples]
        return document


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What is to happen to the files. `extra` ones are there and not in the backup; they are removed unless kept."""

    missing: int = 0
    different: int = 0
    extra: int = 0
    unchanged: int = 0
    kept: int = 0  # different or extra ones that stay
    bytes_to_write: int = 0
    samples: tuple[tuple[str, str], ...] = ()  # (change, path)

    def as_dict(self) -> dict[str, Any]:
        document = asdict(self)
        document["samples"] = [{"change": change, "path": path} for change, path in self.samples]
        return document


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the restore will take: bytes still to be read from the repository, and seconds, roughly."""

    bytes_to_download: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """Everything that is decided before anything is written. With `problems` the restore would refuse."""

    tenant_id: str
    backup_id: str
    mode: str
    scope: Mapping[str, Any]
    target: str
    recovery_point: Mapping[str, Any]
    compared_at: str
    tables: tuple[TablePlan, ...]
    files: FilePlan
    schema: tuple[Mapping[str, Any], ...]  # SchemaDifference.as_dict()
    problems: tuple[SbhError, ...]
    estimate: Estimate
    seconds: float

    @property
    def nothing_to_do(self) -> bool:
        rows = any(t.insert or t.update or t.delete for t in self.tables)
        return not rows and not (self.files.missing or self.files.different or self.files.extra - self.files.kept > 0)

    def as_dict(self) -> dict[str, Any]:
        return {
            "tenant_id": self.tenant_id,
            "backup_id": self.backup_id,
            "mode": self.mode,
            "scope": dict(self.scope),
            "target": self.target,
            "recovery_point": dict(self.recovery_point),
            "compared_at": self.compared_at,
            "tables": [t.as_dict() for t in self.tables],
            "files": self.files.as_dict(),
            "schema": [dict(s) for s in self.schema],
            "problems": [p.as_dict() for p in self.problems],
            "estimate": asdict(self.estimate),
            "nothing_to_do": self.nothing_to_do,
            "seconds": round(self.seconds, 3),
        }


def conflict_problem(tables: Sequence[TablePlan]) -> RestoreConflict | None:
    """The problem that conflicts make, if there are any."""
    found = [(t.table, c) for t in tables for c in t.conflicts]
    if not found:
        return None
    return RestoreConflict(
        "Rows of the backup cannot come back beside rows that are there now",
        on=", ".join(dict.fromkeys(table for table, _ in found)),
        why="; ".join(f"{c.rows} of {table}: {c.reason}" for table, c in found[:5]),
        remedy="change or remove the rows that hold these keys now, of this tenant or another; or leave these out: `--tables`,"
        " `--rows`; `sbh restore diff` shows them",
    )
