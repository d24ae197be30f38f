"""A look into a backup, a page at a time: its tables, rows of one that hold a word, its files.

Values of columns that `restore.sensitive` names are masked, and a search does not look behind the mask. A page costs the
memory of one row group, whatever the size of the table. How much of a table one look goes through is bounded: where the bound
ends a search, the page says at which row the next look begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

from sbh_pipelines.backup.contents.copy_text import as_text, fields_of, in_utf8
from sbh_pipelines.backup.contents.reader import BackupTable, OpenBackup
from sbh_pipelines.errors import RequestError
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.settings import RestoreSettings

MASKED = "***"
MOST_ROWS = 200  # on a page
_MOST_LOOKED_AT = 500_000  # rows of one look that searches
_LONGEST = 2000  # characters of a value


@dataclass(frozen=True, slots=True)
class ShownColumn:
    """A column of a table.

    Attributes:
        name: Its name.
        type: As PostgreSQL names it.
        key: Whether it is part of the primary key.
        masked: Whether its values are hidden.
    """

    name: str
    type: str
    key: bool
    masked: bool


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some rows of a table of a backup.

    Attributes:
        table: `schema.table`.
        rows_in_table: How many rows of the tenant it has.
        columns: Its columns, in order.
        rows: Values as PostgreSQL writes them, by column; None is NULL. Long ones are cut.
        first: The number of the row that the look began at, from 0.
        next: The number of the row at which the next look begins; None where there are no more rows.
        complete: Whether the page was filled, or the table's end reached; False where the bound of one look ended it.
    """

    table: str
    rows_in_table: int
    columns: Sequence[ShownColumn]
    rows: Sequence[Sequence[str | None]]
    first: int
    next: int | None
    complete: bool


@dataclass(frozen=True, slots=True)
class FilePage:
    """Some files of a backup, in byte order of their paths.

    Attributes:
        files: The files.
        after: The path after which the next page begins; None on the last one.
    """

    files: Sequence[FileEntry]
    after: str | None


class BackupView:
    """A backup that is open to be looked into. Use it as a context manager, or `close` it."""

    def __init__(self, backup: OpenBackup, settings: RestoreSettings, *, show_sensitive: bool) -> None:
        self._backup, self._settings, self._all = backup, settings, show_sensitive

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._backup.close()

    @property
    def backup_id(self) -> str:
        return self._backup.backup_id

    @property
    def tables(self) -> Sequence[BackupTable]:
        """Parents before their children."""
        return self._backup.tables

    @property
    def file_count(self) -> int:
        return self._backup.file_count

    @property
    def missing_files(self) -> int:
        """Files that rows referred to and that were not there when the backup was made."""
        return self._backup.missing_files

    def rows(self, table: str, *, first: int = 0, limit: int = 50, search: str = "") -> RowPage:
        """From row `first` on, at most `limit` of those one of whose shown values holds `search`, in whatever case.

        Rows are in the order in which the backup has them, the same at every look. Raises RequestError, CorruptObject.
        """
        if not 1 <= limit <= MOST_ROWS or first < 0:
            raise RequestError("Not a page of rows", on=f"first {first}, limit {limit}", remedy=f"at most {MOST_ROWS}")
        of = self._backup.table(table)
        header = self._backup.header(of.name)
        hidden = set() if self._all else self._settings.masked_columns(of.name)
        masked = [name in hidden for name in header.column_names]
        wanted, shown = search.casefold(), list[list[str | None]]()
        most = first + (_MOST_LOOKED_AT if wanted else limit)
        at = first
        for line in islice(self._lines(of.name, first), most - first):
            values = [None if f is None else as_text(f) for f in fields_of(line)]
            at += 1
            if wanted and not any(
                v is not None and not hide and wanted in v.casefold() for v, hide in zip(values, masked, strict=True)
            ):
                continue
            shown.append([_cut(v) if not hide or v is None else MASKED for v, hide in zip(values, masked, strict=True)])
            if len(shown) == limit:
                break
        columns = [
            ShownColumn(c.name, c.type.name, c.name in header.key, hide)
            for c, hide in zip(header.columns, masked, strict=True)
        ]
        following = at if at < of.rows else None
        return RowPage(of.name, of.rows, columns, shown, first, following, following is None or len(shown) == limit)

    def _lines(self, table: str, first: int) -> Iterator[bytes]:
        """The lines from row `first` on; those before it are counted, and not taken apart."""
        header, passed = self._backup.header(table), 0
        for piece in self._backup.copy_text(table):
            rows = piece.count(b"\n")
            if passed + rows > first:
                for text in in_utf8([piece], header):
                    yield from text.split(b"\n")[max(0, first - passed) : rows]
            passed += rows

    def files(self, *, after: str = "", limit: int = 100, search: str = "") -> FilePage:
        """At most `limit` files behind the path `after` whose path holds `search`, in whatever case. Raises CorruptObject."""
        wanted, behind = search.casefold(), after.encode("utf-8", "surrogatepass")
        found = (
            entry
            for entry in self._backup.files()
            if wanted in entry.path.casefold() and entry.path.encode("utf-8", "surrogatepass") > behind
        )
        shown = list(islice(found, limit + 1))
        return FilePage(shown[:limit], shown[limit - 1].path if len(shown) > limit else None)


def _cut(value: str | None) -> str | None:
    return value if value is None or len(value) <= _LONGEST else value[:_LONGEST] + "…"
