"""Puts a backup of a moment together: an ordinary backup, written and verified like any other, that stands aside.

Written in the order of every backup: packs, index, documents, and the manifest last. A run that is killed leaves nothing but what
prune takes away.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

from sbh_pipelines.backup.contents.manifest import WITH_TABLES, Component
from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.moment_facts import MomentFacts, TransactionPlace
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import OpenDrafts, new_draft, start
from sbh_pipelines.backup.create.moment.files import files_at_moment
from sbh_pipelines.backup.create.moment.references import References, referring_columns, sinks_of
from sbh_pipelines.backup.create.moment.tables import lay_table, rows_of
from sbh_pipelines.backup.create.moment.way.choice import MomentChoice
from sbh_pipelines.backup.create.moment.way.plan import Drain, Plan, planned
from sbh_pipelines.backup.create.moment.way.stop import Commit
from sbh_pipelines.backup.create.publish import verify_checksums, write_manifest
from sbh_pipelines.document import as_document
from sbh_pipelines.model import (
    RECOVERED,
    BackupType,
    Progress,
    ProgressSink,
    RecoveryPoint,
    Tenant,
    no_progress,
    parse_timestamp,
)
from sbh_pipelines.repository.format import DATABASE
from sbh_pipelines.repository.journal.segments.changes import commit_time, lsn_text
from sbh_pipelines.repository.journal.segments.room import moment_folder
from sbh_pipelines.repository.pack import PackPipeline, pipeline, written

STEP = "moment"


def materialise(
    open_drafts: OpenDrafts,
    tenant: Tenant,
    choice: MomentChoice,
    created_by: str,
    *,
    drain: Drain | None = None,
    description: str | None = None,
    via: str = "",
    progress: ProgressSink = no_progress,
) -> Draft:
    """Put the tenant together as it was at the moment and commit it; its draft, of which the lease is still held: `end` it.

    A draft that failed has its error. `drain` is called where the journal does not go far enough yet. The server is not asked.
    Raises MomentOutOfReach, NotJournaled, RequestError before anything is written.
    """
    site = open_drafts.site
    with site.repository(tenant) as repository:
        repository.load_index()
        with planned(site, repository, tenant, choice, drain) as plan:
            fresh = new_draft(tenant, created_by, BackupType.FULL, description, site.clock())
            draft = start(open_drafts, replace(fresh, purpose=RECOVERED, via=via))
            if draft.status is not DraftStatus.RUNNING:
                return draft
            try:
                (draft,) = open_drafts.each(
                    [draft], STEP, lambda one: _filled(open_drafts, one, choice, plan, progress)
                )
            except BaseException:
                open_drafts.end(draft)
                raise
    try:
        drafts = write_manifest(open_drafts, [draft])
        (draft,) = verify_checksums(open_drafts, drafts, progress)
    except BaseException:
        open_drafts.end(draft)
        raise
    return draft


def _filled(open_drafts: OpenDrafts, draft: Draft, choice: MomentChoice, plan: Plan, progress: ProgressSink) -> Draft:
    """The draft with its components. Raises JournalGap, MomentOutOfReach, CorruptObject, and the store's errors."""
    settings = open_drafts.site.settings
    read_manifest(
        open_drafts.repository(draft), plan.base.manifest.id
    )  # under the lease: it was not forgotten meanwhile
    moment = _moment(plan, choice)
    readers = ThreadPoolExecutor(settings.files.connections, thread_name_prefix="files")
    with open_drafts.kept([draft]), pipeline(settings.backup) as packs, readers:
        draft = _with_tables(open_drafts, draft, plan, packs, progress)
        draft = replace(draft, recovery_point=_point(plan, moment))
        draft, files = files_at_moment(open_drafts, draft, plan.base.manifest.id, moment, packs, readers, progress)
    facts = _facts(plan, choice, as_document(files))
    return replace(draft, moment=facts.as_dict(), left_out={**plan.base.manifest.left_out, **plan.selection.left_out})


