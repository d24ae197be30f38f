"""Rows that a plan shows: some of each kind of change, without the values of columns declared sensitive."""

from collections.abc import Mapping

from sbh_pipelines.backup.restore.plan import ColumnSample, RowSample
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.database.capture.text_rows import text_rows
from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.settings import RestoreSettings

MASKED = "***"

_LONGEST = 200  # characters of a value


def row_samples(
    connection: Connection, merge: TableMerge, request: RestoreRequest, settings: RestoreSettings
) -> tuple[RowSample, ...]:
    """Up to `request.samples` rows of each kind of change; values of columns declared sensitive are masked."""
    limit, s = request.samples, merge.staging
    if not limit:
        return ()
    masked = set() if request.show_sensitive else sensitive_columns(merge.table, settings)
    names = list(s.columns)
    keys = [names.index(k) for k in merge.table.table.primary_key]
    pair = f"{s.want} w JOIN {s.have} h ON {s.same_key('w', 'h')}" if s.keyed else ""
    chosen = merge.changes
    queries: list[tuple[str, str | None, str | None, str, int]] = [
        ("insert", None, "w", _without(merge, "todo", "w", s.have, "h"), chosen.inserted),
        ("delete", "h", None, _without(merge, "gone", "h", s.want, "w"), chosen.deleted),
    ]
    if s.keyed:
        written = f"EXISTS (SELECT FROM {merge.todo} x WHERE {s.same_key('x', 'w')})"
        queries += [
            ("update", "h", "w", f"{pair} WHERE {written} AND NOT {s.same('w', 'h')}", chosen.updated),
            ("kept", "h", "w", f"{pair} WHERE NOT {written} AND NOT {s.same('w', 'h')}", chosen.kept),
        ]
    found = []
    for change, before, after, rows, count in queries:
        if not count or not rows:
            continue
        columns = [
            f"{f'left({side}.{c}::text, {_LONGEST})' if side else 'NULL'}"
            for side in (before, after)
            for c in s.columns.values()
        ]
        with translated("read samples", merge.table.full_name):
            query = f"SELECT {', '.join(columns)} FROM {rows} LIMIT {limit}"
            for row in text_rows(connection, query, merge.table.encoding):
                old, new = row[: len(names)], row[len(names) :]
                found.append(_sample(change, names, keys, masked, old, new, both=bool(before and after)))
    return tuple(found)


def _without(merge: TableMerge, which: str, alias: str, other: str, other_alias: str) -> str:
    s = merge.staging
    rows = merge.todo if which == "todo" else merge.gone
    if not s.keyed:
        return f"{rows} {alias}" if which == "todo" else ""  # of deleted rows only their text is known
    return f"{rows} {alias} WHERE NOT EXISTS (SELECT FROM {other} {other_alias} WHERE {s.same_key(alias, other_alias)})"


def _sample(
    change: str,
    names: list[str],
    keys: list[int],
    masked: set[str],
    old: tuple[str | None, ...],
    new: tuple[str | None, ...],
    *,
    both: bool,
) -> RowSample:
    known = new if change == "insert" else old
    key = masked_key({names[at]: known[at] for at in keys}, masked)
    columns = [
        ColumnSample(name, _shown(name, before, masked), _shown(name, after, masked))
        for name, before, after in zip(names, old, new, strict=True)
        if not both or before != after
    ]
    return RowSample(change, key, columns)


def sensitive_columns(table: MappedTable, settings: RestoreSettings) -> set[str]:
    """The columns of the table that `restore.sensitive` names, as `column`, `table.column` or `schema.table.column`."""
    return settings.masked_columns(table.full_name)


def masked_key(key: Mapping[str, str | None], masked: set[str]) -> dict[str, str | None]:
    """A row's key without the values of sensitive columns."""
    return {name: _shown(name, value, masked) for name, value in key.items()}


def _shown(name: str, value: str | None, masked: set[str]) -> str | None:
    return MASKED if name in masked and value is not None else value
