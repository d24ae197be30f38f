"""A look at one tenant's repository: what health and metrics need to know of it, in sums of constant size.

A first look costs seven requests and one unwrapping of the tenant's key: listings of manifests (twice), failures, drills
and holds, the key object and `listing.json`; besides, a request for each manifest that `listing.json` lacks, for each of
the newest failure records, and for the newest drill. Where a look is had already, the listings of manifests, failures and
drills say whether anything has changed since: three requests, and no key.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sbh_pipelines.backup.contents.backup_list import read_backups
from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.backup.drill.records import drill_ids, read_records
from sbh_pipelines.backup.health.unusual_size import Odd, odd_sizes
from sbh_pipelines.backup.retain.forget import Plan, plan_by_policy
from sbh_pipelines.backup.retain.policy import policy_of
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import ObjectMissing, RepositoryError, SbhError, SettingsError
from sbh_pipelines.model import BackupId, Tenant
from sbh_pipelines.repository.catalog.erased import refuse_erased
from sbh_pipelines.repository.documents import list_manifest_ids
from sbh_pipelines.repository.format import Keys, parse_document

UNKNOWN = "unknown"  # the type of a failure whose record was not read
_FAILURES_READ = 20  # the newest ones
_ERRORS_KEPT = 5


@dataclass(frozen=True, slots=True)
class TypeSums:
    """Of a tenant's backups of one type that are there. Bytes, seconds; `timed` of them have a duration."""

    count: int = 0
    size: int = 0
    logical: int = 0
    stored: int = 0
    seconds: float = 0.0
    timed: int = 0
    newest: datetime | None = None

    def __add__(self, other: "TypeSums") -> "TypeSums":
        newest = max((t for t in (self.newest, other.newest) if t is not None), default=None)
        return TypeSums(
            self.count + other.count,
            self.size + other.size,
            self.logical + other.logical,
            self.stored + other.stored,
            self.seconds + other.seconds,
            self.timed + other.timed,
            newest,
        )


@dataclass(frozen=True, slots=True)
class Drill:
    """A tenant's newest drill."""

    id: str
    at: str
    status: str
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Look:
    """`at`: when it was had; `whole_at`: when all of it was read. `error`: why nothing is known, or not all."""

    tenant: Tenant
    at: datetime
    whole_at: datetime
    digest: str = ""
    sums: Mapping[str, TypeSums] = field(default_factory=dict)
    newest: BackupSummary | None = None
    oldest_at: datetime | None = None
    damaged: int = 0
    damages: tuple[SbhError, ...] = ()
    failed: Mapping[str, int] = field(default_factory=dict)
    last_failure: Mapping[str, Any] | None = None  # the record, of the newest one
    drills: int = 0
    drill: Drill | None = None
    doomed: int = 0
    retention_error: SbhError | None = None
    odd: tuple[Odd, ...] = ()
    error: SbhError | None = None

    @property
    def backups(self) -> TypeSums:
        return sum(self.sums.values(), TypeSums())


def look(site: Site, tenant: Tenant, before: Look | None = None, fully_after_s: float = 0.0) -> Look:
    """A new look; where nothing has changed since `before`, that one. What goes wrong is its `error`."""
    now = site.clock()
    try:
        store, prefix = site.backup_store(tenant)
        ids = list_manifest_ids(store, prefix)
        failures = sorted(
            info.key.rsplit("/", 1)[1].removesuffix(".json") for info in store.list(prefix + Keys.FAILURES)
        )
        drills = drill_ids(site, tenant)
        text = "\n".join([tenant.region, tenant.tier, *ids, "", *failures, "", *drills])
        digest = hashlib.sha256(text.encode()).hexdigest()
        if before is not None and before.error is None and not before.damaged and before.digest == digest:
            young = (now - before.whole_at).total_seconds() < fully_after_s
            if young:
                return replace(before, at=now)
        base = Look(tenant, now, now, digest, drills=len(drills))
        base = _with_failures(site, base, failures)
        if drills:
            record = next(read_records(site, tenant, drills[:1]), None)
            if record is not None:
                at = str(record.get("finished_at") or "")
                base = replace(base, drill=Drill(str(drills[0]), at, str(record["status"]), record["error"]))
        if ids:
            return _with_backups(site, base, ids)
        refuse_erased(site.catalog(tenant.region), tenant.id)
        return base
    except SbhError as error:
        return Look(tenant, now, now, error=error)


def _with_failures(site: Site, base: Look, names: Sequence[str]) -> Look:
    store, prefix = site.backup_store(base.tenant)
    types: Counter[str] = Counter({UNKNOWN: max(0, len(names) - _FAILURES_READ)})
    last: Mapping[str, Any] | None = None
    for name in reversed(names[-_FAILURES_READ:]):
        key = prefix + Keys.failure(name)
        try:
            record = parse_document(store.get(key), store.url(key))
        except ObjectMissing:
            continue  # pruned since it was listed
        except RepositoryError:
            record = {"id": name}
        types[str(record.get("type") or UNKNOWN)[:32]] += 1
        last = last or record
    return replace(base, failed={kind: count for kind, count in types.items() if count}, last_failure=last)


def _with_backups(site: Site, base: Look, ids: Sequence[BackupId]) -> Look:
    repository = site.repository(base.tenant)
    try:
        error: SbhError | None = None
        try:
            plan = plan_by_policy(repository, policy_of(site.settings.retention, base.tenant))
        except SettingsError as found:  # the policy cannot be applied at all: the backups are there all the same
            plan, error = Plan((), read_backups(repository)), found
    finally:
        repository.close()
    sound = list(plan.backups.sound.values())
    sums: dict[str, TypeSums] = {}
    for backup in sound:
        sums[str(backup.type)] = sums.get(str(backup.type), TypeSums()) + _sums_of(backup)
    damages = tuple(plan.backups.damaged.values())
    return replace(
        base,
        sums=sums,
        newest=max(sound, key=lambda b: (b.created_at, b.id), default=None),
        oldest_at=min((b.created_at for b in sound), default=None),
        damaged=len(damages),
        damages=damages[:_ERRORS_KEPT],
        doomed=len(plan.doomed),
        retention_error=error,
        odd=tuple(odd_sizes(sound, site.settings.health)),
    )


def _sums_of(backup: BackupSummary) -> TypeSums:
    figures = backup.figures
    if figures is None:
        return TypeSums(1, newest=backup.created_at)
    timed = figures.seconds is not None
    return TypeSums(
        1, figures.size, figures.logical, figures.stored, figures.seconds or 0.0, int(timed), backup.created_at
    )
