"""Which tables can be journaled: those whose changes say, each by itself, which row it is and whose.

A DELETE has in it what the replica identity has, and no more; so has an UPDATE, of the row before. The identity of every partition
must therefore have the primary key and the columns that lead to the tenant, and the same must be so of every table on the way
there: a row's tenant is worked out from the changes of its parents. Tenants, keys and references are compared as texts, so they
must be of types in which equal values have one text.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sbh_pipelines.database.journal.identity import (
    FOREIGN,
    FULL,
    INDEX,
    LOGGED,
    PARTITIONED,
    Leaf,
    TableIdentity,
)
from sbh_pipelines.database.schema.catalog import Column, Table
from sbh_pipelines.database.schema.definition import VOLATILE
from sbh_pipelines.database.schema.mapping.ways import bare, comparable
from sbh_pipelines.database.schema.tenancy import TENANTS, MappedTable
from sbh_pipelines.database.session.sql import ident

SMALL_BYTES = 8 << 20
"""A table up to this size is looked through as fast as rows are found by an index."""


class GradeKind(StrEnum):
    """How a table stands to the journal."""

    JOURNALED = "journaled"
    POSSIBLE = "possible"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to give a table an identity that says whose a row is.

    Attributes:
        what: What it is, and what it costs.
        statements: SQL to paste, for the owner of the tables. One that says CONCURRENTLY cannot be in a transaction.
    """

    what: str
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grade:
    """How a table stands to the journal, and why.

    Attributes:
        table: Its full name.
        kind: Journaled as it is; possible after one of the choices; impossible.
        why: Why not; empty where it is journaled.
        choices: What mends it, the cheapest first; of the table itself. A table that is journaled has some where tables below it,
            whose rows follow its own, need more of it than it needs itself.
        parents: Full names of the tables on its way to the tenant that have to be mended as well; they have choices of their own.
        warning: What to know of a table that is journaled.
    """

    table: str
    kind: GradeKind
    why: str = ""
    choices: tuple[Choice, ...] = ()
    parents: tuple[str, ...] = ()
    warning: str = ""


def grade(
    tables: Sequence[MappedTable], identities: Mapping[str, TableIdentity], definitions: Mapping[str, str]
) -> list[Grade]:
    """How each of the tables stands to the journal, in their order.

    `tables` are all those of the map; `identities` and `definitions` (`schema/definition.py`) by full name.
    """
    tenant_keys = [mapped.tenant_column for mapped in tables if mapped.status == TENANTS]
    grading = _Grading({mapped.full_name: mapped for mapped in tables}, identities, definitions, tenant_keys)
    return [grading.grade(mapped) for mapped in tables]


def journaled(grades: Iterable[Grade]) -> list[str]:
    """Full names of the tables that can be journaled as they are."""
    return [one.table for one in grades if one.kind is GradeKind.JOURNALED]


def found_by_links(mapped: MappedTable, identity: TableIdentity) -> bool:
    """Whether the rows that refer to another are found quickly: by an index, or because there are few."""
    return not mapped.hops or mapped.table.estimated_bytes <= SMALL_BYTES or identity.finds(mapped.hops[0].columns)


