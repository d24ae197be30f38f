"""The service's calls that take data out of backups: into a folder, or into a program's memory. For users of the
platform both work without the database.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.ownership import resolve_own
from sbh_pipelines.backup.contents.reader import OpenBackup, OpenFile, open_backup
from sbh_pipelines.backup.create.moment.reading import Reading
from sbh_pipelines.backup.export.browse import BackupView
from sbh_pipelines.backup.export.export import export_backup
from sbh_pipelines.backup.export.manifest import Export
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.backup.service.moments import Moments
from sbh_pipelines.backup.service.tenants import lost_tenant
from sbh_pipelines.errors import SettingsError, SourceError, UnknownTenant
from sbh_pipelines.model import ProgressSink, Tenant, TenantId, no_progress
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext


class Exports:
    """Data taken out of backups. Works without the database, for users of the platform."""

    def __init__(self, gate: Gate, moments: Moments) -> None:
        self._gate, self._site, self._moments = gate, gate.site, moments

    def export(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        folder: Path | str,
        *,
        format: str = "jsonl",
        tables: Sequence[str] = (),
        files: bool = True,
        former_key: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> Export:
        """Write a backup's tables and files to a folder that is empty or does not exist.

        `format`: sql, jsonl, csv, spreadsheet, parquet. `tables`: only these; all without. `latest` is the newest backup; `@` and
        a moment, at a copy with a change journal, the tenant as it was then. `former_key`: of a tenant that had the slug before,
        for platform administrators. Raises RequestError (format, table, a folder with something in it), UnknownBackup,
        SlugChangedHands, CorruptObject, ExportFailed; then nothing is at `folder`.
        """
        tenant = self._exportable(tenant_id, user_ctx, backup_id, former_key)
        with self._read(backup_id, tenant, user_ctx, tuple(tables), progress) as backup:
            props = {"backup_id": backup.named, "format": format[:16], "tables": list(tables)[:100], "files": files}
            self._site.track(tenant, "backup.exported", user_ctx.user_id, props)
            return export_backup(
                backup.repository,
                backup.backup_id,
                Path(folder),
                format,
                self._site.clock(),
                tables=tables,
                files=files,
                named=backup.named,
                progress=progress,
            )

    @contextmanager
    def _read(
        self, backup_id: str, tenant: Tenant, user_ctx: UserContext, tables: tuple[str, ...], progress: ProgressSink
    ) -> Iterator[Reading]:
        """Where backups are made `@` and a time is the newest that is not later: to put one together is not asked for there."""
        if self._moments.is_staged(backup_id):
            action = "backup.export"
            with self._moments.opened(backup_id, tenant, user_ctx, action, tables=tables, progress=progress) as backup:
                yield backup
            return
        with self._site.repository(tenant) as repository:
            yield Reading(repository, resolve_own(repository, backup_id, tenant.key))

    def open(self, backup_id: str, tenant_id: str, user_ctx: UserContext) -> OpenBackup:
        """A backup to read from, for notebooks: `tables`, `read_table`, `read_rows`, `files`, `read_file`. Close it, or use `with`.

        Raises UnknownBackup, CorruptObject.
        """
        tenant = self._exportable(tenant_id, user_ctx, backup_id)
        repository = self._site.repository(tenant)
        try:
            manifest = read_manifest(repository, resolve_own(repository, backup_id, tenant.key))
            self._gate.accessed(tenant, user_ctx, "open", backup_id=manifest.id)
        except BaseException:
            repository.close()
            raise
        return open_backup(repository, manifest)

    def file(self, backup_id: str, tenant_id: str, user_ctx: UserContext, path: str) -> OpenFile:
        """A file's content, for whoever takes it out. Close it, or use `with`. Recorded as an export, without the file's name.

        Raises UnknownBackup, CorruptObject, RequestError where the backup has no such file.
        """
        tenant = self._exportable(tenant_id, user_ctx, backup_id)
        repository = self._site.repository(tenant)
        try:
            backup = open_backup(repository, read_manifest(repository, resolve_own(repository, backup_id, tenant.key)))
            found = backup.file(path)
            props = {"backup_id": backup.backup_id, "what": "file", "size": found.size}
            self._site.track(tenant, "backup.exported", user_ctx.user_id, props)
        except BaseException:
            repository.close()
            raise
        return found

    def view(
        self, backup_id: str, tenant_id: str, user_ctx: UserContext, what: str, *, show_sensitive: bool = False
    ) -> BackupView:
        """A backup to look into, a page at a time, for those who may plan restores, whose plans show rows as well.

        `what`: the table, or `files`, for the record. Values of columns that `restore.sensitive` names are masked;
        `show_sensitive` is for who may export, and recorded as an export.

        Raises AccessDenied, UnknownBackup, SlugChangedHands, CorruptObject.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "restore.plan")
        if show_sensitive:
            self._gate.authorize(user_ctx, "backup.export", tenant.id)
        repository = self._site.repository(tenant)
        try:
            manifest = read_manifest(repository, resolve_own(repository, backup_id, tenant.key))
            of = what[:200]
            if show_sensitive:
                props = {"backup_id": manifest.id, "what": "view", "of": of, "show_sensitive": True}
                self._site.track(tenant, "backup.exported", user_ctx.user_id, props)
            else:
                self._gate.accessed(tenant, user_ctx, "view", backup_id=manifest.id, of=of)
        except BaseException:
            repository.close()
            raise
        backup = open_backup(repository, manifest)
        return BackupView(backup, self._site.settings.restore, show_sensitive=show_sensitive)

    def _exportable(
        self, tenant_id: str, user_ctx: UserContext, backup_id: str, former_key: str | None = None
    ) -> Tenant:
        """The tenant as the database has it; where that cannot be asked or does not know it, as its repository shows it to a user
        of the platform.

        Raises AccessDenied, and the database's error where there is no such backup either.
        """
        try:
            return self._gate.allowed(tenant_id, user_ctx, "backup.export", former_key=former_key)
        except (SourceError, SettingsError, UnknownTenant):  # the tenants table may be missing: see `sbh doctor`
            if former_key is not None or user_ctx.tenant_id != ALL_TENANTS:
                raise
            slug = TenantId.parse(tenant_id)
            found, newest = lost_tenant(self._site, slug, backup_id), lost_tenant(self._site, slug)
            if found is None or newest is None:
                raise
            # Whose the slug was last, as far as backups tell: not whose this backup is.
            return replace(found, key=newest.key)
