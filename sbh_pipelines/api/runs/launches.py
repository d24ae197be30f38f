"""How a call becomes a run, exactly once.

Under the tenant's claim (`backup/service/gate.py`) one request at a time, of all API processes, does three things: looks for
a run with its idempotency key, looks for work under way, launches. The key is a tag of the run, and Dagster's storage is what
makes it durable: no run, no key, nothing half done. A key counts for 24 hours, for one user, tenant and request.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from sbh_pipelines.api.runs import operations as ops
from sbh_pipelines.api.runs.dagster import UNDER_WAY, Dagster, Run
from sbh_pipelines.api.schema.problems import Refusal
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import IdempotencyConflict, LeaseHeld
from sbh_pipelines.model import Tenant
from sbh_pipelines.security.policy import UserContext

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


class Launcher:
    """Thread-safe; every method blocks."""

    def __init__(self, service: BackupService, dagster: Dagster, clock: Callable[[], float] = time.time) -> None:
        self._service, self._dagster, self._clock = service, dagster, clock

    def launch(self, user: UserContext, tenant_id: str, wanted: Launch, key: str | None) -> tuple[str, bool]:
        """(operation id, whether an earlier request with the same key had launched it).

        Raises AccessDenied, UnknownTenant, IdempotencyConflict, OrchestratorError, and LeaseHeld while other work that writes
        is under way.
        """
        tenant = self._service.launches.permit(tenant_id, user, wanted.action)
        own = {ops.VIA_TAG: ops.VIA, ops.TENANT_TAG: str(tenant.id)}
        key_tag = _digest([user.user_id, user.tenant_id, tenant.id, key]) if key is not None else None
        request: list[object] = [wanted.call, dict(wanted.asked)]
        with self._service.launches.claim(tenant, wanted.call):
            if key_tag is not None and (earlier := self._earlier(own, key_tag)):
                if earlier.tags.get(ops.REQUEST_TAG) not in (_keyed(key, request), _digest(request)):
                    raise IdempotencyConflict(
                        "The idempotency key was used for another request",
                        why="the same key with another call or body",
                        remedy="repeat the request as it was, or use a new key",
                    )
                return earlier.id, True
            if wanted.call in ops.WRITERS:
                self._refuse_while_busy(tenant, own)
            elif wanted.call in ops.ONE_AT_A_TIME:
                self._refuse_beside(own, {wanted.call})
            tags = {
                **own,
                ops.OWNER_TAG: ops.owner_tag(tenant),
                ops.USER_TAG: user.user_id,
                ops.ROLE_TAG: user.role.name.lower(),
                **({ops.ISSUED_BY_TAG: json.dumps(user.issued_by)} if user.issued_by else {}),
                ops.CALL_TAG: wanted.call,
                **(
                    {ops.IDEMPOTENCY_TAG: key_tag, ops.REQUEST_TAG: _keyed(key, request)} if key_tag is not None else {}
                ),
                **wanted.tags,
            }
            return self._dagster.launch(wanted.job, wanted.config, tags), False

    def _earlier(self, own: Mapping[str, str], key_tag: str) -> Run | None:
        found = self._dagster.runs({**own, ops.IDEMPOTENCY_TAG: key_tag}, limit=1)
        return found[0] if found and self._clock() - found[0].created < KEY_LIFE_S else None

    def _refuse_while_busy(self, tenant: Tenant, own: Mapping[str, str]) -> None:
        self._refuse_beside(own, ops.WRITERS)
        if writer := self._service.launches.writer_at_work(tenant):
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
                        "Another operation of the tenant is under way",
                        on=f"{run.tags.get(ops.CALL_TAG)} {run.id}",
                        remedy="wait for its end, or cancel it",
                    ),
                    {"operation_id": run.id, "links": {"operation": link}},
                    {"Link": f'<{link}>; rel="related"'},
                )


def _keyed(key: str | None, request: list[object]) -> str:
    """By which a repeated request is known; only with the caller's key can somebody tell whether a guess is what was asked.
    Runs of an earlier release have a digest without it.
    """
    return hmac.new((key or "").encode(), json.dumps(request, sort_keys=True).encode(), "sha256").hexdigest()[:40]


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]
