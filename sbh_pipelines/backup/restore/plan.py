"""The plan of a restore: one value for the CLI's table, the API's JSON and Dagster's metadata. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from sbh_pipelines.backup.contents.moment_facts import MomentFacts
from sbh_pipelines.backup.restore.request import Scope
from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.database.merge.pace import rest_of
from sbh_pipelines.document import optional
from sbh_pipelines.errors import RestoreConflict, SbhError, SchemaMismatch
from sbh_pipelines.settings import RestoreSettings

_FEW = 3  # rows named in an error
# What was measured (bench/restore.py), for estimates only.
_WRITING = 2.5  # times as long as to stage a row it takes to write it, and to read it back
_FASTEST_S, _SLOWEST_S = 15e-6, 100e-6  # a row, whatever was measured: few rows say little
_SAFETY_S = 0.5  # a safety backup, beside looking through the tables again
_FILE_BYTES_PER_S = 50e6


@dataclass(frozen=True, slots=True)
class ColumnSample:
    """One column of a row that a plan shows.

    Attributes:
        column: its name.
        before: the live value as text; None is NULL, or that there is no live row.
        after: the backup's value.
    """

    column: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class RowSample:
    """One row that a restore would write or keep.

    Attributes:
        change: insert, update, delete or kept.
        key: values of the primary key as text, by column.
        columns: those that differ; of a row that comes or goes, all.
    """

    change: str
    key: Mapping[str, str | None]
    columns: Sequence[ColumnSample]


@dataclass(frozen=True, slots=True)
class ConflictRow:
    """One row that cannot come back, and the live one in its way.

    Attributes:
        key: of the backup's row: values of the primary key as text, by column.
        held_by: the same of the live row; None where it is another tenant's, and the caller may not see those.
        owner: whose the live row is: a tenant's slug, `this tenant`, `no tenant`, or `another tenant`.
    """

    key: Mapping[str, str | None]
    held_by: Mapping[str, str | None] | None
    owner: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Rows that cannot come back because of others that are there now.

    Attributes:
        reason: what they would break, such as `unique key projects_code_key`.
        rows: how many.
        named: the first of them.
    """

    reason: str
    rows: int
    named: tuple[ConflictRow, ...] = ()

    @property
    def owners(self) -> list[str]:
        """Whose the live rows are, of those that are named."""
        return list(dict.fromkeys(row.owner for row in self.named))


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What is to happen to one table.

    Attributes:
        table: `schema.table`.
        rows_in_backup: the tenant's rows in the backup.
        groups: row groups in the backup.
        groups_matching: of those, found equal to live rows.
        insert: rows that come back.
        update: rows that change.
        delete: rows that go.
        kept: live rows that differ from the backup's and stay, as the mode says.
        of_no_tenant: live rows that are nobody's now and become this tenant's again: their keys are in its backup, and those that
            differ from the backup's are among the rows to update; or they hang on what comes back, and are to go.
        conflicts: rows that cannot come back.
        samples: rows of each kind of change, as many as were asked for.
    """

    table: str
    rows_in_backup: int
    groups: int
    groups_matching: int
    insert: int
    update: int
    delete: int
    kept: int = 0
    of_no_tenant: int = 0
    conflicts: tuple[Conflict, ...] = ()
    samples: tuple[RowSample, ...] = ()


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """Rows outside the restore that refer to rows which it would remove.

    Attributes:
        table: `schema.table` of the rows.
        whose: `shared`, `excluded`, `outside database.schemas`; or of a table of tenants `this tenant`, `no tenant`, `another
            tenant`.
        rows: how many.
        parent: `schema.table` of the rows that would go.
        constraint: the foreign key.
        on_delete: what it declares: cascade, set null, set default, no action or restrict.
        refers_to: the first of the rows that would go: values of the referenced columns as text, by column.
        done: what becomes of the rows: deleted, set to null, set to the default; None: nothing can, so the restore is refused.
    """

    table: str
    whose: str
    rows: int
    parent: str
    constraint: str
    on_delete: str
    refers_to: tuple[Mapping[str, str | None], ...]
    done: str | None


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A table of the tenant that was not chosen, and has fewer rows now than in the backup: they went with rows that come back.

    Attributes:
        table: `schema.table`.
        parent: `schema.table` of the rows that come back.
        constraint: the foreign key, which declares ON DELETE CASCADE.
        rows_in_backup: how many it had.
        rows_now: how many it has.
    """

    table: str
    parent: str
    constraint: str
    rows_in_backup: int
    rows_now: int

    @property
    def rows(self) -> int:
        """How many rows it lacks."""
        return self.rows_in_backup - self.rows_now


