"""The status of a restore, kept in the repository so that any process, also after a crash, can tell it (`records.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sbh_pipelines.backup.restore.records import INTERRUPTED, KIND, why_interrupted
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.restore.result import RestoreResult
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupId, RestoreId, Tenant, timestamp
from sbh_pipelines.repository.documents import keyed_digest, signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.repository import Repository

_SEARCHED = ("rows", "files")  # of a scope
_NONE: Mapping[str, object] = {}


@dataclass
class RestoreStatus:
    """Writes the status document when the step changes; progress within a step is not worth a request."""

    site: Site
    repository: Repository
    restore_id: RestoreId
    backup_id: str
    tenant: Tenant
    requested_by: str
    owner: str
    request: RestoreRequest
    undoes: RestoreId | None = None
    _safety: Mapping[str, object] = field(default_factory=dict)
    _started_at: str = ""
    _step: str = ""
    _percent: int = 0

    def step(self, step: str, percent: int) -> None:
        self._percent = max(percent, self._percent)
        if step != self._step:
            self._step = step
            self._started_at = self._started_at or timestamp(self.site.clock())
            self._put("running", {})

    def secured(self, backup_id: BackupId, tables: tuple[str, ...], files: tuple[str, ...], left_rows: int = 0) -> None:
        """Before anything is written: the backup that undoes this restore, and what of it an undo would bring back."""
        self._safety = {
            "safety_backup_id": backup_id,
            "touches": {"tables": list(tables), "files": list(files)},
            **({"left_rows": left_rows} if left_rows else {}),
        }
        self._put("running", {})

    @property
    def ended(self) -> bool:
        return self._percent == 100

    def completed(self, result: RestoreResult) -> None:
        self._percent = 100
        kept = {k: v for k, v in as_document(result).items() if k not in ("tables", "scope")}
        self._put("completed", {"result": kept})

    def failed(self, error: BaseException) -> None:
        """Record the failure, or that somebody interrupted it; never hides it behind one of its own."""
        try:
            if not isinstance(error, Exception):  # Ctrl-C, the end of the process, a run that is cancelled
                self._put(INTERRUPTED, {"error": why_interrupted("The restore was interrupted")})
                return
            fields = (
                error.to_keep.as_dict()
                if isinstance(error, SbhError)
                else {"code": "SBH-000", "what": type(error).__name__}
            )
            self._put("failed", {"error": {"code": fields["code"]}}, {"error": fields})
        except SbhError as second:
            error.add_note(f"and its status could not be recorded: {second}")

    def _put(self, status: str, more: Mapping[str, object], private: Mapping[str, object] = _NONE) -> None:
        """What people search for, and what an error says, can hold personal data, and is sealed."""
        key, scope = Keys.restore(self.restore_id), as_document(self.request.scope())
        hidden = {name: scope.pop(name) for name in _SEARCHED if name in scope}
        safety, touches = dict(self._safety), self._safety.get("touches")
        if isinstance(touches, dict):
            safety["touches"] = {"tables": touches["tables"]}
        document = {
            "restore_id": self.restore_id,
            "backup_id": self.backup_id,
            "requested_by": self.requested_by,
            "started_at": self._started_at,
            "status": status,
            "step": self._step,
            "progress": self._percent,
            "owner": self.owner,
            "mode": str(self.request.mode),
            "scope": scope,
            **({"undoes": self.undoes} if self.undoes else {}),
            **({"from_copy": self.site.copy_name} if self.site.copy_name else {}),
            **safety,
            **more,
        }
        sealed = {
            **({"scope": hidden} if hidden else {}),
            **({"touches": {"files": touches["files"]}} if isinstance(touches, dict) else {}),
            **private,
        }
        if hidden:  # so that two records can be told to be of the same
            document["searched"] = keyed_digest(self.repository, hidden)
        body = signed(self.repository, KIND, document, key, sealed)
        self.repository.store.put(self.repository.prefix + key, body)
