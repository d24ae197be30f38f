"""Both ends of a copy: the site whose backups are copied, and the site whose backups are the copy's."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sbh_pipelines.backup.site.fence import (
    PROMOTED,
    SUPERSEDED,
    Marks,
    mark_name,
    mark_names,
    place_name,
    read_marks,
)
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CopyError, KeyServiceError, StoreError
from sbh_pipelines.model import Tenant
from sbh_pipelines.placement import PLATFORM, may_lie_in, residency_names
from sbh_pipelines.settings import CopySettings
from sbh_pipelines.settings.places.copies import copy_named


@dataclass(frozen=True, slots=True)
class CopyPlace:
    """A copy and where it comes from.

    Attributes:
        settings: What the settings say of it.
        source: Read from, and never written to but for the state of copies in its catalog.
        target: The site that has only the copy: its buckets, its keys. What opens a repository there needs nothing of the source.
    """

    settings: CopySettings
    source: Site
    target: Site

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def regions(self) -> list[str]:
        """The regions whose backups are copied."""
        return self.settings.regions(self.source.settings)

    @property
    def left_regions(self) -> list[str]:
        """The other regions: one of them may have been copied once."""
        return [region for region in self.source.settings.storage.regions if region not in self.regions]

    def with_left_regions(self) -> "CopyPlace":
        """The same, whose target also finds what was copied of regions that are not copied any more."""
        return CopyPlace(self.settings, self.source, self.source.copy(self.name, every_region=True))

    def forbidden(self, tenant: Tenant) -> str | None:
        """Why nothing of a tenant may lie where the copy does; None where it may."""
        settings = self.source.settings
        if tenant.id == PLATFORM or may_lie_in(settings, tenant, self.settings.to):
            return None
        allowed = ", ".join(residency_names(settings, tenant)) or "its zone's regions"
        return f"its data may not lie in {self.settings.to}: allowed are {allowed}"

    def left_out(self, tenant: Tenant) -> str | None:
        """Why nothing of a tenant is copied; None where it is."""
        if tenant.region not in self.regions:
            return f"it is in {tenant.region}, which is not copied"
        if tenant.id == PLATFORM:
            return None
        tiers = self.settings.tiers
        if tiers and tenant.tier not in tiers:
            return f"its tier is {tenant.tier or 'not known'}, and {', '.join(tiers)} are copied"
        return self.forbidden(tenant)


def refuse_primary(place: CopyPlace, *regions: str, strict: bool = False) -> None:
    """Nothing is copied into, or removed from, a place where backups are, or were, made: of these regions, or of all.

    Raises CopyError, also for marks that nobody can judge. Unless `strict` it says nothing where the copy does not answer; else it
    raises the store's and the keys' errors.
    """
    for region in regions or place.regions:
        there, here = place.target.catalog(region), place_name(place.target, region)
        try:
            names = mark_names(there.store, there.prefix)
            if not names:
                continue
            own = {mark_name(kind, here) for kind in (PROMOTED, SUPERSEDED)}
            marks = Marks() if own.intersection(names) else read_marks(there, here, names)
        except (StoreError, KeyServiceError):
            if strict:
                raise
            continue
        if own.intersection(names) or marks.alike:
            mark = there.store.url(there.prefix + min(own.intersection(names), default=min(names)))
            raise CopyError(
                "The copy was promoted to the primary, and is none any more",
                on=f"{place.name}, {mark}",
                why="backups were made in it that no other place has, so nothing is copied into or removed from it",
                remedy="take it out of [[copies]]; a copy of the new primary has another name and a bucket of its own",
            )


def open_copy(site: Site, name: str) -> CopyPlace:
    """Does no I/O. Raises SettingsError where there is no copy of this name."""
    return CopyPlace(copy_named(site.settings, name), site, site.copy(name))


@contextmanager
def source_asked(place: CopyPlace) -> Iterator[None]:
    """Raises CopyError where the source does not answer."""
    try:
        yield
    except (StoreError, KeyServiceError) as error:
        raise CopyError(
            "The place of the backups does not answer",
            on=f"{', '.join(place_name(place.source, region) for region in place.regions)}",
            why=f"{error.what} ({error.on}): {error.why}",
            remedy=f"wait for it; or, where it is lost, go on with what is at the copy: `sbh copies promote {place.name}"
            " --source-lost`",
        ) from error
