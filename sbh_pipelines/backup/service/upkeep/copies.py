"""The service's calls about copies: how far they are behind, copied now, verified, promoted."""

from collections.abc import Sequence
from dataclasses import replace

from sbh_pipelines.backup.copies.promotion.promotion import Promotion, plan_promotion, promote
from sbh_pipelines.backup.copies.results import CopyRun, CopyStatus
from sbh_pipelines.backup.copies.run import run_copy
from sbh_pipelines.backup.copies.status import copy_status
from sbh_pipelines.backup.copies.upkeep import CopyUpkeep, keep_copy
from sbh_pipelines.backup.copies.verification import CopyVerification, verify_copy
from sbh_pipelines.backup.keys.forgotten_copies import ForgottenAtCopy, forget_at_copy, forgettable
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.backup.site.audit_trails import noted
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import LeaseHeld, NotConfirmed, RequestError, SbhError, SettingsError, SourceError, StoreError
from sbh_pipelines.model import ProgressSink, Tenant, no_progress
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext
from sbh_pipelines.settings.places.copies import copy_named


class Copies:
    """The backups once more, in another place. How its own copies stand is a tenant's to see; all else is the platform's."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._site = gate, gate.site

    def status(self, user_ctx: UserContext, name: str | None = None) -> list[CopyStatus]:
        """How each copy stands, or the one of this name; none where the settings name none.

        A tenant's user sees the tenant's own line, and nothing of the platform. What cannot be asked is among the `issues`.
        Raises AccessDenied, RequestError where there is no copy of this name.
        """
        everyone = user_ctx.tenant_id == ALL_TENANTS
        tenants: Sequence[Tenant]
        if everyone:
            self._gate.authorize(user_ctx, "copies.status", ALL_TENANTS)
        else:
            own = self._gate.allowed(user_ctx.tenant_id, user_ctx, "copies.status")
        names = [copy.name for copy in self._site.settings.copies] if name is None else [self._named(name)]
        if not names:
            return []
        unlisted = None
        if everyone:
            tenants, unlisted = self._listed()
        else:
            tenants = [own]
        now = self._site.clock()
        found = [copy_status(self._site, each, tenants, now, everyone=everyone, unlisted=unlisted) for each in names]
        return found if everyone else [_as_tenant(status) for status in found if status.tenants]

    def forget(self, user_ctx: UserContext, name: str, tenant_id: str, *, confirm: bool = False) -> ForgottenAtCopy:
        """Remove from a copy what lies there of a tenant that is not copied any more, its keys first; its backups stay here.

        Raises AccessDenied, NotConfirmed, RequestError where there is no copy of this name, InvalidId, UnknownTenant, LeaseHeld
        while the copy is made, CopyError where the tenant is copied still, or under a legal hold there.
        """
        self._gate.authorize(user_ctx, "copies.forget", ALL_TENANTS)
        name, tenant = self._named(name), self._gate.allowed(tenant_id, user_ctx, "copies.forget", owned=False)
        chosen = forgettable(self._site, name, tenant)
        if not confirm:
            raise NotConfirmed(
                "Removing a tenant from a copy was not confirmed",
                on=f"{tenant.id} at {name}",
                why=f"{len(chosen)} repositories of it lie there, and would go with their keys",
                remedy=f"sbh copies forget {name} --tenant {tenant.id} --confirm",
            )
        homes = [one.home.tenant.home for one in chosen]
        told = {"copy": name, "tenant": tenant.id, "repositories": homes}
        self._gate.track_platform("copy.forgotten", user_ctx, told)  # first: what is gone was asked for by somebody
        return forget_at_copy(self._site, name, tenant, chosen)

    def _listed(self) -> tuple[list[Tenant], SbhError | None]:
        """(the application's tenants, why it did not list them): without it the catalogs say whose backups there are."""
        try:
            return self._gate.tenants.all(), None
        except SourceError as error:
            return [], error

    def run(
        self, user_ctx: UserContext, name: str, tenant_ids: Sequence[str] = (), progress: ProgressSink = no_progress
    ) -> CopyRun:
        """Bring to a copy what it has not yet, verify it there, and record until when it is; for no tenants given, all.

        What one tenant fails with is in the result, and keeps no other from being copied. Raises AccessDenied, RequestError where
        there is no copy of this name, InvalidId, UnknownTenant, LeaseHeld while another run copies.
        """
        self._gate.authorize(user_ctx, "copies.run", ALL_TENANTS)
        tenants, unlisted = self._tenants(user_ctx, self._named(name), tenant_ids, "copies.run")
        everyone = not tenant_ids
        try:
            done = run_copy(self._site, name, tenants, everyone=everyone, unlisted=unlisted, progress=progress)
        except LeaseHeld:
            raise  # nothing was done
        except SbhError as error:
            with noted(error):
                self._gate.track_platform("copy.failed", user_ctx, {"copy": name, "codes": [error.code]})
            raise
        self._record_run(user_ctx, done)
        return done

    def _record_run(self, user_ctx: UserContext, done: CopyRun) -> None:
        """A run that found nothing to do, as most do, is no event."""
        copied = [one for one in done.tenants if one.left_out is None]
        errors = [*(one.error for one in copied if one.error is not None), *done.issues]
        if not errors and not done.objects:
            return
        told = {"copy": done.name, "tenants": len(copied), "objects": done.objects, "bytes": done.bytes}
        if errors:
            failed = sum(one.error is not None for one in copied)
            codes = sorted({error.code for error in errors})
            self._gate.track_platform("copy.failed", user_ctx, {**told, "failed": failed, "codes": codes})
        else:
            self._gate.track_platform("copy.completed", user_ctx, told)

    def verify(
        self,
        user_ctx: UserContext,
        name: str,
        tenant_ids: Sequence[str] = (),
        deep: bool = False,
        progress: ProgressSink = no_progress,
    ) -> CopyVerification:
        """Read what is at a copy, by the copy alone, and record what is whole there; for no tenants given, all.

        What is wrong is in the result. Raises AccessDenied, RequestError where there is no copy of this name, InvalidId,
        UnknownTenant.
        """
        self._gate.authorize(user_ctx, "copies.verify", ALL_TENANTS)
        tenants, unlisted = self._tenants(user_ctx, self._named(name), tenant_ids, "copies.verify")
        found = verify_copy(
            self._site, name, tenants, everyone=not tenant_ids, unlisted=unlisted, deep=deep, progress=progress
        )
        wrong = [one.error for one in found.tenants if one.error is not None]
        told = {
            "copy": name,
            "deep": deep,
            "valid": found.valid,
            "tenants": len(found.tenants),
            "invalid": len(wrong),
            "codes": sorted({error.code for error in wrong}),
        }
        try:
            self._gate.track_platform("copy.verified", user_ctx, told)
        except (
            SbhError
        ) as error:  # the first place may be gone: what was found counts all the same, and it is said once
            if not (isinstance(error, StoreError) and error.code in {issue.code for issue in found.issues}):
                return replace(found, issues=[*found.issues, error])
        return found

    def prune(
        self, user_ctx: UserContext, name: str, tenant_ids: Sequence[str] = (), progress: ProgressSink = no_progress
    ) -> CopyUpkeep:
        """Apply a copy's own policy there, remove what none of its backups needs, renew its locks; for no tenants given, all.

        What is in the way is in the result. Raises AccessDenied, RequestError where there is no copy of this name, InvalidId,
        UnknownTenant.
        """
        self._gate.authorize(user_ctx, "copies.run", ALL_TENANTS)
        tenants, unlisted = self._tenants(user_ctx, self._named(name), tenant_ids, "copies.run")
        done = keep_copy(self._site, name, tenants, progress, everyone=not tenant_ids, unlisted=unlisted)
        if done.records or done.segments or any(one.forgotten or one.released or one.objects for one in done.tenants):
            self._gate.track_platform(
                "copy.pruned",
                user_ctx,
                {
                    "copy": name,
                    "tenants": len(done.tenants),
                    "forgotten": sum(len(one.forgotten) for one in done.tenants),
                    "objects": sum(one.objects for one in done.tenants),
                    "bytes": sum(one.bytes for one in done.tenants),
                    "records": done.records,
                    "segments": done.segments,
                },
            )
        return done

    def promote(
        self,
        user_ctx: UserContext,
        name: str,
        *,
        source_lost: bool = False,
        without_asking: Sequence[str] = (),
        confirm: bool = False,
        progress: ProgressSink = no_progress,
    ) -> Promotion:
        """Make a copy the place where backups are made; unless `confirm`, what that would do.

        A source that answers is fenced, and everything it has brought over first; of one that is lost what the copy has counts. The
        same call again goes on where one was killed, and says so where it is done already. The database may be gone.
        `without_asking`: copies that are not asked whether they were promoted already.

        Raises AccessDenied; RequestError where there is no copy of this name; CopyError where the source does not answer and is not
        said to be lost, another copy does not, or not all that the source has is whole at the copy; LeaseHeld while something is
        written at either; PrimaryFenced where another copy took over; and the errors of the copy.
        """
        self._gate.authorize(user_ctx, "copies.promote", ALL_TENANTS)
        site = self._site
        if name == site.settings.primary:  # set too early, or asked again
            site = Site(site.settings.as_written, site.clock)
        named, unasked = self._named(name, site), [self._named(other, site) for other in without_asking]
        regions = copy_named(site.settings, named).regions(site.settings)
        listed, unlisted = self._listed()  # the database may be gone as well: the catalogs tell who there is
        tenants = [tenant for tenant in listed if tenant.region in regions]
        if not confirm:
            return plan_promotion(
                site, named, tenants, source_lost=source_lost, without_asking=unasked, progress=progress
            )
        return promote(
            site,
            named,
            tenants,
            user_ctx.user_id,
            source_lost=source_lost,
            without_asking=unasked,
            unlisted=unlisted,
            progress=progress,
        )

    def _tenants(
        self, user_ctx: UserContext, name: str, tenant_ids: Sequence[str], action: str
    ) -> tuple[list[Tenant], SbhError | None]:
        """Those that are named, else all that are in the regions that are copied; and why the application did not list them."""
        if tenant_ids:
            # Whose a repository is, the copy is asked as well: the first place may be gone.
            named = dict.fromkeys(tenant_ids)
            return [self._gate.allowed(each, user_ctx, action, owned=False) for each in named], None
        regions = copy_named(self._site.settings, name).regions(self._site.settings)
        tenants, unlisted = self._listed()
        return [tenant for tenant in tenants if tenant.region in regions], unlisted

    def _named(self, name: str, site: Site | None = None) -> str:
        try:
            return copy_named((site or self._site).settings, name).name
        except SettingsError as error:  # not the settings are wrong: the name is the caller's
            raise RequestError(error.what, on=error.on, why=error.why, remedy=error.remedy) from None


def _as_tenant(status: CopyStatus) -> CopyStatus:
    """Without what names the platform's buckets: of what failed a tenant is told that it did."""
    lines = [
        replace(line, why="the platform's administrators are told why") if line.standing == "failed" else line
        for line in status.tenants
    ]
    return replace(status, tenants=lines, issues=(), damages=(), by_copy=(), undeleted=None)
