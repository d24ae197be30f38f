"""Whose repositories a copy is of: those of the tenants that the application lists, and all others that are there.

The application lists who is a customer now. A repository outlives that: a row is deleted, a slug is given to another tenant, the
database is away. What the catalogs of both ends name, and what is known at the copy, is copied, verified, kept and locked as well,
until a retention ends it. Only who was erased stays out.

Memory: some hundred bytes for each repository, beside what a catalog keeps of it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.ownership import described_tenant
from sbh_pipelines.backup.copies.erased import is_proven_erased
from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.backup.copies.state import CopyState
from sbh_pipelines.backup.site.owners import Owners
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import ObjectMissing, SbhError
from sbh_pipelines.model import HousedTenant, Tenant, TenantId
from sbh_pipelines.placement import PLATFORM, platform_tenant
from sbh_pipelines.repository.catalog.erased import proven_erasure
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.documents import list_manifest_ids

GONE, ASIDE = "the application has it no more", "another tenant has the slug now"


@dataclass(frozen=True, slots=True)
class Home:
    """A repository that a copy may be of.

    Attributes:
        tenant: Whose it is, with its name. An empty key or tier is not known.
        ended: Why nothing is backed up into it any more; empty where something is.
        left_out: Why it is not copied; None where it is.
        tier_lacks: Whether its tier is not known, and decides what is kept of it.
    """

    tenant: HousedTenant
    ended: str
    left_out: str | None
    tier_lacks: bool = False


@dataclass(slots=True)
class Work:
    """The repositories of one region.

    Attributes:
        homes: Those of the tenants that were given come first.
        failed: Tenants of whom it cannot be said where their repository is, and why.
        issues: What could not be asked, so that repositories may be missing.
        records: What the source's catalog says, by the name of the repository.
        there: What the copy's catalog says.
    """

    homes: list[Home] = field(default_factory=list)
    failed: list[tuple[Tenant, SbhError]] = field(default_factory=list)
    issues: list[SbhError] = field(default_factory=list)
    records: Mapping[TenantId, TenantRecord] = field(default_factory=dict)
    there: Mapping[TenantId, TenantRecord] = field(default_factory=dict)


def work_of(
    place: CopyPlace,
    region: str,
    tenants: Sequence[Tenant],
    states: Mapping[str, CopyState],
    *,
    everyone: bool,
    listed: bool = True,
) -> Work:
    """The repositories of these tenants of a region, and of who had their slugs; with `everyone` all others that are there.

    `states`: what is known of them at the copy. `listed`: whether the application could say who its tenants are; where it could
    not, nobody is said to be gone. Raises nothing of what an end refuses: that is in the result.
    """
    return _Listing(place, region, states, everyone, listed).of(tenants)


def housed_platform(place: CopyPlace) -> HousedTenant:
    """What stands for a tenant in the repository of the platform backup."""
    platform = platform_tenant(place.source.settings)
    return HousedTenant(platform.id, platform.key, platform.region, platform.tier, platform.id)


def left_homes(place: CopyPlace, region: str, states: Mapping[str, CopyState]) -> list[Home]:
    """What is known at the copy of a region that is not copied any more; `place` has to know of that region."""
    found = list[Home]()
    for home, state in sorted(states.items()):
        slug = slug_of(home)
        if slug is not None and slug != PLATFORM and (state.backup_id is not None or state.left_out):
            tenant = HousedTenant(slug, state.tenant_key, region, state.tier, home)
            lacks = not state.tier and bool(place.target.settings.retention.tiers)
            found.append(Home(tenant, "", place.left_out(tenant), lacks))
    return found


def left_state(place: CopyPlace, home: Home, state: CopyState | None) -> CopyState | None:
    """What to know of a repository that is left out; None where nothing of it was ever at the copy.

    Asks the copy once, when it is left out first: how many of its backups lie there. Raises the store's errors.
    """
    tenant, now = home.tenant, place.source.clock()
    if state is None or (state.backup_id is None and not state.left_out):
        if not home.ended:
            return state
        # Its tier was looked for in its backups, which need not be done again.
        state = CopyState(tenant.home, tenant.key, None, None, None, None, False, now, tenant.tier)
    if state.left_out == home.left_out and state.left_out_since is not None:
        return state
    return replace(
        state,
        seen_at=now,
        tier=tenant.tier or state.tier,
        left_out=home.left_out or "",
        left_out_since=state.left_out_since or now,
        backups=backups_there(place, tenant),
    )


def backups_there(place: CopyPlace, tenant: HousedTenant) -> int:
    """How many backups of a tenant lie at the copy, by their names alone. Raises the store's errors."""
    try:
        return len(list_manifest_ids(*place.target.backup_store(tenant)))
    except ObjectMissing:  # there is no bucket
        return 0


