"""An observation of one tenant's repository: what health and metrics need to know of it, in sums of constant size.

A first observation costs seven requests and one unwrapping of the tenant's key: listings of manifests (twice), failures, drills
and holds, the key object and `listing.json`; besides, a request for each manifest that `listing.json` lacks, for each of
the newest failure records, and for the newest drill. Where there is one already, the listings of manifests, failures and
drills say whether anything has changed since: three requests, and no key.
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sbh_pipelines.backup.contents.backup_list import read_backups
from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.backup.drill.records import DrillRecord, drill_ids, read_records
from sbh_pipelines.backup.health.unusual_size import UnusualMeasure, unusual_measures
from sbh_pipelines.backup.retain.forget import ForgetPlan, policy_plan
from sbh_pipelines.backup.retain.policy import policy_of
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import ObjectMissing, RepositoryError, SbhError, SettingsError, error_from_dict, unforeseen
from sbh_pipelines.model import BackupId, Tenant, TenantId, parse_timestamp
from sbh_pipelines.repository.bounds import listed, most_bytes
from sbh_pipelines.repository.documents import list_manifest_ids
from sbh_pipelines.repository.format import Keys, parse_document

UNKNOWN = "unknown"  # the type of a failure whose record was not read
_FAILURES_READ = 20  # the newest ones
_ERRORS_KEPT = 5


@dataclass(frozen=True, slots=True)
class TypeSums:
    """Sums over backups of one type that are there.

    Attributes:
        count: How many.
        size: Of what manifests call `size`, bytes.
        logical: Of what they would bring back, bytes.
        stored: Of what they added to the store, bytes.
        seconds: Of their durations, s.
        timed: How many have a duration.
        newest: Creation time of the newest, UTC.
    """

    count: int = 0
    size: int = 0
    logical: int = 0
    stored: int = 0
    seconds: float = 0.0
    timed: int = 0
    newest: datetime | None = None

    @property
    def mean_seconds(self) -> float | None:
        """Mean duration of those that have one, s."""
        return round(self.seconds / self.timed, 3) if self.timed else None

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
class NewestDrill:
    """A tenant's newest drill.

    Attributes:
        id: Its id.
        finished_at: Time at which it ended, UTC, ISO 8601; empty where its record does not say.
        status: How it ended, as its record says.
        error: Why it did not pass.
    """

    id: str
    finished_at: str
    status: str
    error: SbhError | None


@dataclass(frozen=True, slots=True)
class NewestFailure:
    """A tenant's newest backup that failed.

    Attributes:
        id: Id of the backup that was to be made.
        type: Its type; `unknown` where the record cannot be read.
        failed_at: Time of the failure, UTC; None where the record does not say.
        error: Why it failed; None where the record does not say.
    """

    id: str
    type: str
    failed_at: datetime | None
    error: SbhError | None

    @property
    def why(self) -> str:
        """The error in one line, without its remedy."""
        return str(self.error).partition(". To mend it:")[0] if self.error else ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one tenant's repository.

    Attributes:
        tenant: Whose repository.
        observed_at: Time of the observation, UTC.
        read_at: Time at which all of it was read, UTC; later observations that found nothing changed do not move it.
        digest: Of the listings, by which the next observation tells whether anything has changed.
        sums: Of the backups that are there, by type.
        newest: The newest backup that can be read.
        oldest_at: Creation time of the oldest backup that can be read, UTC.
        damaged: How many manifests cannot be read.
        damages: Why, of the first few of them.
        failed: How many failures are on record, by type.
        newest_failure: The newest of them.
        drills: How many drills are on record.
        newest_drill: The newest of them.
        doomed: How many backups the retention policy no longer keeps.
        retention_error: Why the policy cannot be applied.
        unusual: What is unusual about the size of the newest backup.
        error: Why nothing is known, or not all.
    """

    tenant: Tenant
    observed_at: datetime
    read_at: datetime
    digest: str = ""
    sums: Mapping[str, TypeSums] = field(default_factory=dict)
    newest: BackupSummary | None = None
    oldest_at: datetime | None = None
    damaged: int = 0
    damages: tuple[SbhError, ...] = ()
    failed: Mapping[str, int] = field(default_factory=dict)
    newest_failure: NewestFailure | None = None
    drills: int = 0
    newest_drill: NewestDrill | None = None
    doomed: int = 0
    retention_error: SbhError | None = None
    unusual: tuple[UnusualMeasure, ...] = ()
    error: SbhError | None = None

    @property
    def backups(self) -> TypeSums:
        return sum(self.sums.values(), TypeSums())

    @property
    def files_missing(self) -> int:
        """Files that rows of the newest backup refer to and that were not there when it was made."""
        return self.newest.figures.missing if self.newest is not None and self.newest.figures is not None else 0


