"""Operations: runs of Dagster that the API launched, as its callers see them.

A run says what it did in the metadata of its events; an operation shows a chosen part of it, and the error as the error tree
has it. Which tenant a run is for, and who asked for it, is in its tags.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from sbh_pipelines.api.runs.dagster import Dagster, Event, Run
from sbh_pipelines.api.schema.answers import Accepted, Operation, OperationLine, Status
from sbh_pipelines.api.schema.problems import error_answer, sees_internals
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import OrchestratorError, SbhError, error_from_dict
from sbh_pipelines.model import BackupId, Tenant, timestamp
from sbh_pipelines.security.policy import UserContext

USER_TAG, ROLE_TAG, TENANT_TAG, VIA_TAG = "user", "sbh/role", "sbh/tenant", "sbh/via"
CALL_TAG, BACKUP_TAG, RESTORE_TAG = "sbh/call", "sbh/backup_id", "sbh/restore_id"
OWNER_TAG = "sbh/tenant_key"
ISSUED_BY_TAG = "sbh/issued_by"
COPY_TAG = "sbh/copy"
IDEMPOTENCY_TAG, REQUEST_TAG = "sbh/idempotency", "sbh/request"
VIA = "api"

CREATE, RESTORE, UNDO, VALIDATE, SCHEMA = (
    "backup.create",
    "backup.restore",
    "restore.undo",
    "backup.validate",
    "restore.into_schema",
)
COPY_RUN, COPY_VERIFY = "copies.run", "copies.verify"
WRITERS = frozenset({CREATE, RESTORE, UNDO})
"""Calls whose runs take the tenant's lease."""
ONE_AT_A_TIME = frozenset({SCHEMA, COPY_RUN})
"""Calls of which a tenant, or a copy, has one under way at most, whatever else is."""

_STATUS: Mapping[str, Status] = {
    "NOT_STARTED": "queued",
    "QUEUED": "queued",
    "MANAGED": "queued",
    "STARTING": "running",
    "STARTED": "running",
    "CANCELING": "canceling",
    "CANCELED": "canceled",
    "SUCCESS": "completed",
    "FAILURE": "failed",
}
_STEPS = {CREATE: 5}
_MOST_KNOWN = 5000  # runs
_SHOWN: dict[str, tuple[str, ...]] = {
    CREATE: (
        "backup_id", "backup_type", "requested_type", "reason", "parent", "unchanged_since", "rows", "tables", "files",
        "files_missing", "source_bytes", "stored_bytes", "duration_s", "checksum", "recovery_point",
    ),
    RESTORE: (
        "restore_id", "backup_id", "mode", "safety_backup", "rows_inserted", "rows_updated", "rows_deleted", "rows_kept",
        "files_restored", "files_removed", "files_unchanged", "files_kept", "downloaded_bytes", "duration_s",
    ),
    VALIDATE: ("backup_id", "valid", "deep", "objects_checked", "chunks_checked", "bytes_checked", "duration_s"),
    SCHEMA: ("backup_id", "schema", "rows", "tables", "duration_s"),
    COPY_RUN: ("tenants", "left_out", "failed", "objects", "bytes", "duration_s"),
    COPY_VERIFY: ("valid", "deep", "tenants", "invalid", "left_out", "objects", "bytes", "duration_s"),
}  # fmt: skip
_SHOWN[UNDO] = _SHOWN[RESTORE]
_COUNTS = frozenset({"tables"})
"""Numbers that a run has as text, for Dagster plots all others."""
_RESULTS = ("MaterializationEvent", "ObservationEvent", "ExecutionStepOutputEvent")


def owner_tag(tenant: Tenant) -> str:
    """What tells a run's tenant from another that gets its slug later."""
    return hashlib.sha256(f"{tenant.id}\0{tenant.key}".encode()).hexdigest()[:16]


def place_of(run: Run) -> str:
    """What a link to something that lies where the run worked ends with: the copy, where it is one."""
    copy = run.tags.get(COPY_TAG)
    return "" if copy is None else f"?from_copy={copy}"


def status_of(run: Run) -> Status:
    return _STATUS.get(run.status, "running")


def accepted(operation_id: str, call: str, tenant_id: str, status: Status = "queued") -> Accepted:
    """The body of a 202."""
    return Accepted(
        operation_id=operation_id,
        kind=call,
        tenant_id=tenant_id,
        status=status,
        links=_links(operation_id, under_way=True),
    )


@dataclass(frozen=True, slots=True)
class Made:
    """What a run made, by its events: the ids of a backup and of a restore."""

    backup_id: str | None = None
    restore_id: str | None = None


NOTHING_MADE = Made()


