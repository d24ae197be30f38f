"""What steps hand to each other, on disk or in a bucket: a run that broke off is gone on with, and there are only documents."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from sbh_pipelines.errors import StoreError
from sbh_pipelines.orchestration.common.outputs import hand_over, handed_over
from sbh_pipelines.settings import DraftsSettings
from sbh_pipelines_tests.support.fix_stack import Site
from sbh_pipelines_tests.support.own_instance import BUCKET, bucket_of_dagster, instance_environment

DOCUMENTS = [{"tenant": "tenant-1", "rows": 7, "parent": None}]
QUIET = {dg.DagsterEventType.HANDLED_OUTPUT, dg.DagsterEventType.LOADED_INPUT, dg.DagsterEventType.STEP_INPUT}


def job(fails: list[bool], settings: DraftsSettings = DraftsSettings()) -> dg.JobDefinition:  # noqa: B008 - frozen
    @dg.op(out=dg.Out(dg.Nothing))
    def first(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        hand_over(context, DOCUMENTS, settings)
        yield dg.Output(None)

    @dg.op(ins={"drafts": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
    def second(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        if fails.pop():
            raise dg.Failure("broke off")
        assert handed_over(context, "first", settings) == DOCUMENTS
        yield dg.Output(None)

    @dg.job(executor_def=dg.in_process_executor)
    def two() -> None:
        second(first())

    return two


def test_a_run_goes_on_from_where_it_broke_off(dagster_home: dg.DagsterInstance) -> None:
    """The second run reads what the first one's step gave; the file is JSON, and its owner's alone; no event tells of it."""
    two = job([False, True])
    broken = two.execute_in_process(instance=dagster_home, raise_on_error=False)
    assert not broken.success
    folder = Path(dagster_home.storage_directory())
    (file,) = [path for path in folder.rglob("*") if path.is_file() and path.name == "first"]
    assert json.loads(file.read_text()) == DOCUMENTS
    assert file.stat().st_mode & 0o077 == 0
    options = dg.ReexecutionOptions.from_failure(broken.run_id, dagster_home)
    with dg.execute_job(dg.reconstructable(two_again), dagster_home, reexecution_options=options) as again:
        assert again.success
        assert [event.step_key for event in again.get_step_success_events()] == ["second"]
    assert not QUIET & {event.event_type for event in broken.all_events}


def test_a_step_that_was_left_out_gave_nothing(dagster_home: dg.DagsterInstance) -> None:
    """And nothing that somebody writes into a run's configuration takes its place."""
    two = job([False])
    alone = two.execute_in_process(instance=dagster_home, raise_on_error=False, op_selection=["second"])
    assert not alone.success
    failure = alone.failure_data_for_node("second")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert failure.user_failure_data.description == (
        "second has nothing to work on: first gave nothing in this run, or did on another host: re-execute all steps, or set"
        " [drafts] bucket"
    )


def two_again() -> dg.JobDefinition:
    return job([False])


def test_another_host_goes_on_with_what_is_in_a_bucket(
    site: Site, dagster_home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has none of the files of the first; what is in the bucket is JSON. A bucket that is not there is said in our words."""
    for name, value in instance_environment(site.stack, "none").items():
        monkeypatch.setenv(name, value)
    bucket_of_dagster(site.stack)
    settings = DraftsSettings(bucket=BUCKET, prefix="drafts/")
    broken = job([True], settings).execute_in_process(instance=dagster_home, raise_on_error=False)
    assert not broken.success
    assert not [path for path in Path(dagster_home.storage_directory()).rglob("first") if path.is_file()]
    key = f"drafts/{broken.run_id}/fleet/first"
    assert json.loads(site.stack.s3_client().get_object(Bucket=BUCKET, Key=key)["Body"].read()) == DOCUMENTS
    again = job([False], settings).execute_in_process(instance=dagster_home)
    assert again.success
    nowhere = job([False], DraftsSettings(bucket="no-such-bucket"))
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/runs/.*/first[\s\S]*s3:ListBucket"):
        nowhere.execute_in_process(instance=dagster_home)
