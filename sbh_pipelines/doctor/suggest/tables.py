"""The tables of a suggestion: what is settled settles others, so that the map is made anew after each round."""

from collections import Counter
from collections.abc import Callable, Iterator

from sbh_pipelines.database.schema import samples
from sbh_pipelines.database.schema.catalog import Catalog, Column, ForeignKey, Table, read_catalog
from sbh_pipelines.database.schema.listing import Listing, find_listing
from sbh_pipelines.database.schema.mapping import ways
from sbh_pipelines.database.schema.mapping.mapper import Mapper
from sbh_pipelines.database.schema.mapping.outside import find_outside
from sbh_pipelines.database.schema.tenancy import AMBIGUOUS, OWNED, UNMAPPED, MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.doctor.suggest import names, polymorphic
from sbh_pipelines.doctor.suggest.columns import suggest_columns, tables_text
from sbh_pipelines.doctor.suggest.suggestion import CHECK, Suggestion

_ROUNDS = 200
_RULE = 3  # so many tables that it settles are worth a rule


class Tables:
    def __init__(self, connection: Connection, made: Suggestion) -> None:
        self._connection, self._made = connection, made
        self._catalog: Catalog
        self._listing: Listing | None
        self._named_by: dict[str, Counter[int]]  # which tables a column of this name refers to, by foreign keys
        self._tenancy: TenancyMap
        self._mapped: dict[int, MappedTable] = {}
        self._open: list[Table] = []
        self._read()

    def _read(self) -> None:
        settings = self._made.applied
        self._catalog = read_catalog(self._connection, settings.database.schemas)
        self._listing = find_listing(self._connection, settings)
        self._named_by = {}
        for table in self._catalog.tables.values():
            for key in ways.foreign_keys(table):
                if len(key.columns) == 1:
                    self._named_by.setdefault(key.columns[0], Counter())[key.parent] += 1

    def suggest(self, say: Callable[[str], None]) -> Suggestion:
        say("tenant columns")
        suggest_columns(self._made, self._catalog, self._listing)
        self._map()
        say("other schemas")
        self._schemas()
        say("tables")
        for _ in range(_ROUNDS):
            if not self._map() or not (self._rules() or self._each() or self._rest()):
                break
        self._second_ways()
        self._keep_ways()
        self._last_words()
        return self._made

    def _map(self) -> list[Table]:
        """Make the map anew; the tables that have no place in it yet."""
        self._tenancy = Mapper(self._catalog, self._made.applied, self._listing).map()
        self._mapped = {mapped.table.oid: mapped for mapped in self._tenancy.tables}
        statuses = zip(self._tenancy.statuses, self._catalog.tables.values(), strict=True)
        self._open = [table for status, table in statuses if status.status in (UNMAPPED, AMBIGUOUS)]
        return self._open

    @property
    def _tenants(self) -> int | None:
        return self._listing.base if self._listing else None

    def _schemas(self) -> None:
        """Schemas with tables of tenants are mapped; of the others it is said that they are left out."""
        for _ in range(_ROUNDS):
            surveyed = find_outside(self._connection, self._made.applied, self._tenancy)
            found = {s.schema: f"{s.name} {s.why.partition(';')[0]}" for s in (*surveyed.nearby, *surveyed.outside)}
            if not found:
                break
            for schema, why in found.items():
                self._made.add("schemas", schema, f"holds tenants' rows: {why}")
            self._read()
            suggest_columns(self._made, self._catalog, self._listing)
            self._map()
        for schema, tables in surveyed.other_schemas:
            self._made.unknown.append(
                f'whether the {tables_text(tables)} of the schema {schema} are anybody\'s: if not, left_out = [..., "{schema}"]'
            )

    # rules for many tables

    def _rules(self) -> bool:
        """The rule that settles most open tables, if it settles several."""
        support: Counter[tuple[str, int]] = Counter()
        for table in self._open:
            best = self._ways(table)
            for column in table.columns:
                for parent in self._parents(column):
                    if parent == table.oid or parent == self._tenants or parent not in self._mapped:
                        continue
                    if any(way.required for way in best) and not column.not_null:
                        continue  # another way is always there
                    if (
                        best
                        and best[0].required
                        and column.not_null
                        and best[0].parent.depth < self._mapped[parent].depth
                    ):
                        continue  # another way is shorter
                    if len(self._named_by.get(column.name, ())) <= 1:  # else a word such as `parent`, for many things
                        support[column.name, parent] += 1
        taken = {rule["column"] for rule in self._made.follow} | {r.column for r in self._made.settings.database.follow}
        for (column_name, parent), times in support.most_common():
            if times < _RULE:
                return False
            if column_name not in taken:
                table = self._catalog.tables[parent]
                self._made.rule(
                    column_name, table.full_name, f"{tables_text(times)} that nothing else settles have {column_name}"
                )
                return True
        return False

    def _parents(self, column: Column) -> list[int]:
        """Tables with a key of one column that columns of this name refer to: by foreign keys, else by its name."""
        by_key = self._named_by.get(column.name, Counter())
        if by_key:
            led = [oid for oid, _ in by_key.most_common() if self._single_key(oid, column) is not None]
            return led if len(by_key) == 1 else []
        word = names.stem(column.name)
        named = [t.oid for t in self._catalog.tables.values() if word and names.speaks_of(word, t)]
        return [oid for oid in named if self._single_key(oid, column) is not None]

    def _single_key(self, oid: int, column: Column) -> Column | None:
        table = self._catalog.tables.get(oid)
        key = table.column(table.primary_key[0]) if table and len(table.primary_key) == 1 else None
        return key if key and ways.comparable(key, column) else None

    # table by table

    def _each(self) -> bool:
        settled = [table for table in self._open if self._one(table)]
        return bool(settled)

    def _one(self, table: Table) -> bool:
        """Settle a table by what leads from it; False where nothing does yet."""
        if self._declared(table):
            return False
        columns = [name for name in self._made.applied.database.tenant_columns if table.column(name)]
        if len(columns) > 1:
            best = sorted(columns, key=lambda name: not ways.required(table, (name,)))[0]
            self._made.link(table.full_name, f"has {' and '.join(columns)}", tenant_column=best)
            return True
        leading = self._ways(table)
        waiting = [key for key in ways.foreign_keys(table) if self._waits(key)]
        if leading and (not waiting or leading[0].required):
            return self._by_way(table, leading)
        if leading or waiting:
            return False
        return polymorphic.suggest(self._connection, table, self._mapped, self._listing, self._made) or self._by_name(
            table
        )

    def _by_way(self, table: Table, leading: list[ways.Way]) -> bool:
        best = leading[0]
        others = "; ".join(way.text for way in leading[1:4])
        why = best.text + (f", before {others}" if others else "")
        if best.required:
            self._made.link(table.full_name, why, **ways.link_fields(table, best.key, self._catalog))
            return True
        if self._by_rule(table):
            return True
        joined = ways.is_joined_to_tenants(
            table, self._catalog, self._tenants, self._made.applied.database.tenant_columns
        )
        if joined is not None or all(names.is_memory(way.key.columns) for way in leading):
            because = (
                f"{joined.full_name} joins its rows with any number of tenants"
                if joined
                else "it remembers something last used"
            )
            self._made.add(
                "shared", table.full_name, f"{CHECK}{because}; {why}. If each row is one tenant's, a link says so"
            )
            return True
        if self._by_all_ways(table, [], leading, why):
            return True
        empty = samples.has_rows(self._connection, table, best.key.columns)
        rows = "some rows have none: they go into the platform backup" if empty else "every row has one now"
        self._made.link(
            table.full_name,
            f"{CHECK}{why}; {rows}. If rows are not one tenant's each: shared",
            **ways.link_fields(table, best.key, self._catalog),
        )
        return True

    def _by_rule(self, table: Table) -> bool:
        """A column that is always there, no foreign key here, and one to the same table wherever else it is."""
        own = {name for key in ways.foreign_keys(table) for name in key.columns}
        taken = {rule["column"] for rule in self._made.follow} | {r.column for r in self._made.settings.database.follow}
        for column in table.columns:
            if not column.not_null or column.name in own or column.name in taken or column.name not in self._named_by:
                continue
            parent = next((oid for oid in self._parents(column) if oid in self._mapped and oid != table.oid), None)
            if parent is not None:
                name = self._catalog.tables[parent].full_name
                why = f"{CHECK}in {table.full_name} {column.name} is NOT NULL and no foreign key; elsewhere it leads to {name}"
                self._made.rule(column.name, name, why)
                return True
        return False

    def _by_all_ways(self, table: Table, first: list[str], leading: list[ways.Way], why: str) -> bool:
        """One way after the other, where rows without the first have another: a condition, as no foreign key can say it.

        `first` is the tenant column, if the table has one.
        """
        tenants = self._mapped.get(self._tenants or 0)
        before = tuple(first) or leading[0].key.columns
        others = leading if first else leading[1:]
        useful = [way for way in others if samples.has_rows(self._connection, table, before, way.key.columns)]
        if tenants is None or not useful:
            return False
        owners = [f"t.{polymorphic.quoted(name)}" for name in first]
        owners += [f"({polymorphic.owner_by(way)})" for way in ([*useful] if first else [leading[0], *useful])]
        self._made.link(
            table.full_name,
            f"{CHECK}{why}; rows without the first have another",
            parent=tenants.full_name,
            join=f"p.{polymorphic.quoted(tenants.tenant_column.name)} = coalesce({', '.join(owners)})",
        )
        return True

    def _second_ways(self) -> None:
        """Tables with a tenant column that may be NULL, whose rows without it lead to a tenant all the same."""
        self._map()
        for mapped in self._tenancy.tables:
            column = mapped.tenant_column
            if mapped.status != OWNED or column.not_null or self._declared(mapped.table):
                continue
            others = [way for way in self._ways(mapped.table) if column.name not in way.key.columns]
            if others:
                why = f"{column.name} may be NULL; {others[0].text}"
                self._by_all_ways(mapped.table, [column.name], others, why)

    def _by_name(self, table: Table) -> bool:
        """A column that is no foreign key and is called like one."""
        found: list[tuple[bool, int, Column, Table]] = []
        for column in table.columns:
            for oid in self._parents(column):
                if oid in self._mapped and oid != table.oid and [column.name] != list(table.primary_key):
                    found.append((not column.not_null, self._mapped[oid].depth, column, self._catalog.tables[oid]))
        if not found:
            return False
        _, _, column, parent = min(found, key=lambda one: one[:2])
        key = parent.primary_key[0]
        self._made.link(
            table.full_name,
            f"{CHECK}no foreign key; {column.name} is called like a reference to {parent.full_name}",
            parent=parent.full_name,
            join=f"t.{polymorphic.quoted(column.name)} = p.{polymorphic.quoted(key)}",
        )
        return True

    def _rest(self) -> bool:
        """Tables that nothing leads from are shared; then those that are stuck in circles get the best way that there is."""
        free = [t for t in self._open if not self._declared(t) and not any(map(self._waits, ways.foreign_keys(t)))]
        for table in free:
            if table.kind == "f":
                self._made.add("excluded", table.full_name, "a foreign table: its rows are on another server")
            else:
                self._made.add("shared", table.full_name, self._why_shared(table))
        if free:
            return True
        for table in self._open:
            if self._declared(table):
                continue
            leading = self._ways(table)
            if leading:
                return self._by_way(table, leading)
        for table in self._open:
            if not self._declared(table):
                self._made.add("shared", table.full_name, f"{CHECK}in a circle of foreign keys that leads to no tenant")
                return True
        return False

    def _why_shared(self, table: Table) -> str:
        doubtful = [
            c.name for c in table.columns if names.looks_like_key(c.name) and [c.name] != list(table.primary_key)
        ]
        led = {key.columns for key in ways.foreign_keys(table)}
        doubtful = [name for name in doubtful if (name,) not in led]
        doubtful += [f"{kind.name}, {key.name}" for kind, key in names.type_columns(table) if key.name not in doubtful]
        if doubtful:
            return f"{CHECK}no way to a tenant was found, but {', '.join(doubtful)} may be one; then a link, not shared"
        referring = [
            t.full_name
            for t in self._catalog.tables.values()
            if any(k.parent == table.oid for k in t.foreign_keys) and t.oid != table.oid
        ]
        return "no column of it leads to a tenant" + (
            f"; {tables_text(len(referring))} with references to it" if referring else ""
        )

    def _keep_ways(self) -> None:
        """Where a rule took a table by a column that may be NULL, and a foreign key that is always there leads on: the key.

        Of several rules the one whose column is NOT NULL decides, so that one more rule does for many tables.
        """
        for _ in range(_ROUNDS):
            self._map()
            passed_over = list(self._passed_over())
            columns = Counter(
                (way.key.columns[0], way.parent.full_name) for _, way in passed_over if len(way.key.columns) == 1
            )
            (column, parent), times = columns.most_common(1)[0] if columns else (("", ""), 0)
            if (
                times < _RULE
                or column in {rule["column"] for rule in self._made.follow}
                or len(self._named_by[column]) > 1
            ):
                break
            why = f"in {tables_text(times)} {column} is NOT NULL, and the column of the rule before may be NULL"
            self._made.rule(column, parent, why)
        for mapped, way in passed_over:
            why = f"{way.text}; {mapped.hops[0].columns[0]} may be NULL"
            self._made.link(mapped.full_name, why, **ways.link_fields(mapped.table, way.key, self._catalog))

    def _passed_over(self) -> Iterator[tuple[MappedTable, ways.Way]]:
        """Tables that follow a rule by a column that may be NULL, with the foreign key that is always there."""
        rules = {rule["column"] for rule in self._made.follow}
        for mapped in self._tenancy.tables:
            if not mapped.hops or self._declared(mapped.table) or not rules & set(mapped.hops[0].columns):
                continue
            best = self._ways(mapped.table)
            if best and best[0].required and not ways.required(mapped.table, mapped.hops[0].columns):
                yield mapped, best[0]

    def _last_words(self) -> None:
        """What no catalogue tells."""
        if self._made.empty:
            return
        self._made.unknown.append(
            "which tables you do not want at all (sessions, caches, queues): take them out of shared, and into excluded"
        )
        if self._made.links or self._made.follow:
            self._made.unknown.append(
                "whether a foreign key that is set says whose the row is, where there are several: the first is proposed"
            )

    def _ways(self, table: Table) -> list[ways.Way]:
        return ways.ways(table, ways.foreign_keys(table), self._mapped, self._tenants)

    def _waits(self, key: ForeignKey) -> bool:
        """Whether the parent has no place yet."""
        return any(table.oid == key.parent for table in self._open)

    def _declared(self, table: Table) -> bool:
        linked = {link["table"] for link in self._made.links} | {
            link.table for link in self._made.settings.database.links
        }
        return table.full_name in linked or table.name in linked