@dataclass(frozen=True, slots=True)
class FileSample:
    """One file that a plan shows.

    Attributes:
        change: missing, different, remove or kept.
        path: below the tenant's prefix.
    """

    change: str
    path: str


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What is to happen to the files.

    Attributes:
        missing: files that come back.
        different: files that are written anew.
        extra: files that the backup does not have; they are removed unless kept.
        unchanged: files that are as the backup has them.
        kept: different or extra ones that stay.
        bytes_to_write: size of what is written.
        samples: some of the files, as many as were asked for.
    """

    missing: int = 0
    different: int = 0
    extra: int = 0
    unchanged: int = 0
    kept: int = 0
    bytes_to_write: int = 0
    samples: tuple[FileSample, ...] = ()

    @property
    def removed(self) -> int:
        """Files that go."""
        return max(0, self.extra - self.kept)


@dataclass(frozen=True, slots=True)
class Work:
    """What a plan was made of, and what is left to do.

    Attributes:
        seconds: what checking the backup and comparing took, without what only a plan looks for, s.
        rows_staged: rows of both sides that were staged meanwhile.
        row_bytes: what was read from the repository meanwhile, bytes as they are stored.
        rows_to_write: rows that come, change or go.
        file_bytes: size of the files to be written, bytes.
        listing_s: what comparing the lists of files took, s.
    """

    seconds: float
    rows_staged: int
    row_bytes: int
    rows_to_write: int
    file_bytes: int
    listing_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the restore will take, roughly.

    Attributes:
        bytes_to_download: bytes that it will read from the repository; those of files twice, to check them before it writes.
        seconds: s, with the safety backup where one will be made; without waiting for others and hooks.
        resting_s: of these, rests between batches of rows, for the sake of others (`restore.pace`), s.
    """

    bytes_to_download: int
    seconds: float
    resting_s: float = 0.0

    @classmethod
    def of(cls, work: Work, settings: RestoreSettings, *, safety_backup: bool) -> Self:
        """What was measured of comparing says how fast these servers are by now."""
        per_row = _WRITING * work.seconds / max(1, work.rows_staged)
        writing = work.rows_to_write * min(max(per_row, _FASTEST_S), _SLOWEST_S)
        resting = rest_of(settings, writing) if work.rows_to_write else 0.0
        safety = _SAFETY_S + work.seconds / 2 if safety_backup else 0.0
        files = work.listing_s + 2 * work.file_bytes / _FILE_BYTES_PER_S
        seconds = work.seconds + safety + writing + resting + files
        return cls(work.row_bytes + 2 * work.file_bytes, round(seconds, 1), round(resting, 1))


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """Everything that is decided before anything is written.

    Attributes:
        tenant_id: whose rows and files.
        backup_id: what they are to be taken from; `@` and a moment where a copy has no backup of it, and takes none.
        mode: exact, missing-only or newest-wins.
        scope: what of the tenant.
        target: `in place`, or the other database.
        recovery_point: the instant that the backup describes.
        compared_at: the server's time when the live rows were read, UTC.
        tables: what is to happen to each table.
        files: what is to happen to the files.
        schema: how the schema differs from the backup's.
        references: rows outside the restore that refer to rows which it would remove, and what becomes of them.
        problems: why the restore would refuse.
        estimate: what it will take.
        nothing_to_do: whether all is as the backup has it, or stays as the mode says.
        seconds: what comparing took, s.
        left_out: what the backup's rows refer to and is not in it, and so does not come back -> why.
        kept: what of `restore.kept` is in the scope, and stays as it is: `schema.table.*`, `schema.table.column`.
        moment: of a backup that was put together for a moment of the past: how, and what is not sure of it.
        from_copy: the copy whose backup it is; None for one of the place where backups are made.
        left_behind: tables that were not chosen, and lack rows which went with those that come back.
    """

    tenant_id: str
    backup_id: str
    mode: str
    scope: Scope
    target: str
    recovery_point: Mapping[str, object]
    compared_at: str
    tables: tuple[TablePlan, ...]
    files: FilePlan
    schema: tuple[SchemaDifference, ...]
    references: tuple[ReferenceRows, ...]
    problems: tuple[SbhError, ...]
    estimate: Estimate
    nothing_to_do: bool
    seconds: float
    left_out: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    moment: MomentFacts | None = optional()
    from_copy: str | None = optional()
    left_behind: tuple[LeftBehind, ...] = ()

    @property
    def conflicts(self) -> list[tuple[str, str, int]]:
        """(table, reason, rows) of each conflict."""
        return [(table.table, conflict.reason, conflict.rows) for table in self.tables for conflict in table.conflicts]

    def rows(self, change: str) -> int:
        """Rows of all tables that are to be changed so: insert, update, delete or kept."""
        return sum(getattr(table, change) for table in self.tables)


