"""Prune and retention as jobs, with a service that only answers."""

from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.errors import CorruptObject, LeaseHeld, SourceUnavailable
from sbh_pipelines_tests.orchestration.conftest import Run
from sbh_pipelines_tests.support.fakes import FakeService

DAMAGED = CorruptObject("An index object is damaged", on="index/x", why="", remedy="")
HELD = LeaseHeld("Another writer works on this tenant", on="lease.json")


def output(result: dg.ExecuteInProcessResult, node: str) -> dict[str, Any]:
    (event,) = [e for e in result.all_events if e.is_successful_output and e.step_key == node]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_prune_goes_through_all_tenants_and_then_the_catalogs(run: Run, fake: FakeService) -> None:
    result = run("prune_job")
    assert result.success
    assert fake.calls == [
        "prune tenant-1",
        "prune tenant-2",
        "prune tenant-3",
        "compact_catalogs",
        "keep_journals",
        "drop_expired_looks",
        "drop_leftovers",
    ]
    metadata = output(result, "prune_tenants")
    assert (metadata["tenants"], metadata["bytes_freed"], metadata["size_freed"]) == (3, 3 << 20, "3 MiB")
    assert "| tenant-2 | 1 MiB | 2 |" in metadata["by_tenant"]


def test_a_dry_run_of_prune_only_says_what_it_would_do(run: Run, fake: FakeService) -> None:
    config = {"ops": {"prune_tenants": {"config": {"dry_run": True}}}}
    result = run("prune_job", partition_key="tenant-2", run_config=config)
    assert fake.calls == ["prune tenant-2"]
    assert output(result, "prune_tenants")["bytes_to_remove"] == 3 << 20


def test_a_tenant_that_cannot_be_pruned_does_not_keep_the_others(run: Run, fake: FakeService) -> None:
    """The run fails, names it, and has the table of the others."""
    fake.errors["prune"] = {"tenant-1": DAMAGED}
    result = run("prune_job")
    assert not result.success
    assert fake.calls[-4:] == ["compact_catalogs", "keep_journals", "drop_expired_looks", "drop_leftovers"]
    failure = result.failure_data_for_node("prune_tenants")
    assert failure is not None
    assert failure.user_failure_data is not None
    metadata = {name: value.value for name, value in failure.user_failure_data.metadata.items()}
    assert [(f["tenant"], f["step"]) for f in metadata["failed_tenants"]] == [("tenant-1", "prune")]  # type: ignore[union-attr]
    assert metadata["bytes_freed"] == 2 << 20


def test_a_database_that_is_away_hides_no_tenant_that_failed(
    run: Run, fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What prune does there comes last; alone it fails the run, beside others it is in the log."""

    def away(user: object) -> object:
        raise SourceUnavailable("Cannot connect to the database")

    monkeypatch.setattr(fake, "drop_expired_looks", away)
    result = run("prune_job")
    failure = result.failure_data_for_node("prune_tenants")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "SBH-301" in str(failure.user_failure_data.description) + str(failure.user_failure_data.metadata)
    fake.errors["prune"] = {"tenant-1": DAMAGED}
    failure = run("prune_job").failure_data_for_node("prune_tenants")
    assert failure is not None
    assert failure.user_failure_data is not None
    metadata = {name: value.value for name, value in failure.user_failure_data.metadata.items()}
    assert [(f["tenant"], f["step"]) for f in metadata["failed_tenants"]] == [("tenant-1", "prune")]  # type: ignore[union-attr]


@pytest.mark.parametrize("verb", ["prune", "forget"])
def test_a_tenant_at_work_is_tried_once_more(run: Run, fake: FakeService, verb: str) -> None:
    """After the others: its backup has ended by then."""
    fake.errors[verb] = {"tenant-1": HELD}
    result = run({"prune": "prune_job", "forget": "retention_job"}[verb])
    assert result.success
    done = [f"{verb} {tenant}" for tenant in ("tenant-1", "tenant-2", "tenant-3", "tenant-1")]
    assert [call for call in fake.calls if call.startswith(verb)] == done


def test_retention_shows_the_rule_for_every_backup(run: Run, fake: FakeService) -> None:
    config = {"ops": {"forget_backups": {"config": {"tenants": ["tenant-3"], "dry_run": True}}}}
    result = run("retention_job", run_config=config)
    assert result.success
    metadata = output(result, "forget_backups")
    assert (metadata["kept"], metadata["forgotten"]) == (1, 1)
    lines = str(metadata["backups"]).splitlines()
    assert "| tenant-3 | backup_20260101_0000 | full |" in lines[2]
    assert "| would be forgotten | no rule keeps it |" in lines[2]
    assert "| would be kept | newest full; daily 1 of 7 |" in lines[3]
