"""Steps `write_manifest` and `verify_checksums`: component documents, then proof, then the commit."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.contents.verification import raise_first, verify_backup
from sbh_pipelines.backup.create.catalog_record import record_published
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts, running
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import ProgressSink, no_progress, parse_timestamp
from sbh_pipelines.repository.format import FORMAT_VERSION, Keys, checksum
from sbh_pipelines.repository.repository import Repository

_LONG_FACTS = ("detail", "reference_keys")


def write_manifest(open_drafts: OpenDrafts, drafts: Sequence[Draft]) -> list[Draft]:
    """Write the component documents and prepare the signed manifest in `draft.manifest`; nothing is committed yet."""

    def work(draft: Draft) -> Draft:
        begun = time.monotonic()
        open_drafts.lease(draft)
        repository = open_drafts.repository(draft)
        components = {
            name: write_component(repository, draft, name, draft.components[name])
            for name in ("database", "files", "config")
        }
        took = open_drafts.site.clock() - parse_timestamp(draft.begun or draft.created_at)
        duration = round(max(took.total_seconds(), 0.0), 3)
        manifest = repository.sign({**manifest_of(draft, components, repository.sealer.epoch), "duration_s": duration})
        done = replace(draft, step="write_manifest", components=components, manifest=manifest)
        return done.with_counters(seconds_manifest=time.monotonic() - begun)

    return open_drafts.each(drafts, "write_manifest", work)


def write_component(repository: Repository, draft: Draft, name: str, component: Component) -> Component:
    """Write the document of one component; the component with its key and checksum."""
    key = Keys.component(name, draft.backup_id)
    named = replace(component, key=repository.prefix + key)
    document = {"backup_id": draft.backup_id, "tenant_id": draft.tenant.id, **named.as_dict()}
    document["checksum"] = checksum(document)
    repository.put_document(key, document)
    return replace(named, checksum=document["checksum"])


def _without_chunk_lists(document: Mapping[str, Any]) -> dict[str, Any]:
    """A component as the manifest shows it: what people and retention read, not what a restore does."""
    short = {k: v for k, v in document.items() if k not in _LONG_FACTS}
    if "table_details" in short:
        short["table_details"] = [_without_chunk_lists(table) for table in short["table_details"]]
    return short


def manifest_of(draft: Draft, components: Mapping[str, Component], key_epoch: int) -> dict[str, Any]:
    """The manifest of a draft whose components are written; not signed yet."""
    short = {name: _without_chunk_lists(component.as_dict()) for name, component in components.items()}
    return {
        "id": draft.backup_id,
        "tenant_id": draft.tenant.id,
        "type": draft.type,
        "region": draft.tenant.region,
        "created_by": draft.created_by,
        "created_at": draft.created_at,
        "components": short,
        "size": sum(component.size for component in components.values()),
        "parent": draft.parent,
        "requested_type": draft.requested or draft.type,
        "type_reason": draft.reason,
        "reread": dict(draft.reread),
        "recovery_point": asdict(draft.recovery_point) if draft.recovery_point else None,
        "tier": draft.tenant.tier,
        "description": draft.description,
        **({"purpose": draft.purpose} if draft.purpose else {}),
        "format_version": FORMAT_VERSION,
        "key_epoch": key_epoch,
        "index": list(draft.objects),
        "stats": {name: round(value, 3) for name, value in draft.counters.items()},
    }


def verify_checksums(
    open_drafts: OpenDrafts, drafts: Sequence[Draft], progress: ProgressSink = no_progress
) -> list[Draft]:
    """Read back what the manifest names, with a fresh view of the store; then publish it with a create-only put."""
    deep = open_drafts.site.settings.backup.verify == "read"

    def work(draft: Draft) -> Draft:
        begun = time.monotonic()
        assert draft.manifest is not None
        open_drafts.lease(draft)
        repository = open_drafts.reopened(draft)
        try:
            repository.load_index()
            raise_first(verify_backup(repository, draft.manifest, deep=deep, own_only=True, progress=progress))
            # Whoever lost the lease must not commit: renewing is a conditional write, so it tells.
            open_drafts.lease(draft).renew()
            repository.publish_manifest(draft.manifest)
            # What is committed stays: the tenant's next backup records what could not be recorded now, as late.
            with suppress(SbhError):
                open_drafts.site.trails.record_backup(draft.tenant, draft.manifest, repository, draft.via)
        finally:
            repository.close()
        return replace(draft, step="verify_checksums").with_counters(seconds_verify=time.monotonic() - begun)

    with open_drafts.kept(drafts):
        published = open_drafts.each(drafts, "verify_checksums", work)
    record_published(open_drafts, running(published))
    return published
