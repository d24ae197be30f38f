"""What a batch of backups leaves in the audit trails: who failed, how many were found unchanged, which policy was in force."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import SIDE_BY_SIDE
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, SbhError, UnknownBackup
from sbh_pipelines.model import BackupId
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.trail.end import CREATED, TrailEnd
from sbh_pipelines.repository.trail.event import Entry
from sbh_pipelines.settings import Settings

_POLICIES = ("retention", "schedules", "approval", "prune", "audit", "residency")
_MOST_VALUES = 32 << 10  # bytes of a policy's values that an event holds; beyond, its digest only


def record_drafts(site: Site, before: Sequence[Draft], after: Sequence[Draft]) -> None:
    """`backup.failed` of each draft that this step ended, and one `backup.checked` with how many tenants it found unchanged.

    None of it is worth failing a batch for: a failed backup has its record and its error, an unchanged tenant is in the
    region's catalog. So what cannot be written now is left out, and after the first such error nothing more is tried.
    """
    known = {draft.tenant.id: draft.status for draft in before}
    new = [d for d in after if known.get(d.tenant.id, DraftStatus.RUNNING) is DraftStatus.RUNNING]
    unchanged = [d for d in new if d.status is DraftStatus.UNCHANGED]
    failed = [d for d in new if d.status is DraftStatus.FAILED]
    with suppress(SbhError):
        if unchanged:
            _record_unchanged(site, unchanged, len(after))
        _record_failed(site, failed)


def _record_unchanged(site: Site, unchanged: Sequence[Draft], asked: int) -> None:
    first = unchanged[0]
    point = first.recovery_point.time if first.recovery_point else None
    props = {
        "unchanged": len(unchanged),
        "asked": asked,
        "type": first.requested or first.type,
        "recovery_point": point,
    }
    platform = platform_tenant(site.settings)
    site.trails.record(platform, "backup.checked", first.created_by, props, via=first.via)


def _record_failed(site: Site, failed: Sequence[Draft]) -> None:
    def one(draft: Draft) -> None:
        props: dict[str, object] = {"type": draft.requested or draft.type}
        props["backup_id"] = draft.backup_id if draft.lease_owner else None
        props |= {
            "region": draft.tenant.region,
            "step": draft.step,
            "code": draft.error.code if draft.error else None,
            "what": draft.error.what if draft.error else None,
        }
        site.trails.record(draft.tenant, "backup.failed", draft.created_by, props, via=draft.via)

    if failed:
        one(failed[0])  # where the store is out of reach, this tells, and the others are not waited for
    side_by_side(one, failed[1:], name="audit", threads=SIDE_BY_SIDE)


def record_created(site: Site, draft: Draft, repository: Repository) -> None:
    """`backup.created` of a backup just committed, and before it those of earlier ones that have none, as late.

    Such a one was committed by a process that was killed before it could record it.
    """
    assert draft.manifest is not None
    there = repository.seen_ids()
    this, trails = draft.manifest.id, site.trails
    made = trails.entry(CREATED, draft.manifest.created_by, created_props(draft.manifest), draft.via)

    def build(end: TrailEnd) -> list[Entry]:
        missing = [backup_id for backup_id in there if end.backups_to < backup_id < this]
        late = [entry for backup_id in missing if (entry := _late(site, repository, backup_id)) is not None]
        return [*late, made]

    trails.of(draft.tenant).append(build)


def _late(site: Site, repository: Repository, backup_id: BackupId) -> Entry | None:
    try:
        manifest = read_manifest(repository, backup_id)
    except UnknownBackup:
        return None  # forgotten meanwhile
    except CorruptObject:
        return site.trails.entry(CREATED, "", {"backup_id": backup_id, "late": True, "damaged": True}, "late")
    props = {**created_props(manifest), "late": True, "created_at": manifest.created_at}
    return site.trails.entry(CREATED, manifest.created_by, props, "late")


def created_props(manifest: Manifest) -> dict[str, object]:
    """The specification's props of `backup.created`, and what the backup builds on."""
    return {
        "backup_id": manifest.id,
        "type": manifest.type,
        "size": manifest.size,
        "region": manifest.region,
        "parent": manifest.parent,
        **({"purpose": manifest.purpose} if manifest.purpose else {}),
        "recovery_point": manifest.point_time,
        "duration_s": manifest.duration_s,
    }


def record_policy(site: Site, user_id: str) -> None:
    """`policy.changed`, where the policy in force is another than the trail of the platform has last."""
    sections = _sections(site.settings)
    digests = {name: _digest(values) for name, values in sections.items()}
    said = {name: v if len(json.dumps(v)) <= _MOST_VALUES // len(sections) else None for name, v in sections.items()}
    site.trails.record_policy(_digest(digests), {"sections": digests, "values": said}, user_id)


def _sections(settings: Settings) -> Mapping[str, object]:
    """Secrets are stars in it already."""
    return {n: getattr(settings, n).model_dump(mode="json") for n in _POLICIES if hasattr(settings, n)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
