"""What the tables are like at one moment: which are journaled, and whether one was changed otherwise than by its rows' changes.

A *reading* of a table is a digest of all that decides what its changes mean: definition, columns, types, partitions, replica
identities, its place in the publication, and the readings of the tables that it follows. A drain takes a survey before its fence
and another after it. Where the reading after a fence is that from before the fence before, nothing happened to the table in
between.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from sbh_pipelines.backup.journal.routing.routes import Plan, Route, plan_routes
from sbh_pipelines.database.journal.grades import GradeKind, found_by_links, grade
from sbh_pipelines.database.journal.identity import TableIdentity, read_identities
from sbh_pipelines.database.journal.probe import probe
from sbh_pipelines.database.journal.publication import (
    PublicationChange,
    check_members,
    ensure_publication,
    is_ours,
    plan_publication,
)
from sbh_pipelines.database.journal.server import memberships
from sbh_pipelines.database.schema.column_facts import TableColumns, read_columns
from sbh_pipelines.database.schema.definition import read_definitions, read_framed_definitions, read_type_versions
from sbh_pipelines.database.schema.tenancy import MappedTable, survey_map
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.errors import PrivilegeMissing, SourceConflict
from sbh_pipelines.repository.journal.segments.makeup import MadeColumn, Makeup
from sbh_pipelines.settings import Settings

_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Survey:
    """The tables at one moment.

    Attributes:
        plan: Those that are journaled.
        readings: Of each of them, by its full name: three digests, those of `shape_of` and `frame_of` behind that of all.
        definitions: Their fingerprints, as backups have them.
        identities: Their replica identities.
        added: For each the transaction since which it is published, together with all that it follows.
        left_out: Tables with backups only, and why.
        makeups: Of each of them its columns, by its full name.
    """

    plan: Plan
    readings: Mapping[str, str]
    definitions: Mapping[str, str]
    identities: Mapping[str, TableIdentity]
    added: Mapping[str, int]
    left_out: Mapping[str, str]
    makeups: Mapping[str, Makeup]


def take_survey(connection: Connection, settings: Settings) -> Survey:
    """Of the tables that are in the publication and can be journaled. Changes nothing."""
    publication = settings.journal.publication
    tables = survey_map(connection, settings).tables
    framed = read_framed_definitions(connection, tables)
    definitions = {name: definition for name, (definition, _) in framed.items()}
    columns = read_columns(connection, tables)
    identities = read_identities(connection, tables, publication)
    types = read_type_versions(connection, tables)
    members = memberships(connection, publication)
    usable, left_out = _graded(tables, definitions, identities)
    published = [table for table in usable if identities[table.full_name].published]
    left_out |= {table.full_name: "it is not in the publication yet" for table in usable if table not in published}
    plan = plan_routes(published, lambda table: found_by_links(table, identities[table.full_name]))
    readings: dict[str, str] = {}
    added: dict[str, int] = {}
    for route in plan.routes:
        table = route.table
        followed = table.hops[0].parent.full_name if table.hops else None
        frame = [route.link, [plan.indexes[index].columns for index in route.indexes]]
        facts = [definitions[route.name], types[route.name], table.captured_columns, *frame]
        own, above = identities[route.name], readings[followed] if followed else ""
        whole, shape = own.fingerprint + above, own.shape + shape_of(above)
        readings[route.name] = "".join(
            (
                _digest(*facts, whole),
                _digest(*facts, shape),
                _digest(*frame, framed[route.name][1], types[route.name], own.fingerprint, frame_of(above)),
            )
        )
        added[route.name] = max(members.get(table.table.oid, 0), added[followed] if followed else 0)
    return Survey(
        plan,
        readings,
        definitions,
        {name: identities[name] for name in readings},
        added,
        left_out | plan.left_out,
        {
            route.name: _makeup(route, framed[route.name][1], columns[route.name])
            for route in plan.routes
            if route.name in columns
        },
    )


def _makeup(route: Route, frame: str, found: TableColumns) -> Makeup:
    fixed = tuple(sorted({*route.table.table.primary_key, *route.link}))
    columns = tuple(MadeColumn(*astuple(column)) for column in found.columns)
    return Makeup(frame, found.attributes, fixed, columns, found.aligned)


def shape_of(reading: str) -> str:
    """The part of a reading that stays when a table is emptied; empty for one of an earlier release."""
    return reading[_DIGITS : 2 * _DIGITS]


def frame_of(reading: str) -> str:
    """The part of a reading that stays when the table's own columns, or its parents', are others; empty as above."""
    return reading[2 * _DIGITS :]


def _digest(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:_DIGITS]


@dataclass(frozen=True, slots=True)
class Publishing:
    """What was done to the publication.

    Attributes:
        change: What was altered; None where it could not be now.
        refused: Tables on which statements of the application would fail if they were published, and why.
        trouble: Why it was not altered; empty where it was.
        made: Whether there was none, so that it was made, or would have been.
    """

    change: PublicationChange | None
    refused: Mapping[str, str]
    trouble: str
    made: bool


def check_publication(connection: Connection, settings: Settings, known: int) -> None:
    """Raises JournalError for somebody else's, before anything is done. `known`: the oid of the one that there was."""
    publication = settings.journal.publication
    if is_ours(connection, publication, known) is not False:
        return
    tables = survey_map(connection, settings).tables
    identities = read_identities(connection, tables, publication)
    leaves = {leaf.oid for identity in identities.values() for leaf in identity.leaves}
    check_members(connection, publication, leaves | {mapped.table.oid for mapped in tables})


def publish(connection: Connection, settings: Settings) -> Publishing:
    """Have the publication be of the tables that can be journaled, those that are new to it tried out before."""
    publication = settings.journal.publication
    tables = survey_map(connection, settings).tables
    identities = read_identities(connection, tables, publication)
    usable, _ = _graded(tables, read_definitions(connection, tables), identities)
    wanted = [route.table for route in plan_routes(usable).routes]
    planned = plan_publication(connection, publication, wanted, identities)
    made = any(statement.startswith("CREATE PUBLICATION") for statement in planned.statements)
    refused: dict[str, str] = {}
    try:
        if planned.added:
            new = [table for table in wanted if table.full_name in planned.added]
            problems = probe(connection, new, identities)
            refused = {
                name: f"{one.statement} would fail if it were published: {one.why}" for name, one in problems.items()
            }
            wanted = [route.table for route in plan_routes([t for t in wanted if t.full_name not in refused]).routes]
        return Publishing(ensure_publication(connection, publication, wanted, identities), refused, "", made)
    except (SourceConflict, PrivilegeMissing) as error:
        return Publishing(None, refused, f"{error.what}: {error.why}", made)


def _graded(
    tables: Sequence[MappedTable], definitions: Mapping[str, str], identities: Mapping[str, TableIdentity]
) -> tuple[list[MappedTable], dict[str, str]]:
    grades = {one.table: one for one in grade(tables, identities, definitions)}
    usable = [table for table in tables if grades[table.full_name].kind is GradeKind.JOURNALED]
    return usable, {name: one.why for name, one in grades.items() if one.kind is not GradeKind.JOURNALED}
