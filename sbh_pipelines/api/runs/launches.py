"""How a call becomes a run, exactly once.

Under the tenant's claim (`backup/service/gate.py`) one request at a time, of all API processes, does three things: looks for
a run with its idempotency key, looks for work under way, launches. The key is a tag of the run, and Dagster's storage is what
makes it durable: no run, no key, nothing half done. A key counts for 24 hours, for one user, tenant and request. Tags are
read by all who may see Dagster: those of key and request are made with a secret of the region's catalog, so that no guess can
be held against them. A launch that Dagster does not answer keeps the claim until it expires: who repeats it gets the run if it
comes, and launches none beside it.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field

from sbh_pipelines.api.runs import operations as ops
from sbh_pipelines.api.runs.dagster import UNDER_WAY, Dagster
from sbh_pipelines.api.schema.problems import Refusal
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.service.gate import Launches
from sbh_pipelines.errors import IdempotencyConflict, LeaseHeld, OrchestratorError, OrchestratorUnavailable
from sbh_pipelines.model import Tenant
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

KEY_LIFE_S = 24 * 3600.0
_LOOKED_AT = 50


@dataclass(frozen=True, slots=True)
class Launch:
    """What is to run.

    Attributes:
        call: one of the calls of `operations`.
        action: what the policy table calls it.
        job: the job that does it.
        config: configuration of the run.
        asked: the body of the request, by which repeats are known.
        tags: tags of the run, beside those that every run gets.
    """

    call: str
    action: str
    job: str
    config: Mapping[str, object]
    asked: Mapping[str, object]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Marks:
    """How a run says which key it was launched with, and for which request; `requests`: the tag is one of these."""

    key: str
    requests: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        return {ops.IDEMPOTENCY_TAG: self.key, ops.REQUEST_TAG: self.requests[0]}


class Launcher:
    """Thread-safe; every method blocks."""

    def __init__(self, dagster: Dagster, clock: Callable[[], float] = time.time) -> None:
        self._dagster, self._clock = dagster, clock

    def launch(
        self, service: BackupService, user: UserContext, tenant_id: str | None, wanted: Launch, key: str | None
    ) -> tuple[str, bool]:
        """(operation id, whether an earlier request with the same key had launched it).

        `service`: over the backups that the work is about, where the claim lies too. `tenant_id`: None for what is of the
        platform. Raises AccessDenied, UnknownTenant, IdempotencyConflict, OrchestratorError, and LeaseHeld while other work that
        writes is under way.
        """
        at = service.launches
        if tenant_id is None:
            at.permit_platform(user, wanted.action)
            tenant, own = at.platform, {ops.VIA_TAG: ops.VIA, ops.TENANT_TAG: ALL_TENANTS}
        else:
            tenant = at.permit(tenant_id, user, wanted.action)
            own = {ops.VIA_TAG: ops.VIA, ops.TENANT_TAG: str(tenant.id)}
        try:
            return self._claimed(at, user, tenant, own, wanted, key)
        except LeaseHeld:  # perhaps by an earlier try that was not answered, whose run is there by now
            marks = _marks(at, user, tenant, wanted, key) if key is not None else []
            if (earlier := self._earlier(own, marks)) is not None:
                return earlier, True
            raise

    def _claimed(
        self,
        at: Launches,
        user: UserContext,
        tenant: Tenant,
        own: Mapping[str, str],
        wanted: Launch,
        key: str | None,
    ) -> tuple[str, bool]:
        with at.claim(tenant, wanted.call):
            marks = _marks(at, user, tenant, wanted, key) if key is not None else []
            if (earlier := self._earlier(own, marks)) is not None:
                return earlier, True
            if wanted.call in ops.WRITERS:
                self._refuse_while_busy(at, tenant, own)
            elif wanted.call in ops.ONE_AT_A_TIME:
                copy = wanted.tags.get(ops.COPY_TAG)
                of_platform = own[ops.TENANT_TAG] == ALL_TENANTS
                self._refuse_beside({**own, ops.COPY_TAG: copy} if copy and of_platform else own, {wanted.call})
            tags = {
                **own,
                ops.OWNER_TAG: ops.owner_tag(tenant),
                ops.USER_TAG: user.user_id,
                ops.ROLE_TAG: user.role.name.lower(),
                **({ops.ISSUED_BY_TAG: json.dumps(user.issued_by)} if user.issued_by else {}),
                ops.CALL_TAG: wanted.call,
                **(marks[0].tags if marks else {}),
                **wanted.tags,
            }
            try:
                return self._dagster.launch(wanted.job, wanted.config, tags), False
            except OrchestratorUnavailable as error:
                if error.unanswered:
                    with suppress(OrchestratorError):
                        if (slow := self._earlier(own, marks)) is not None:
                            return slow, False
                raise

    def _earlier(self, own: Mapping[str, str], marks: Sequence[_Marks]) -> str | None:
        """The run that an earlier request with the key launched. Raises IdempotencyConflict where it was another request."""
        for known in marks:
            found = self._dagster.runs({**own, ops.IDEMPOTENCY_TAG: known.key}, limit=1)
            if found and self._clock() - found[0].created < KEY_LIFE_S:
                if found[0].tags.get(ops.REQUEST_TAG) not in known.requests:
                    raise IdempotencyConflict(
                        "The idempotency key was used for another request",
                        why="the same key with another call or body",
                        remedy="repeat the request as it was, or use a new key",
                    )
                return found[0].id
        return None

    def _refuse_while_busy(self, at: Launches, tenant: Tenant, own: Mapping[str, str]) -> None:
        self._refuse_beside(own, ops.WRITERS)
        if writer := at.writer_at_work(tenant):
            raise LeaseHeld(
                "Another writer works on this tenant",
                on=str(tenant.id),
                why=f"{writer.purpose} by {writer.owner}",
                remedy="wait for it to end; a killed writer's lease expires by itself",
            )

    def _refuse_beside(self, own: Mapping[str, str], calls: Set[str]) -> None:
        for run in self._dagster.runs(own, statuses=UNDER_WAY, limit=_LOOKED_AT):
            if run.tags.get(ops.CALL_TAG) in calls:
                link = f"/api/operations/{run.id}"
                raise Refusal(
                    LeaseHeld(
                        f"Another operation of the {'copy' if ops.COPY_TAG in own else 'tenant'} is under way",
                        on=f"{run.tags.get(ops.CALL_TAG)} {run.id}",
                        remedy="wait for its end, or cancel it",
                    ),
                    {"operation_id": run.id, "links": {"operation": link}},
                    {"Link": f'<{link}>; rel="related"'},
                )


def _marks(at: Launches, user: UserContext, tenant: Tenant, wanted: Launch, key: str) -> list[_Marks]:
    """What runs of the key and the request have as tags: those of this release first, then those of earlier ones."""
    whose: list[object] = [user.user_id, user.tenant_id, tenant.id, key]
    request: list[object] = [wanted.call, dict(wanted.asked)]
    now = _Marks(
        at.digest(tenant, ops.IDEMPOTENCY_TAG, _text(whose)),
        (at.digest(tenant, ops.REQUEST_TAG, _text([whose, request])),),
    )
    return [now, _Marks(_digest(whose), (_keyed(key, request), _digest(request)))]


def _text(parts: list[object]) -> bytes:
    return json.dumps(parts, sort_keys=True).encode()


def _keyed(key: str, request: list[object]) -> str:
    """The tag of runs of an earlier release."""
    return hmac.new(key.encode(), _text(request), "sha256").hexdigest()[:40]


def _digest(parts: list[object]) -> str:
    """The tag of runs of earlier releases."""
    return hashlib.sha256(_text(parts)).hexdigest()[:40]
