"""The service's calls about backups: made in steps for a batch of tenants, listed, looked at, validated.

A process that answers many reads remembers the manifests that it has read: they never change.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from dataclasses import asdict, replace

from sbh_pipelines.backup.contents.file_list import missing_files
from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import (
    ManifestCache,
    is_relative,
    read_component,
    read_manifest,
    read_manifests,
    resolve_backup,
)
from sbh_pipelines.backup.contents.ownership import KeyReader, is_anothers, refuse_anothers, resolve_own
from sbh_pipelines.backup.contents.verification import Validation, Verification, verify_backup
from sbh_pipelines.backup.create import drafts as making
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.create.events import record_drafts, record_policy
from sbh_pipelines.backup.create.files.files_step import enumerate_files
from sbh_pipelines.backup.create.moment.way.choice import MomentChoice
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.create.publish import verify_checksums, write_manifest
from sbh_pipelines.backup.create.recovery_points import (
    LatestPoint,
    RecoveryPoints,
    latest_recovery_point,
    recovery_points,
)
from sbh_pipelines.backup.create.snapshot_step import skip_unchanged, snapshot_tables
from sbh_pipelines.backup.create.status import BackupStatus, backup_status, the_only
from sbh_pipelines.backup.retain import forget as forgetting
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.backup.service.moments import Moments
from sbh_pipelines.errors import (
    CorruptObject,
    InvalidId,
    KeyServiceError,
    SbhError,
    UnknownBackup,
)
from sbh_pipelines.model import BackupId, BackupType, ProgressSink, Tenant, TenantId, no_progress
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.bounds import listed
from sbh_pipelines.repository.format import FILES, Keys
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

_RECORDERS = 16  # threads; none before it is needed
_MOST_FAILURES = 200  # that are read
MISSING_NAMED = 5  # files


class Backups:
    """Backups of tenants: made, listed, validated.

    Methods that name one tenant raise the errors of `errors/`. Methods that take a batch return drafts, each with its own
    outcome.
    """

    def __init__(self, gate: Gate, drafts: OpenDrafts) -> None:
        self._gate, self._site, self._drafts = gate, gate.site, drafts
        self.manifest_cache = ManifestCache(gate.site.settings.api.cache_mib << 20)
        self.moments = Moments(gate, drafts, self.manifest_cache)
        self._recorders = ThreadPoolExecutor(_RECORDERS, thread_name_prefix="record")
        self._policy_recorded = False
        self._owners: dict[tuple[str, str], str | None] = {}  # of backups whose manifests do not say it

    # made, in steps, for a batch

    def begin(
        self,
        tenant_ids: Sequence[str],
        user_ctx: UserContext,
        backup_type: str = BackupType.FULL,
        *,
        description: str | None = None,
    ) -> list[Draft]:
        """A draft for each tenant: of a full backup with its lease and id, of any other as soon as there is something to store.

        Of many incremental drafts those of unchanged tenants are found at once, in one pass. Raises AccessDenied, InvalidId,
        RequestError.
        """
        return self._begin(tenant_ids, user_ctx, backup_type, description)

    def _begin(
        self,
        tenant_ids: Sequence[str],
        user_ctx: UserContext,
        backup_type: str,
        description: str | None,
        *,
        in_one_process: bool = False,
    ) -> list[Draft]:
        kind = BackupType.parse(backup_type)
        slugs = [TenantId.parse(t) for t in tenant_ids]
        for slug in slugs:
            self._gate.authorize(user_ctx, "backup.create", slug)
        self._record_policy(user_ctx)
        begun = making.begin(self._drafts, slugs, user_ctx.user_id, kind, description, in_one_process=in_one_process)
        drafts = [replace(draft, via=user_ctx.via) for draft in begun]
        many = len(drafts) > self._site.settings.backup.batch_tenants
        return self._recorded(
            [], skip_unchanged(self._drafts, drafts) if many and kind is not BackupType.FULL else drafts
        )

    def snapshot_tables(self, drafts: Sequence[Draft], *, progress: ProgressSink = no_progress) -> list[Draft]:
        """Read every table once for `backup.batch_tenants` tenants, at one recovery point, and store the rows."""
        return self._recorded(drafts, snapshot_tables(self._drafts, drafts, progress))

    def enumerate_files(self, drafts: Sequence[Draft], *, progress: ProgressSink = no_progress) -> list[Draft]:
        """List and store the tenants' files."""
        return self._recorded(drafts, enumerate_files(self._drafts, drafts, progress))

    def write_manifest(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Write the component documents and prepare the signed manifests."""
        return self._recorded(drafts, write_manifest(self._drafts, drafts))

    def verify_checksums(self, drafts: Sequence[Draft], *, progress: ProgressSink = no_progress) -> list[Draft]:
        """Read back what the manifests name, then publish them: the commit."""
        return self._recorded(drafts, verify_checksums(self._drafts, drafts, progress))

    def apply_retention(self, drafts: Sequence[Draft], *, dry_run: bool = False) -> list[Draft]:
        """Forget what the policy no longer keeps, release the leases; the drafts are COMPLETED, whatever goes wrong here.

        `draft.retention` says what was done, and has an `error` where it could not be.
        """
        return forgetting.apply_retention(self._drafts, drafts, dry_run)

    def create_all(
        self,
        tenant_ids: Sequence[str],
        user_ctx: UserContext,
        backup_type: str = BackupType.FULL,
        *,
        description: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> list[Draft]:
        """All steps for any number of tenants, `backup.batch_tenants` at a time."""
        size = self._site.settings.backup.batch_tenants
        done: list[Draft] = []
        if BackupType.parse(backup_type) is BackupType.FULL:
            for first in range(0, len(tenant_ids), size):
                some = tenant_ids[first : first + size]
                batch = self._begin(some, user_ctx, backup_type, description, in_one_process=True)
                done += self._finished(batch, progress)
        else:  # nothing is held for a draft until its tenant has changed
            begun = self._begin(tenant_ids, user_ctx, backup_type, description, in_one_process=True)
            live = making.running(begun)
            for first in range(0, len(live), size):
                done += self._finished(live[first : first + size], progress)
            results = {draft.tenant.id: draft for draft in done}
            done = [results.get(draft.tenant.id, draft) for draft in begun]
        return done

    def _finished(self, drafts: list[Draft], progress: ProgressSink) -> list[Draft]:
        """All steps after `begin`."""
        try:
            drafts = self.snapshot_tables(drafts, progress=progress)
            drafts = self.enumerate_files(drafts, progress=progress)
            drafts = self.write_manifest(drafts)
            drafts = self.verify_checksums(drafts, progress=progress)
            drafts = self.apply_retention(drafts)  # none is running any more: nothing is left to abandon
            return drafts
        finally:
            self.abandon(drafts)

    def abandon(self, drafts: Sequence[Draft]) -> None:
        """Release the leases of drafts whose run will not go on."""
        making.abandon(self._drafts, drafts)

    def create(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        backup_type: str = BackupType.FULL,
        description: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> Manifest:
        """Back up one tenant; the manifest. Raises the error that made it fail.

        Where an incremental or differential backup finds nothing changed, the manifest of the backup that still describes the
        tenant, with `unchanged_as_of`, the recovery point at which it was found so.
        """
        (draft,) = self.create_all([tenant_id], user_ctx, backup_type, description=description, progress=progress)
        if draft.error is not None:
            raise draft.error
        if draft.unchanged_since is not None and draft.recovery_point is not None:
            manifest = self._manifest(draft.tenant, draft.unchanged_since)
            return Manifest({**manifest.document, "unchanged_as_of": asdict(draft.recovery_point)})
        assert draft.manifest is not None
        return draft.manifest

    def create_at(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        moment: Target,
        *,
        tables: Sequence[str] = (),
        as_of_backup: Sequence[str] = (),
        description: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> Manifest:
        """Put a backup of a moment of the past together, of one from before it and the change journal; its manifest.

        `tables`: only these. `as_of_backup`: tables that may be as the backup has them where the journal does not tell of them, or
        `all`. One that is there already is taken. Raises MomentOutOfReach, NotJournaled, JournalGap, RequestError.
        """
        choice = MomentChoice(moment, tuple(tables), tuple(as_of_backup))
        return self.moments.create(tenant_id, user_ctx, choice, description=description, progress=progress)

    def of(self, tenant_id: str, user_ctx: UserContext, *, former_key: str | None = None) -> list[Manifest]:
        """The manifests of all backups of a tenant, newest first; [] where there are none.

        Those of a tenant that had the slug before are left out: a platform administrator gets these, and only these, by
        naming its key. One whose manifest is damaged is not among them: see `damaged`.
        """
        return self._listed(tenant_id, user_ctx, former_key=former_key)[0]

    def former_keys(self, tenant_id: str, user_ctx: UserContext) -> list[str]:
        """The keys of tenants that had the slug before, and of whom there are backups. For callers of the platform; else none."""
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.list", owned=False)
        if user_ctx.tenant_id != ALL_TENANTS:
            return []
        found: set[str] = set()
        for home in self._site.owners.homes(tenant.id, tenant.region):
            with suppress(UnknownBackup), self._site.opened(tenant, home) as repository:
                found |= {key for key in self._site.owners.keys_in(repository).values() if key is not None}
        return sorted(found - {tenant.key})

    def damaged(self, tenant_id: str, user_ctx: UserContext, *, former_key: str | None = None) -> list[SbhError]:
        """An error for each backup of a tenant whose manifest cannot be read. Whoever lists backups must show these."""
        return self._listed(tenant_id, user_ctx, record=False, former_key=former_key)[1]

    def get(self, backup_id: str, tenant_id: str, user_ctx: UserContext, *, former_key: str | None = None) -> Manifest:
        """A manifest; `latest` is the newest. `former_key`: of a tenant that had the slug before, for platform administrators.

        Raises UnknownBackup, SlugChangedHands, CorruptObject.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.list", former_key=former_key)
        with self._site.repository(tenant) as repository:
            manifest = read_manifest(repository, resolve_own(repository, backup_id, tenant.key))
        self._gate.accessed(tenant, user_ctx, "get", backup_id=manifest.id)
        return manifest

    def _manifest(self, tenant: Tenant, backup_id: str) -> Manifest:
        with self._site.repository(tenant) as repository:
            return read_manifest(repository, BackupId.parse(backup_id))

    def latest_recovery_point(self, tenant_id: str, user_ctx: UserContext) -> LatestPoint:
        """Up to when the tenant is safe.

        Raises UnknownBackup where the tenant has no backups, CorruptObject where none can be read.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.list")
        self._gate.accessed(tenant, user_ctx, "recovery point")
        return latest_recovery_point(self._site, tenant)

    def recovery_points(self, tenant_ids: Sequence[str], user_ctx: UserContext) -> RecoveryPoints:
        """The same for several tenants at the cost of one listing each; for none given, all that the caller may see."""
        tenants = [self._gate.allowed(t, user_ctx, "backup.list", owned=False) for t in tenant_ids]
        if not tenant_ids:
            tenants = [t for t in self._gate.tenants.all() if user_ctx.tenant_id in (ALL_TENANTS, t.id)]
        return recovery_points(self._site, tenants)

    def validate(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        deep: bool = False,
        progress: ProgressSink = no_progress,
    ) -> Validation:
        """Whether a backup is whole; damage is reported, not raised.

        Raises UnknownBackup, UnknownTenant, and errors of reaching the store; for the tenant's own users also SlugChangedHands.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.validate")
        result, missing = Verification(backup_id, deep), list[str]()
        try:
            with self._site.repository(tenant) as repository:
                wanted = resolve_backup(repository, backup_id, lambda m: not is_anothers(repository, m.id, tenant.key))
                if user_ctx.tenant_id != ALL_TENANTS:
                    refuse_anothers(repository, wanted, tenant.key)
                result = Verification(wanted, deep)
                manifest = read_manifest(repository, wanted)
                repository.load_index()
                result = verify_backup(repository, manifest, deep=deep, progress=progress)
                if result.valid and FILES in result.components:
                    missing = missing_files(repository, result.components[FILES], MISSING_NAMED)
        except (CorruptObject, KeyServiceError) as error:
            if error.transient:
                raise
            result.found(error)
        told = {"backup_id": result.backup_id, "deep": deep, "valid": result.valid}
        codes = sorted({issue.code for issue in result.issues})
        self._site.track(
            tenant, "backup.validated", user_ctx.user_id, {**told, "issues": len(result.issues), "codes": codes}
        )
        return Validation.of(tenant.id, result, missing)

    def missing_files(self, backup_id: str, tenant_id: str, user_ctx: UserContext) -> list[str]:
        """The keys of a few of the files that rows of a backup refer to and that were not in the bucket when it was made.

        Raises UnknownBackup, SlugChangedHands, CorruptObject.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.validate")
        with self._site.repository(tenant) as repository:
            manifest = read_manifest(repository, resolve_own(repository, backup_id, tenant.key))
            self._gate.accessed(tenant, user_ctx, "missing files", backup_id=manifest.id)
            if not manifest.missing_references:
                return []
            repository.load_index()
            return missing_files(repository, read_component(repository, manifest, FILES), MISSING_NAMED)

    # status

    def status(self, backup_id: str, tenant_id: str | None = None, user_ctx: UserContext | None = None) -> BackupStatus:
        """How far a backup is, also one that never came to be.

        Backup ids are unique within a tenant only: without `tenant_id` the tenants are searched, and several hits raise
        RequestError. `latest`, and `@` and a time, are of the tenant that is named. Raises UnknownBackup.
        """
        if is_relative(backup_id) and tenant_id is not None and user_ctx is not None:
            tenant = self._gate.allowed(tenant_id, user_ctx, "backup.status")
            with self._site.repository(tenant) as repository:
                backup_id = resolve_own(repository, backup_id, tenant.key)
        wanted = BackupId.parse(backup_id)
        found = [
            (tenant, status)
            for tenant in self._gate.candidates(tenant_id, user_ctx)
            if (status := backup_status(self._site, tenant, wanted)) is not None
            and (status.status != "completed" or self._may_know(tenant, wanted, user_ctx))
        ]
        missing = UnknownBackup("No such backup", on=wanted, remedy="see `sbh backup list`")
        tenant, only = the_only(found, missing)
        self._gate.accessed(tenant, user_ctx, "status", backup_id=wanted)
        return only

    def _may_know(self, tenant: Tenant, backup_id: BackupId, user_ctx: UserContext | None) -> bool:
        """Whether a backup is not another tenant's, as far as can be told; of the platform's users nothing is asked."""
        if user_ctx is None or user_ctx.tenant_id == ALL_TENANTS:
            return True
        with suppress(CorruptObject, KeyServiceError), self._site.repository(tenant) as repository:
            return not is_anothers(repository, backup_id, tenant.key)
        return True

    def overview(self, tenant_id: str, user_ctx: UserContext) -> tuple[list[Manifest], list[SbhError]]:
        """The manifests of a tenant's backups, newest first, without what is long in them (components, signature), and an error
        for each backup whose manifest cannot be read.

        At the cost of one listing, and one request for each manifest that this process has not read before.
        """
        return self._listed(tenant_id, user_ctx, brief=True)

    def _listed(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        *,
        record: bool = True,
        brief: bool = False,
        former_key: str | None = None,
    ) -> tuple[list[Manifest], list[SbhError]]:
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.list", former_key=former_key)
        try:
            repository = self._site.repository(tenant)
        except UnknownBackup:
            return [], []
        with repository, self._recorded_beside(tenant, user_ctx) if record else nullcontext():
            sound, damaged = read_manifests(repository, self.manifest_cache, brief=brief)
            sound = self._of_owner(repository, sound, tenant.key)
        return sorted(sound, key=lambda m: (m.created_at, m.id), reverse=True), damaged

    def _of_owner(self, repository: Repository, manifests: list[Manifest], owner: str) -> list[Manifest]:
        """Those of one tenant, and those that do not say whose they are. Brief manifests may be given.

        Keys that an earlier release left out of the manifests are looked up once by this process.
        """
        unknown = [m for m in manifests if m.tenant_key is None and (m.id, m.checksum) not in self._owners]
        if unknown:
            with KeyReader(repository) as reader:
                keys = reader.keys_of([manifest.id for manifest in unknown])
            self._owners |= {(m.id, m.checksum): key for m, key in zip(unknown, keys, strict=True)}
        whose = [(m, m.tenant_key or self._owners[m.id, m.checksum]) for m in manifests]
        return [m for m, key in whose if key in (owner, None) or repository.adopts(str(key))]

    @contextmanager
    def _recorded_beside(self, tenant: Tenant, user_ctx: UserContext) -> Iterator[None]:
        """That the tenant's backups are listed is recorded while they are read; nobody is given them before it is."""
        here = copy_context()  # which face the caller came through
        recording = self._recorders.submit(here.run, self._gate.accessed, tenant, user_ctx, "list")
        try:
            yield
        finally:
            recording.result()

    def unfinished(self, tenant_id: str, user_ctx: UserContext, status: str) -> list[BackupStatus]:
        """`status` running: the one at work, if any; failed: what is on record of those that were not committed, newest first."""
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.status")
        store, prefix = self._site.backup_store(tenant)
        if status == "running":
            lease = leases.running(store, prefix, self._site.clock)
            ids = [lease.purpose] if lease else []
        else:
            names = (info.key.rsplit("/", 1)[1] for info in listed(store, prefix, Keys.FAILURES))
            ids = sorted((name.removesuffix(".json") for name in names), reverse=True)[:_MOST_FAILURES]
        found = []
        for text in ids:
            try:
                at = backup_status(self._site, tenant, BackupId.parse(text))
            except InvalidId:  # a restore's lease, or not one of ours
                continue
            if at is not None and at.status == status:
                found.append(at)
        return found

    def _recorded(self, before: Sequence[Draft], after: list[Draft]) -> list[Draft]:
        """`after`, once the trails have what this step did to it."""
        record_drafts(self._site, before, after)
        return after

    def _record_policy(self, user_ctx: UserContext) -> None:
        if not self._policy_recorded:
            with suppress(SbhError):  # no reason not to back up: the next run records it
                record_policy(self._site, user_ctx.user_id)
                self._policy_recorded = True  # settings are frozen
