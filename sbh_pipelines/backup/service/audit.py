"""The service's calls about the audit trail: list, verify, export; and what its other calls record of themselves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sbh_pipelines.backup.audit.compliance import compliance_report
from sbh_pipelines.backup.audit.compliance_report import ComplianceReport
from sbh_pipelines.backup.audit.export import ExportReport, FileReport, check_file, export_trail
from sbh_pipelines.backup.audit.verify import TrailReport, UnreadableTrail, parse_noted, verify_trail
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.errors import AccessDenied, InvalidId, RequestError, SbhError, SlugTaken
from sbh_pipelines.model import Tenant, TenantId, unparsed
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.trail.event import AT_COPY, PLATFORM, AuditEvent, entry_of
from sbh_pipelines.repository.trail.reader import EventFilter, page
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

_MOST_LISTED = 1000


@dataclass(frozen=True, slots=True)
class EventListing:
    """A page of an audit trail, the newest event first.

    Attributes:
        tenant_id: Whose trail; `*` is the platform.
        region: Where it lies.
        events: The events.
        next: Where the next page begins; None on the last one.
        errors: Parts of the trail that cannot be believed.
    """

    tenant_id: str
    region: str
    events: Sequence[AuditEvent]
    next: str | None
    errors: Sequence[SbhError]


class Audit:
    """The audit trails: listed, verified, exported, reported."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._site = gate, gate.site

    def fold_repeats(self) -> None:
        """For a face that serves many: see `audit.repeats_s`. Until `end_repeats`."""
        if self._site.settings.audit.repeats_s > 0:
            self._site.trails.fold(self._site.settings.audit.repeats_s)

    def end_repeats(self) -> None:
        """Record what was counted. Raises the store's and the key provider's errors; the counts are lost then."""
        self._site.trails.end()

    def events(
        self,
        user_ctx: UserContext,
        tenant_id: str = PLATFORM,
        *,
        event: str = "*",
        since: datetime | None = None,
        until: datetime | None = None,
        user: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        region: str | None = None,
        former_key: str | None = None,
    ) -> EventListing:
        """A page of a tenant's trail; of the platform's (in `region`) for `*`; at the copy NAME, of what was done there for
        `*@NAME`. `former_key`: of a tenant that had the slug before, for platform administrators. Raises RequestError,
        UnknownTenant, SlugTaken.
        """
        wanted = EventFilter(event, _zoned(since), _zoned(until), user)
        if not 1 <= limit <= _MOST_LISTED:
            raise RequestError("The limit is out of bounds", on=str(limit)[:20], remedy=f"1 to {_MOST_LISTED:,}")
        begin = _cursor(cursor)
        tenant = self._audited(tenant_id, user_ctx, "audit.read", region, former_key)
        self._site.track(tenant, "audit.accessed", user_ctx.user_id, {"event": event[:64], "user": user and user[:256]})
        found = page(self._site.trails.of(tenant), wanted, limit, begin)
        following = "{}.{}".format(*found.following) if found.following else None
        return EventListing(tenant_id, tenant.region, found.events, following, found.damages)

    def verify(
        self,
        user_ctx: UserContext,
        tenant_id: str = PLATFORM,
        *,
        expect: str | None = None,
        region: str | None = None,
        former_key: str | None = None,
    ) -> TrailReport:
        """Whether a trail is whole.

        `expect` is `seq:hash` of an event that was noted earlier. Damage is reported, not raised.
        """
        noted = parse_noted(expect)
        tenant = self._audited(tenant_id, user_ctx, "audit.read", region, former_key)
        result = verify_trail(self._site, tenant, noted)
        self._site.track(tenant, "audit.verified", user_ctx.user_id, result.recorded())
        return result

    def verify_all(self, user_ctx: UserContext) -> Iterator[TrailReport | UnreadableTrail]:
        """Verify every trail: the platform's of each region, then of each tenant that has backups or ever had an event.

        At a copy first, of each region, the trail of what was done there.
        """
        self._gate.authorize(user_ctx, "audit.read", ALL_TENANTS)
        for tenant in self._all_audited():
            name = PLATFORM if tenant.id == PLATFORM else self._site.owners.home_of(tenant)
            try:
                self._site.owners.check(tenant)
                result = verify_trail(self._site, tenant, None)
                self._site.track(tenant, "audit.verified", user_ctx.user_id, result.recorded())
                yield result
            except SbhError as error:
                yield UnreadableTrail(name, tenant.region, False, error)

    def export(
        self,
        user_ctx: UserContext,
        file: Path | str,
        tenant_id: str = PLATFORM,
        *,
        format: str = "jsonl",
        region: str | None = None,
        former_key: str | None = None,
    ) -> ExportReport:
        """Write a whole trail, oldest event first, to a new file (jsonl or csv), so that it can be verified without the store.

        Raises RequestError, ExportFailed.
        """
        tenant = self._audited(tenant_id, user_ctx, "audit.export", region, former_key)
        self._site.track(tenant, "audit.exported", user_ctx.user_id, {"format": format[:16]})
        return export_trail(self._site, tenant, Path(file), format)

    @staticmethod
    def check_file(file: Path) -> FileReport:
        """Whether the chain of an exported trail is whole; needs neither settings, keys nor a store. Raises RequestError."""
        return check_file(file)

    def compliance_report(
        self, user_ctx: UserContext, since: datetime, until: datetime, tenant_ids: Sequence[str] = ()
    ) -> ComplianceReport:
        """What the trails and the repositories show for a period; for no tenant given: of all.

        Raises RequestError for a period that is none.
        """
        first, last = _zoned(since), _zoned(until)
        if first is None or last is None or first >= last:
            raise RequestError("Not a period", on=f"{since} to {until}", remedy="the end comes after the beginning")
        if tenant_ids:
            tenants = [self._audited(t, user_ctx, "report.read", None) for t in dict.fromkeys(tenant_ids)]
        elif user_ctx.tenant_id == ALL_TENANTS:
            self._gate.authorize(user_ctx, "report.read", ALL_TENANTS)
            tenants = [t for t in self._all_audited() if not t.id.startswith(PLATFORM)]
        else:
            tenants = [self._audited(user_ctx.tenant_id, user_ctx, "report.read", None)]
        with_platform = user_ctx.tenant_id == ALL_TENANTS and not tenant_ids
        where = self._platform_in(None) if with_platform or len(tenants) != 1 else tenants[0]
        told = {"report": "compliance", "from": first.isoformat(), "to": last.isoformat(), "tenants": len(tenants)}
        self._site.track(where, "audit.accessed", user_ctx.user_id, told)
        return compliance_report(self._site, tenants, first, last, with_platform=with_platform)

    def track(self, tenant_id: str, event: str, user_id: str, source: str, props: Mapping[str, object]) -> None:
        """An event of the application's own, for `analytics.track`. Raises InvalidId, UnknownTenant, RequestError."""
        tenant = self._platform_in(None) if tenant_id == PLATFORM else self._gate.tenants.find(tenant_id)
        self._site.trails.record_all(tenant, [entry_of(event, user_id, source, "analytics", props)], always=True)

    # whose trail

    def _audited(
        self, tenant_id: str, user_ctx: UserContext, action: str, region: str | None, former_key: str | None = None
    ) -> Tenant:
        """A tenant, perhaps one that is gone or erased, or what stands for the platform in a region."""
        if tenant_id == PLATFORM or (self._site.work_name is not None and tenant_id == self._work):
            self._gate.authorize(user_ctx, action, ALL_TENANTS)
            return replace(self._platform_in(region), id=TenantId(tenant_id))
        slug = TenantId.parse(tenant_id)
        try:
            return self._gate.allowed(slug, user_ctx, action, former_key=former_key)
        except (SlugTaken, AccessDenied):
            raise
        except SbhError:
            if user_ctx.tenant_id != ALL_TENANTS or former_key is not None:  # whose else's it is, nothing says
                raise
            for trail in self._site.trails.audited_tenants(slug):  # not in the database, no backups: but it had events
                return trail
            raise

    @property
    def _work(self) -> str:
        """Under which name the trail of what was done at this copy goes."""
        return f"{AT_COPY}{self._site.work_name}"

    def _platform_in(self, region: str | None) -> Tenant:
        platform = platform_tenant(self._site.settings)
        if region is not None and region not in self._site.settings.storage.regions:
            raise RequestError(
                "No such region",
                on=unparsed(region),
                remedy="one of " + ", ".join(self._site.settings.storage.regions),
            )
        return Tenant(TenantId(PLATFORM), "", region or platform.region, "")

    def _all_audited(self) -> Iterator[Tenant]:
        """Each once. Holds the slugs of all tenants, and nothing else of them."""
        regions = self._site.settings.storage.regions
        # To a region in which the source has nothing nothing was brought: there is no trail, and no key for one.
        there = [region for region in regions if self._site.copy_name is None or self._has_catalog(region)]
        for region in there if self._site.work_name is not None else ():
            yield replace(self._platform_in(region), id=TenantId(self._work))
        for region in there:
            yield self._platform_in(region)
        known: set[tuple[str, str]] = set()
        try:
            with_rows: Sequence[Tenant] = self._gate.tenants.all()
        except SbhError:  # the database is out of reach: trails are read all the same
            with_rows = ()
        for tenant in (*with_rows, *self._site.trails.audited_tenants()):
            if tenant.region in regions and (place := (self._site.owners.home_of(tenant), tenant.region)) not in known:
                known.add(place)
                yield tenant

    def _has_catalog(self, region: str) -> bool:
        catalog = self._site.catalog(region)
        return next(all_below(catalog.store, catalog.prefix), None) is not None


def _zoned(moment: datetime | None) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise RequestError("A time without its zone", on=str(moment), remedy="e.g. 2024-01-15T12:00:00Z")
    return moment


def _cursor(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    link, _, seq = text.partition(".")
    if not (link.isascii() and link.isdigit() and seq.isascii() and seq.isdigit() and len(text) <= 40):
        raise InvalidId("Not a cursor", on=unparsed(text), remedy="use `next` of the page before")
    return int(link), int(seq)
