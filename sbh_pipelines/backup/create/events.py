"""What a batch of backups leaves in the audit trails: who failed, how many were found unchanged, which policy was in force."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import SIDE_BY_SIDE
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import SbhError
from sbh_pipelines.placement import platform_tenant
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
        error = draft.error or {}
        props: dict[str, Any] = {"type": draft.requested or draft.type}
        props["backup_id"] = draft.backup_id if draft.lease_owner else None
        props |= {
            "region": draft.tenant.region,
            "step": draft.step,
            "code": error.get("code"),
            "what": error.get("what"),
        }
        site.trails.record(draft.tenant, "backup.failed", draft.created_by, props, via=draft.via)

    if failed:
        one(failed[0])  # where the store is out of reach, this tells, and the others are not waited for
    side_by_side(one, failed[1:], name="audit", threads=SIDE_BY_SIDE)


def record_policy(site: Site, user_id: str) -> None:
    """`policy.changed`, where the policy in force is another than the trail of the platform has last."""
    sections = _sections(site.settings)
    digests = {name: _digest(values) for name, values in sections.items()}
    said = {name: v if len(json.dumps(v)) <= _MOST_VALUES // len(sections) else None for name, v in sections.items()}
    site.trails.record_policy(_digest(digests), {"sections": digests, "values": said}, user_id)


def _sections(settings: Settings) -> Mapping[str, Any]:
    """Secrets are stars in it already."""
    return {n: getattr(settings, n).model_dump(mode="json") for n in _POLICIES if hasattr(settings, n)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
