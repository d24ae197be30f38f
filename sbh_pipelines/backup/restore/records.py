"""What restores have done, and whether it can be undone: the records that `status.py` writes.

A record is signed with the tenant's key, since an undo writes what it names; what people search for is sealed in it. Records of
earlier releases are neither. They are told as they are, and an undo follows one only where the audit trail says the same.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sbh_pipelines.backup.restore.request import Scope
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import optional, shown_fields, unshown
from sbh_pipelines.errors import CorruptObject, ObjectMissing, RecordUnsigned, RestoreRefused, SbhError, UnknownRestore
from sbh_pipelines.model import BackupId, RestoreId, Tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.bounds import listed, most_bytes
from sbh_pipelines.repository.documents import check_signed, open_private
from sbh_pipelines.repository.format import Keys, parse_document
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.trail.reader import EventFilter, page

KIND = "restore"
INTERRUPTED = "interrupted"  # the status of a restore that came to no end of its own
SIGNED = "signed"  # what the event of a restore's beginning says of its record
_PAGE = 500
_CLOCKS = timedelta(hours=1)


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
        backup_id: what is restored; `@` and a moment where that was put together of a copy for the restore alone.
        tenant_id: whose rows and files.
        requested_by: the user who began it.
        started_at: time of the start, UTC.
        status: running, completed, failed, interrupted (by a person, or its process is gone), or unknown (the record is damaged).
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
        from_copy: the copy that it restores from, where its record lies too.
        signed: whether the record is signed; an undo follows another only where the audit trail says the same.
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
    from_copy: str | None = optional()
    signed: bool | None = unshown()

    @property
    def undoable(self) -> bool:
        """Whether it has ended, touched something, and left a backup from before it."""
        touched = self.touches is not None and (self.touches.tables or self.touches.files)
        return self.status != "running" and bool(touched)


def _opened(repository: Repository, restore_id: RestoreId, document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a signed record, with what was sealed of them. Raises CorruptObject."""
    key = Keys.restore(restore_id)
    found = check_signed(repository, key, KIND, document)
    for name, more in open_private(repository, key, found).items():
        found[name] = {**found.get(name, {}), **more}
    if found.get("result") is not None:
        found["result"] = {**found["result"], "scope": found["scope"]}
    return found


def _record(document: Mapping[str, Any], tenant: Tenant, place: str, *, signed: bool) -> RestoreRecord:
    """Raises CorruptObject where a field is missing, or not what it is to be."""
    names = {f.name for f in shown_fields(RestoreRecord)}
    try:
        known = {name: value for name, value in document.items() if name in names}
        scope, touches = document.get("scope"), document.get("touches")
        known |= {"scope": Scope(**scope)} if scope is not None else {}
        if touches is not None:
            tables, files = (list(touches[name]) for name in ("tables", "files"))
            if not all(isinstance(text, str) for text in (*tables, *files)):
                raise TypeError
            known["touches"] = Touched(tables, files)
        if not isinstance(document["status"], str) or type(document.get("left_rows") or 0) is not int:
            raise TypeError
        return RestoreRecord(**{**known, "tenant_id": tenant.id, "signed": signed})
    except (KeyError, TypeError, ValueError):
        raise CorruptObject(
            "The record of a restore is damaged",
            on=place,
            why="a field is missing, or is not what it is to be",
            remedy="see who can write to the bucket, and restore the object's older version",
        ) from None


def read_restore_status(
    site: Site, tenant: Tenant, restore_id: RestoreId, repository: Repository | None = None
) -> RestoreRecord:
    """The record; `interrupted` when the process that ran it is gone. Raises UnknownRestore, CorruptObject.

    `repository`: the tenant's, where it is open; else it is opened for a record that is signed.
    """
    store, prefix = site.backup_store(tenant)
    key = Keys.restore(restore_id)
    place = store.url(prefix + key)
    try:
        document = parse_document(store.get(prefix + key, most_bytes(Keys.RESTORES)), place)
    except ObjectMissing:
        raise UnknownRestore("No such restore", on=f"{restore_id} of {tenant.id}") from None
    if document.get("restore_id") != restore_id or "status" not in document:
        raise CorruptObject("The status of a restore is damaged", on=place, why="changed, or swapped")
    is_signed = "signature" in document or "kind" in document
    if is_signed:
        with ExitStack() as stack:
            document = _opened(repository or stack.enter_context(site.repository(tenant)), restore_id, document)
    record = _record(document, tenant, place, signed=is_signed)
    if record.status != "running":
        return record
    lease = leases.running(store, prefix, site.clock)
    if lease is not None and lease.owner == document.get("owner", ""):
        return record
    return replace(record, status=INTERRUPTED, error=why_interrupted("The process that ran the restore is gone"))


