"""The status of a restore, kept in the repository so that any process, also after a crash, can tell it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sbh_pipelines.backup.restore.request import RestoreRequest, Scope
from sbh_pipelines.backup.restore.result import RestoreResult
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import as_document, optional
from sbh_pipelines.errors import CorruptObject, ObjectMissing, RestoreRefused, SbhError, UnknownRestore
from sbh_pipelines.model import BackupId, RestoreId, Tenant, timestamp
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.bounds import listed, most_bytes
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
        self._put("completed", {"result": {k: v for k, v in as_document(result).items() if k != "tables"}})

    def failed(self, error: BaseException) -> None:
        """Record the failure; never hides it behind one of its own."""
        fields = error.as_dict() if isinstance(error, SbhError) else {"code": "SBH-000", "what": type(error).__name__}
        try:
            self._put("failed", {"error": fields})
        except SbhError as second:
            error.add_note(f"and its status could not be recorded: {second}")

    def _put(self, status: str, more: Mapping[str, object]) -> None:
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
                "scope": as_document(self.request.scope()),
                **({"undoes": self.undoes} if self.undoes else {}),
                **self._safety,
                **more,
            },
        )


@dataclass(frozen=True, slots=True)
class Touched:
    """What of a tenant a restore writes.

    Attributes:
        tables: `schema.table` of each.
        files: patterns of their paths.
    """

    tables: Sequence[str]
    files: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRecord:
    """How a restore stands. Of one whose record is damaged only its ids, `status` and `error` are known.

    Attributes:
        restore_id: the restore.
        backup_id: what is restored.
        tenant_id: whose rows and files.
        requested_by: the user who began it.
        started_at: time of the start, UTC.
        status: running, completed, failed, interrupted (its process is gone), or unknown (the record is damaged).
        step: the step at work, or the last one.
        progress: percent.
        mode: exact, missing-only or newest-wins.
        scope: what of the tenant.
        undoes: the restore that it undoes.
        safety_backup_id: the backup that undoes it.
        touches: what of the tenant it writes.
        left_rows: objects beside the record that hold rows of nobody as they were before it took them back.
        result: the result without its tables, once it is completed.
        error: why it failed.
    """

    restore_id: str
    backup_id: str | None = optional()
    tenant_id: str
    requested_by: str | None = optional()
    started_at: str | None = optional()
    status: str
    step: str | None = optional()
    progress: int | None = optional()
    mode: str | None = optional()
    scope: Scope | None = optional()
    undoes: str | None = optional()
    safety_backup_id: str | None = optional()
    touches: Touched | None = optional()
    left_rows: int | None = optional()
    result: Mapping[str, object] | None = optional()
    error: Mapping[str, object] | None = optional()

    @property
    def undoable(self) -> bool:
        """Whether it has ended, touched something, and left a backup from before it."""
        touched = self.touches is not None and (self.touches.tables or self.touches.files)
        return self.status != "running" and bool(touched)


def _record(document: Mapping[str, Any], tenant: Tenant) -> RestoreRecord:
    known = {f.name: document[f.name] for f in fields(RestoreRecord) if f.name in document}
    scope, touches = document.get("scope"), document.get("touches")
    known |= {"scope": Scope(**scope)} if scope else {}
    known |= {"touches": Touched(**touches)} if touches else {}
    return RestoreRecord(**{"tenant_id": tenant.id, **known})


def read_restore_status(site: Site, tenant: Tenant, restore_id: RestoreId) -> RestoreRecord:
    """The record; `interrupted` when the process that ran it is gone. Raises UnknownRestore."""
    store, prefix = site.backup_store(tenant)
    key = prefix + Keys.restore(restore_id)
    try:
        document = parse_document(store.get(key, most_bytes(Keys.RESTORES)), store.url(key))
    except ObjectMissing:
        raise UnknownRestore("No such restore", on=f"{restore_id} of {tenant.id}") from None
    if document.get("restore_id") != restore_id or "status" not in document:
        raise CorruptObject("The status of a restore is damaged", on=store.url(key), why="changed, or swapped")
    record = _record(document, tenant)
    if record.status != "running":
        return record
    lease = leases.running(store, prefix, site.clock)
    if lease is not None and lease.owner == document.get("owner", ""):
        return record
    return replace(
        record,
        status="interrupted",
        error={
            "what": "The process that ran the restore is gone",
            "why": "it was killed; rows it had not committed were rolled back, files it had put back are there",
            "remedy": "run the restore again: what is in place already is not written again; or `sbh restore undo`",
        },
    )


@dataclass(frozen=True, slots=True)
class Undo:
    """The backup that holds the tenant as it was before a restore, and what of it the restore touched."""

    backup_id: BackupId
    tables: tuple[str, ...]
    files: tuple[str, ...]  # patterns
    restore_id: RestoreId
    left_rows: int = 0  # objects with rows that were nobody's before it


def what_undoes(record: RestoreRecord) -> Undo:
    """Raises RestoreRefused where there is nothing to undo, or nothing to do it with."""
    if record.status == "running":
        raise RestoreRefused("The restore is still running", on=record.restore_id, remedy="wait for its end")
    if record.safety_backup_id is None or record.touches is None:
        raise RestoreRefused(
            "The restore made no safety backup",
            on=record.restore_id,
            why="it changed nothing, ended before it wrote, was run without one, or into another database",
            remedy="restore an earlier backup: `sbh backup list`",
        )
    if not record.undoable:
        raise RestoreRefused("The restore changed nothing", on=record.restore_id, remedy="there is nothing to undo")
    return Undo(
        BackupId.parse(record.safety_backup_id),
        tuple(record.touches.tables),
        tuple(record.touches.files),
        RestoreId.parse(record.restore_id),
        record.left_rows or 0,
    )


def list_restores(site: Site, tenant: Tenant) -> list[RestoreRecord]:
    """All that are on record, newest first; one whose document is damaged has an `error` and little else."""
    store, prefix = site.backup_store(tenant)
    folder = prefix + Keys.RESTORES
    ids = sorted(
        (
            o.key[len(folder) :].removesuffix(".json")
            for o in listed(store, prefix, Keys.RESTORES)
            if o.key.endswith(".json")
        ),
        reverse=True,
    )
    found = []
    for text in ids:
        try:
            found.append(read_restore_status(site, tenant, RestoreId.parse(text)))
        except UnknownRestore:
            continue  # removed by a prune since it was listed
        except SbhError as error:
            found.append(RestoreRecord(restore_id=text, tenant_id=tenant.id, status="unknown", error=error.as_dict()))
    return found
