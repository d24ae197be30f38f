"""Steps `write_manifest` and `verify_checksums`: component documents, then proof, then the commit."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.backup.contents.verification import raise_first, verify_backup
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts, running
from sbh_pipelines.backup.create.events import record_created
from sbh_pipelines.backup.create.recovery_points import record_published
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType, ProgressSink, no_progress, parse_timestamp
from sbh_pipelines.repository.format import COMPONENTS, Keys, checksum
from sbh_pipelines.repository.repository import Repository


def write_manifest(open_drafts: OpenDrafts, drafts: Sequence[Draft]) -> list[Draft]:
    """Write the component documents and prepare the signed manifest in `draft.manifest`; nothing is committed yet."""

    def work(draft: Draft) -> Draft:
        begun = time.monotonic()
        open_drafts.lease(draft)
        took = open_drafts.site.clock() - parse_timestamp(draft.begun or draft.created_at)
        written = write_documents(
            open_drafts.repository(draft), draft, COMPONENTS, duration_s=round(max(took.total_seconds(), 0.0), 3)
        )
        return replace(written, step="write_manifest").with_counters(seconds_manifest=time.monotonic() - begun)

    return open_drafts.each(drafts, "write_manifest", work)


def write_documents(
    repository: Repository,
    draft: Draft,
    names: Iterable[str],
    *,
    type: str | None = None,
    duration_s: float | None = None,
    schemas: Sequence[str] | None = None,
) -> Draft:
    """Write the documents of these components and sign the manifest that names them; the draft with both.

    `type` stands in the manifest where the backup is none of a tenant.
    """
    components = {name: _write_component(repository, draft, name) for name in names}
    manifest = Manifest.build(
        backup_id=draft.backup_id,
        tenant=draft.tenant,
        type=type or draft.type,
        created_by=draft.created_by,
        created_at=draft.created_at,
        components=components,
        parent=draft.parent,
        requested_type=type or draft.requested or draft.type,
        type_reason=draft.reason,
        reread=draft.reread,
        left_out=draft.left_out,
        recovery_point=draft.recovery_point,
        description=draft.description,
        purpose=draft.purpose,
        moment=draft.moment,
        key_epoch=repository.sealer.epoch,
        index=draft.objects,
        stats=draft.counters,
        duration_s=duration_s,
        schemas=schemas,
    )
    return replace(draft, components=components, manifest=Manifest(repository.sign(manifest.document)))


def _write_component(repository: Repository, draft: Draft, name: str) -> Component:
    """Write the document of one component; the component with its key and checksum."""
    key = Keys.component(name, draft.backup_id)
    named = replace(draft.components[name], key=repository.prefix + key)
    document = {"backup_id": draft.backup_id, "tenant_id": draft.tenant.id, **named.as_dict()}
    digest = checksum(document)
    repository.put_document(key, {**document, "checksum": digest})
    return replace(named, checksum=digest)


def commit(open_drafts: OpenDrafts, draft: Draft, repository: Repository, progress: ProgressSink) -> str:
    """Prove what the draft's manifest names; then publish it with a create-only put: the backup exists. The manifest's ETag.

    `repository` is a fresh view of the store, not loaded yet. What an incremental one takes over from the latest backup was
    verified for that one, and is there while the packs are. Raises CorruptObject, LeaseLost, ObjectExists.
    """
    assert draft.manifest is not None
    deep = open_drafts.site.settings.backup.verify == "read"
    repository.load_index()
    # A full backup reads them: once in a while somebody has to, or damage to a table's details would be found by a restore. And so
    # does one for a restore's undo: what it stands on is about to be written over.
    reads = deep or draft.type is BackupType.FULL or bool(draft.purpose)
    latest = None if reads else open_drafts.latest(draft)
    settled = latest.details(repository) if latest is not None else frozenset[str]()
    checked = verify_backup(repository, draft.manifest, deep=deep, own_only=True, settled=settled, progress=progress)
    raise_first(checked)
    # A writer that lost the lease must not commit. The listing tells that it is held: nobody else has written the object, nor may
    # for most of its time. Where it does not tell, or time has gone by, renewing is a conditional write, which does.
    held = open_drafts.lease(draft)
    if not held.is_proved(repository.inventory.lease_etag):
        held.renew()
    return repository.publish_manifest(draft.manifest.document)


def verify_checksums(
    open_drafts: OpenDrafts, drafts: Sequence[Draft], progress: ProgressSink = no_progress
) -> list[Draft]:
    """Commit each draft, and tell the audit trail and the catalog of it."""

    def work(draft: Draft) -> Draft:
        begun = time.monotonic()
        open_drafts.lease(draft)
        with open_drafts.reopened(draft) as repository:
            open_drafts.committed(draft, repository, commit(open_drafts, draft, repository, progress))
            # What is committed stays: the tenant's next backup records what could not be recorded now, as late.
            with suppress(SbhError):
                open_drafts.expect_trail_end(draft)
                record_created(open_drafts.site, draft, repository)
        return replace(draft, step="verify_checksums").with_counters(seconds_verify=time.monotonic() - begun)

    with open_drafts.kept(drafts):
        published = open_drafts.each(drafts, "verify_checksums", work)
    record_published(open_drafts, running(published))
    return published
