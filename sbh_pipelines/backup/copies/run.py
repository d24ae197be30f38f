"""A run of a copy: what changed at the source is brought over, verified there, and recorded.

One run of a copy at a time; a second one is told who runs. A run that lost its lease and goes on does no harm, for both store the
same objects. Per region: the catalog first, then tenants side by side, then what is the platform's, then the journal. What one
tenant fails with keeps no other from being copied, nor does one that takes long. Where eight in a row find a store that does not
answer, no others of the region are tried. Each region has a lease of its own, in its own catalog: one that does not answer keeps no
other from being copied.

Which repositories these are is for `worklist` to say; of one that is not continued any more it is said what lies at the copy.

A tenant is looked at no further where the catalog names the backup that was verified at the copy less than a day ago, and the head
of its audit trail is there as it is here: the head is the last thing that is brought of a tenant, and every hold, backup and
forgetting moves it. Of a tenant that was not whole there when it was verified nothing that is there is believed: all of it is read
anew, by the next run and then once a day, or whenever a run is for the tenant alone. In between what is missing is brought.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from datetime import time as time_of_day
from zoneinfo import ZoneInfo

from sbh_pipelines.backup.copies.copier.region_copy import Stored, region_steps
from sbh_pipelines.backup.copies.copier.tenant_copy import copy_tenant
from sbh_pipelines.backup.copies.copier.transfer import Limiter, PartlyCopied, Transfers, plain_etag
from sbh_pipelines.backup.copies.place import CopyPlace, open_copy, refuse_primary
from sbh_pipelines.backup.copies.results import CopyRun, TenantCopied
from sbh_pipelines.backup.copies.state import COPIES, CopyState, CopyStates, found_wrong
from sbh_pipelines.backup.copies.verification import verify_against
from sbh_pipelines.backup.copies.worklist import Home, housed_platform, left_homes, left_state, work_of
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import as_done, streamed
from sbh_pipelines.errors import (
    CopyUnverified,
    KeyUnopened,
    LeaseHeld,
    ObjectMissing,
    SbhError,
    StoreUnavailable,
    TenantErased,
    unforeseen,
)
from sbh_pipelines.model import HousedTenant, Progress, ProgressSink, Tenant, TenantId, no_progress
from sbh_pipelines.placement import PLATFORM
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.bounds import HEAD_BYTES, all_below
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.places.copies import CopySettings
from sbh_pipelines.stores.base import ObjectInfo

_AT_ONCE = 8  # tenants; how many objects of all of them are on their way at once is `Transfers`' to say
_GIVEN_UP_AFTER = 8  # tenants in a row that find a store that does not answer
_HEADS_AT_ONCE = 16
_VERIFIED_ANEW = timedelta(days=1)  # of a tenant of which nothing changes
_READ_ANEW = timedelta(days=1)  # of a tenant that is not whole there, however often a run finds it so
_UPKEEP = "upkeep-"  # before the name of the lease at the copy
_RECORD_AT = 200  # tenants, after which a run that is killed verifies nothing of theirs again


def run_copy(
    site: Site,
    name: str,
    tenants: Sequence[Tenant],
    *,
    everyone: bool = False,
    unlisted: SbhError | None = None,
    progress: ProgressSink = no_progress,
    verify: bool = True,
    closing: Sequence[str] = (),
) -> CopyRun:
    """Bring over what these tenants and their regions have and the copy has not; a tenant that is not housed brings all
    repositories that its slug ever had. Of a copy of the kind `external` nothing is stored: it is verified.

    `everyone`: what the catalogs know besides, too. `unlisted`: why the application could not say who its tenants are.
    `closing`: the regions of the last run before the copy becomes their primary, at any time of day, from a place that writes no
    more; nothing that was known before is believed.

    Errors are in the result, also what keeps the lease of a region from being taken. Raises LeaseHeld where the copy is made by
    another process, SettingsError where there is no copy of this name, PrimaryFenced where a copy took over from the source,
    CopyError where this one was a primary.
    """
    begun, place = time.monotonic(), open_copy(site, name)
    managed = place.settings.kind == "managed"
    if managed and not closing and not may_begin(place.settings, site.settings, site.clock()):
        return CopyRun(name, (), {}, (), 0, 0, 0.0, outside_hours=True)
    if managed:
        refuse_primary(place, *closing)
    if not closing:
        site.fence.check(*place.regions)
    limiter = Limiter(place.settings.limit_mib_s)
    run = _Run(place, Transfers(place, no_progress, limiter), progress, verify, everyone, unlisted is None, closing)
    with ExitStack() as stack:
        if managed:
            run.silent = _hold(place, stack)
        run.all(tenants)
    stored = [*((one.objects, one.bytes) for one in run.done), *run.shared.values()]
    objects, size = (sum(counts) for counts in zip(*stored, strict=True)) if stored else (0, 0)
    return CopyRun(
        name,
        tuple(sorted(run.done, key=lambda one: (one.region, one.tenant_id == PLATFORM, one.tenant_id, one.home or ""))),
        run.shared,
        tuple(run.issues),
        objects,
        size,
        round(time.monotonic() - begun, 3),
        unlisted=unlisted,
    )


def may_begin(copy: CopySettings, settings: Settings, now: datetime) -> bool:
    """Whether copying may begin at this time."""
    if copy.hours is None:
        return True
    first, last = (time_of_day.fromisoformat(part) for part in copy.hours.split("-"))
    local = now.astimezone(ZoneInfo(settings.schedules.time_zone)).time()
    return first <= local < last if first <= last else local >= first or local < last


def _hold(place: CopyPlace, stack: ExitStack) -> Mapping[str, SbhError]:
    """Take the leases of all regions, until the stack ends; why one could not be. Raises LeaseHeld."""
    silent = dict[str, SbhError]()
    for region in place.regions:
        try:
            stack.enter_context(run_lease(place, region))
        except LeaseHeld:
            raise
        except SbhError as error:
            silent[region] = error
    return silent


@contextmanager
def run_lease(place: CopyPlace, region: str) -> Iterator[None]:
    """One run of a copy at a time, region by region. Raises LeaseHeld, and the errors of the source's store."""
    catalog = place.source.catalog(region)
    prefix, seconds = f"{catalog.prefix}{COPIES}{place.name}/", place.source.settings.backup.lease_s
    owner = leases.new_owner(f"copy {place.name}")
    try:
        held = leases.acquire(catalog.store, prefix, owner, f"copy {place.name}", seconds, place.source.clock)
    except LeaseHeld as error:
        raise LeaseHeld(
            "The copy is being made by another process",
            on=f"{place.name}, {region}",
            why=error.why,
            remedy="wait for it to end; a killed one's lease expires by itself",
        ) from None
    with leases.kept(held, seconds):
        yield


