"""How the engine's errors become Dagster's: a failure that names the tenants, or a repeat where that may help.

The metadata `failed_tenants` of a failure is what the sensors read afterwards. Only transient errors are ever repeated.
"""

from collections.abc import Callable, Mapping, Sequence

import dagster as dg

from sbh_pipelines.document import as_document
from sbh_pipelines.errors import SbhError
from sbh_pipelines.orchestration.common.failed_tenants import FAILED_TENANTS, FailedTenant
from sbh_pipelines.orchestration.common.metadata import failures_table

_NAMED = 10


def batch_failure(failed: Sequence[FailedTenant], of: int) -> dg.Failure:
    """The failure of a run in which these tenants of a batch of `of` failed. Dagster does not repeat it."""
    first = failed[0]
    names = ", ".join(record.tenant for record in failed[:_NAMED]) + (" …" if len(failed) > _NAMED else "")
    return dg.Failure(
        description=f"{len(failed)} of {of} tenants failed: {names}. First: {first.error}",
        metadata={
            **_failed_metadata(failed),
            "tenants_failed": dg.MetadataValue.int(len(failed)),
            "tenants_succeeded": dg.MetadataValue.int(of - len(failed)),
        },
        allow_retries=False,
    )


def failure_of(
    error: SbhError, tenants: Sequence[str] = (), step: str = "", more: Mapping[str, dg.MetadataValue] | None = None
) -> dg.Failure:
    """The failure for an error of the engine that concerns all of `tenants`, or the whole call where there are none."""
    error = error.to_keep
    failed = [FailedTenant.of(tenant, step, error) for tenant in tenants]
    return dg.Failure(
        description=str(error),
        metadata={
            "code": dg.MetadataValue.text(error.code),
            "remedy": dg.MetadataValue.text(error.remedy),
            **(_failed_metadata(failed) if failed else {}),
            **(more or {}),
        },
        allow_retries=False,
    )


def _failed_metadata(failed: Sequence[FailedTenant]) -> dict[str, dg.MetadataValue]:
    return {
        FAILED_TENANTS: dg.MetadataValue.json(as_document(failed)),
        "failures": dg.MetadataValue.md(failures_table(failed)),
    }


class Retries:
    """The repeats of one step: how many were made, how many may be, how long to wait."""

    def __init__(self, made: int, allowed: int, wait_s: float, log: Callable[[str], None]) -> None:
        self._made, self._allowed, self._wait_s, self._log = made, allowed, wait_s, log

    def request_if_left(self, why: str) -> None:
        """Raises RetryRequested unless all repeats are used up. The wait doubles with each."""
        if self._made >= self._allowed:
            return
        wait = self._wait_s * 2**self._made
        self._log(f"Repeating the step in {wait:g} s (repeat {self._made + 1} of {self._allowed}): {why}")
        raise dg.RetryRequested(max_retries=self._allowed, seconds_to_wait=wait)
