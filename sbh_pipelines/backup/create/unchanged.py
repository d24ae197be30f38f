"""Nothing changed costs nothing: tenants that still are what their last backup says, found in one scan per table.

What the catalog of a region knows of each tenant (rows and key hashes by table, a fingerprint of the files) is compared with
the database at one snapshot and with a listing of the files. Where all of it agrees, the catalog records that the backup
describes the tenant at this recovery point as well; no lease is taken, and nothing is written to the tenant's repository.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from sbh_pipelines.backup.create.drafts import Workshop
from sbh_pipelines.backup.create.files_step import files_unchanged
from sbh_pipelines.backup.create.parent import incomparable
from sbh_pipelines.database.capture.capture import each_table
from sbh_pipelines.database.capture.changes import Totals, Window, ages, snapshot_xmin, totals
from sbh_pipelines.database.schema.definition import VOLATILE, read_definitions
from sbh_pipelines.database.schema.key_hash import KeyCode, key_code
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.errors import ObjectMissing, SbhError
from sbh_pipelines.model import BackupId, Draft, DraftStatus, RecoveryPoint, TenantId
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.settings import DatabaseSettings

STEP = "snapshot_tables"
_FILE_LISTINGS = 16

TenantTotals = dict[str, Totals]  # by table


@dataclass
class View:
    """The database at one snapshot."""

    settings: DatabaseSettings
    snapshot_id: str
    point: RecoveryPoint
    connection: Connection
    tenancy: TenancyMap
    definitions: Mapping[str, str] = field(init=False)
    codes: Mapping[str, KeyCode] = field(init=False)

    def __post_init__(self) -> None:
        self.definitions = read_definitions(self.connection, self.tenancy.tables)
        self.codes = {t.full_name: key_code(t) for t in self.tenancy.tables}

    def each_table(self, work: Callable[[Connection, MappedTable], None]) -> None:
        each_table(self.settings, self.snapshot_id, self.tenancy.tables, work)

    def totals(self, since: Mapping[str, tuple[str, int]]) -> dict[str, TenantTotals]:
        """By tenant key, of every table; `since` gives each tenant's (snapshot, seed)."""
        found: dict[str, TenantTotals] = {key: {} for key in since}
        if not since:
            return found
        lock = threading.Lock()

        def work(connection: Connection, table: MappedTable) -> None:
            known = ages(connection, (snapshot_xmin(snapshot) for snapshot, _ in since.values()))
            seen = self.definitions[table.full_name] != VOLATILE  # else nothing tells what is new
            windows = {
                key: Window(known[snapshot_xmin(snap)] if seen else None, seed) for key, (snap, seed) in since.items()
            }
            of_table = totals(connection, table, self.codes[table.full_name], windows)
            with lock:
                for key, mine in of_table.items():
                    found[key][table.full_name] = mine

        self.each_table(work)
        return found


@dataclass(frozen=True, slots=True)
class Compared:
    """A tenant that was compared with what the catalog has of it, and is not the same."""

    record: TenantRecord
    totals: TenantTotals


