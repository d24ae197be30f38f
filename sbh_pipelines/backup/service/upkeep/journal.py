"""The service's calls about the change journal: set up, drained, looked at, given up."""

from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.contents.manifests import ManifestCache
from sbh_pipelines.backup.journal.drain import drain
from sbh_pipelines.backup.journal.drain_result import DrainResult
from sbh_pipelines.backup.journal.giving_up import GivenUp, give_up
from sbh_pipelines.backup.journal.registration import Registered, register_tenants
from sbh_pipelines.backup.journal.view.recovery_windows import RecoveryWindows, recovery_windows
from sbh_pipelines.backup.journal.view.show import JournalListing, ShowRequest, show
from sbh_pipelines.backup.journal.view.status import GapLine, JournalStatus, gap_lines, journal_status
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.errors import NotConfirmed, NotJournaled, SbhError, SettingsError
from sbh_pipelines.model import ProgressSink, no_progress
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

_EVERYTHING = ShowRequest()


@dataclass(frozen=True, slots=True)
class JournalSetup:
    """What setting up did.

    Attributes:
        registered: Tenants whose changes are kept from now on.
        drained: The first drain, which makes the slot and the publication.
    """

    registered: Registered
    drained: DrainResult


@dataclass(frozen=True, slots=True)
class JournalGaps:
    """The gaps of all regions, the newest first.

    Attributes:
        gaps: Each of them.
        issues: What could not be read.
    """

    gaps: Sequence[GapLine]
    issues: Sequence[SbhError]


class ChangeJournal:
    """What changes between two backups. Of one tenant it is the tenant's own to see; all else is the platform's."""

    def __init__(self, gate: Gate, manifests: ManifestCache) -> None:
        self._gate, self._site, self._manifests = gate, gate.site, manifests

    def setup(self, user_ctx: UserContext, *, progress: ProgressSink = no_progress) -> JournalSetup:
        """Register the tenants' keys, and drain once: which makes the slot, and publishes the tables that can be journaled.

        May be repeated at any time. Raises SettingsError where the journal is off, SlotTrouble, PrivilegeMissing.
        """
        self._gate.authorize(user_ctx, "journal.manage", ALL_TENANTS)
        self._require()
        regions = self._site.settings.storage.regions
        tenants = [tenant for tenant in self._gate.tenants.all() if tenant.region in regions]
        registered = register_tenants(self._site, tenants)
        self._gate.track_platform("journal.set_up", user_ctx, {"tenants": registered.new + registered.known})
        return JournalSetup(registered, drain(self._site, progress=progress))

    def drain(self, user_ctx: UserContext, *, progress: ProgressSink = no_progress) -> DrainResult:
        """Read what was committed since the last drain, and write it down. Raises LeaseHeld while another one does."""
        self._gate.authorize(user_ctx, "journal.manage", ALL_TENANTS)
        self._require()
        return drain(self._site, progress=progress)

    def drop(self, user_ctx: UserContext, *, confirm: str) -> GivenUp:
        """Drop the slot and the publication on the server: it lets go of its log. What was drained stays; a gap begins.

        `confirm`: the slot's name once more. Raises NotConfirmed, SourceConflict while a session uses the slot.
        """
        self._gate.authorize(user_ctx, "journal.manage", ALL_TENANTS)
        slot = self._site.settings.journal.slot
        if confirm != slot:
            raise NotConfirmed(
                "The journal is given up only if its slot is named once more",
                on=slot,
                why="what is committed from then on is in no journal",
                remedy=f"sbh journal drop --confirm {slot}",
            )
        self._gate.track_platform("journal.dropped", user_ctx, {"slot": slot})
        return give_up(self._site)

    def status(self, user_ctx: UserContext) -> JournalStatus:
        """The slot, the segments of each region, the gaps. What cannot be asked is among the `issues`."""
        self._gate.authorize(user_ctx, "journal.status", ALL_TENANTS)
        return journal_status(self._site)

    def gaps(self, user_ctx: UserContext) -> JournalGaps:
        """What ended what the journal could tell, and when."""
        self._gate.authorize(user_ctx, "journal.status", ALL_TENANTS)
        issues: list[SbhError] = []
        found: list[GapLine] = []
        for region in self._site.settings.storage.regions:
            found += gap_lines(self._site.journal(region), issues)
        return JournalGaps(sorted(found, key=lambda gap: gap.time, reverse=True), issues)

    def show(self, tenant_id: str, user_ctx: UserContext, request: ShowRequest = _EVERYTHING) -> JournalListing:
        """What was done to a tenant's rows, transaction by transaction.

        Values of columns that `restore.sensitive` names are masked; `show_sensitive` is for who may export. Ids of transactions and
        positions of the log are for users of the platform. Raises AccessDenied,
        UnknownTenant, InvalidId, NotJournaled where the journal is off.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "journal.read")
        if request.show_sensitive:
            self._gate.authorize(user_ctx, "backup.export", tenant.id)
        if not self._site.settings.journal.enabled:
            raise NotJournaled(
                "The change journal is off", on=tenant.id, remedy="compare with backups: `sbh restore diff`"
            )
        self._gate.accessed(tenant, user_ctx, "journal", samples=request.samples, show_sensitive=request.show_sensitive)
        found = show(self._site, tenant, request)
        return found if user_ctx.tenant_id == ALL_TENANTS else found.without_server()

    def recovery_windows(self, tenant_ids: Sequence[str], user_ctx: UserContext) -> RecoveryWindows:
        """To which moments tenants can be brought; for none given, all that the caller may see."""
        tenants = [self._gate.allowed(t, user_ctx, "backup.list", owned=False) for t in tenant_ids]
        if not tenant_ids:
            tenants = [t for t in self._gate.tenants.all() if user_ctx.tenant_id in (ALL_TENANTS, t.id)]
        return recovery_windows(self._site, tenants, self._manifests)

    def _require(self) -> None:
        if not self._site.settings.journal.enabled:
            raise SettingsError(
                "The change journal is off",
                on="journal.enabled",
                remedy="set enabled = true under [journal]; `sbh doctor` says what the server needs for it",
            )
