"""Whose the repositories are: a slug changes hands, a tenant's key in the application does not.

A repository that is begun says whose it is; one of an earlier release says it from its next backup on, and until then its newest
backup tells. Where a platform administrator put an earlier tenant's repository aside, the slug's next tenant has another
one, under a name that no slug can have, and the earlier tenant, should it come back, its own.

What is found to be a tenant's own is remembered: it can become another's only by what names another key. A tenant whose key is not
known (of whom only a name is left) is not held against anything: no caller of one tenant's comes with such a one.
"""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.ownership import KeyReader
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SlugTaken, StoreDenied, UnknownBackup, UnknownTenant
from sbh_pipelines.model import HousedTenant, Tenant, TenantId
from sbh_pipelines.placement import PLATFORM
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.erased import read_erased
from sbh_pipelines.repository.catalog.owners import (
    FORMER,
    FormerMark,
    OwnerDocument,
    Ownership,
    home_name,
    read_marks,
    split_home,
)
from sbh_pipelines.repository.keys.data_key import EPOCH, KeyObject, KeyPlace, read_key_object
from sbh_pipelines.repository.keys.epochs import set_owner
from sbh_pipelines.repository.repository import Repository

if TYPE_CHECKING:
    from sbh_pipelines.backup.site.site import Site

_MARKS_S = 30.0  # how old the list of what was put aside may be; where it would matter it is read anew


@dataclass(frozen=True, slots=True)
class _Marks:
    read_at: float
    objects: Mapping[str, tuple[str | None, FormerMark | None]] = field(default_factory=dict)

    def of_slug(self, slug: str) -> dict[int, FormerMark]:
        found = {}
        for _, mark in self.objects.values():
            if mark is not None and (parts := split_home(mark.home)) is not None and parts[0] == slug:
                found[parts[1]] = mark
        return found


@dataclass(frozen=True, slots=True)
class KeySeen:
    """What was found where the first key object of a repository lies.

    Attributes:
        home: The name of the repository.
        found: The object; None where there was none.
    """

    home: str
    found: KeyObject | None


