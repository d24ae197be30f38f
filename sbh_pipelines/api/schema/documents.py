"""What the service returns, as answers: the part that belongs on a page, and only what the caller may see."""

import re
from collections.abc import Mapping
from dataclasses import replace

from sbh_pipelines.api.schema.answers import Backup
from sbh_pipelines.api.schema.problems import error_answer, error_fields, issue_fields, scrub, sees_internals
from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.service.results import BackupStatus, RestorePlan, RestoreRecord, Validation
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import SbhError, error_from_dict
from sbh_pipelines.model import BackupId, parse_timestamp, timestamp
from sbh_pipelines.security.policy import UserContext

_ID = re.compile(r"backup_\d{8}_\d{4}(?:_\d{2,4})?")


def backup(manifest: Manifest) -> Backup:
    """One line of the list."""
    return Backup(
        id=manifest.id,
        tenant_id=manifest.tenant_id,
        type=manifest.type,
        region=manifest.region,
        created_by=manifest.created_by,
        created_at=manifest.created_at,
        description=manifest.description,
        checksum=manifest.checksum,
        size=manifest.size,
        parent=manifest.parent or None,
        purpose=manifest.purpose or None,
        requested_type=manifest.requested_type or None,
        status="completed",
    )


def unfinished(status: BackupStatus, user: UserContext) -> Backup:
    """One that runs or failed: there is no manifest yet."""
    return Backup(
        id=status.backup_id,
        tenant_id=status.tenant_id,
        created_at=begun_at(status.backup_id),
        status=status.status,
        error=error_answer(error_from_dict(status.details), user) if status.details else None,
    )


def begun_at(backup_id: str) -> str:
    """When, to the minute: as the id says."""
    parts = BackupId.parse(backup_id).split("_")
    return timestamp(parse_timestamp(f"{parts[1]}T{parts[2]}00Z"))


def backup_status(found: BackupStatus, user: UserContext) -> BackupStatus:
    if not found.details:
        return replace(found, error=None, details=None)
    fields = error_fields(error_from_dict(found.details), user)
    return replace(found, error=str(fields["what"]), details=fields)


def damaged(error: SbhError, user: UserContext) -> Mapping[str, object]:
    """A backup whose manifest cannot be read."""
    named = _ID.search(error.on)
    return {"backup_id": named[0] if named else None, **error_fields(error, user)}


def plan(found: RestorePlan, user: UserContext) -> RestorePlan:
    return found if sees_internals(user) else replace(found, target=scrub(found.target))


def validation(found: Validation, user: UserContext) -> Mapping[str, object]:
    return {**as_document(found), "issues": [issue_fields(issue, user) for issue in found.issues]}


def restore(found: RestoreRecord, user: UserContext) -> RestoreRecord:
    if found.error is None or "code" not in found.error:
        return found
    return replace(found, error=error_fields(error_from_dict(found.error), user))
