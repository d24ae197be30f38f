"""What every step of a batch shares: which tenants it is for, and how it ends when it fails.

A tenant that fails stays in the batch as a failed draft. A step that ended every tenant of the batch is repeated if all
the errors were transient and repeats are left; otherwise the run ends there. Whatever ends a run early releases the
leases of its tenants, so that the next run need not wait for them to expire.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType, Progress, TenantId
from sbh_pipelines.orchestration.common.failed_tenants import failed_among
from sbh_pipelines.orchestration.common.failures import Retries, batch_failure, failure_of
from sbh_pipelines.orchestration.common.resources import BackupServiceResource
from sbh_pipelines.orchestration.common.runs import tag_run

Documents = list[dict[str, Any]]  # Draft.as_dict() of each tenant of the batch, in order

_FAILURES_LOGGED = 20
LINE_EVERY_S = 5.0  # an event of Dagster costs milliseconds and disk


def to_documents(drafts: Sequence[Draft]) -> Documents:
    return [draft.as_dict() for draft in drafts]


def to_drafts(documents: Documents) -> list[Draft]:
    return [Draft.from_dict(document) for document in documents]


def running(drafts: Sequence[Draft]) -> list[Draft]:
    return [draft for draft in drafts if draft.status is DraftStatus.RUNNING]


def outcome(drafts: Sequence[Draft]) -> dict[str, int]:
    """How many tenants are unchanged, backed up (or still on their way), and failed."""
    statuses = [draft.status for draft in drafts]
    unchanged, failed = statuses.count(DraftStatus.UNCHANGED), statuses.count(DraftStatus.FAILED)
    return {"unchanged": unchanged, "backed_up": len(statuses) - unchanged - failed, "failed": failed}


def asked_type(draft: Draft) -> BackupType:
    """The type that was asked for: a draft without a parent becomes a full one."""
    return draft.requested or draft.type


def run_tenants(context: dg.OpExecutionContext, configured: Sequence[str]) -> list[str]:
    """The tenants of a run: its partitions, else those of its configuration (possibly none).

    Raises Failure where both are given: which one is meant would be a guess; and for what is no tenant's id, before it is
    repeated anywhere as the name of a tenant that failed.
    """
    named = list(dict.fromkeys(configured))
    if context.has_partition_key or context.has_partition_key_range:
        if configured:
            raise dg.Failure(
                "The run has partitions, and its configuration names tenants as well. Give one of the two.",
                allow_retries=False,
            )
        named = list(context.partition_keys)
    try:
        tenants = [TenantId.parse(tenant) for tenant in named]
    except SbhError as error:
        raise failure_of(error) from None
    tag_run(context, tenants)
    return list(tenants)


def tenants_or_all(
    context: dg.OpExecutionContext, configured: Sequence[str], backups: BackupServiceResource, step: str
) -> list[str]:
    """The tenants of a run; every tenant where it names none. Raises Failure where they cannot be read."""
    tenants = run_tenants(context, configured)
    try:
        return tenants or [str(tenant.id) for tenant in backups.service.tenants.all()]
    except SbhError as error:
        raise failure_of(error, step=step) from None


def one_tenant(context: dg.OpExecutionContext, configured: str | None) -> str:
    """The tenant of a run that restores. Raises Failure where there is none, or are several."""
    tenants = run_tenants(context, [configured] if configured else [])
    if len(tenants) != 1:
        raise dg.Failure(
            f"A restore is for one tenant. Choose one partition, or set ops.{context.op.name}.config.tenant.",
            allow_retries=False,
        )
    return tenants[0]


def run_step(
    context: dg.OpExecutionContext,
    backups: BackupServiceResource,
    before: list[Draft],
    step: Callable[[list[Draft]], list[Draft]],
) -> list[Draft]:
    """One step of the drafts still running; see `go_on` for when it ended them all. Without any there is no work."""
    if not running(before):
        return before
    try:
        after = step(before)
    except SbhError as error:
        if error.transient:
            retries(context, backups).request_if_left(str(error))
        backups.service.backups.abandon(running(before))
        raise failure_of(error, [draft.tenant.id for draft in running(before)], context.op.name) from None
    except BaseException:  # also when the run is terminated
        backups.service.backups.abandon(running(before))
        raise
    log_new_failures(context, before, after)
    return after


def go_on(
    context: dg.OpExecutionContext, backups: BackupServiceResource, before: list[Draft], after: list[Draft]
) -> list[Draft]:
    """`after`, if any draft survived the step or was found unchanged. Raises RetryRequested or Failure if none did."""
    if any(draft.status is not DraftStatus.FAILED for draft in after):
        return after
    if ended_by_transient_errors(before, after):
        retries(context, backups).request_if_left(after[-1].error.what if after[-1].error else "")
    raise batch_failure(failed_among(after), len(after))


def ended_by_transient_errors(before: Sequence[Draft], after: Sequence[Draft]) -> bool:
    """Whether every draft that a step ended was ended by a transient error: only then can a repeat help all of them.

    `before` is empty for the first step, which begins the drafts.
    """
    dead = {draft.tenant.id for draft in before if draft.status is DraftStatus.FAILED}
    ended = [draft for draft in after if draft.status is DraftStatus.FAILED and draft.tenant.id not in dead]
    return bool(ended) and all(draft.error is not None and draft.error.transient for draft in ended)


def retries(context: dg.OpExecutionContext, backups: BackupServiceResource) -> Retries:
    """The repeats of the step that runs now."""
    return Retries(context.retry_number, backups.step_retries, backups.step_retry_wait_s, context.log.warning)


def log_new_failures(context: dg.OpExecutionContext, before: Sequence[Draft], after: Sequence[Draft]) -> None:
    """One line per tenant that failed in this step; past twenty, one line for the rest."""
    known = {draft.tenant.id for draft in before if draft.status is DraftStatus.FAILED}
    failed = [record for record in failed_among(after) if record.tenant not in known]
    for record in failed[:_FAILURES_LOGGED]:
        why = f": {record.why}" if record.why else ""
        context.log.error(f"{record.tenant}: [{record.code}] {record.what}{why}")
    if len(failed) > _FAILURES_LOGGED:
        context.log.error(f"… and {len(failed) - _FAILURES_LOGGED:,} more tenants failed in this step")


class ProgressLog:
    """Progress of the engine in the run's log: at most one line every `every_s`; called from any thread."""

    def __init__(
        self, log: logging.Logger, every_s: float = LINE_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._every_s, self._clock = log, every_s, clock
        self._lock = threading.Lock()
        self._last = clock()

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            now = self._clock()
            if now - self._last < self._every_s:
                return
            self._last = now
        of = f" of {progress.total:,}" if progress.total else ""
        self._log.info(f"{progress.step}: {progress.subject}: {progress.done:,}{of} {progress.unit}")
