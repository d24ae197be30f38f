"""Nothing changed costs nothing: tenants that still are what their last backup says, found in one scan per table, or in none.

Where a change journal covers a table, it says whether anything happened to a tenant's rows. Of all other tables, what the
catalog of a region knows of each tenant (rows and key hashes by table) is compared with the database at one snapshot; and a
fingerprint of the files with a listing of them. Where all of it agrees, the catalog records that the backup describes the tenant at
this recovery point as well; no lease is taken, and nothing is written to the tenant's repository.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.create.files.files_step import files_unchanged
from sbh_pipelines.backup.create.journaled.journal_view import JournalView
from sbh_pipelines.backup.create.parent import incomparable
from sbh_pipelines.backup.create.recovery_points import known_records, record_unchanged
from sbh_pipelines.backup.create.snapshot_view import TenantTotals, View
from sbh_pipelines.backup.journal.window.window import Answer
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.database.schema.definition import VOLATILE
from sbh_pipelines.errors import ObjectMissing, SbhError
from sbh_pipelines.files.common_listing import Known, list_together
from sbh_pipelines.files.listing import made_exactly
from sbh_pipelines.model import RecoveryPoint, Tenant, TenantId
from sbh_pipelines.placement import files_place, lies_beside
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.format import Keys

STEP = "snapshot_tables"
_FILE_LISTINGS = 16
_TOGETHER = 20  # tenants of a bucket for which a common listing is tried


@dataclass(frozen=True, slots=True)
class Compared:
    """A tenant that was compared with what the catalog has of it, and is not the same.

    Attributes:
        record: What the catalog has.
        totals: Of the tables that were looked through.
        told: Tables of which the journal tells what happened.
        changed: Whether it may have told of something.
    """

    record: TenantRecord
    totals: TenantTotals
    told: frozenset[str] = frozenset()
    changed: bool = False


def find_unchanged(
    open_drafts: OpenDrafts, view: View, drafts: Sequence[Draft], journal: JournalView
) -> tuple[list[Draft], dict[TenantId, Compared]]:
    """(the drafts, those of unchanged tenants UNCHANGED, or failed where that cannot be recorded; what is known of the others)."""
    # A tenant of a region that is not allowed has no catalog; it is refused when its draft is started.
    regions = open_drafts.site.settings.storage.regions
    records = _records(open_drafts, [d for d in drafts if d.tenant.region in regions], view.point)
    since = {
        d.tenant.key: (records[d.tenant.id].point.snapshot, open_drafts.site.catalog(d.tenant.region).hash_seed)
        for d in drafts
        if d.tenant.id in records
    }
    known = {d.tenant: records[d.tenant.id] for d in drafts if d.tenant.id in records}
    answers = {tenant.key: _told(view, journal, tenant, record) for tenant, record in known.items()}
    wanted = {
        key: () if answer.changed else [name for name in view.definitions if name in answer.reasons]
        for key, answer in answers.items()
    }
    # A tenant one of whose rows cannot be read meets that again when its tables are read, and is told of it then.
    found = view.totals(since, lambda *_: None, wanted)
    compared = {
        tenant.id: Compared(
            record,
            found[tenant.key],
            frozenset(view.definitions.keys() - answers[tenant.key].reasons.keys()),
            answers[tenant.key].changed,
        )
        for tenant, record in known.items()
        if tenant.key in found
    }

    same_rows = {t: known.record for t, known in compared.items() if _same_rows(view, known)}
    listed = _listed_together(open_drafts, [(d, same_rows[d.tenant.id]) for d in drafts if d.tenant.id in same_rows])

    def same(draft: Draft) -> bool:
        known = compared.get(draft.tenant.id)
        try:
            if known is None or draft.tenant.id not in same_rows:
                return False
            if draft.tenant.id not in listed and not _same_files(open_drafts, draft, known.record):
                return False
            if not known.record.is_surely_of(draft.tenant.key):  # of an earlier release
                open_drafts.site.owners.check(draft.tenant)
            return True
        except SbhError:
            return False  # a store that does not answer is the tenant's own error, which it meets when it is started

    verdicts = side_by_side(same, drafts, name="unchanged", threads=_FILE_LISTINGS)
    unchanged = [d for d, is_same in zip(drafts, verdicts, strict=True) if is_same]
    silent = record_unchanged(open_drafts, view.point, {d.tenant: records[d.tenant.id] for d in unchanged})
    done = {
        d.tenant.id: d.failed(STEP, silent[d.tenant.region])
        if d.tenant.region in silent
        else replace(
            d,
            status=DraftStatus.UNCHANGED,
            backup_id=records[d.tenant.id].backup_id,
            step=STEP,
            recovery_point=view.point,
            unchanged_since=records[d.tenant.id].backup_id,
        )
        for d in unchanged
    }
    return [done.get(d.tenant.id, d) for d in drafts], {t: c for t, c in compared.items() if t not in done}


def _records(open_drafts: OpenDrafts, drafts: Sequence[Draft], now: RecoveryPoint) -> dict[TenantId, TenantRecord]:
    """Those that can be compared with now; of a region whose catalog does not answer none."""
    found = dict[TenantId, TenantRecord]()
    for region in {draft.tenant.region for draft in drafts}:
        with suppress(SbhError):  # each of its tenants meets that again when it is started
            seed = open_drafts.site.catalog(region).seed_id
            here = known_records(open_drafts, [draft for draft in drafts if draft.tenant.region == region])
            found |= {
                tenant: record
                for tenant, record in here.items()
                if record.state is not None and record.state.seed == seed and not incomparable(record.point, now)
            }
    return found


def _told(view: View, journal: JournalView, tenant: Tenant, record: TenantRecord) -> Answer:
    """What the journal says since the record; nothing of tables that are not what they were then."""
    assert record.state is not None
    then, now = record.state.tables, view.definitions
    same = [name for name in now if name in then and then[name][2] == now[name] != VOLATILE]
    if not journal.enabled or not record.is_surely_of(tenant.key):
        return Answer(dict.fromkeys(now, ""))
    answer = journal.ask(tenant, record.point.snapshot, same)
    return replace(answer, reasons={**answer.reasons, **{name: "" for name in now if name not in same}})


def _same_rows(view: View, known: Compared) -> bool:
    assert known.record.state is not None
    then = known.record.state.tables
    if known.changed or then.keys() != view.definitions.keys():
        return False
    return all(
        now.new == 0
        and view.definitions[name] != VOLATILE
        and list(then[name]) == [now.rows, now.key_hash, view.definitions[name]]
        for name, now in known.totals.items()
    )


def _listed_together(open_drafts: OpenDrafts, drafts: Sequence[tuple[Draft, TenantRecord]]) -> set[TenantId]:
    """Those whose files are the same and whose backup is still there, by common listings. Of others that is not said."""
    site = open_drafts.site
    start = site.settings.files.prefix.partition("{tenant}")[0]
    found = set[TenantId]()
    if not site.settings.files.enabled or "{tenant}" in site.settings.files.bucket:
        return found
    groups = defaultdict[tuple[str, str], dict[str, tuple[Known, Draft, str]]](dict)
    for draft, record in drafts:
        try:
            files, own = files_place(site.settings, draft.tenant), site.backup_place(draft.tenant)
        except SbhError:
            continue  # it meets that again when it is looked at alone
        manifest = own.prefix + Keys.manifest(record.backup_id)
        if lies_beside(site.settings, files, own) and record.state is not None and record.state.files:
            known = Known(files.prefix, [manifest])
            groups[files.bucket, files.region][files.prefix] = known, draft, record.state.files
    for (_, region), tenants in groups.items():
        if len(tenants) < _TOGETHER:
            continue
        store, _ = site.files_store(next(draft for _, draft, _ in tenants.values()).tenant)
        beginning = start.replace("{region}", region)
        exclude = site.settings.files.exclude
        for prefix, seen in list_together(store, beginning, [one for one, _, _ in tenants.values()], exclude).items():
            _, draft, fingerprint = tenants[prefix]
            if not seen.missing and seen.found.text(made_exactly(fingerprint)) == fingerprint:
                found.add(draft.tenant.id)
    return found


def _same_files(open_drafts: OpenDrafts, draft: Draft, record: TenantRecord) -> bool:
    """Whether the files are the same, and the backup is still there: one listing shows both where it lies beside the files."""
    assert record.state is not None
    site, known = open_drafts.site, record.state.files
    store, prefix = site.backup_store(draft.tenant)
    manifest = prefix + Keys.manifest(record.backup_id)
    places = files_place(site.settings, draft.tenant), site.backup_place(draft.tenant)
    if site.settings.files.enabled and lies_beside(site.settings, *places):
        missing = {manifest}
        return files_unchanged(site, draft.tenant, known, missing) and not missing
    try:
        store.head(manifest)
    except ObjectMissing:
        return False
    return files_unchanged(site, draft.tenant, known)
