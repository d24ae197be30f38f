"""What the journal told of each table on the way from the base to the moment: all of it, or what is missing.

A table may have been altered harmlessly on the way (`repository/journal/segments/makeup.py`). When, between two fences, the
journal does not know: at a moment the definition is the latest that a fence or a change of the tenant's own, not later than it,
says.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.database.journal.rows import copy_field
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.segments.changes import Layout
from sbh_pipelines.repository.journal.segments.directory import Coverage, Event, SegmentFacts
from sbh_pipelines.repository.journal.segments.makeup import Makeup, places

_ALTERED = "its definition is another than in the backup"


@dataclass(frozen=True, slots=True)
class Remake:
    """A table whose definition at the moment is another than at the base.

    Attributes:
        definition: Its fingerprint at the moment.
        then: Its columns at the base.
        now: Its columns at the moment.
    """

    definition: str
    then: Makeup
    now: Makeup


def conversion_of(then: Makeup, now: Makeup) -> tuple[int | bytes | None, ...] | None:
    """As `places`, with COPY text."""
    found = places(then, now)
    if found is None:
        return None
    return tuple(copy_field(one.encode()) if isinstance(one, str) else one for one in found)


class TablesTold:
    """Takes in what segments say of the tables of a backup, in the order of the log."""

    def __init__(
        self,
        tenant_key: str,
        definitions: Mapping[str, str | None],
        start: int,
        gaps: Sequence[Gap] = (),
        base_lsn: int | None = None,
    ) -> None:
        """`definitions`: of the tables at the base, whose log was at `base_lsn`; `start`: the position from which on all must be
        told; `gaps`: recorded ones."""
        self._tenant_key, self._definitions = tenant_key, definitions
        self._start, self._gaps = start, gaps
        self._reached = dict.fromkeys(definitions, start)  # up to where all is told
        self._ended: dict[str, str] = {}  # why it is not any more
        self._known: set[str] = set()
        self._makeups: dict[str, Makeup] = {}
        self._base = base_lsn or start
        self._sound: set[Layout] = set()  # those that follow from the base's definition, or the base's from them
        self._fences: list[int] = []
        self._ranges: dict[str, list[Coverage]] = {}  # of which definition is in force at their fences
        self._written: dict[str, tuple[int, str]] = {}  # the last change, and under which definition
        self.came: dict[str, int] = {}  # tables that the base does not have, and from where on they are told

    def stretch(self, facts: SegmentFacts, start: int, end: int) -> None:
        """What a segment says of (start, end]."""
        self._makeups |= facts.makeups
        self._fences += [fence.after for fence in facts.fences if fence.after > start]
        for table, ranges in facts.coverage.items():
            if table in self._definitions:
                self._known.add(table)
                self._extend(table, ranges, start, end)
            elif within := [max(one.start, start) for one in ranges if one.end > start and one.start < end]:
                self.came.setdefault(table, min(within))

    def event(self, event: Event) -> None:
        """Something happened before the moment that rows do not tell."""
        if event.tenants is None or self._tenant_key in event.tenants:
            self.end(event.table, event.why or event.kind)

    def end(self, table: str, why: str = _ALTERED) -> None:
        """What is told of the table is not all."""
        self._ended.setdefault(table, why)

    def is_told(self, layout: Layout, commit: int) -> bool:
        """Whether nothing of the table was missing so far; no more where its rows are written under a definition that does not
        follow from the base's. `commit`: where a change of this layout is laid over the base."""
        if layout.table not in self._definitions or layout.table in self._ended:
            return False
        if layout not in self._sound:
            now = self._makeups.get(layout.definition)
            other = now is not None and layout.columns != tuple(column.name for column in now.stored)
            if other or not self._follows(layout.table, layout.definition):
                self.end(layout.table)
                return False
            self._sound.add(layout)
        self._written[layout.table] = commit, layout.definition
        return True

    def conversion(self, before: str, after: str) -> tuple[int | bytes | None, ...] | None:
        """As `places` says, for rows under one definition as rows under the other; None where it cannot be told."""
        then, now = self._makeups.get(before), self._makeups.get(after)
        return conversion_of(then, now) if then and now else None

    def columns(self, definition: str) -> tuple[str, ...]:
        """Names of what rows have under a definition; none where that is not known."""
        makeup = self._makeups.get(definition)
        return tuple(column.name for column in makeup.stored) if makeup else ()

    def remakes(self, edge: int) -> dict[str, Remake]:
        """Of the tables whose definition at `edge` is not the base's. One that does not follow from it ends there."""
        found: dict[str, Remake] = {}
        for table, base in self._definitions.items():
            definition = self.in_force(table, edge)
            if table in self._ended or base is None or definition is None or definition == base:
                continue
            if self.conversion(base, definition) is None:
                self.end(table)
            else:
                found[table] = Remake(definition, self._makeups[base], self._makeups[definition])
        return found

    def in_force(self, table: str, edge: int) -> str | None:
        """Fingerprint of a table's definition at `edge`, as far as the journal knows."""
        found = [(self._base, self._definitions[table])]
        fence = max((one for one in self._fences if one <= edge), default=0)
        found += [(fence, one.definition) for one in self._ranges.get(table, ()) if one.start < fence <= one.end]
        if table in self._written:
            found.append(self._written[table])
        return max(found, key=lambda one: one[0])[1]

    def missing(self, edge: int) -> dict[str, str]:
        """The base's tables of which not all is told up to `edge`, and why."""
        found = {}
        for table in self._definitions:
            # Asked at the end: what the base shows may be known from a later segment only.
            passed = [one.definition for one in self._ranges.get(table, ()) if one.start < edge]
            if not all(self._follows(table, definition) for definition in passed):
                self.end(table)
            gap = self._gap(table, edge)
            if gap is not None:
                found[table] = f"the journal has a gap: {gap.why}"
            elif table in self._ended or self._reached[table] < edge:
                found[table] = self._why(table)
        return found

    def _gap(self, table: str, edge: int) -> Gap | None:
        mine = (gap for gap in self._gaps if gap.concerns(table, self._tenant_key))
        return next((gap for gap in mine if gap.lies_between(self._start, edge)), None)

    def _why(self, table: str) -> str:
        if table in self._ended:
            return self._ended[table]
        if table in self._known:
            return "what the journal tells of it does not go on to the moment: it was altered, or is told with gaps"
        return "its changes are not journaled"

    def _extend(self, table: str, ranges: Iterable[Coverage], start: int, end: int) -> None:
        for one in sorted(ranges, key=lambda one: one.start):
            least, greatest = max(one.start, start), min(one.end, end)
            if not least <= self._reached[table] < greatest:
                continue
            self._reached[table] = greatest
            passed = self._ranges.setdefault(table, [])
            if passed and passed[-1].definition == one.definition:
                least = passed.pop().start
            passed.append(Coverage(least, greatest, one.definition))

    def _follows(self, table: str, definition: str) -> bool:
        """Whether rows can be brought from the base's definition to this one, or the base shows what came after it."""
        base = self._definitions[table]
        if definition == base:
            return True
        return base is not None and (
            self.conversion(base, definition) is not None or self.conversion(definition, base) is not None
        )
