"""The status of a restore, kept in the repository so that any process, also after a crash, can tell it."""

from dataclasses import dataclass, field
from typing import Any

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CorruptObject, ObjectMissing, RestoreRefused, SbhError, UnknownRestore
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
    request: RestoreRequest
    undoes: RestoreId | None = None
    _safety: dict[str, Any] = field(default_factory=dict)
    _started_at: str = ""
    _step: str = ""
    _percent: int = 0

    def step(self, step: str, percent: int) -> None:
        self._percent = max(percent, self._percent)
        if step != self._step:
            self._step = step
            self._started_at = self._started_at or timestamp(self.site.clock())
            self._put("running", {})

    def secured(self, backup_id: BackupId, tables: tuple[str, ...], files: tuple[str, ...]) -> None:
        """Before anything is written: the backup that undoes this restore, and what of it an undo would bring back."""
        self._safety = {"safety_backup_id": backup_id, "touches": {"tables": list(tables), "files": list(files)}}
        self._put("running", {})

    @property
    def ended(self) -> bool:
        return self._percent == 100

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
                "mode": str(self.request.mode),
                "scope": self.request.scope(),
                **({"undoes": self.undoes} if self.undoes else {}),
                **self._safety,
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
        if lease is None or lease.owner != owner:
            document["status"] = "interrupted"
            document["error"] = {
                "what": "The process that ran the restore is gone",
                "why": "it was killed; rows it had not committed were rolled back, files it had put back are there",
                "remedy": "run the restore again: what is in place already is not written again; or `sbh restore undo`",
            }
    return document


@dataclass(frozen=True, slots=True)
class Undo:
    """The backup that holds the tenant as it was before a restore, and what of it the restore touched."""

    backup_id: BackupId
    tables: tuple[str, ...]
    files: tuple[str, ...]  # patterns


def what_undoes(status: dict[str, Any]) -> Undo:
    """Raises RestoreRefused where there is nothing to undo, or nothing to do it with."""
    restore_id = str(status["restore_id"])
    if status["status"] == "running":
        raise RestoreRefused("The restore is still running", on=restore_id, remedy="wait for its end")
    if "safety_backup_id" not in status:
        raise RestoreRefused(
            "The restore made no safety backup",
            on=restore_id,
            why="it changed nothing, ended before it wrote, was run without one, or into another database",
            remedy="restore an earlier backup: `sbh backup list`",
        )
    touched = status["touches"]
    if not touched["tables"] and not touched["files"]:
        raise RestoreRefused("The restore changed nothing", on=restore_id, remedy="there is nothing to undo")
    return Undo(BackupId.parse(status["safety_backup_id"]), tuple(touched["tables"]), tuple(touched["files"]))


def list_restores(site: Site, tenant: Tenant) -> list[dict[str, Any]]:
    """All that are on record, newest first; one whose document is damaged has an `error` and little else."""
    store, prefix = site.backup_store(tenant)
    folder = prefix + Keys.RESTORES
    ids = sorted((o.key[len(folder) :].removesuffix(".json") for o in store.list(folder)), reverse=True)
    found = []
    for text in ids:
        try:
            found.append(read_restore_status(site, tenant, RestoreId.parse(text)))
        except UnknownRestore:
            continue  # removed by a prune since it was listed
        except SbhError as error:
            found.append({"restore_id": text, "tenant_id": tenant.id, "status": "unknown", "error": error.as_dict()})
    return found