class _Listing:
    def __init__(
        self, place: CopyPlace, region: str, states: Mapping[str, CopyState], everyone: bool, listed: bool
    ) -> None:
        self._place, self._region, self._states = place, region, states
        self._everyone, self._listed = everyone, listed
        self._work, self._here = Work(), True  # whether the source answers
        self._former = self._put_aside()

    def of(self, tenants: Sequence[Tenant]) -> Work:
        work, own = self._work, dict[str, HousedTenant]()
        for tenant in tenants:
            try:
                housed = self._owners().housed(tenant)
                own[housed.home] = housed
            except SbhError as error:
                work.failed.append((tenant, error))
        work.homes += [Home(one, "", self._place.left_out(one)) for one in own.values()]
        slugs = {one.id for one in tenants if not isinstance(one, HousedTenant)}
        others = {home for home in self._former if slug_of(home) in slugs}
        if self._everyone:
            work.records, work.there = (self._records(site, None) for site in (self._place.source, self._place.target))
            others |= {*work.records, *work.there, *self._states, *self._former}
        else:
            homes = [TenantId(home) for home in (*own, *others)]
            work.records, work.there = (self._records(site, homes) for site in (self._place.source, self._place.target))
        live = {one.id for one in own.values()} | {tenant.id for tenant, _ in work.failed}
        for home in sorted(others - own.keys()):
            if (slug := slug_of(home)) is not None and slug != PLATFORM and not self._was_erased(home):
                work.homes.append(self._other(home, slug, slug in live))
        return work

    def _owners(self) -> Owners:
        return (self._place.source if self._here else self._place.target).owners

    def _put_aside(self) -> set[str]:
        """Names of repositories whose slug changed hands; the copy says so as well."""
        found = set[str]()
        for site in (self._place.source, self._place.target):
            try:
                found |= {mark.home for mark in site.owners.all_former(self._region)}
                break
            except SbhError as error:
                self._work.issues.append(error)
                self._here = False
        return found

    def _records(self, site: Site, homes: Sequence[TenantId] | None) -> Mapping[TenantId, TenantRecord]:
        if homes is not None and not homes:
            return {}
        if site is self._place.source and not self._here:
            return {}  # which is said already
        try:
            return site.catalog(self._region).read(homes, brief=True)
        except SbhError as error:
            self._work.issues.append(error)
            return {}

    def _was_erased(self, home: str) -> bool:
        """Only where that is proven: what anybody may put at the source would leave the copy's locks to end."""
        source, target = (site.catalog(self._region) for site in (self._place.source, self._place.target))
        if not any(home in end.erased for end in (source, target)):
            return False
        with suppress(SbhError):
            return is_proven_erased(self._place, self._region, home)
        with suppress(SbhError):  # one end does not answer
            return proven_erasure(target, home) is not None
        return False

    def _other(self, home: str, slug: TenantId, is_live: bool) -> Home:
        """One that no tenant of the application has now."""
        state = self._states.get(home)
        key, tier = (state.tenant_key, state.tier) if state is not None else ("", "")
        for record in (self._work.records.get(TenantId(home)), self._work.there.get(TenantId(home))):
            if not key and record is not None and record.state is not None:
                key = record.state.owner or ""
        tenant = HousedTenant(slug, key, self._region, tier, home)
        if not tier and self._tier_matters():
            tenant = HousedTenant(slug, key, self._region, self._tier(tenant), home)
        ended = ASIDE if home in self._former or is_live else GONE if self._listed else ""
        lacks = not tenant.tier and bool(self._place.target.settings.retention.tiers)
        return Home(tenant, ended, self._place.left_out(tenant), lacks)

    def _tier_matters(self) -> bool:
        """Whether it decides if the tenant is copied, where it may lie, or what is kept of it."""
        source, target = self._place.source.settings, self._place.target.settings
        return bool(self._place.settings.tiers or source.residency.tiers or target.retention.tiers)

    def _tier(self, tenant: HousedTenant) -> str:
        """As its newest backup has it; empty where none can be read."""
        for site in (self._place.source, self._place.target):
            with suppress(SbhError), site.repository(tenant) as repository:
                if ids := repository.manifest_ids():
                    repository.load_index()
                    found = described_tenant(repository, read_manifest(repository, ids[-1]))
                    if found is not None:
                        return found.tier
        return ""
