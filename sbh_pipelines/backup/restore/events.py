"""What a restore leaves in the tenant's audit trail: planned; started, before anything is written; completed, undone or failed.

Predicates of rows and patterns of files can hold personal data. The trail names the table and keeps a digest, so that it
can be shown later that a certain predicate was, or was not, what was asked for: by whoever has the tenant's key. To all others
who read the trail a guess is a guess.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sbh_pipelines.backup.restore.plan import RestorePlan
from sbh_pipelines.backup.restore.records import INTERRUPTED, SIGNED
from sbh_pipelines.backup.restore.request import OPTIONS, RestoreRequest
from sbh_pipelines.backup.restore.result import RestoreResult
from sbh_pipelines.backup.site.audit_trails import noted
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import ReferencePolicy, RestoreId, Tenant
from sbh_pipelines.repository.documents import keyed_digest
from sbh_pipelines.repository.repository import Repository

_MOST_TABLES = 200
_TABLE = re.compile(r"\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)\s+where\s", re.IGNORECASE | re.ASCII)
_COUNTS = ("rows_inserted", "rows_updated", "rows_deleted", "rows_kept", "files_removed", "seconds")


@dataclass(frozen=True, slots=True)
class RestoreEvents:
    """Of one restore in place, or into another database."""

    site: Site
    repository: Repository
    tenant: Tenant
    user_id: str
    restore_id: RestoreId
    backup_id: str
    request: RestoreRequest
    target: str
    undoes: RestoreId | None = None

    def started(self) -> None:
        """Raises what keeps it from being recorded: then the restore must not begin."""
        self._track("restore.started", {"record": SIGNED})

    def completed(self, result: RestoreResult) -> RestoreResult:
        """The result; with `audit_error` where the event could not be written: what is restored stays."""
        props = {**{name: getattr(result, name) for name in _COUNTS}, "safety_backup_id": result.safety_backup_id}
        try:
            self._track("restore.undone" if self.undoes else "restore.completed", props)
        except SbhError as error:
            return replace(result, audit_error=error)
        return result

    def failed(self, error: BaseException, *, written: bool) -> None:
        """`written`: all was restored, and what failed came after it."""
        fields: Mapping[str, object] = {"code": "SBH-000", "what": type(error).__name__}
        if isinstance(error, SbhError):
            fields = error.as_dict()
        elif not isinstance(error, Exception):
            fields = {"code": None, "what": INTERRUPTED}
        with noted(error):
            self._track("restore.failed", {"code": fields["code"], "what": fields["what"], "restored": written})

    def _asked(self) -> dict[str, object]:
        return request_props(self.repository, self.backup_id, self.request, self.target)

    def _track(self, event: str, more: Mapping[str, object]) -> None:
        props = {"restore_id": self.restore_id, **self._asked(), **more}
        if self.undoes:
            props["undoes"] = self.undoes
        self.site.track(self.tenant, event, self.user_id, props)


def request_props(repository: Repository, backup_id: str, request: RestoreRequest, target: str) -> dict[str, object]:
    """What was asked for, without anything that may be a person's."""
    scope: dict[str, object] = {"kind": "tenant" if request.whole else "part"}
    if request.tables:
        scope["tables"] = list(request.tables[:_MOST_TABLES])
    if request.all_but:
        scope["all_but"] = list(request.all_but[:_MOST_TABLES])
    if request.rows is not None:
        table = _TABLE.match(request.rows)  # what is no name is not repeated: it has not been parsed yet
        scope |= {"rows_of": table[1][:128] if table else "", "rows": keyed_digest(repository, {"rows": request.rows})}
    if request.files:
        scope["files"] = keyed_digest(repository, {"files": list(request.files)})
    if request.config_only:
        scope["config_only"] = True
    policy = {} if request.references is ReferencePolicy.REFUSE else {"references": str(request.references)}
    if request.as_tenant:
        policy["as_tenant"] = "restore.kept stays"
    return {"backup_id": backup_id, "scope": scope, "mode": str(request.mode), **policy, "target": target}


def subject_props(repository: Repository, subject: Mapping[str, object]) -> dict[str, object]:
    """What an approval is bound to (`restore_subject`, `undo_subject`), as the trail may keep it."""
    kept = {name: value for name, value in subject.items() if name != "request"}
    request = subject.get("request")
    if isinstance(request, Mapping):
        of = RestoreRequest.of(**{name: value for name, value in request.items() if name in OPTIONS})
        target = str(subject.get("into_database") or "in place")
        kept |= request_props(repository, str(subject.get("backup_id")), of, target)
    if "touched" in kept:
        kept["touched"] = keyed_digest(repository, {"touched": kept["touched"]})
    return kept


def plan_props(repository: Repository, plan: RestorePlan, request: RestoreRequest) -> dict[str, object]:
    """The props of `restore.planned`."""
    counts = {change: plan.rows(change) for change in ("insert", "update", "delete")}
    asked = request_props(repository, plan.backup_id, request, plan.target)
    shown = {"samples": request.samples, "show_sensitive": request.show_sensitive}
    return {**asked, **counts, "problems": len(plan.problems), **shown}
