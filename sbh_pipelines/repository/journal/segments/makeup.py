"""What a table's columns were under one definition, and whether another definition goes on from it. No I/O.

A definition *goes on* from another where no row was written or read differently for the step: columns were added that give older
rows a value from the catalogue, dropped, or renamed, and nothing else happened. A column is the same where its number is: that is
never given again.

Where both are known, rows in between are resolved by the names that the stream says. The stream has no numbers, so whatever could
be one of two columns is refused; what is left is proved by these: numbers rise in the order of the fields; columns that both have
are there all the time; what was added came in the order of the numbers; of what was dropped all or nothing is gone; and no column
that was added is of the type of one that was dropped.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class MadeColumn:
    """A column under one definition.

    Attributes:
        number: Which it is, for ever.
        name: Its name.
        type: The oid of its type.
        modifier: The type's modifier.
        type_name: As the server names it.
        kind: A digest of all that its type is made of.
        generated: Whether it is computed, and so in no row: s stored, v virtual, or empty.
        not_null: Whether it is NOT NULL.
        identity: a always, d by default, or empty.
        given: Value of rows that are older than the column, as text; None for NULL.
        certain: Whether that is known.
    """

    number: int
    name: str
    type: int
    modifier: int
    type_name: str
    kind: str
    generated: str
    not_null: bool
    identity: str
    given: str | None
    certain: bool

    def is_as(self, other: "MadeColumn") -> bool:
        """Whether values of the other are values of this one, to the byte."""
        return (self.type, self.modifier, self.kind, self.generated) == (
            other.type,
            other.modifier,
            other.kind,
            other.generated,
        )


@dataclass(frozen=True, slots=True)
class Makeup:
    """A table under one definition.

    Attributes:
        frame: A digest of all else that its definition says: key, ways to the tenant, relations.
        attributes: How many columns it ever had.
        fixed: Names of columns that must stay: of its key, and those that lead to its tenant.
        columns: Its columns, by number.
        aligned: Whether all partitions have them in this order.
    """

    frame: str
    attributes: int
    fixed: tuple[str, ...]
    columns: tuple[MadeColumn, ...]
    aligned: bool

    @property
    def stored(self) -> tuple[MadeColumn, ...]:
        """Those that rows have."""
        return tuple(column for column in self.columns if not column.generated)

    @property
    def digest(self) -> str:
        """In place of a definition's fingerprint, of one that was in force between two that were read."""
        return hashlib.sha256(json.dumps(self.as_list()).encode()).hexdigest()[:16]

    def as_list(self) -> list[Any]:
        """As it is stored."""
        columns = [
            [
                c.number,
                c.name,
                c.type,
                c.modifier,
                c.type_name,
                c.kind,
                c.generated,
                c.not_null,
                c.identity,
                c.given,
                c.certain,
            ]
            for c in self.columns
        ]
        return [self.frame, self.attributes, list(self.fixed), columns, self.aligned]

    @classmethod
    def from_list(cls, items: Sequence[Any]) -> Self:
        """Raises ValueError, TypeError."""
        frame, attributes, fixed, columns, aligned = items
        return cls(frame, attributes, tuple(fixed), tuple(MadeColumn(*column) for column in columns), aligned)


def goes_on(before: Makeup, after: Makeup) -> bool:
    """Whether the later definition goes on from the earlier one."""
    then = {column.number: column for column in before.columns}
    added = [column for column in after.columns if column.number > before.attributes]
    if before.frame != after.frame or before.fixed != after.fixed:
        return False
    if len(added) != after.attributes - before.attributes or not all(column.certain for column in added):
        return False  # one came and went in between
    kept = [column for column in after.columns if column.number <= before.attributes]
    if not all(column.number in then and column.is_as(then[column.number]) for column in kept):
        return False
    numbers = [{c.name: c.number for c in makeup.stored} for makeup in (before, after)]
    return all(name in numbers[0] and numbers[0][name] == numbers[1].get(name) for name in before.fixed)


def between(before: Makeup, after: Makeup, fields: Sequence[tuple[str, int, int]]) -> Makeup | None:
    """The definition under which rows have these fields (name, type, modifier), of a table that went from one to the other.

    None where that is not certain. One of the two where it is that.
    """
    known = {column.number: column for column in (*before.stored, *after.stored)}
    columns: list[MadeColumn] = []
    for name, kind, modifier in fields:
        named = {c.number for makeup in (before, after) for c in makeup.columns if c.name == name and c.type == kind}
        if len(named) != 1:
            return None
        (number,) = named
        if number in known and known[number].modifier == modifier:
            columns.append(replace(known[number], name=name))
        elif number in known or not any(c.generated for c in (*before.columns, *after.columns) if c.number == number):
            return None
    numbers = [column.number for column in columns]
    then, now = ({column.number for column in makeup.stored} for makeup in (before, after))
    gone, came = then - now, sorted(now - then)
    here = [number for number in came if number in numbers]
    types = [{(known[number].type, known[number].modifier) for number in some} for some in (gone, came)]
    sure = (
        all(earlier < later for earlier, later in pairwise(numbers))
        and then & now <= set(numbers)
        and gone & set(numbers) in (set(), gone)
        and here == came[: len(here)]
        and not types[0] & types[1]
    )
    if not sure:
        return None
    said = [(column.number, column.name) for column in columns]
    for makeup in (after, before):
        if said == [(column.number, column.name) for column in makeup.stored]:
            return makeup
    return replace(before, attributes=max([before.attributes, *numbers]), columns=tuple(columns))


def places(before: Makeup, after: Makeup) -> tuple[int | str | None, ...] | None:
    """How a row under the earlier definition is one under the later: for each field where it is, or what it is: text, or None.

    None where it is none: the later one is not later, or has a column that the earlier one cannot tell.
    """
    at = {column.number: place for place, column in enumerate(before.stored)}
    then = {column.number: column for column in before.columns}
    found: list[int | str | None] = []
    if before.frame != after.frame:
        return None
    for column in after.stored:
        if column.number in at:
            if not column.is_as(then[column.number]):
                return None
            found.append(at[column.number])
        elif column.number > before.attributes and column.certain:
            found.append(column.given)
        else:
            return None
    return tuple(found)
