"""A backup of a moment that is there already: whether it may stand for the same moment once more."""

from collections.abc import Iterable, Mapping, Sequence

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.moment_facts import MomentFacts
from sbh_pipelines.backup.create.moment.way.choice import MomentChoice
from sbh_pipelines.model import parse_timestamp
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.segments.changes import microseconds_of, parse_lsn


def existing(manifests: Sequence[Manifest], choice: MomentChoice) -> list[Manifest]:
    """Backups of exactly this moment and these tables, the newest first."""
    tables = sorted(choice.tables)
    found = []
    for manifest in sorted(manifests, key=lambda one: one.id, reverse=True):
        facts = manifest.moment if manifest.is_recovered else None
        if facts is None or facts.asked != choice.target.text:
            continue
        if _same_tables(facts.tables, tables) and choice.accepts_all(facts.as_of_backup):
            found.append(manifest)
    return found


def is_doubted(manifest: Manifest, base: Manifest | None, tenant_key: str, gaps: Iterable[Gap]) -> bool:
    """Whether what was laid over its base is not believed any more: a gap that was recorded since lies on the way to the moment.

    `base`: the one it was put together from; None where that is not there any more.
    """
    facts = manifest.moment
    assert facts is not None
    start = parse_lsn(base.recovery_point.lsn) if base is not None else 0
    # A base that a tick found unchanged is left later than at its own instant, and what was told until then was not used.
    exact = base is not None and base.point_time == facts.base_time
    made, edge = microseconds_of(parse_timestamp(manifest.created_at)), parse_lsn(manifest.recovery_point.lsn)
    return any(
        gap.incarnation == facts.incarnation
        and _touches(gap, facts, tenant_key)
        and gap.lies_between(start, edge)
        and (exact or gap.time >= made)
        for gap in gaps
    )


def _touches(gap: Gap, facts: MomentFacts, tenant_key: str) -> bool:
    """Whether it is of the tenant, and of a table that has changes of the journal in it."""
    if (gap.table is None and gap.tenant is None) or gap.tenant not in (None, tenant_key):
        return False  # what ends a whole chain is seen by where its segments end
    as_of_backup: Mapping[str, str] = facts.as_of_backup
    return gap.table is None or (gap.table not in as_of_backup and (facts.tables is None or gap.table in facts.tables))


def _same_tables(has: Sequence[str] | None, wanted: Sequence[str]) -> bool:
    if has is None or not wanted:
        return has is None and not wanted
    bare = {name.split(".", 1)[1] for name in has}
    return len(has) == len(wanted) and all(name in has or name in bare for name in wanted)