def observe(site: Site, tenant: Tenant, before: Observation | None = None, fully_after_s: float = 0.0) -> Observation:
    """A new observation; where nothing has changed since `before`, that one. What goes wrong is its `error`."""
    now = site.clock()
    try:
        store, prefix = site.backup_store(tenant)
        ids = list_manifest_ids(store, prefix)
        failures = sorted(
            info.key.rsplit("/", 1)[1].removesuffix(".json") for info in listed(store, prefix, Keys.FAILURES)
        )
        drills = drill_ids(site, tenant)
        text = "\n".join([tenant.region, tenant.tier, *ids, "", *failures, "", *drills])
        digest = hashlib.sha256(text.encode()).hexdigest()
        if before is not None and before.error is None and not before.damaged and before.digest == digest:
            young = (now - before.read_at).total_seconds() < fully_after_s
            if young:
                return replace(before, observed_at=now)
        base = Observation(tenant, now, now, digest, drills=len(drills))
        base = _with_failures(site, base, failures)
        if drills:
            record = next(read_records(site, tenant, drills[:1]), None)
            if record is not None:
                finished_at = record.finished_at if isinstance(record, DrillRecord) else ""
                newest = NewestDrill(drills[0], finished_at, record.status, record.error)
                base = replace(base, newest_drill=newest)
        if ids:
            return _with_backups(site, base, ids)
        site.owners.check(tenant)
        site.admit(tenant)
        return base
    except SbhError as error:
        return Observation(tenant, now, now, error=error)
    except Exception as error:  # one tenant's damage is not everybody's blindness
        return Observation(tenant, now, now, error=unforeseen(error, tenant.id))


def _with_failures(site: Site, base: Observation, names: Sequence[str]) -> Observation:
    store, prefix = site.backup_store(base.tenant)
    types: Counter[str] = Counter({UNKNOWN: max(0, len(names) - _FAILURES_READ)})
    newest: NewestFailure | None = None
    for name in reversed(names[-_FAILURES_READ:]):
        key = prefix + Keys.failure(name)
        try:
            failure = _failure_of(parse_document(store.get(key, most_bytes(Keys.FAILURES)), store.url(key)))
        except ObjectMissing:
            continue  # pruned since it was listed
        except RepositoryError:
            failure = NewestFailure(name, UNKNOWN, None, None)
        types[failure.type] += 1
        newest = newest or failure
    return replace(base, failed={kind: count for kind, count in types.items() if count}, newest_failure=newest)


def _failure_of(record: Mapping[str, Any]) -> NewestFailure:
    """A failure record, as `drafts` writes it; nothing of it is signed."""
    at, error = record.get("failed_at"), record.get("error")
    failed_at = None
    with suppress(ValueError):
        failed_at = parse_timestamp(str(at)) if at else None
    kind = str(record.get("type") or UNKNOWN)[:32]
    return NewestFailure(
        str(record.get("id")), kind, failed_at, error_from_dict(error) if isinstance(error, dict) and error else None
    )


def _with_backups(site: Site, base: Observation, ids: Sequence[BackupId]) -> Observation:
    with site.repository(base.tenant) as repository:
        error: SbhError | None = None
        try:
            plan = policy_plan(repository, policy_of(site.settings.retention, base.tenant))
        except SettingsError as found:  # the policy cannot be applied at all: the backups are there all the same
            plan, error = ForgetPlan((), read_backups(repository)), found
    sound = list(plan.backups.sound.values())
    sums: dict[str, TypeSums] = {}
    for backup in sound:
        sums[str(backup.type)] = sums.get(str(backup.type), TypeSums()) + _sums_of(backup)
    damages = tuple(plan.backups.damaged.values())
    return replace(
        base,
        sums=sums,
        newest=max((b for b in sound if not b.recovered), key=lambda b: (b.created_at, b.id), default=None),
        oldest_at=min((b.created_at for b in sound if not b.recovered), default=None),
        damaged=len(damages),
        damages=damages[:_ERRORS_KEPT],
        doomed=len(plan.doomed),
        retention_error=error,
        unusual=tuple(unusual_measures(sound, site.settings.health)),
    )


