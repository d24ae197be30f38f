"""How the columns of one table of a backup map to the live table's: each column's source, and every difference."""

from collections.abc import Iterator
from dataclasses import dataclass

from sbh_pipelines.database.merge.fit.conversion import widens
from sbh_pipelines.database.merge.fit.renames import Renames
from sbh_pipelines.database.schema.catalog import Column
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.settings import RestoreSettings
from sbh_pipelines.settings.section import toml_block


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """One difference between a table of the backup and the live one, and what a restore makes of it.

    Attributes:
        table: `schema.table`.
        column: its name; None where the whole table differs.
        change: what is different, such as `type changed`.
        then: what it was in the backup.
        now: what it is.
        decision: what a restore does about it.
        lossy: whether something of the backup has no place any more.
        blocking: whether a restore would refuse because of it.
        remedy: what to do so that nothing is lost: SQL, or lines for the settings.
    """

    table: str
    column: str | None
    change: str
    then: str | None
    now: str | None
    decision: str
    lossy: bool = False
    blocking: bool = False
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class ColumnFrom:
    """Where the value of a live column comes from.

    With a `position` (0-based, in the header's columns) from the backup, through the type's input where `cast` is set.
    Without one a row that is there keeps its own value, and a row that comes back gets `fill`, else the default, else NULL.
    `fill` with a position is for the backup's NULLs.
    """

    column: Column
    position: int | None
    cast: bool = False
    fill: str | None = None

    @property
    def plain(self) -> bool:
        """Whether the backup's value comes back as it is."""
        return self.position is not None and not self.cast and self.fill is None

    @property
    def kept(self) -> bool:
        return self.position is None


