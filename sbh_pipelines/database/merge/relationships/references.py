"""Rows outside a restore that refer to rows which it would remove, and what becomes of them: whoever asks for the restore decides.

They may be of tables that are excluded, shared, or in no mapped schema, of tables of the tenant that were not chosen, or
nobody's. A replica session does not do what their foreign keys declare for a deletion; where that is wanted, it is done here:
rows go, to any depth, or lose their reference. Rows of other tenants are never touched, nor is what the restore keeps as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.database.capture.changes import ages, snapshot_xmin
from sbh_pipelines.database.merge.foreign_keys import enforced_keys
from sbh_pipelines.database.merge.kept import NOTHING, Kept
from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.relationships.consequences import Consequences, Found
from sbh_pipelines.database.schema.catalog import ForeignKey, Table
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import from_only, ident
from sbh_pipelines.model import ReferencePolicy

THIS, NOBODY, ANOTHER, OUTSIDE = "this tenant", "no tenant", "another tenant", "outside database.schemas"
ON_DELETE: Mapping[str, str] = {
    "a": "no action",
    "r": "restrict",
    "c": "cascade",
    "n": "set null",
    "d": "set default",
}
MOST_NAMED = 20
_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Reference:
    """Rows of one table that refer to rows which would go, by one foreign key.

    Attributes:
        key: the foreign key.
        table: full name of their table.
        parent: full name of the table whose rows would go.
        whose: `shared`, `excluded`, `outside database.schemas`, or whose rows of a captured table they are.
        rows: how many.
        named: values of the referenced columns, as text, of the first of the rows that would go.
        declared: what could become of them as the key declares; empty: nothing.
        done: what becomes of them; empty: nothing, so that the restore cannot be.
    """

    key: ForeignKey
    table: str
    parent: str
    whose: str
    rows: int
    named: tuple[Mapping[str, str | None], ...]
    declared: str
    done: str


@dataclass(frozen=True, slots=True)
class _Removed:
    """Rows that go: a SELECT of the values that a foreign key refers to, as g0, g1, ..."""

    key: ForeignKey
    values: str
    changed: bool = False  # the rows stay, with other values


@dataclass(slots=True)
class References:
    """Finds and decides: `resolve`. What comes of it is `consequences`. One restore's."""

    connection: Connection
    tenancy: TenancyMap
    merges: list[TableMerge]
    tenant_key: str
    policy: ReferencePolicy
    since: str = ""  # an undo: rows not written since this snapshot referred to nothing then already
    kept: Kept = NOTHING
    found: list[Reference] = field(default_factory=list)
    _number: int = 0
    _roots: dict[int, int] = field(default_factory=dict)
    consequences: Consequences = field(init=False)

    def __post_init__(self) -> None:
        self.consequences = Consequences(self.connection, self.tenancy)

    @property
    def refused(self) -> list[Reference]:
        return [reference for reference in self.found if not reference.done]

    def resolve(self) -> list[Reference]:
        """Decide; nothing is written but temporary tables. Needs all merges to be decided."""
        if self.policy is ReferencePolicy.KEEP:
            self._keep_parents()
        merged = {m.table.table.oid: m for m in self.merges if m.changes.any}
        queue: list[_Removed] = []
        for key in self._keys():
            parent = merged.get(key.parent)
            if parent is not None and self._can_tell(parent, key):
                queue.append(_Removed(key, self._gone(parent, key, changed=False)))
                if parent.changes.updated and key.parent_columns != parent.table.table.primary_key:
                    queue.append(_Removed(key, self._gone(parent, key, changed=True), changed=True))
        while queue:
            removed = queue.pop(0)
            for found in self._referring(removed, merged.get(self._root(removed.key.table))):
                queue += [
                    _Removed(key, f"SELECT DISTINCT {_values(key, 'r')} FROM {found.name} r")
                    for key in self._keys()
                    if key.parent == found.child.oid
                ]
        return self.found

    # finding

    def _keys(self) -> Iterator[ForeignKey]:
        return enforced_keys(self.tenancy)

    def _can_tell(self, merge: TableMerge, key: ForeignKey) -> bool:
        changes, staging = merge.changes, merge.staging
        return (
            bool(changes.deleted or changes.updated)
            and staging.keyed
            and all(c in staging.columns for c in key.parent_columns)
        )

    def _root(self, oid: int) -> int:
        """The captured table that a table is a partition of, for a foreign key of the partition alone; else the table."""
        if oid in self.tenancy.catalog.tables:
            return oid
        if oid not in self._roots:
            with translated("look for the table of a partition"):
                cursor = self.connection.cursor()
                cursor.execute(
                    "SELECT coalesce(pg_catalog.pg_partition_root(%s::oid::regclass)::oid, %s)::bigint", (oid, oid)
                )
                self._roots[oid] = cursor.fetchone()[0]
        return self._roots[oid]

    def _gone(self, merge: TableMerge, key: ForeignKey, *, changed: bool) -> str:
        """The values of rows that go and do not come back; `changed`: of rows that get other values."""
        columns = [merge.staging.columns[c] for c in key.parent_columns]
        back = " AND ".join(f"y.{c} {equals} x.{c}" for c, equals in zip(columns, key.operators, strict=True))
        listed = ", ".join(f"x.{c} AS g{nth}" for nth, c in enumerate(columns))
        comes = f"EXISTS (SELECT FROM {merge.todo} z WHERE {merge.staging.same_key('z', 'x')})"
        return (
            f"SELECT DISTINCT {listed} FROM {merge.gone} x WHERE {comes if changed else f'NOT {comes}'}"
            f" AND NOT EXISTS (SELECT FROM {merge.todo} y WHERE {back})"
        )

    def _referring(self, removed: _Removed, merge: TableMerge | None) -> Iterator[Found]:
        """Rows that refer to what goes; those yielded are to be deleted as well."""
        key = removed.key
        child, parent = self.consequences.table(key.table), self.consequences.table(key.parent)
        if merge is not None and not merge.staging.keyed:
            return  # which of its rows go is known by their texts only: what holds afterwards will tell
        with translated("look for rows that refer to others", child.full_name):
            cursor = self.connection.cursor()
            cursor.execute(f"SELECT EXISTS ({removed.values})")
            if not cursor.fetchone()[0]:
                return
            name = self._temporary()
            staying = [
                f"NOT EXISTS (SELECT FROM {merge.gone} h WHERE {merge.staging.key_of_live('t', 'h')})"
                if merge
                else "true",
                *(
                    f"NOT EXISTS (SELECT FROM {other.name} o WHERE o.part = t.tableoid AND o.place = t.ctid)"
                    for other in self.consequences.going.get(child.oid, [])
                ),
                self._recent(),
            ]
            refers = " AND ".join(
                f"g.g{nth} {equals} t.{ident(own)}"
                for nth, (own, equals) in enumerate(zip(key.columns, key.operators, strict=True))
            )
            needed = {c for k in self._keys() if k.parent == child.oid for c in k.parent_columns} | set(key.columns)
            listed = "".join(f", t.{ident(c)}" for c in sorted(needed))
            cursor.execute(
                f"CREATE TEMP TABLE {name} ON COMMIT DROP AS SELECT t.tableoid AS part, t.ctid AS place{listed}"
                f" FROM {from_only(child)} AS t WHERE {' AND '.join(staying)}"
                f" AND EXISTS (SELECT FROM ({removed.values}) g WHERE {refers})"
            )
            if not cursor.rowcount:
                return
        for whose, found in self._by_owner(child, key, name):
            restored = any(m.table.table.oid == self._root(child.oid) for m in self.merges)
            # What a key declares for a deletion is not for rows that stay, with other values.
            declared = "" if removed.changed else self._declared(key, child, whose, restored=restored)
            done = declared if self.policy is ReferencePolicy.DECLARED else ""
            named = self._named(found)
            self.found.append(
                Reference(key, child.full_name, parent.full_name, whose, found.rows, named, declared, done)
            )
            if done and key.on_delete == "c":
                self.consequences.going.setdefault(child.oid, []).append(found)
                yield found
            elif done:
                self.consequences.losing.setdefault(child.oid, []).append(found)

    def _recent(self) -> str:
        if not self.since:
            return "true"
        xmin = snapshot_xmin(self.since)
        return f"pg_catalog.age(t.xmin) BETWEEN 0 AND {ages(self.connection, [xmin])[xmin]}"

    def _by_owner(self, child: Table, key: ForeignKey, name: str) -> Iterator[tuple[str, Found]]:
        mapped = next((t for t in self.tenancy.tables if t.table.oid == self._root(child.oid)), None)
        if mapped is None:
            yield self._status(child), self._counted(child, key, name)
            return
        for whose, condition in self._owners(mapped):
            part = self._temporary()
            self.connection.cursor().execute(
                f"CREATE TEMP TABLE {part} ON COMMIT DROP AS SELECT * FROM {name} r WHERE {condition}"
            )
            if (found := self._counted(child, key, part)).rows:
                yield whose, found

    def _owners(self, mapped: MappedTable) -> list[tuple[str, str]]:
        here = "t.tableoid = r.part AND t.ctid = r.place"
        mine = f"EXISTS (SELECT FROM {mapped.source} WHERE {here} AND {mapped.tenant_is([self.tenant_key])})"
        nobodys = f"EXISTS (SELECT FROM {mapped.own_source} WHERE {here} AND {mapped.belongs_to_nobody})"
        return [(THIS, mine), (NOBODY, nobodys), (ANOTHER, f"NOT ({mine}) AND NOT ({nobodys})")]

    def _status(self, child: Table) -> str:
        statuses = (s.status for s in self.tenancy.statuses if f"{s.schema}.{s.name}" == child.full_name)
        return next(statuses, OUTSIDE)

    def _counted(self, child: Table, key: ForeignKey, name: str) -> Found:
        cursor = self.connection.cursor()
        cursor.execute(f"SELECT count(*) FROM {name}")
        return Found(key, child, name, cursor.fetchone()[0])

    def _named(self, found: Found) -> tuple[Mapping[str, str | None], ...]:
        own = ", ".join(f"r.{ident(c)}::text" for c in found.key.columns)
        with translated("name rows that refer to others", found.child.full_name):
            cursor = self.connection.cursor()
            cursor.execute(f"SELECT DISTINCT {own} FROM {found.name} r ORDER BY 1 LIMIT {MOST_NAMED}")
            return tuple(dict(zip(found.key.parent_columns, row, strict=True)) for row in cursor.fetchall())

    def _temporary(self) -> str:
        self._number += 1
        return f"pg_temp.sbh_refers_{self._number}"

    def _declared(self, key: ForeignKey, child: Table, whose: str, *, restored: bool) -> str:
        """What becomes of such rows as the key declares; empty where that cannot be."""
        if whose == ANOTHER or (whose == THIS and restored) or self._keeps(key, child):
            return ""
        if key.on_delete == "c":
            return "deleted"
        if key.on_delete not in ("n", "d"):
            return ""
        columns = self.consequences.new_values(key, child)
        if any(required and value == "NULL" for value, required in columns.values()):
            return ""  # a column that must not be NULL
        values = [columns[c][0] if c in columns else None for c in key.columns]
        if "NULL" in values:
            return "set to null" if set(values) <= {"NULL", None} else "set to the default"
        return "set to the default" if self._default_is_there(key, values) else ""

    def _keeps(self, key: ForeignKey, child: Table) -> bool:
        """Whether what the key declares is not to be done, since it would change what the restore leaves as it is."""
        root = self.tenancy.catalog.tables.get(self._root(child.oid), child)
        names = {child.full_name, root.full_name}
        if not self.kept.tables.isdisjoint(names):
            return True
        columns = {column for name in names for column in self.kept.columns.get(name, ())}
        return key.on_delete != "c" and not columns.isdisjoint(key.delete_columns or key.columns)

    def _default_is_there(self, key: ForeignKey, values: Sequence[str | None]) -> bool:
        """Whether the row that the defaults refer to is there, and stays. Where columns keep their values none is looked for."""
        if None in values:
            return False
        parent = self.consequences.table(key.parent)
        pairs = zip(key.parent_columns, key.operators, values, strict=True)
        same = " AND ".join(f"p.{ident(theirs)} {equals} {value}" for theirs, equals, value in pairs)
        merge = next((m for m in self.merges if m.table.table.oid == key.parent and m.changes.any), None)
        stays = "true"
        if merge is not None and merge.staging.keyed:
            stays = f"NOT EXISTS (SELECT FROM {merge.gone} h WHERE {merge.staging.key_of_live('p', 'h')})"
        going = "".join(
            f" AND NOT EXISTS (SELECT FROM {f.name} r WHERE r.part = p.tableoid AND r.place = p.ctid)"
            for f in self.consequences.going.get(key.parent, [])
        )
        with translated("look for the default parent", parent.full_name):
            cursor = self.connection.cursor()
            cursor.execute(f"SELECT EXISTS (SELECT FROM {from_only(parent)} p WHERE {same} AND {stays}{going})")
            return bool(cursor.fetchone()[0])

    # keeping parents

    def _keep_parents(self) -> None:
        """Rows that others refer to do not go, nor what these refer to."""
        merged = {m.table.table.oid: m for m in self.merges if m.changes.any}
        for _ in range(_ROUNDS):
            kept = 0
            for key in self._keys():
                parent = merged.get(key.parent)
                if parent is not None and self._can_tell(parent, key):
                    kept += self._keep(key, parent, merged.get(key.table))
            if not kept:
                return

    def _keep(self, key: ForeignKey, parent: TableMerge, child_merge: TableMerge | None) -> int:
        child = self.consequences.table(key.table)
        if not parent.changes.deleted or (child_merge is not None and not child_merge.staging.keyed):
            return 0
        stays = "true"
        if child_merge is not None:
            stays = f"NOT EXISTS (SELECT FROM {child_merge.gone} h WHERE {child_merge.staging.key_of_live('t', 'h')})"
        refers = " AND ".join(
            f"x.{parent.staging.columns[theirs]} {equals} t.{ident(own)}"
            for own, theirs, equals in zip(key.columns, key.parent_columns, key.operators, strict=True)
        )
        with translated("look for rows that refer to others", child.full_name):
            return parent.spare(f"EXISTS (SELECT FROM {from_only(child)} AS t WHERE {refers} AND {stays})")


def _values(key: ForeignKey, alias: str) -> str:
    return ", ".join(f"{alias}.{ident(c)} AS g{nth}" for nth, c in enumerate(key.parent_columns))