@contextmanager
def upkeep_lease(place: CopyPlace, *regions: str, wait_s: float = 0.0) -> Iterator[None]:
    """While it is held nobody else removes anything from the copy as from a copy, or promotes it. It lies at the copy.

    Raises LeaseHeld after `wait_s` seconds, and the errors of the copy's store.
    """
    seconds, purpose = place.source.settings.backup.lease_s, f"upkeep of the copy {place.name}"
    with ExitStack() as stack:
        for region in regions:
            there = place.target.catalog(region)
            prefix, owner = f"{there.prefix}{COPIES}{place.name}/{_UPKEEP}", leases.new_owner(purpose)
            held = leases.acquire_within(wait_s, there.store, prefix, owner, purpose, seconds, place.source.clock)
            stack.enter_context(leases.kept(held, seconds))
        yield


@dataclass(slots=True)
class _Region:
    """What is known of a region before its repositories are looked at: by their names."""

    recorder: CopyStates
    states: Mapping[str, CopyState] = field(default_factory=dict)
    records: Mapping[TenantId, TenantRecord] = field(default_factory=dict)
    there: Mapping[TenantId, TenantRecord] = field(default_factory=dict)
    heads: frozenset[str] = frozenset()  # of repositories whose trail is at the copy as it is here
    at_copy: bool = False  # whether what is found is recorded there as well

    def is_fresh(self, state: CopyState | None, tenant: Tenant, now: datetime) -> bool:
        """Whether what is known need not be looked at again. What lies still may be deleted, too."""
        if state is None or state.error is not None or state.left_out or state.tenant_key != tenant.key:
            return False
        return state.verified_at is not None and now - state.verified_at <= _VERIFIED_ANEW