class ColumnMapper:
    """Maps the columns of one table, and collects what differs."""

    def __init__(
        self, table: MappedTable, old_name: str, header: TableHeader, settings: RestoreSettings, renames: Renames
    ) -> None:
        self.table, self.header, self.renames = table, header, renames
        self.name = table.full_name
        fills = ((key.rpartition("."), value) for key, value in settings.fill.items())
        self.fill = {column: value for (owner, _, column), value in fills if renames.names_live(owner, self.name)}
        self.stored = header.column_names
        self.targets, self.refused = renames.columns(old_name, self.stored, table.table)
        self.differences: list[SchemaDifference] = []

    def map(self) -> tuple[tuple[ColumnFrom, ...], list[SchemaDifference], bool]:
        """The sources of the live captured columns, what differs, and whether rows are the same COPY text in both."""
        positions = {self.targets[name]: nth for nth, name in enumerate(self.stored) if name in self.targets}
        for name, (target, why) in self.refused.items():
            self._differs(name, "renamed column", name, target, why, blocking=True)
        live = [c for c in self.table.table.columns if not c.generated]
        columns = tuple(self._column(c, positions.get(c.name)) for c in live)
        self.differences += self._unplaced({c.name for c in live})
        from_backup = [c.position for c in columns if c.position is not None]
        if from_backup != sorted(from_backup):
            then = ", ".join(self.stored[n] for n in sorted(from_backup))
            now = ", ".join(self.stored[n] for n in from_backup)
            self._differs(
                None, "reordered columns", then, now, "Values go by the columns' names; the order does not matter."
            )
        key = tuple(self.targets.get(name, name) for name in self.header.key)
        self._key(key, {c.column.name for c in columns if not c.kept})
        plain = all(c.position == nth and not c.cast and c.fill is None for nth, c in enumerate(columns))
        same = plain and len(columns) == len(self.stored) and key == self.table.table.primary_key
        return columns, self.differences, same

    def _differs(
        self,
        column: str | None,
        change: str,
        then: str | None,
        now: str | None,
        decision: str,
        *,
        lossy: bool = False,
        blocking: bool = False,
    ) -> None:
        self.differences.append(SchemaDifference(self.name, column, change, then, now, decision, lossy, blocking))

    def _column(self, column: Column, position: int | None) -> ColumnFrom:
        fill = self.fill.get(column.name)
        if position is None:
            self._added(column, fill)
            return ColumnFrom(column, None, fill=fill)
        stored = self.header.columns[position]
        name, kind, identity = stored.name, stored.type.name, stored.identity
        if name != column.name:
            decision = f"Values of {name} are restored into {column.name}, as restore.renamed declares."
            self._differs(column.name, "renamed column", name, column.name, decision)
        cast = kind != column.type
        if cast:
            self._retyped(column, kind)
        if identity != column.identity:
            then, now = (_IDENTITY.get(i, i) for i in (identity, column.identity))
            decision = "The backup's values are restored, and the sequence is moved past them."
            if not column.identity:
                decision = "The backup's values are restored."
            self._differs(column.name, "identity/generated changed", then, now, decision)
        if not (column.not_null and not stored.not_null):
            return ColumnFrom(column, position, cast)
        if fill is None:
            decision = (
                "A row of the backup with NULL in it stops the restore, unless restore.fill declares a value for it."
            )
        else:
            decision = "Rows of the backup with NULL in it get the value that restore.fill declares."
        self._differs(column.name, "now not null", "null allowed", "not null", decision)
        return ColumnFrom(column, position, cast, fill)

    def _added(self, column: Column, fill: str | None) -> None:
        if fill is not None:
            new = "get the value that restore.fill declares"
        elif column.identity and column.sequence:
            new = "get a new number"
        elif column.default is not None:
            new = "get its default"
        elif not column.not_null:
            new = "get NULL"
        else:
            decision = (
                f"Rows that come back need a value: declare one as restore.fill, {f'{self.name}.{column.name}'!r}, or give the"
                " column a default."
            )
            self._differs(column.name, "added column", None, column.type, decision, blocking=True)
            return
        if self.table.table.primary_key:
            decision = f"Rows that are there keep their value; rows that come back {new}."
            self._differs(column.name, "added column", None, column.type, decision)
        else:
            decision = f"Without a primary key no row can be told to be the same one: rows of the backup {new}."
            self._differs(column.name, "added column", None, column.type, decision, lossy=True)

    def _retyped(self, column: Column, kind: str) -> None:
        lossless = widens(kind, column.type)
        decision = "Values are converted through their text; every value fits."
        if not lossless:
            decision = (
                "Values are converted through their text, and rounded where the new type does that; one that it does not take"
                " stops the restore."
            )
        self._differs(column.name, "retyped column", kind, column.type, decision, lossy=not lossless)

    def _unplaced(self, live: set[str]) -> Iterator[SchemaDifference]:
        """Columns of the backup that no live captured column takes."""
        for stored in self.header.columns:
            target = self.targets.get(stored.name)
            if target is None or target in live:
                continue
            if self.table.table.column(target) is not None:
                yield SchemaDifference(
                    self.name,
                    target,
                    "identity/generated changed",
                    "ordinary",
                    "generated",
                    "The server computes it now: the backup's values are not restored.",
                )
            else:
                decision = "The column is gone: its values in the backup are not restored."
                yield SchemaDifference(
                    self.name,
                    stored.name,
                    "dropped column",
                    stored.type.name,
                    None,
                    decision,
                    lossy=True,
                    remedy=self._renamed(stored.name, stored.type.name, live),
                )

    def _renamed(self, name: str, kind: str, live: set[str]) -> str | None:
        """The lines that say that a column was renamed, where a new one of its type is there."""
        new = live - set(self.targets.values())
        alike = [c.name for c in self.table.table.columns if c.name in new and c.type == kind]
        if not alike:
            return None
        one = alike[0] if len(alike) == 1 else f"one of {', '.join(alike)}"
        block = toml_block("[restore.renamed]", {f"{self.name}.{name}": one})
        return f"if {name} was renamed, say so in the settings:\n{block}\n"

    def _key(self, then: tuple[str, ...], from_backup: set[str]) -> None:
        now = self.table.table.primary_key
        if then == now:
            return
        missing = [name for name in now if name not in from_backup]
        if missing:
            decision = f"The backup has no values for the key's {', '.join(missing)}: its rows cannot be matched with live ones."
        elif now:
            decision = "Rows are compared by the key that the table has now."
        else:
            decision = "The table has no key any more: rows are compared as a whole."
        before, after = (", ".join(key) or None for key in (then, now))
        self._differs(None, "key changed", before, after, decision, blocking=bool(missing))


_IDENTITY = {"": "no identity", "a": "identity always", "d": "identity by default"}