class _Grading:
    def __init__(
        self,
        tables: Mapping[str, MappedTable],
        identities: Mapping[str, TableIdentity],
        definitions: Mapping[str, str],
        tenant_keys: Sequence[Column],
    ) -> None:
        self._tables, self._identities, self._definitions = tables, identities, definitions
        self._tenant_keys = tenant_keys
        self._needed: dict[str, set[str]] = {}
        for mapped in tables.values():
            self._needed.setdefault(mapped.full_name, set()).update(mapped.table.primary_key, mapped.linking_columns)
            for parent, columns in _asked_of_parents(mapped):
                self._needed.setdefault(parent.full_name, set()).update(columns)

    def grade(self, mapped: MappedTable) -> Grade:
        name = mapped.full_name
        if why := self._never(mapped):
            return Grade(name, GradeKind.IMPOSSIBLE, why)
        own = {*mapped.table.primary_key, *mapped.linking_columns}
        identity = self._identities[name]
        because = _wanting(identity, own)
        choices = self._choices(mapped) if because else ()
        if because and not choices:
            return Grade(
                name, GradeKind.IMPOSSIBLE, f"{because}; and no replica identity can have them: {_no_choice(identity)}"
            )
        parents = {}
        for parent, columns in _asked_of_parents(mapped):
            found = self._identities.get(parent.full_name)
            if found is None or parent.full_name not in self._tables:
                return Grade(name, GradeKind.IMPOSSIBLE, f"{parent.full_name}, on its way to the tenant, is not mapped")
            if why := self._never(self._tables[parent.full_name]):
                return Grade(name, GradeKind.IMPOSSIBLE, f"{parent.full_name}, on its way to the tenant: {why}")
            if why := _wanting(found, columns | {*parent.primary_key}):
                if not self._choices(self._tables[parent.full_name]):
                    return Grade(
                        name,
                        GradeKind.IMPOSSIBLE,
                        f"{parent.full_name}, on its way to the tenant: {why}; {_no_choice(found)}",
                    )
                parents[parent.full_name] = why
        if because or parents:
            reasons = [because] if because else []
            reasons += [f"{parent}, on its way to the tenant: {why}" for parent, why in parents.items()]
            return Grade(name, GradeKind.POSSIBLE, "; ".join(reasons), choices, tuple(parents))
        more = self._choices(mapped) if _wanting(identity, self._needed[name]) else ()
        return Grade(name, GradeKind.JOURNALED, choices=more, warning=_warning(mapped, identity))

    def _never(self, mapped: MappedTable) -> str:
        """Why no replica identity helps; empty where one may."""
        table, identity = mapped.table, self._identities.get(mapped.full_name)
        if identity is None:
            return "it was dropped a moment ago"
        if not table.primary_key:
            return "it has no primary key: a change does not say which row it is of"
        if any((column := table.column(name)) is None or column.generated for name in table.primary_key):
            return "its primary key has a generated column, which is not in the log"
        if not _checked_at_once(table):
            # One statement may move a row to the key of a row that it has not moved away yet: then two rows have one key for a
            # while, and the order of the changes does not say which of them went on.
            return "its primary key is deferrable: within a transaction two rows may have the same key"
        if any(hop.join is not None for hop in mapped.hops):
            return "its way to the tenant is a condition in the settings, which a change cannot be held against"
        if self._definitions.get(mapped.full_name, VOLATILE) == VOLATILE:
            return "its values depend on names in the catalogue, or its storage has no transaction ids"
        for leaf in identity.leaves:
            if leaf.kind == FOREIGN:
                return f"{leaf.full_name} is a foreign table: its changes are in another server's log"
            if leaf.persistence != LOGGED:
                return f"{leaf.full_name} is unlogged: its changes are in no log"
            if leaf.ruled:
                # Nothing of ours touches it: what a rule adds to a statement would run as the journal's role.
                return f"{leaf.full_name} has rules: what else a statement on it does is for whoever made them to say"
        return self._inexact(mapped)

    def _inexact(self, mapped: MappedTable) -> str:
        """Why its ways cannot be gone by comparing texts; empty where they can."""
        child = mapped.table
        for hop in mapped.hops:
            for own, theirs in zip(hop.columns, hop.parent_columns, strict=True):
                here, there = child.column(own), hop.parent.column(theirs)
                if not (here and there and here.exact and there.exact and comparable(here, there)):
                    return (
                        f"{child.full_name}.{own} and {hop.parent.full_name}.{theirs}, by which its rows are found, are of types in"
                        " which equal values may have several texts"
                    )
            child = hop.parent
        if not mapped.tenant_column.exact:
            return f"the tenant's column {mapped.tenant_column.name} is of a type in which equal values may have several texts"
        if any(not comparable(mapped.tenant_column, key) for key in self._tenant_keys):
            return f"the tenant's column {mapped.tenant_column.name} is of another type than the tenants' key"
        return ""

    def _choices(self, mapped: MappedTable) -> tuple[Choice, ...]:
        """What gives the table an identity with all that it and the tables below it need."""
        identity, needed = self._identities[mapped.full_name], self._needed[mapped.full_name]
        wanting = [leaf for leaf in identity.leaves if _wanting_in(leaf, needed)]
        key = mapped.table.primary_key
        columns = [*sorted(needed - {*key}), *key]
        found = []
        if {*key} >= needed:
            found.append(Choice("the primary key has them", tuple(_identity_is(leaf, "DEFAULT") for leaf in wanting)))
        elif all({*columns} <= {*leaf.not_null} - {*leaf.stored, *leaf.virtual} for leaf in wanting):
            found.append(
                Choice(
                    "an index: little more in the server's log than now. Without the index UPDATE and DELETE fail",
                    tuple(statement for leaf in wanting for statement in _by_index(leaf, columns)),
                )
            )
        if not any(leaf.virtual for leaf in wanting):
            found.append(
                Choice(
                    "the whole row: about a third more in the server's log, and nothing else to look after",
                    tuple(_identity_is(leaf, "FULL") for leaf in wanting),
                )
            )
        return tuple(found)