def nothing_to_do(tables: Sequence[TablePlan], files: FilePlan) -> bool:
    """Whether nothing is to be written, of rows and files."""
    rows = any(t.insert or t.update or t.delete for t in tables)
    return not rows and not (files.missing or files.different or files.removed)


def conflict_problem(tables: Sequence[TablePlan]) -> RestoreConflict | None:
    """The problem that conflicts make, if there are any."""
    found = [(t.table, c) for t in tables for c in t.conflicts]
    if not found:
        return None
    made, kept = (
        RestoreConflict(
            "Rows of the backup cannot come back beside rows that are there now",
            on=", ".join(dict.fromkeys(table for table, _ in found)),
            why="; ".join(f"{c.rows} of {table}: {c.reason}{held(c)}" for table, c in found[:5]),
            remedy="change or remove the rows that hold these keys now; or leave these tables out with --all-but;"
            " `sbh restore diff` names the rows",
        )
        for held in (_held, _held_by_others)
    )
    made.kept_as = kept
    return made


def _held_by_others(conflict: Conflict) -> str:
    """By whom rows in the way are held, without their keys and names: of another tenant's, nobody else is to know whose."""
    known = ("this tenant", "no tenant")
    owners = dict.fromkeys(owner if owner in known else "another tenant" for owner in conflict.owners)
    return f", held by rows of {', '.join(owners)}" if owners else ""


def _held(conflict: Conflict) -> str:
    """The first rows in the way: by whom they are held, and their keys."""
    if not conflict.named:
        return ""
    keys = [key_text(row.key) for row in conflict.named[:_FEW] if row.key]
    listed = f": {'; '.join(keys)}{', ...' if conflict.rows > len(keys) else ''}" if keys else ""
    return f", held by rows of {', '.join(conflict.owners[:_FEW])}{listed}"


def key_text(key: Mapping[str, str | None]) -> str:
    """`id = 7, part = b`."""
    return ", ".join(f"{name} = {'NULL' if value is None else value}" for name, value in key.items())


def schema_problem(differences: Sequence[SchemaDifference], *, blocked: bool) -> SchemaMismatch:
    """The problem that lossy and blocking differences make. `blocked`: there is one that cannot be accepted."""
    remedies = list(dict.fromkeys(d.remedy for d in differences if d.remedy))
    last = (
        ("see restore.renamed, restore.fill" if blocked else "or accept what is lost with --accept-schema-changes")
        if remedies or blocked
        else "accept what is lost with --accept-schema-changes"
    )
    return SchemaMismatch(
        "The schema changed since the backup",
        on=", ".join(dict.fromkeys(f"{d.table}{'.' + d.column if d.column else ''}" for d in differences[:10])),
        why="; ".join(f"{d.change}: {d.decision}" for d in differences[:5]),
        remedy="; ".join((*remedies[:_FEW], last)),
    )