def _with_tables(
    open_drafts: OpenDrafts, draft: Draft, plan: Plan, packs: PackPipeline, progress: ProgressSink
) -> Draft:
    repository = open_drafts.repository(draft)
    writer = repository.writer(packs)
    wanted = {
        name: [table for table in part.tables if table.table in plan.selection.tables]
        for name, part in plan.base.components.items()
    }
    every = {table.table: table for tables in wanted.values() for table in tables}
    columns = referring_columns(open_drafts.site.settings, every)
    laid: dict[str, TableSummary] = {}
    changed = 0
    try:
        with moment_folder() as folder, References(folder) as references:
            remade = {t: one for t, one in plan.laid.remade.items() if t not in plan.selection.as_of_backup}
            sinks = sinks_of(references, repository, every, columns, remade)
            for table, summary in every.items():
                done = summary
                if table not in plan.selection.as_of_backup:
                    snapshot = plan.base.point.snapshot
                    one = lay_table(
                        repository, writer, plan.merge, summary, snapshot, sinks.get(table), remade.get(table)
                    )
                    done, changed = one.summary, changed + one.changed
                laid[table] = done
                progress(Progress(STEP, draft.tenant.id, len(laid), len(every), "tables"))
            chunks = plan.base.components[DATABASE].reference_keys
            if any(laid[table] is not every[table] for table in columns) or len(every) < len(plan.base.definitions):
                for table in columns:
                    for row in rows_of(repository, every[table]) if laid[table] is every[table] else ():
                        sinks[table](row)
                chunks = references.write(writer)
        writer.finish()
        index = repository.write_index(draft.backup_id, DATABASE, writer)
    except BaseException:
        writer.abort()
        raise
    components = {
        name: _component(plan.base.components[name], [laid[table.table] for table in wanted[name]], chunks)
        for name in WITH_TABLES
    }
    counted = draft.with_counters(
        rows=sum(table.rows for table in laid.values()),
        tables=len(laid),
        groups=sum(table.groups for table in laid.values()),
        table_bytes=sum(table.bytes for table in laid.values()),
        rows_changed=changed,
        **written(writer),
    )
    return replace(counted, step=STEP, components=components, objects=(*draft.objects, *index))


def _component(before: Component, tables: Sequence[TableSummary], references: Sequence[str]) -> Component:
    """A component of the base with the tables of the moment; the application's schema stays what the base says."""
    if "reference_keys" in before.facts:
        return Component.of_tables(before.type, tables, reference_keys=list(references))
    return Component.of_tables(before.type, tables, detail=list(before.detail))


def _moment(plan: Plan, choice: MomentChoice) -> datetime:
    """When it was: as asked; else just before what is left out, or the latest that is known not to be behind it."""
    if choice.target.time is not None:
        return choice.target.time
    laid = plan.laid
    if choice.target.before is not None and laid.first_out is not None:
        return commit_time(laid.first_out.time) - timedelta(microseconds=1)
    known = [commit_time(laid.fence.time), parse_timestamp(plan.base.point.time)]
    return max([*known, *([commit_time(laid.last_in.time)] if laid.last_in is not None else [])])


def _point(plan: Plan, moment: datetime) -> RecoveryPoint:
    """Of the base's server. Its snapshot stays the base's: that of the moment is nowhere written."""
    return replace(plan.base.point, time=_iso(moment), lsn=lsn_text(plan.laid.edge))


def _facts(plan: Plan, choice: MomentChoice, files: Mapping[str, object]) -> MomentFacts:
    laid = plan.laid
    return MomentFacts(
        asked=choice.target.text,
        base=plan.base.manifest.id,
        base_time=plan.base.point.time,
        incarnation=plan.chain.incarnation.text,
        transactions=laid.transactions,
        changes=laid.changes,
        last_in=_place(laid.last_in),
        first_out=_place(laid.first_out),
        tables=sorted(plan.selection.tables) if plan.selection.chosen else None,
        as_of_backup=plan.selection.as_of_backup,
        files=files,
    )


def _place(commit: Commit | None) -> TransactionPlace | None:
    return (
        None if commit is None else TransactionPlace(lsn_text(commit.lsn), commit.xid, _iso(commit_time(commit.time)))
    )


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