def _checked_at_once(table: Table) -> bool:
    """Whether the primary key is not deferrable."""
    alike = [key for key in table.unique_keys if {*map(bare, key.elements)} == {*table.primary_key}]
    return any(not key.deferrable and key.predicate is None for key in alike)


def _asked_of_parents(mapped: MappedTable) -> list[tuple[Table, set[str]]]:
    """The tables on the way to the tenant, and the columns of each by which its rows are found and that lead on."""
    onward = [*(set(hop.columns) for hop in mapped.hops[1:]), {mapped.tenant_column.name}]
    return [(hop.parent, {*hop.parent_columns, *more}) for hop, more in zip(mapped.hops, onward, strict=False)]


def _wanting(identity: TableIdentity, needed: set[str]) -> str:
    """Why the identity does not do; empty where it does. A partitioned table without partitions has no rows to tell of."""
    for leaf in identity.leaves:
        if why := _wanting_in(leaf, needed):
            return why
    return ""


def _wanting_in(leaf: Leaf, needed: set[str]) -> str:
    if leaf.identity == FULL and leaf.virtual:
        return f"{leaf.full_name} has identity FULL and the virtual column {leaf.virtual[0]}: published, its UPDATEs would fail"
    if leaf.generated_identity:
        return f"the replica identity of {leaf.full_name} has a generated column: published, its UPDATEs would fail"
    if not leaf.columns:
        return f"{leaf.full_name} has no replica identity: published, its UPDATEs and DELETEs would fail"
    if missing := sorted(needed - {*leaf.columns}):
        return f"the replica identity of {leaf.full_name} is without {', '.join(missing)}"
    return ""


def _no_choice(identity: TableIdentity) -> str:
    virtual = [name for leaf in identity.leaves for name in leaf.virtual]
    listed = ", ".join(dict.fromkeys(virtual))
    return f"FULL is not for tables with a virtual column ({listed}), an index not for columns that may be NULL"


def _identity_is(leaf: Leaf, what: str) -> str:
    return f"ALTER TABLE {_named(leaf)} REPLICA IDENTITY {what};"


def _by_index(leaf: Leaf, columns: Sequence[str]) -> tuple[str, str]:
    index = _index_name(leaf.name)
    listed = ", ".join(ident(name) for name in columns)
    return (
        f"CREATE UNIQUE INDEX CONCURRENTLY {ident(index)} ON {_named(leaf)} ({listed});",
        _identity_is(leaf, f"USING INDEX {ident(index)}"),
    )


def _index_name(table: str) -> str:
    """A name within the server's 63 bytes, another one for each table."""
    ending = "_identity"
    raw = table.encode()
    if len(raw) + len(ending) <= 63:
        return table + ending
    ending = f"_{hashlib.sha256(raw).hexdigest()[:8]}{ending}"
    return raw[: 63 - len(ending)].decode("utf-8", "ignore") + ending


def _named(leaf: Leaf) -> str:
    return f"{ident(leaf.schema)}.{ident(leaf.name)}"


def _warning(mapped: MappedTable, identity: TableIdentity) -> str:
    found = []
    by_index = [leaf.index or f"one of {leaf.full_name}" for leaf in identity.leaves if leaf.identity == INDEX]
    if by_index:
        found.append(f"its identity is an index ({', '.join(by_index)}): while that is dropped, UPDATE and DELETE fail")
    elif identity.kind == PARTITIONED and not {*mapped.table.primary_key} >= {*mapped.linking_columns}:
        found.append(
            "a new partition begins with the default identity, and ends what is journaled of the table: give it FULL as well"
        )
    if not found_by_links(mapped, identity):
        columns = ", ".join(mapped.hops[0].columns)
        found.append(
            f"its foreign key has no index ({columns}): rows that waited for what they refer to are not noticed when that comes"
        )
    return "; ".join(found)
