"""In which ranges the stream says all about a table, by what surveys and fences prove. No I/O.

Let r0 be the reading before the last fence, r1 that before this fence, and r2 that after it. If r0 is r2, nothing happened to the
table between the fences, and what was told up to the last fence is told up to this one. If only r1 is r2, nothing happened since
the position that was read before this fence: coverage begins there. Every transaction that began after the fence is behind it, too.
Where the stream says that the table was emptied, its rows are elsewhere now and readings differ for that alone: if r0 and r2 are
the same in everything else, what was told up to the last fence is told up to the commit that emptied it first.

A *step* is a change of a table's columns, or of its parents', from which its definition goes on: see
`repository/journal/segments/makeup.py`. It happened between the last fence and r1, and r1 is r2. Then rows are told under the
definition that they were written in, and coverage goes on. Everything besides columns must be in r2 as it was in r0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sbh_pipelines.backup.journal.chain import ChainEnd
from sbh_pipelines.backup.journal.survey import Survey, frame_of, shape_of
from sbh_pipelines.database.journal.fence import Fence
from sbh_pipelines.repository.journal.segments.directory import Coverage
from sbh_pipelines.repository.journal.segments.makeup import Makeup, goes_on


@dataclass(frozen=True, slots=True)
class Step:
    """From which definition to which a table went between two fences.

    Attributes:
        before: Fingerprint of the earlier one.
        then: Its columns.
        now: Those of the later one.
    """

    before: str
    then: Makeup
    now: Makeup


def find_steps(chain: ChainEnd | None, before: Survey, after: Survey) -> dict[str, Step]:
    """The tables whose coverage goes on although they were altered."""
    steps: dict[str, Step] = {}
    if chain is None:
        return steps
    for route in before.plan.routes:
        name, hops = route.name, route.table.hops
        reading, told = chain.readings.get(name), chain.coverage.get(name)
        if reading is None or told is None or before.readings[name] != after.readings.get(name):
            continue
        if hops:  # a parent whose changes are not understood says nothing of its children
            parent = hops[0].parent.full_name
            if parent not in steps and chain.readings.get(parent) != after.readings.get(parent):
                continue
        then, now = chain.makeups.get(told.definition), before.makeups.get(name)
        same = frame_of(reading) and frame_of(reading) == frame_of(before.readings[name])
        if reading != before.readings[name] and same and then and now and goes_on(then, now):
            steps[name] = Step(told.definition, then, now)
    return steps


def cover_tables(
    chain: ChainEnd | None,
    before: Survey,
    after: Survey,
    fence: Fence,
    end: int,
    untold: frozenset[str],
    emptied: Mapping[str, int],
    steps: Mapping[str, Step],
) -> dict[str, tuple[Coverage, ...]]:
    """The coverage of each table within the segment that ends at `end`; `untold`: tables of which the segment does not tell all.
    `emptied`: of tables that were emptied, the commit that did it first. `steps`: from `find_steps`.

    `chain`: what the segment goes on from; None where it begins one.
    """
    found: dict[str, tuple[Coverage, ...]] = {}
    for route in before.plan.routes:
        table = route.name
        reading = after.readings.get(table)
        if table in untold or reading is None:
            continue
        definition = before.definitions[table]
        told = chain.coverage.get(table) if chain is not None else None
        if chain is not None and told is not None and (table in steps or chain.readings.get(table) == reading):
            found[table] = (Coverage(chain.end, end, definition),)
            continue
        ranges = []
        shape = shape_of(reading)
        if chain is not None and told is not None and shape and shape_of(chain.readings.get(table, "")) == shape:
            upto = emptied.get(table, 0) - 1
            ranges += [Coverage(chain.end, upto, definition)] if upto > chain.end else []
        if before.readings[table] == reading and before.added[table] < fence.xmin:
            # What was published while transactions ran that wrote to it is told from the first fence on that saw all of them end.
            ranges.append(Coverage(max(fence.before, *(one.end for one in ranges), 0), end, definition))
        if ranges:
            found[table] = tuple(ranges)
    return found