def _sums_of(backup: BackupSummary) -> TypeSums:
    figures = backup.figures
    if figures is None:
        return TypeSums(1, newest=backup.created_at)
    timed = figures.seconds is not None
    return TypeSums(
        1, figures.size, figures.logical, figures.stored, figures.seconds or 0.0, int(timed), backup.created_at
    )


_BETWEEN_CLOCKS = 32  # tenants, before the budget is looked at again


_MOST_STORES = 8


class Observations:
    """Observations of all tenants, kept with their times, so that asking often costs little. Thread-safe; one renewal at a time.

    Some two KiB for each tenant. With a budget, the oldest observations are renewed first, and the others stay as they are,
    which their time tells.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[TenantId, Observation] = {}

    def renewed(
        self,
        site: Site,
        tenants: Sequence[Tenant],
        newest: Mapping[TenantId, BackupId],
        *,
        max_age_s: float,
        fully_after_s: float,
        budget_s: float | None = None,
    ) -> dict[TenantId, Observation]:
        """An observation of each tenant, none older than `max_age_s` unless the budget was too small: then some may be missing.

        `newest`: the newest backup that the catalog knows of; where an observation has not seen it yet, there is a
        new one. So is there where the last one failed.
        """
        wanted = {tenant.id: tenant for tenant in tenants}
        with self._lock:
            now, limit = site.clock(), timedelta(seconds=max_age_s)
            due = [tenant for tenant in tenants if self._due(tenant, now - limit, now, newest)]
            due.sort(key=lambda tenant: (self._time_of(tenant), tenant.id))
            until = None if budget_s is None else time.monotonic() + budget_s
            for first in range(0, len(due), _BETWEEN_CLOCKS):
                if until is not None and time.monotonic() >= until:
                    break
                some = due[first : first + _BETWEEN_CLOCKS]
                for seen in side_by_side(lambda t: self._observe(site, t, fully_after_s), some, name="observations"):
                    self._known[seen.tenant.id] = seen
            return {tenant_id: known for tenant_id in wanted if (known := self._known.get(tenant_id)) is not None}

    def _due(self, tenant: Tenant, before: datetime, now: datetime, newest: Mapping[TenantId, BackupId]) -> bool:
        known = self._known.get(tenant.id)
        if known is None or not before < known.observed_at <= now or known.tenant != tenant or known.error is not None:
            return True
        seen = "" if known.newest is None else known.newest.id
        return newest.get(tenant.id, BackupId("")) > seen

    def _time_of(self, tenant: Tenant) -> float:
        known = self._known.get(tenant.id)
        return 0.0 if known is None else known.observed_at.timestamp()

    def keep_only(self, tenants: Sequence[Tenant]) -> None:
        """Drop the observations of tenants that are gone."""
        known = {tenant.id for tenant in tenants}
        with self._lock:
            self._known = {tenant_id: kept for tenant_id, kept in self._known.items() if tenant_id in known}

    def _observe(self, site: Site, tenant: Tenant, fully_after_s: float) -> Observation:
        before = self._known.get(tenant.id)
        if before is not None and before.tenant != tenant:
            before = None
        return observe(site, tenant, before, fully_after_s)


_OF_STORES: dict[str, Observations] = {}


_CHOOSING = threading.Lock()


def observations_of(site: Site) -> Observations:
    """This process's observations of what the site's settings lead to: services come and go, Dagster makes one per tick."""
    settings = site.settings
    named = "\n".join(
        part.model_dump_json() for part in (settings.storage, settings.retention, settings.health, settings.keys)
    )
    with _CHOOSING:
        if named not in _OF_STORES and len(_OF_STORES) >= _MOST_STORES:
            _OF_STORES.pop(next(iter(_OF_STORES)))
        return _OF_STORES.setdefault(named, Observations())