class Owners:
    """Finds the repository of a tenant by its key, and refuses that of another. Thread-safe."""

    def __init__(self, site: "Site") -> None:
        self._site = site
        self._lock = threading.Lock()
        self._settled: set[tuple[str, str, str]] = set()  # (region, home, key) of what is a tenant's own
        self._marks: dict[str, _Marks] = {}

    # where a tenant's repository lies

    def home_of(self, tenant: Tenant) -> str:
        """The name of its repository: the slug, unless earlier tenants' repositories were put aside."""
        if isinstance(tenant, HousedTenant):
            return tenant.home
        if tenant.region not in self._site.settings.storage.regions or not is_bound(tenant):
            return tenant.id
        marks = self.former(tenant.id, tenant.region)
        if not marks:
            return tenant.id
        if tenant.key and (key := self._site.catalog(tenant.region).known_owner_key()) is not None:
            for mark in marks.values():
                if mark.is_of(key, tenant.key):
                    return mark.home
        return home_name(tenant.id, max(marks) + 1)

    def housed(self, tenant: Tenant) -> HousedTenant:
        """The tenant with the name of its repository."""
        if isinstance(tenant, HousedTenant):
            return tenant
        return HousedTenant(tenant.id, tenant.key, tenant.region, tenant.tier, self.home_of(tenant))

    def former_tenant(self, slug: TenantId, key: str, now: Tenant | None) -> HousedTenant:
        """Who had the slug before under this key: what was put aside as its own, also where an erasure took its keys since; else
        what is the slug's now, where that has backups of this key.

        Whoever reads its backups holds each against the key.
        """
        regions = list(self._site.settings.storage.regions)
        aside = []
        for region in regions:
            secret = self._site.catalog(region).known_owner_key()
            for mark in self.former(slug, region).values():
                if secret is not None and mark.is_of(secret, key):
                    aside.append(HousedTenant(slug, key, region, "", mark.home))
        if (
            aside
        ):  # a mark is in every region, the repository in one: while it is there, and afterwards as its erasure says
            begun = next((housed for housed in aside if self._begun(housed)), None)
            return begun or next(filter(self._was_erased, aside), aside[0])
        regions.sort(key=lambda region: now is None or region != now.region)
        for region in regions:
            housed = HousedTenant(slug, key, region, "", self.home_of(Tenant(slug, "", region, "")))
            if self._begun(housed) and self._has_backups_of(housed):
                return housed
        raise UnknownTenant(
            "No such tenant",
            on=slug,
            why=f"nothing was put aside, and there is no backup, of a tenant that had this slug under the key {key!r}",
            remedy=f"see the key: `sbh backup list {slug}`, and `sbh tenants list`",
        )

    def _begun(self, tenant: HousedTenant) -> bool:
        place = self._key_place(tenant, tenant.home)
        try:
            place.store.head(place.key(EPOCH))
        except ObjectMissing:
            return False
        return True

    def _was_erased(self, housed: HousedTenant) -> bool:
        """Whether it was erased, and was in this region."""
        with suppress(CorruptObject):
            record = read_erased(self._site.catalog(housed.region), housed.home)
            return record is not None and record.region == housed.region
        return False

    def _has_backups_of(self, housed: HousedTenant) -> bool:
        """Whether the repository is, in whole or in part, of the tenant's key. One that nobody can open any more may be."""
        try:
            with self._site.opened(housed, housed.home) as repository:
                own = self._says(repository.owner, housed, housed.home) is Ownership.OWN
                return own or housed.key in self.keys_in(repository).values()
        except UnknownBackup:
            return False
        except CorruptObject:
            return True

    def former(self, slug: str, region: str, *, anew: bool = False) -> dict[int, FormerMark]:
        """What was put aside of this slug, by number: 1 is the first repository that it had."""
        with self._lock:
            known = self._marks.get(region, _Marks(0.0))
        if anew or not known.read_at or time.monotonic() - known.read_at > _MARKS_S:
            known = self._read_marks(region, known)
            with self._lock:
                self._marks[region] = known
        return known.of_slug(slug)

    def all_former(self, region: str) -> list[FormerMark]:
        """What was put aside in a region, of every slug."""
        self.former("", region, anew=True)
        with self._lock:
            return [mark for _, mark in self._marks[region].objects.values() if mark is not None]

    def _read_marks(self, region: str, known: _Marks) -> _Marks:
        catalog = self._site.catalog(region)
        now = time.monotonic()
        try:
            found = list(all_below(catalog.store, catalog.prefix + FORMER))
            if not found:
                return _Marks(now)
            key = catalog.known_owner_key()
            return _Marks(now, dict(read_marks(catalog.store, found, key, catalog.prefix, known.objects)))
        except (
            ObjectMissing,
            StoreDenied,
        ):  # no bucket there yet, or a role that may not look: nothing is taken for put aside
            return _Marks(now)

    # whether it is its own

    def check(self, tenant: Tenant) -> KeySeen | None:
        """Raises SlugTaken where the slug's repository is another tenant's, CorruptObject where it cannot say whose it is any more.

        Costs one request, the first time: what that found. None where it was not made.
        """
        if not self._is_held_against(tenant) or tenant.region not in self._site.settings.storage.regions:
            return None
        home = self.home_of(tenant)
        if self._is_settled(tenant, home):
            return None
        try:
            found = read_key_object(self._key_place(tenant, home), EPOCH)
        except ObjectMissing:
            return KeySeen(home, None)  # nothing was begun there
        said = self._asked_again(self._says(found.owner, tenant, home), tenant, home)
        if said is Ownership.UNKNOWN:
            with self._site.opened(tenant, home) as repository, KeyReader(repository) as reader:
                said = self._by_backups(repository, tenant, reader)
        if said is Ownership.OWN:
            self._settle(tenant, home)
            self._site.saw_key(tenant)
        elif said is Ownership.OTHER:
            if not self._moved(tenant, home):
                raise taken(tenant)
            return self.check(tenant)
        return KeySeen(home, found)

    def admits(self, repository: Repository, tenant: Tenant, home: str, *, bind: bool) -> bool:
        """Of a repository that was opened for the tenant: whether it is the tenant's own. False where the tenant has another one by
        now; raises SlugTaken where it has not. `bind`: have it say so, if it does not yet.
        """
        owner = repository.owner
        if not is_bound(tenant):
            return True
        key = self._site.catalog(tenant.region).known_owner_key() if owner is not None else None
        if owner is not None:
            repository.adopts = lambda text: owner.adopts(key, home, text)
        if not self._is_held_against(tenant) or (self._is_settled(tenant, home) and not bind):
            return True
        said = Ownership.UNKNOWN if owner is None else owner.says(key, home, tenant.key)
        said = self._asked_again(said, tenant, home)
        if said is Ownership.UNKNOWN:
            with KeyReader(repository) as reader:
                said = self._by_backups(repository, tenant, reader)
                if bind and said is not Ownership.OTHER:
                    repository.owner = self.bind(repository, tenant, home, reader)
                    said = Ownership.OWN
        if said is Ownership.OTHER:
            if self._moved(tenant, home):
                return False
            raise taken(tenant)
        if said is Ownership.OWN:
            self._settle(tenant, home)
        return True

    def bind(self, repository: Repository, tenant: Tenant, home: str, reader: KeyReader) -> OwnerDocument:
        """Have a repository that does not say whose it is say that it is this tenant's; what it says. Raises SlugTaken.

        Where the role may write no keys, its backups go on saying whose it is, and this process knows the same.
        """
        key = self._site.catalog(tenant.region).owner_key
        ids = repository.manifest_ids()
        keys = zip(ids, reader.keys_of(ids), strict=True)
        others = [backup_id for backup_id, one in keys if one not in (tenant.key, None)]
        document = OwnerDocument.of(key, home, tenant.key, others=others)

        def choose(now: OwnerDocument | None) -> OwnerDocument:
            said = Ownership.UNKNOWN if now is None else now.says(key, home, tenant.key)
            if said is Ownership.OTHER:
                raise taken(tenant)
            return now if now is not None and said is Ownership.OWN else document

        try:
            return set_owner(self._key_place(tenant, home), choose)
        except StoreDenied:
            return document

    def every_home(self, slug: str) -> list[str]:
        """Those of all regions."""
        return max((self.homes(slug, region) for region in self._site.settings.storage.regions), key=len)

    def homes(self, slug: str, region: str) -> list[str]:
        """The names of all repositories that the slug has had in a region, the newest first."""
        newest = max(self.former(slug, region), default=0) + 1
        return [home_name(slug, number) for number in range(newest, 0, -1)]

    def document(self, tenant: Tenant, home: str) -> OwnerDocument | None:
        """What a repository that is begun for the tenant says."""
        if not is_bound(tenant) or not tenant.key:
            return None
        return OwnerDocument.of(self._site.catalog(tenant.region).owner_key, home, tenant.key)

    @staticmethod
    def keys_in(repository: Repository) -> dict[str, str | None]:
        """The tenant's key of each backup; None where it cannot be read."""
        ids = repository.manifest_ids()
        with KeyReader(repository) as reader:
            return {str(one): key for one, key in zip(ids, reader.keys_of(ids), strict=True)}

    def key_place(self, tenant: Tenant) -> KeyPlace:
        return self._key_place(tenant, self.home_of(tenant))

    def _key_place(self, tenant: Tenant, home: str) -> KeyPlace:
        housed = HousedTenant(tenant.id, tenant.key, tenant.region, tenant.tier, home)
        store, prefix = self._site.backup_store(housed)
        return KeyPlace(store, prefix, tenant.id, tenant.region, self._site.keys, home=home)

    def _says(self, owner: OwnerDocument | None, tenant: Tenant, home: str) -> Ownership:
        if owner is None:
            return Ownership.UNKNOWN
        return owner.says(self._site.catalog(tenant.region).known_owner_key(), home, tenant.key)

    def _asked_again(self, said: Ownership, tenant: Tenant, home: str) -> Ownership:
        """What the repository says, read once more where it is another's: a line or a cache may have changed the answer."""
        if said is not Ownership.OTHER:
            return said
        try:
            return self._says(read_key_object(self._key_place(tenant, home), EPOCH).owner, tenant, home)
        except ObjectMissing:
            return said

    @staticmethod
    def _by_backups(repository: Repository, tenant: Tenant, reader: KeyReader) -> Ownership:
        """By the newest backup that can be read; UNKNOWN where there is none."""
        for backup_id in reversed(repository.manifest_ids()):
            with suppress(CorruptObject, UnknownBackup):
                key = reader.key_of(read_manifest(repository, backup_id))
                return Ownership.OWN if key == tenant.key else Ownership.OTHER
        return Ownership.UNKNOWN

    @staticmethod
    def _is_held_against(tenant: Tenant) -> bool:
        """Whether a repository must be its own: not where it was chosen by its name, which platform administrators do."""
        return bool(tenant.key) and is_bound(tenant) and not isinstance(tenant, HousedTenant)

    def _moved(self, tenant: Tenant, home: str) -> bool:
        """Whether the tenant's repository is another one than was thought: somebody put this one aside a moment ago."""
        self.former(tenant.id, tenant.region, anew=True)
        return self.home_of(tenant) != home

    def _is_settled(self, tenant: Tenant, home: str) -> bool:
        with self._lock:
            return (tenant.region, home, tenant.key) in self._settled

    def _settle(self, tenant: Tenant, home: str) -> None:
        with self._lock:
            self._settled.add((tenant.region, home, tenant.key))


def is_bound(tenant: Tenant) -> bool:
    """Whether it is a tenant at all, and not what stands for the platform."""
    return tenant.id not in (PLATFORM, "*")


def taken(tenant: Tenant) -> SlugTaken:
    slug = tenant.id
    return SlugTaken(
        "The slug's backups are another tenant's: it changed hands",
        on=slug,
        why=f"the repository of {slug} was begun for a tenant with another key than the one that has the slug now",
        remedy="a platform administrator says what is right:"
        f" `sbh tenants retire {slug} --confirm {slug}` puts the former tenant's backups aside, and this one begins anew;"
        f" `sbh tenants adopt {slug} --confirm {slug}` hands them to this one, where it is the same customer under a new key",
    )
