"""What steps hand to each other, on disk: a run that broke off is gone on with, and nothing there is more than a document."""

import json
from pathlib import Path

import dagster as dg

from sbh_pipelines.orchestration.common.outputs import DRAFTS, step_outputs


def job(fails: list[bool]) -> dg.JobDefinition:
    @dg.op(out=dg.Out(list))
    def first() -> list[dict[str, object]]:
        return [{"tenant": "tenant-1", "rows": 7, "parent": None}]

    @dg.op(ins={"drafts": dg.In(DRAFTS)}, out=dg.Out(list))
    def second(drafts: list[dict[str, object]]) -> list[dict[str, object]]:
        if fails.pop():
            raise dg.Failure("broke off")
        return drafts

    @dg.job(resource_defs={"io_manager": step_outputs}, executor_def=dg.in_process_executor)
    def two() -> None:
        second(first())

    return two


def test_a_run_goes_on_from_where_it_broke_off(dagster_home: dg.DagsterInstance) -> None:
    """The second run reads what the first one's step gave; the file is JSON, and its owner's alone."""
    two = job([False, True])
    broken = two.execute_in_process(instance=dagster_home, raise_on_error=False)
    assert not broken.success
    folder = Path(dagster_home.storage_directory())
    (file,) = [path for path in folder.rglob("*") if path.is_file() and "first" in path.parts]
    assert json.loads(file.read_text()) == [{"tenant": "tenant-1", "rows": 7, "parent": None}]
    assert file.stat().st_mode & 0o077 == 0
    options = dg.ReexecutionOptions.from_failure(broken.run_id, dagster_home)
    with dg.execute_job(dg.reconstructable(two_again), dagster_home, reexecution_options=options) as again:
        assert again.success
        assert [event.step_key for event in again.get_step_success_events()] == ["second"]


def two_again() -> dg.JobDefinition:
    return job([False])