@dataclass(slots=True)
class _Run:
    place: CopyPlace
    transfers: Transfers
    progress: ProgressSink
    verify: bool
    everyone: bool
    listed: bool
    closing: Sequence[str]
    silent: Mapping[str, SbhError] = field(default_factory=dict)  # why regions cannot be looked at, by name
    total: int = 0
    done: list[TenantCopied] = field(default_factory=list)
    shared: dict[str, Stored] = field(default_factory=dict)
    issues: list[SbhError] = field(default_factory=list)

    @property
    def _is_managed(self) -> bool:
        return self.place.settings.kind == "managed"

    def all(self, tenants: Sequence[Tenant]) -> None:
        for region in self.closing or self.place.regions:
            self._region(region, [one for one in tenants if one.region == region])
        known = set[TenantId]()
        for region in () if self.closing else self.place.left_regions:
            known |= self._left_region(region)
        for tenant in tenants:
            if tenant.region not in self.place.regions and tenant.id not in known:
                self.done.append(TenantCopied(tenant.id, tenant.region, left_out=self.place.left_out(tenant)))

    def _region(self, region: str, tenants: Sequence[Tenant]) -> None:
        if (silent := self.silent.get(region)) is not None:
            self._not_begun(region, tenants, silent)
            return
        steps = dict(region_steps(self.place, region, self.transfers)) if self._is_managed else {}
        errors: dict[str, SbhError | None] = {}
        if "catalog" in steps:
            errors["catalog"] = self._shared("catalog", steps.pop("catalog"))
        recorder = CopyStates(self.place)
        known = _Region(recorder, at_copy=self._is_managed and errors["catalog"] is None)
        known.states = self._states(recorder, region)
        work = work_of(self.place, region, tenants, known.states, everyone=self.everyone, listed=self.listed)
        self.issues += work.issues
        self.done += [TenantCopied(tenant.id, region, error=error) for tenant, error in work.failed]
        known.records, known.there = work.records, work.there
        homes = [home for home in work.homes if home.left_out is None]
        self.total += len(work.homes)
        if homes and self._is_managed:
            try:
                known.heads = self._equal_heads(region, homes)
            except SbhError as error:  # what cannot be read is not known: then more is looked at
                self.issues.append(error)
        self._tenants(region, homes, known)
        self._leave_out(self.place, region, [home for home in work.homes if home.left_out is not None], known)
        platform = housed_platform(self.place)
        before = known.states.get(platform.home)
        anew = self._is_anew(before)
        if "platform" in steps and anew:
            steps["platform"] = lambda: copy_tenant(self.place, platform, self.transfers, anew=True)
        for kind, step in steps.items():
            errors[kind] = self._shared(kind, step)
        if platform.region == region and self.verify and errors.get("platform") is None:
            self._platform(platform, before, known, anew)
        try:
            recorder.record_steps(region, errors, at_copy=known.at_copy)
        except SbhError as error:
            self.issues.append(error)

    def _not_begun(self, region: str, tenants: Sequence[Tenant], error: SbhError) -> None:
        """Of a region whose lease cannot be taken: nothing is stored but why, as far as somebody can be told."""
        self.issues.append(error)
        for tenant in tenants:
            left_out = self.place.left_out(tenant)
            self.done.append(TenantCopied(tenant.id, region, error=None if left_out else error, left_out=left_out))
        recorder = CopyStates(self.place)
        with suppress(SbhError):  # it is among the issues, whoever else is told
            recorder.read(region)
            recorder.record_steps(region, {"catalog": error}, at_copy=True)

    def _states(self, recorder: CopyStates, region: str) -> Mapping[str, CopyState]:
        try:
            found = recorder.read(region)
        except SbhError as error:
            self.issues.append(error)
            return {}
        self.issues += [*recorder.damages, *([recorder.source_error] if recorder.source_error else ())]
        return found

    def _shared(self, kind: str, step: Callable[[], Stored]) -> SbhError | None:
        try:
            objects, size = step()
        except SbhError as error:
            self.issues.append(error)
            return error
        before = self.shared.get(kind, (0, 0))
        self.shared[kind] = before[0] + objects, before[1] + size
        return None

    def _is_anew(self, state: CopyState | None) -> bool:
        """Whether nothing that is at the copy is believed. Of what something else copies only what reading found needs reading."""
        if state is None or not isinstance(state.error, CopyUnverified | KeyUnopened):
            return False
        if not self._is_managed and not state.deep:
            return False
        is_due = state.anew_at is None or self.place.source.clock() - state.anew_at >= _READ_ANEW
        return is_due or not self.everyone or bool(self.closing)

    def _platform(self, tenant: HousedTenant, before: CopyState | None, known: _Region, anew: bool) -> None:
        """What was brought of the platform's own repository is verified as a tenant's is."""
        stored, _ = self.shared.get("platform", (0, 0))
        if not stored and not self.closing and known.is_fresh(before, tenant, self.place.source.clock()):
            return
        found, after = verify_against(self.place, tenant, before, deep=anew, records={})
        after = self._noted(after, anew)
        if found.backup_id is None and found.error is None:
            return  # there is no backup of the platform yet
        self.done.append(
            TenantCopied(tenant.id, tenant.region, 0, 0, found.backup_id, found.recovery_point, found.error)
        )
        self._record(tenant.region, [after], known)

    def _left_region(self, region: str) -> set[TenantId]:
        """Of a region that is not copied any more: what was copied of it. The tenants that something is known of."""
        place = self.place.with_left_regions()
        recorder = CopyStates(place)
        states = self._states(recorder, region)
        homes = left_homes(place, region, states)
        self._leave_out(place, region, homes, _Region(recorder, states))
        return {home.tenant.id for home in homes}

    def _leave_out(self, place: CopyPlace, region: str, homes: Sequence[Home], known: _Region) -> None:
        """Say of what is not copied what lies there all the same, since when, and why."""
        found = list[CopyState]()
        for home in homes:
            state = known.states.get(home.tenant.home)
            try:
                after = left_state(place, home, state)
            except SbhError as error:
                self.done.append(
                    TenantCopied(home.tenant.id, region, error=error, left_out=home.left_out, home=home.tenant.home)
                )
                continue
            if after is not None and after != state:
                found.append(after)
            kept = after if after is not None and after.backups else None
            self.done.append(
                TenantCopied(
                    home.tenant.id,
                    region,
                    left_out=home.left_out,
                    ended=home.ended,
                    kept_backups=None if kept is None else kept.backups,
                    kept_since=None if kept is None else kept.left_out_since,
                    home=home.tenant.home,
                )
            )
        self._record(region, found, known)

    def _equal_heads(self, region: str, homes: Sequence[Home]) -> frozenset[str]:
        """Of these repositories, those whose trail's head is at the copy as it is here."""
        wanted = {home.tenant.home for home in homes}
        (store, _), (other, _) = (site.audit_store(region) for site in (self.place.source, self.place.target))

        def heads(site: Site) -> dict[str, ObjectInfo]:
            store, below = site.audit_store(region)
            folder = f"{below}heads/"
            named = ((info.key[len(folder) :].removesuffix(".json"), info) for info in all_below(store, folder))
            return {home: info for home, info in named if home in wanted}

        def same(home: str) -> bool:
            """Never by its time: a head that came late may be older than what it stands for."""
            if here[home].size != there[home].size:
                return False
            if plain_etag(here[home].etag) == plain_etag(there[home].etag):
                return True
            with suppress(ObjectMissing):  # no ETag of SSE-KMS is that of another object
                return store.get(here[home].key, HEAD_BYTES) == other.get(there[home].key, HEAD_BYTES)
            return False

        here, there = heads(self.place.source), heads(self.place.target)
        both = sorted(here.keys() & there.keys())
        equal = streamed(same, both, name="heads", threads=_HEADS_AT_ONCE, ahead=4 * _HEADS_AT_ONCE)
        return frozenset(home for home, is_equal in zip(both, equal, strict=True) if is_equal)

    def _tenants(self, region: str, homes: Sequence[Home], known: _Region) -> None:
        unanswered, states = list[SbhError](), list[CopyState]()

        def was_silent(home: Home) -> bool:
            """Come last: eight of them would keep those away at every run that none has reached yet."""
            before = known.states.get(home.tenant.home)
            return before is not None and isinstance(before.error, StoreUnavailable)

        def one(home: Home) -> tuple[TenantCopied, CopyState | None]:
            tenant = home.tenant
            if len(unanswered) >= _GIVEN_UP_AFTER:
                return TenantCopied(tenant.id, region, error=unanswered[-1]), None
            try:
                if not self.closing:
                    self.place.source.fence.check(region)
                return self._tenant(home, known)
            except Exception as error:  # one tenant's damage never ends the others' work
                return self._failed(tenant, known.states.get(tenant.home), unforeseen(error, tenant.id))

        for home, (copied, state) in as_done(one, sorted(homes, key=was_silent), name="copies", threads=_AT_ONCE):
            if isinstance(copied.error, StoreUnavailable):
                unanswered.append(copied.error)
            else:  # a store answered, whatever a tenant's own trouble is
                unanswered.clear()
            self.done.append(replace(copied, ended=home.ended, home=home.tenant.home))
            before = known.states.get(home.tenant.home)
            if state is not None and (before is None or state != replace(before, seen_at=state.seen_at)):
                states.append(state)
            if len(states) >= _RECORD_AT:
                self._record(region, states, known)
                states.clear()
            self.progress(Progress("copy", self.place.name, len(self.done), max(self.total, len(self.done)), "tenants"))
        self._record(region, states, known)

    def _record(self, region: str, states: Sequence[CopyState], known: _Region) -> None:
        try:
            known.recorder.record(region, states, at_copy=known.at_copy)
        except SbhError as error:
            self.issues.append(error)

    def _tenant(self, home: Home, known: _Region) -> tuple[TenantCopied, CopyState | None]:
        tenant = home.tenant
        state, record = known.states.get(tenant.home), known.records.get(TenantId(tenant.home))
        objects = size = 0
        part: SbhError | None = None
        anew = self._is_anew(state)
        if not self._is_unchanged(home, state, record, known):
            try:
                if self._is_managed:
                    objects, size = copy_tenant(self.place, tenant, self.transfers, anew=anew)
            except TenantErased:
                return TenantCopied(tenant.id, tenant.region, left_out="it was erased"), None
            except PartlyCopied as error:
                objects, size, part = error.objects, error.bytes, error
            except SbhError as error:
                copied, failed = self._failed(tenant, state, error)
                return copied, self._noted(failed, anew and not error.transient)
        elif state is not None:
            until = state.until(known.there.get(TenantId(tenant.home)))
            after = state
            if until != state.recovery_point:
                after = replace(state, recovery_point=until, seen_at=self.place.source.clock())
            return TenantCopied(tenant.id, tenant.region, 0, 0, after.backup_id, after.recovery_point), after
        if not self.verify:
            return TenantCopied(tenant.id, tenant.region, objects, size, error=part), None
        found, after = verify_against(
            self.place, tenant, state, deep=anew, records=known.there, expected=record is not None
        )
        error_there = found.error or part
        copied = TenantCopied(
            tenant.id, tenant.region, objects, size, found.backup_id, found.recovery_point, error_there
        )
        return copied, self._noted(replace(after, error=after.error or part), anew)

    def _noted(self, state: CopyState, anew: bool) -> CopyState:
        """That everything was read, and the error is there all the same."""
        return replace(state, anew_at=self.place.source.clock()) if anew and state.error is not None else state

    def _is_unchanged(self, home: Home, state: CopyState | None, record: TenantRecord | None, known: _Region) -> bool:
        tenant = home.tenant
        if self.closing or not self._is_managed or tenant.home not in known.heads:
            return False
        if state is None or not known.is_fresh(state, tenant, self.place.source.clock()):
            return False
        if record is None:  # nothing comes any more; what is done to what is there moves the head
            return bool(home.ended)
        return record.may_be_of(tenant.key) and state.backup_id == record.backup_id

    def _failed(self, tenant: HousedTenant, state: CopyState | None, error: SbhError) -> tuple[TenantCopied, CopyState]:
        """What was whole at the copy is so still."""
        now = self.place.source.clock()
        own = state if state is not None and state.tenant_key == tenant.key else None
        known = (own.backup_id, own.recovery_point, own.verified_at) if own else (None, None, None)
        copied = TenantCopied(tenant.id, tenant.region, 0, 0, known[0], known[1], error)
        after = CopyState(tenant.home, tenant.key, *known, *found_wrong(own, error), now, tenant.tier)
        return copied, replace(after, anew_at=own.anew_at if own else None)