class MadeByRuns:
    """What runs that have ended made: asked of Dagster once for each, and remembered of the last few thousand. Thread-safe."""

    def __init__(self, dagster: Dagster) -> None:
        self._dagster = dagster
        self._known: OrderedDict[str, Made] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, runs: Sequence[Run]) -> dict[str, Made]:
        """By the run's id, of writers that came to an end well; what Dagster cannot tell just now is left out."""
        ended = [run for run in runs if run.status == "SUCCESS" and run.tags.get(CALL_TAG) in WRITERS]
        with self._lock:
            found = {run.id: self._known[run.id] for run in ended if run.id in self._known}
        asked = [run for run in ended if run.id not in found]
        made = side_by_side(self._asked, asked, name="operations") if asked else []
        with self._lock:
            for run, one in zip(asked, made, strict=True):
                if one is not None:
                    self._known[run.id] = found[run.id] = one
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return found

    def _asked(self, run: Run) -> Made | None:
        try:
            result = _result(run.tags.get(CALL_TAG, ""), self._dagster.events(run.id))
        except OrchestratorError:
            return None
        backup_id = result.get("unchanged_since") or result.get("backup_id")
        restore_id = result.get("restore_id")
        return Made(str(backup_id) if backup_id else None, str(restore_id) if restore_id else None)


def brief(run: Run, user: UserContext, dagster_url: str | None, made: Made = NOTHING_MADE) -> OperationLine:
    """What the run's own fields and tags say, and what it `made`."""
    return OperationLine(
        operation_id=run.id,
        kind=run.tags.get(CALL_TAG, ""),
        tenant_id=run.tags.get(TENANT_TAG, ""),
        status=status_of(run),
        requested_by=run.tags.get(USER_TAG, ""),
        created_at=_time(run.created),
        started_at=_time(run.started),
        finished_at=_time(run.ended),
        backup_id=made.backup_id or run.tags.get(BACKUP_TAG),
        restore_id=made.restore_id or run.tags.get(RESTORE_TAG),
        dagster_url=f"{dagster_url}/runs/{run.id}" if dagster_url and sees_internals(user) else None,
        links=_links(run.id, under_way=run.under_way),
    )


def full(run: Run, events: Sequence[Event], user: UserContext, dagster_url: str | None) -> Operation:
    """With progress, result and error, from the run's events."""
    line = brief(run, user, dagster_url)
    result = _result(line.kind, events)
    backup_id = result.get("unchanged_since") or result.get("backup_id") or line.backup_id
    restore_id = result.get("restore_id") or line.restore_id
    failure = next((event for event in events if event.kind == "ExecutionStepFailureEvent"), None)
    error = None
    if run.status == "FAILURE":
        error = error_answer(_error(failure, line.tenant_id), user)
    elif run.status == "CANCELED":
        error = error_answer(OrchestratorError("The run was canceled", remedy="ask for it again"), user)
    if (
        line.kind in (VALIDATE, COPY_VERIFY)
        and "valid" not in result
        and failure is not None
        and run.status == "FAILURE"
    ):
        result = {**result, "valid": False}
    links, there = dict(line.links), place_of(run)
    if backup_id and BackupId.valid(str(backup_id)) and run.status == "SUCCESS":
        links["backup"] = f"/api/backup/{backup_id}{there}"
    if restore_id:
        links["restore"] = f"/api/restore/{restore_id}{there}"
    known = {field.name: getattr(line, field.name) for field in fields(line)}
    known |= {"backup_id": backup_id, "restore_id": restore_id, "links": links}
    return Operation(
        **known,
        progress=_progress(line.kind, run, events),
        step=next((e.step for e in reversed(events) if e.kind == "ExecutionStepStartEvent"), None),
        result=result or None,
        error=error,
    )


def _result(call: str, events: Sequence[Event]) -> dict[str, object]:
    shown = _SHOWN.get(call, ())
    result: dict[str, object] = {}
    for event in events:
        if event.kind in _RESULTS:
            found = {name: event.metadata[name] for name in shown if event.metadata.get(name) is not None}
            result |= {name: _number(value) if name in _COUNTS else value for name, value in found.items()}
    return result


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _error(failure: Event | None, tenant_id: str) -> SbhError:
    """The error tree's, where the run could say one."""
    if failure is None:
        return OrchestratorError(
            "The run ended without saying why",
            why="its worker died, or it was ended by hand",
            remedy="ask for it again; Dagster's page of the run has its log",
        )
    records = failure.metadata.get("failed_tenants")
    for record in records if isinstance(records, list) else ():
        if isinstance(record, Mapping) and record.get("tenant") == tenant_id:
            return error_from_dict(record)
    if isinstance(whole := failure.metadata.get("error"), Mapping):
        return error_from_dict(whole)
    said = failure.message.strip().splitlines()
    return OrchestratorError("The run failed", on=failure.step, why=said[0][:300] if said else "")


def _progress(call: str, run: Run, events: Sequence[Event]) -> int:
    """Percent, by steps."""
    if run.status == "SUCCESS":
        return 100
    done = sum(event.kind == "ExecutionStepSuccessEvent" for event in events)
    return min(99, round(100 * done / _STEPS.get(call, 1)))


def _links(operation_id: str, *, under_way: bool) -> dict[str, str]:
    links = {"self": f"/api/operations/{operation_id}"}
    return links | ({"cancel": f"/api/operations/{operation_id}/cancel"} if under_way else {})


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(datetime.fromtimestamp(seconds, UTC))
