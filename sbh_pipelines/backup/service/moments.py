"""The service's calls about moments of the past: a backup of one is put together, or found, before anything is restored from it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import ManifestCache, read_manifest, read_manifests
from sbh_pipelines.backup.contents.ownership import is_own, resolve_own
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.create.events import record_drafts
from sbh_pipelines.backup.create.moment.existing import existing, is_doubted
from sbh_pipelines.backup.create.moment.materialise import materialise
from sbh_pipelines.backup.create.moment.reading import Reading, Staged
from sbh_pipelines.backup.create.moment.way.choice import MomentChoice
from sbh_pipelines.backup.create.moment.way.target import AT, Target
from sbh_pipelines.backup.journal.drain import drain
from sbh_pipelines.backup.retain.holds import place_term
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.errors import CorruptObject, LeaseHeld, NotJournaled, UnknownBackup
from sbh_pipelines.model import BackupId, ProgressSink, Tenant, no_progress
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.segments.room import moment_folder
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.policy import UserContext

_NEEDS = "backup.create"
_DRAIN_S = 120.0  # to wait for the drain of another


class Moments:
    """Backups of moments: put together, and found again."""

    def __init__(self, gate: Gate, drafts: OpenDrafts, manifests: ManifestCache) -> None:
        self._gate, self._site, self._drafts, self._manifests = gate, gate.site, drafts, manifests

    def create(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        choice: MomentChoice,
        *,
        description: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> Manifest:
        """The manifest of a backup of the moment; of the one that is there already, where there is one.

        Raises MomentOutOfReach, NotJournaled, JournalGap, RequestError, InvalidId.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, _NEEDS)
        found = self._existing(tenant, choice)
        if found is None:
            return self._made(tenant, user_ctx, choice, description, progress)
        self._gate.accessed(tenant, user_ctx, "get", backup_id=found.id)
        return found

    def resolved(
        self,
        backup: str,
        tenant_id: str,
        user_ctx: UserContext,
        action: str,
        *,
        tables: tuple[str, ...] = (),
        progress: ProgressSink = no_progress,
    ) -> str:
        """`@2026-01-15T14:32` as the id of a backup of that moment; anything else as it is, and all where there is no journal.

        `action` is what the caller is about to do, and must be allowed to; to put a backup together `backup.create` is needed as
        well. At a copy none is stored: `@` and the moment, for `opened` to put together.
        """
        if not backup.startswith(AT) or not self._site.settings.journal.enabled:
            return backup
        choice = MomentChoice(Target.parse(backup), tables)
        tenant = self._gate.allowed(tenant_id, user_ctx, action)
        found = self._existing(tenant, MomentChoice(choice.target)) or self._existing(tenant, choice)
        if found is None and self._site.copy_name is not None:
            self._gate.authorize(user_ctx, _NEEDS, tenant.id, decides=False)
            return AT + choice.target.text
        if found is None:
            self._gate.authorize(user_ctx, _NEEDS, tenant.id)
            try:  # what a part refers to is looked for in the rest of the backup
                found = self._made(tenant, user_ctx, MomentChoice(choice.target), None, progress)
            except NotJournaled:
                if not tables:
                    raise
                found = self._made(tenant, user_ctx, choice, None, progress)
        return str(found.id)

    def is_staged(self, backup: str) -> bool:
        """Whether this, as `resolved` says it, is put together anew for each reading."""
        return backup.startswith(AT) and self._site.copy_name is not None and self._site.settings.journal.enabled

    @contextmanager
    def opened(
        self,
        backup: str,
        tenant: Tenant,
        user_ctx: UserContext,
        action: str,
        *,
        tables: tuple[str, ...] = (),
        live: bool = False,
        progress: ProgressSink = no_progress,
    ) -> Iterator[Reading]:
        """The backup, `resolved` and open for the length of the block. `live`: as `resolve_own` has it.

        At a copy a moment is put together on this machine, below its folder for temporary files: the copy's repository is read,
        and nothing is written there. Raises UnknownBackup, SlugChangedHands, MomentOutOfReach, NotJournaled, JournalGap, NoRoom.
        """
        backup = self.resolved(backup, tenant.id, user_ctx, action, tables=tables, progress=progress)
        with self._site.repository(tenant) as repository:
            if not self.is_staged(backup):
                yield Reading(repository, resolve_own(repository, backup, tenant.key, live=live))
                return
            self._gate.accessed(tenant, user_ctx, "moment", backup_id=backup)
            with self._staged(tenant, user_ctx, Target.parse(backup), tables, progress) as (scratch, backup_id):
                yield Reading(scratch, backup_id, Staged(backup, repository))

    @contextmanager
    def _staged(
        self, tenant: Tenant, user_ctx: UserContext, target: Target, tables: tuple[str, ...], progress: ProgressSink
    ) -> Iterator[tuple[Repository, BackupId]]:
        with moment_folder() as folder:
            site = self._site.staged(folder)
            drafts = OpenDrafts(site)

            def made(choice: MomentChoice) -> Draft:
                draft = materialise(
                    drafts, tenant, choice, user_ctx.user_id, description=f"as of {target.words}", progress=progress
                )
                drafts.end(draft)
                if draft.error is not None:
                    raise draft.error
                return draft

            try:  # what a part refers to is looked for in the rest of the backup
                draft = made(MomentChoice(target))
            except NotJournaled:
                if not tables:
                    raise
                draft = made(MomentChoice(target, tables))
            with site.repository(tenant) as repository:
                yield repository, draft.backup_id

    def _existing(self, tenant: Tenant, choice: MomentChoice) -> Manifest | None:
        with self._site.repository(tenant) as repository:
            brief, _ = read_manifests(repository, self._manifests, brief=True)
            found = existing(brief, choice)
            try:
                gaps = self._site.journal(tenant.region).gaps() if found else []
                sound = (self._sound(repository, tenant, one.id, gaps) for one in found)
                whole = next((one for one in sound if one is not None), None)
                if whole is None:
                    return None
                self._keep(repository, whole.id, choice, whole.created_by)
            except (CorruptObject, UnknownBackup):
                return None  # it was forgotten meanwhile, or is damaged
            return whole

    def _sound(
        self, repository: Repository, tenant: Tenant, backup_id: BackupId, gaps: Sequence[Gap]
    ) -> Manifest | None:
        """One that is the tenant's own and still believed; else None. Raises UnknownBackup, CorruptObject."""
        manifest = read_manifest(repository, backup_id)
        base: Manifest | None = None
        if gaps and manifest.moment is not None:
            with suppress(UnknownBackup, CorruptObject):
                base = read_manifest(repository, manifest.moment.base)
        if gaps and is_doubted(manifest, base, tenant.key, gaps):
            return None
        return manifest if is_own(repository, manifest, tenant.key, live=True) else None

    def _made(
        self,
        tenant: Tenant,
        user_ctx: UserContext,
        choice: MomentChoice,
        description: str | None,
        progress: ProgressSink,
    ) -> Manifest:
        draft = materialise(
            self._drafts,
            tenant,
            choice,
            user_ctx.user_id,
            drain=self._drain,
            description=description or f"as of {choice.target.words}",
            via=user_ctx.via,
            progress=progress,
        )
        try:
            record_drafts(self._site, [], [draft])
            if draft.error is not None:
                raise draft.error
            assert draft.manifest is not None
            self._keep(self._drafts.repository(draft), draft.backup_id, choice, user_ctx.user_id)
            return draft.manifest
        finally:
            self._drafts.end(draft)

    def _drain(self) -> None:
        """Bring the journal up to now, once a drain that is under way has ended. Raises SbhError."""
        until = time.monotonic() + _DRAIN_S
        while True:
            try:
                drain(self._site)
            except LeaseHeld:
                if time.monotonic() > until:
                    raise
                time.sleep(1.0)
            else:
                return

    def _keep(self, repository: Repository, backup_id: BackupId, choice: MomentChoice, user_id: str) -> None:
        """From now on for as long as the settings say. At a copy no pin is placed: its retention is its own."""
        if self._site.copy_name is not None:
            return
        until = self._site.clock() + timedelta(days=self._site.settings.journal.keep_recovered_days)
        place_term(repository, backup_id, f"recovered: {choice.target.words}", user_id, self._site.clock, until)
