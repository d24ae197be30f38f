"""What a restore leaves in the tenant's audit trail: planned; started, before anything is written; completed, undone or failed.

Predicates of rows and patterns of files can hold personal data. The trail names the table and keeps a digest, so that it
can be shown later that a certain predicate was, or was not, what was asked for.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.site.audit_trails import noted
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupId, RestoreId, Tenant

_MOST_TABLES = 200
_TABLE = re.compile(r"\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)\s+where\s", re.IGNORECASE | re.ASCII)
_COUNTS = ("rows_inserted", "rows_updated", "rows_deleted", "rows_kept", "files_written", "files_removed", "seconds")


@dataclass(frozen=True, slots=True)
class RestoreEvents:
    """Of one restore in place, or into another database."""

    site: Site
    tenant: Tenant
    user_id: str
    restore_id: RestoreId
    backup_id: BackupId
    request: RestoreRequest
    target: str
    undoes: RestoreId | None = None

    def started(self) -> None:
        """Raises what keeps it from being recorded: then the restore must not begin."""
        self._track("restore.started", {})

    def completed(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result; with `audit_error` where the event could not be written: what is restored stays."""
        told = {name: result[name] for name in _COUNTS if name in result}
        told["safety_backup_id"] = result.get("safety_backup_id")
        try:
            self._track("restore.undone" if self.undoes else "restore.completed", told)
        except SbhError as error:
            return {**result, "audit_error": error.as_dict()}
        return result

    def failed(self, error: BaseException, *, written: bool) -> None:
        """`written`: all was restored, and what failed came after it."""
        fields = error.as_dict() if isinstance(error, SbhError) else {"code": "SBH-000", "what": type(error).__name__}
        with noted(error):
            self._track("restore.failed", {"code": fields["code"], "what": fields["what"], "restored": written})

    def _track(self, event: str, more: Mapping[str, Any]) -> None:
        props = {"restore_id": self.restore_id, **asked(self.backup_id, self.request, self.target), **more}
        if self.undoes:
            props["undoes"] = self.undoes
        self.site.track(self.tenant, event, self.user_id, props)


def asked(backup_id: str, request: RestoreRequest, target: str) -> dict[str, Any]:
    """What was asked for, without anything that may be a person's."""
    scope: dict[str, Any] = {"kind": "tenant" if request.whole else "part"}
    if request.tables:
        scope["tables"] = list(request.tables[:_MOST_TABLES])
    if request.rows is not None:
        table = _TABLE.match(request.rows)  # what is no name is not repeated: it has not been parsed yet
        scope |= {"rows_of": table[1][:128] if table else "", "rows": _digest(request.rows)}
    if request.files:
        scope["files"] = _digest("\0".join(request.files))
    if request.config_only:
        scope["config_only"] = True
    return {"backup_id": backup_id, "scope": scope, "mode": str(request.mode), "target": target}


def told_subject(subject: Mapping[str, Any]) -> dict[str, Any]:
    """What an approval is bound to (`restore_subject`, `undo_subject`), as the trail may keep it."""
    kept = {name: value for name, value in subject.items() if name != "request"}
    request = subject.get("request")
    if isinstance(request, Mapping):
        fields = {f.name for f in fields_of(RestoreRequest)}
        of = RestoreRequest.of(**{name: value for name, value in request.items() if name in fields})
        kept |= asked(str(subject.get("backup_id")), of, str(subject.get("into_database") or "in place"))
    return kept


def planned(plan: Mapping[str, Any], backup_id: str, request: RestoreRequest, target: str) -> dict[str, Any]:
    """The props of `restore.planned`."""
    tables = plan.get("tables") or ()
    counts = {kind: sum(int(t.get(kind) or 0) for t in tables) for kind in ("insert", "update", "delete")}
    told = {**asked(backup_id, request, target), **counts, "problems": len(plan.get("problems") or ())}
    return {**told, "samples": request.samples, "show_sensitive": request.show_sensitive}


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
