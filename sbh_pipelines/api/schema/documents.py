"""What the service returns, as answers: the part that belongs on a page, and only what the caller may see."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sbh_pipelines.api.schema.problems import error_fields, issue_fields, scrub, sees_internals
from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.service.results import BackupStatus, RestorePlan, RestoreRecord, Validation
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import SbhError, error_from_dict
from sbh_pipelines.model import BackupId, parse_timestamp, timestamp
from sbh_pipelines.security.policy import UserContext

_BACKUP_KEYS = ("id", "tenant_id", "type", "region", "created_by", "created_at", "description", "checksum", "size")
_ID = re.compile(r"backup_\d{8}_\d{4}(?:_\d{2,4})?")


def backup(manifest: Manifest) -> dict[str, object]:
    """One line of the list."""
    said = manifest.document
    more = {name: said[name] for name in ("parent", "purpose", "requested_type") if said.get(name)}
    return {**{name: said.get(name) for name in _BACKUP_KEYS}, **more, "status": "completed"}


def unfinished(status: BackupStatus, user: UserContext) -> dict[str, object]:
    """One that runs or failed: there is no manifest yet."""
    fields = dict.fromkeys(_BACKUP_KEYS) | {
        "id": status.backup_id,
        "tenant_id": status.tenant_id,
        "status": status.status,
        "created_at": begun_at(status.backup_id),
    }
    if status.details:
        fields["error"] = error_fields(error_from_dict(status.details), user)
    return fields


def begun_at(backup_id: str) -> str:
    """When, to the minute: as the id says."""
    parts = BackupId.parse(backup_id).split("_")
    return timestamp(parse_timestamp(f"{parts[1]}T{parts[2]}00Z"))


def backup_status(status: BackupStatus, user: UserContext) -> dict[str, object]:
    shown: dict[str, object] = as_document(replace(status, error=None, details=None))
    if status.details:
        fields = error_fields(error_from_dict(status.details), user)
        shown |= {"error": fields["what"], "details": fields}
    return shown


def damaged(errors: Sequence[SbhError], user: UserContext) -> list[dict[str, object]]:
    found = []
    for error in errors:
        named = _ID.search(error.on)
        found.append({"backup_id": named[0] if named else None, **error_fields(error, user)})
    return found


def plan(found: RestorePlan, user: UserContext) -> Mapping[str, object]:
    shown = {**as_document(found), "problems": [error_fields(problem, user) for problem in found.problems]}
    return shown if sees_internals(user) else {**shown, "target": scrub(found.target)}


def validation(found: Validation, user: UserContext) -> dict[str, object]:
    return {**as_document(found), "issues": [issue_fields(issue.as_dict(), user) for issue in found.issues]}


def restore(record: RestoreRecord, user: UserContext) -> Mapping[str, object]:
    document: Mapping[str, object] = as_document(record)
    if record.error is None or "code" not in record.error:
        return document
    return {**document, "error": error_fields(error_from_dict(record.error), user)}