def why_interrupted(what: str) -> dict[str, str]:
    """The error of a restore that came to no end of its own."""
    return {
        "what": what,
        "why": "rows it had not committed were rolled back, files it had put back are there",
        "remedy": "run the restore again: what is in place already is not written again; or `sbh restore undo`",
    }


@dataclass(frozen=True, slots=True)
class Undo:
    """The backup that holds the tenant as it was before a restore, and what of it the restore touched."""

    backup_id: BackupId
    tables: tuple[str, ...]
    files: tuple[str, ...]  # patterns
    restore_id: RestoreId
    left_rows: int = 0  # objects with rows that were nobody's before it


def what_undoes(site: Site, tenant: Tenant, record: RestoreRecord) -> Undo:
    """Raises RestoreRefused where there is nothing to undo, or nothing to do it with, RecordUnsigned, CorruptObject."""
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
    if not BackupId.valid(str(record.safety_backup_id)):
        raise CorruptObject("The record of a restore is damaged", on=record.restore_id, why="it names no backup")
    if not record.signed and not _vouched_for(site, tenant, record):
        raise RecordUnsigned(
            "The record of the restore is not signed, and the audit trail does not vouch for it",
            on=record.restore_id,
            why="somebody who can write to the bucket may have changed what it says: an undo writes what it names",
            remedy=f"find the backup that was made just before the restore, `sbh backup list {tenant.id}`, and restore from it the"
            " tables that you know the restore wrote: `sbh restore run BACKUP --tables ...`",
        )
    return Undo(
        BackupId(record.safety_backup_id),
        tuple(record.touches.tables),
        tuple(record.touches.files),
        RestoreId(record.restore_id),
        record.left_rows or 0,
    )


def _vouched_for(site: Site, tenant: Tenant, record: RestoreRecord) -> bool:
    """Whether the trail, which is signed, has the end of this restore by a release that signed no records, with the same backup.

    Also the same tables, as far as it names them.
    """
    try:
        began = datetime.strptime(record.restore_id[8:23], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return False
    wanted, cursor = EventFilter("restore.*", since=began - _CLOCKS), None
    ended = None
    while True:
        found = page(site.trails.of(tenant), wanted, _PAGE, cursor)
        for event in found.events:
            if event.via == "analytics" or event.props.get("restore_id") != record.restore_id:
                continue
            if event.event == "restore.started" and event.props.get("record") == SIGNED:
                return False
            ended = event if event.event in ("restore.completed", "restore.undone") else ended
        if (cursor := found.following) is None:
            break
    if ended is None or ended.props.get("safety_backup_id") != record.safety_backup_id or record.left_rows:
        return False
    scope = ended.props.get("scope")
    tables = scope.get("tables") if isinstance(scope, Mapping) else None
    return (
        not tables
        or record.touches is None
        or {t.rpartition(".")[2] for t in record.touches.tables} <= {str(t).rpartition(".")[2] for t in tables}
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
    with ExitStack() as stack:
        repository = stack.enter_context(site.repository(tenant)) if ids else None
        for text in ids:
            try:
                found.append(read_restore_status(site, tenant, RestoreId.parse(text), repository))
            except UnknownRestore:
                continue  # removed by a prune since it was listed
            except SbhError as error:
                unknown = RestoreRecord(restore_id=text, tenant_id=tenant.id, status="unknown", error=error.as_dict())
                found.append(unknown)
    return found