def state_of(manifest: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the next tick compares with; None for a backup whose release did not record it."""
    tables = [s for name in ("database", "config") for s in components[name]["table_details"]]
    if any("key_hash" not in summary for summary in tables) or "listing" not in components["files"]:
        return None
    return {
        "seed": tables[0]["seed"] if tables else "",
        "tables": {s["table"]: [s["rows"], s["key_hash"], s["definition"]] for s in tables},
        "files": components["files"]["listing"],
    }


def record_of(draft: Draft) -> TenantRecord | None:
    """The catalog's record of a backup that was just published."""
    if draft.manifest is None or draft.recovery_point is None:
        return None
    state = state_of(draft.manifest, draft.manifest["components"])
    return TenantRecord(draft.tenant.id, draft.backup_id, draft.recovery_point, state)


def find_unchanged(shop: Workshop, view: View, drafts: Sequence[Draft]) -> tuple[list[Draft], dict[TenantId, Compared]]:
    """(the drafts, those of unchanged tenants UNCHANGED; what is known of the others)."""
    # A tenant of a region that is not allowed has no catalog; it is refused when its draft is started.
    regions = shop.site.settings.storage.regions
    records = _records(shop, [d for d in drafts if d.tenant.region in regions], view.point)
    since = {
        d.tenant.key: (records[d.tenant.id].point.snapshot, shop.site.catalog(d.tenant.region).hash_seed)
        for d in drafts
        if d.tenant.id in records
    }
    found = view.totals(since)
    compared = {
        d.tenant.id: Compared(records[d.tenant.id], found[d.tenant.key]) for d in drafts if d.tenant.id in records
    }

    def same(draft: Draft) -> bool:
        known = compared.get(draft.tenant.id)
        try:
            return known is not None and _same_rows(view, known) and _same_files(shop, draft, known.record)
        except SbhError:
            return False  # a store that does not answer is the tenant's own error, which it meets when it is started

    with ThreadPoolExecutor(_FILE_LISTINGS, thread_name_prefix="unchanged") as pool:
        verdicts = list(pool.map(same, drafts))
    unchanged = [d for d, is_same in zip(drafts, verdicts, strict=True) if is_same]
    _record(shop, view.point, {d.tenant.id: (d.tenant.region, records[d.tenant.id].backup_id) for d in unchanged})
    done = {
        d.tenant.id: replace(
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


def known_records(shop: Workshop, drafts: Iterable[Draft]) -> dict[TenantId, TenantRecord]:
    """What the catalogs have of these tenants."""
    by_region: dict[str, list[TenantId]] = {}
    for draft in drafts:
        by_region.setdefault(draft.tenant.region, []).append(draft.tenant.id)
    found: dict[TenantId, TenantRecord] = {}
    for region, tenants in by_region.items():
        found |= shop.site.catalog(region).read(tenants)
    return found


def _records(shop: Workshop, drafts: Sequence[Draft], now: RecoveryPoint) -> dict[TenantId, TenantRecord]:
    """Those that can be compared with now."""
    seeds = {draft.tenant.id: shop.site.catalog(draft.tenant.region).seed_id for draft in drafts}
    return {
        tenant: record
        for tenant, record in known_records(shop, drafts).items()
        if record.state is not None and record.state["seed"] == seeds[tenant] and not incomparable(record.point, now)
    }


def _same_rows(view: View, known: Compared) -> bool:
    assert known.record.state is not None
    then: Mapping[str, Sequence[Any]] = known.record.state["tables"]
    if then.keys() != known.totals.keys():
        return False
    return all(
        now.new == 0
        and view.definitions[name] != VOLATILE
        and list(then[name]) == [now.rows, now.key_hash, view.definitions[name]]
        for name, now in known.totals.items()
    )


def _same_files(shop: Workshop, draft: Draft, record: TenantRecord) -> bool:
    """Whether the files are the same, and the backup is still there: one listing shows both where it lies beside the files."""
    assert record.state is not None
    site, facts = shop.site, {"listing": record.state["files"]}
    store, prefix = site.backup_store(draft.tenant)
    manifest = prefix + Keys.manifest(record.backup_id)
    if site.settings.files.enabled:
        files_store, files_prefix = site.files_store(draft.tenant)
        if files_store is store and manifest.startswith(files_prefix):
            missing = {manifest}
            return files_unchanged(site, draft.tenant, facts, missing) and not missing
    try:
        store.head(manifest)
    except ObjectMissing:
        return False
    return files_unchanged(site, draft.tenant, facts)


def _record(shop: Workshop, point: RecoveryPoint, found: Mapping[TenantId, tuple[str, BackupId]]) -> None:
    regions = {region for region, _ in found.values()}
    for region in sorted(regions):
        unchanged = {tenant: backup for tenant, (where, backup) in found.items() if where == region}
        shop.site.catalog(region).record([], unchanged, point)


def record_published(shop: Workshop, drafts: Iterable[Draft]) -> None:
    """Tell the catalogs of backups just published, so that the next tick need not open their repositories.

    A catalog that cannot be written costs the next tick time; the backups are there, and are not to fail for it.
    """
    by_region: dict[str, list[TenantRecord]] = {}
    for draft in drafts:
        if record := record_of(draft):
            by_region.setdefault(draft.tenant.region, []).append(record)
    for region, made in by_region.items():
        try:
            shop.site.catalog(region).record(made)
        except SbhError:
            continue
