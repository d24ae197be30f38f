"""What restores by a tenant's own users never take from a backup: `restore.kept`.

Putting one's own past back would else undo what was done to the tenant since: a suspension, a plan, a user who was dismissed, a
key that was revoked. A table that is kept whole stays as it is, with the rows that came and without those that went. A column
that is kept has its live value in every row that is there; a row that comes back has the backup's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.database.merge.read_back import check_staged, sum_staged
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.schema.catalog import Table
from sbh_pipelines.database.schema.mapping.mapped_table import TENANTS, MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import translated
from sbh_pipelines.errors import SettingsError

WHOLE = "*"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a restore leaves as it is.

    Attributes:
        tables: `schema.table` of each table that it leaves whole.
        columns: of other tables, by `schema.table`, the columns that it leaves.
    """

    tables: frozenset[str] = frozenset()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, tables: Iterable[str]) -> tuple[str, ...]:
        """What of these tables it is, as the setting would say it."""
        names = list[str]()
        for table in tables:
            names += [f"{table}.{WHOLE}"] if table in self.tables else []
            names += [f"{table}.{column}" for column in self.columns.get(table, ())]
        return tuple(sorted(names))


NOTHING = Kept()


def find_kept(tenancy: TenancyMap, declared: Sequence[str] | None, schemas: Sequence[str]) -> Kept:
    """What the setting names; where it says nothing, the tenant's row of the tenants table. Raises SettingsError."""
    if declared is None:
        return Kept(frozenset(t.full_name for t in tenancy.tables if t.status == TENANTS))
    whole, columns = set[str](), dict[str, tuple[str, ...]]()
    for name in declared:
        owner, _, column = name.rpartition(".")
        table = tenancy.catalog.find(owner, list(schemas))
        if table is None:
            raise _wrong(name, "there is no such table")
        mapped = tenancy.find(table.full_name)
        if column != WHOLE:
            _check(name, table, mapped, column)
        # Also what no backup has: a row that refers to one which goes would be deleted or changed with it.
        full_name = table.full_name if mapped is None else mapped.full_name
        if column == WHOLE:
            whole.add(full_name)
        else:
            columns[full_name] = (*columns.get(full_name, ()), column)
    return Kept(frozenset(whole), {table: found for table, found in columns.items() if table not in whole})


def _check(name: str, table: Table, mapped: MappedTable | None, column: str) -> None:
    if table.column(column) is None:
        raise _wrong(name, "the table has no such column")
    if not table.primary_key:
        raise _wrong(name, "the table has no primary key, by which a row would be found again")
    if column in table.primary_key or (mapped is not None and column in mapped.linking_columns):
        raise _wrong(name, "the column says which row it is, or whose")


def _wrong(name: str, why: str) -> SettingsError:
    owner = name.rpartition(".")[0] or "users"
    return SettingsError(
        "restore.kept names what cannot be kept",
        on=ascii(name)[:200],
        why=why,
        remedy=f'correct it, or keep the whole table: "{owner}.{WHOLE}"',
    )


def keep_live(staging: Staging, columns: Sequence[str]) -> None:
    """The wanted rows get the live values of these columns, where there is a live row with their key. Needs `finish`."""
    check_staged(staging)
    names = [staging.columns[column] for column in columns]
    values = ", ".join(f"{name} = h.{name}" for name in names)
    wanted, live = (f"ROW({', '.join(f'{alias}.{name}' for name in names)})::record" for alias in ("w", "h"))
    with translated("keep live values", staging.table.full_name):
        staging.connection.cursor().execute(
            f"UPDATE {staging.want} w SET {values} FROM {staging.have} h"
            f" WHERE {staging.same_key('w', 'h')} AND NOT {wanted} OPERATOR(pg_catalog.*=) {live}"
        )
    sum_staged(staging)
