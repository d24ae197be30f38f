"""The status of a restore, kept in the repository so that any process, also after a crash, can tell it."""

from dataclasses import dataclass
from typing import Any

from sbh_pipelines.backup.site import Site
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError, UnknownRestore
from sbh_pipelines.model import BackupId, RestoreId, Tenant, timestamp
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.format import Keys, parse_document
from sbh_pipelines.repository.repository import Repository


@dataclass
class RestoreStatus:
    """Writes the status document when the step changes; progress within a step is not worth a request."""

    site: Site
    repository: Repository
    restore_id: RestoreId
    backup_id: BackupId
    tenant: Tenant
    requested_by: str
    owner: str
    _started_at: str = ""
    _step: str = ""
    _percent: int = 0

    def step(self, step: str, percent: int) -> None:
        self._percent = max(percent, self._percent)
        if step != self._step:
            self._step = step
            self._started_at = self._started_at or timestamp(self.site.clock())
            self._put("running", {})

    def completed(self, result: dict[str, Any]) -> None:
        self._percent = 100
        self._put("completed", {"result": {k: v for k, v in result.items() if k != "tables"}})

    def failed(self, error: BaseException) -> None:
        """Record the failure; never hides it behind one of its own."""
        fields = error.as_dict() if isinstance(error, SbhError) else {"code": "SBH-000", "what": type(error).__name__}
        try:
            self._put("failed", {"error": fields})
        except SbhError as second:
            error.add_note(f"and its status could not be recorded: {second}")

    def _put(self, status: str, more: dict[str, Any]) -> None:
        self.repository.put_document(
            Keys.restore(self.restore_id),
            {
                "restore_id": self.restore_id,
                "backup_id": self.backup_id,
                "tenant_id": self.tenant.id,
                "requested_by": self.requested_by,
                "started_at": self._started_at,
                "status": status,
                "step": self._step,
                "progress": self._percent,
                "owner": self.owner,
                **more,
            },
        )


def read_restore_status(site: Site, tenant: Tenant, restore_id: RestoreId) -> dict[str, Any]:
    """The status document; `interrupted` when the process that ran it is gone. Raises UnknownRestore."""
    store, prefix = site.backup_store(tenant)
    key = prefix + Keys.restore(restore_id)
    try:
        document = parse_document(store.get(key), store.url(key))
    except ObjectMissing:
        raise UnknownRestore("No such restore", on=f"{restore_id} of {tenant.id}") from None
    if document.get("restore_id") != restore_id or "status" not in document:
        raise CorruptObject("The status of a restore is damaged", on=store.url(key), why="changed, or swapped")
    owner = document.pop("owner", "")
    if document["status"] == "running":
        lease = leases.running(store, prefix, site.clock)
        if lease is None or lease["owner"] != owner:
            document["status"] = "interrupted"
            document["error"] = {
                "what": "The process that ran the restore is gone",
                "why": "it was killed; rows it had not committed were rolled back, files it had put back are there",
                "remedy": "run the restore again: what is in place already is not written again",
            }
    return document
