"""An operator of the web UI wants a password out of the environment of the runs' workers; a viewer is to read it in a run.

No job takes Dagster's sources, such as `{"env": NAME}`, in place of a value: they are refused at the launch and resolved by none.
What has to come from a step comes from no configuration, and ids that do not parse are not repeated.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.definitions import defs
from sbh_pipelines.errors import InvalidId, RequestError, SbhError
from sbh_pipelines.model import ApprovalId, BackupId, BackupType, MergeMode, RestoreId, TenantId
from sbh_pipelines_tests.support.fix_ui import CALLERS_TOKEN, SECRET, VARIABLE, Ui

SOURCE = {"env": VARIABLE}
WHERE = {"repositoryName": "__repository__", "repositoryLocationName": "sbh_pipelines.definitions"}
LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
    __typename ... on LaunchRunSuccess { run { runId } } } }"""
SEVERAL = """mutation($p: [ExecutionParams!]!) { launchMultipleRuns(executionParamsList: $p) { __typename
    ... on LaunchMultipleRunsResult { launchMultipleRunsResult { __typename ... on LaunchRunSuccess { run { runId } } } } } }"""
BACKFILL = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename } }"""
EVENTS = """query($run: ID!) { runOrError(runId: $run) { ... on Run { runConfigYaml eventConnection { events {
    ... on MessageEvent { message } ... on ExecutionStepFailureEvent { error { message stack causes { message } }
    failureMetadata { metadataEntries { label ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr }
    ... on JsonMetadataEntry { jsonString } } } } } } } } }"""


def launch(config: Any, job: str = "validate_backup_job") -> dict[str, Any]:
    return {"selector": {"jobName": job, **WHERE}, "runConfigData": config}


def validation(**config: Any) -> dict[str, Any]:
    return launch({"ops": {"validate_backups": {"config": config}}})


WISHES = [
    validation(tenants=[SOURCE]),
    validation(tenants=SOURCE),
    validation(tenants=["tenant-1"], backup_id=SOURCE),
    validation(tenants=["tenant-1"], deep=SOURCE),
    launch(f"ops: {{validate_backups: {{config: {{tenants: [{{env: {VARIABLE}}}]}}}}}}"),
    launch(f"ops: &a\n  validate_backups: {{config: {{tenants: [&s {{env: {VARIABLE}}}, *s]}}}}"),
]


@pytest.mark.parametrize("params", WISHES, ids=str)
def test_what_an_operator_launches_carries_no_source(ui: Ui, params: dict[str, Any]) -> None:
    """By each way to launch; and an admin, whom the guard lets pass, gets Dagster's own refusal. No run comes of it."""
    fill = {
        "selector": {"partitionSetName": "validate_backup_job_partition_set", "repositorySelector": WHERE},
        "partitionNames": ["tenant-1"],
        "runConfigData": params["runConfigData"],
    }
    with ui.instance() as instance:
        before = {run.run_id for run in instance.get_runs()}, len(instance.get_backfills())
    with ui.client("operator") as client:
        for query, given in ((LAUNCH, params), (SEVERAL, [params]), (BACKFILL, fill)):
            answer = ui.ask(client, query, p=given)
            if answer.get("data"):  # only before it was refused: what a viewer would read then
                raise AssertionError(read_by_a_viewer(ui, answer))
            assert answer["errors"][0]["extensions"]["code"] == "SBH-206"
    with ui.client("admin") as client:
        assert ui.ask(client, LAUNCH, p=params)["data"]["launchRun"]["__typename"] == "RunConfigValidationInvalid"
    with ui.instance() as instance:
        assert ({run.run_id for run in instance.get_runs()}, len(instance.get_backfills())) == before


def read_by_a_viewer(ui: Ui, answer: dict[str, Any]) -> str:
    run_id = answer["data"]["launchRun"]["run"]["runId"]
    ui.ended(run_id)
    with ui.client("viewer") as client:
        said = str(ui.ask(client, EVENTS, run=run_id))
    return f"launched; a viewer reads the secret: {SECRET in said}"


def jobs() -> Iterator[dg.JobDefinition]:
    yield from defs.get_repository_def().get_all_jobs()


def test_no_job_takes_a_source_anywhere() -> None:
    """In no op, asset, resource, executor or logger of any job, those that Dagster makes for assets included."""
    for job in jobs():
        types = job.get_job_snapshot().config_schema_snapshot.all_config_snaps_by_key
        assert {key for key in types if "Source" in key} == set(), job.name
        assert not any("env" in {field.name for field in kind.fields or ()} for kind in types.values()), job.name


def test_sources_are_resolved_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not through Python, the command line of Dagster, schedules or sensors either: it is the job that does not know them."""
    wished = {"tenants": [SOURCE], "tenant": SOURCE, "backup_id": SOURCE, "description": SOURCE, "restore_id": SOURCE}
    wished |= {"schema_name": SOURCE, "rows": SOURCE, "files": [SOURCE], "scenarios": [SOURCE], "dry_run": SOURCE}
    monkeypatch.setenv(VARIABLE, SECRET)
    for job in jobs():
        for op in job.all_node_defs:
            if job.name.startswith("__") or not isinstance(op, dg.OpDefinition):
                continue  # Dagster's own job of assets looks at what it configures only where it is chosen
            for name in set(wished) & set(getattr(op.config_schema.config_type, "fields", ())):
                config = {"ops": {op.name: {"config": {name: wished[name]}}}}
                with pytest.raises(dg.DagsterInvalidConfigError) as refused:
                    dg.validate_run_config(job, config)
                assert SECRET not in str(refused.value)


def test_what_comes_from_a_step_comes_from_no_configuration() -> None:
    """A part of a job whose first step is left out finds nothing: it cannot be told to read a pickle, or made-up drafts."""
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_job_def("fleet_backup_job").get_subset(op_selection=["enumerate_files"])
        alone = job.execute_in_process(instance=instance, raise_on_error=False)
    failure = alone.failure_data_for_node("enumerate_files")
    assert failure is not None
    assert "nothing to work on" in str(failure.user_failure_data)
    for job in jobs():
        kinds = job.get_job_snapshot().config_schema_snapshot.all_config_snaps_by_key.values()
        used = {key for kind in kinds for key in (f.type_key for f in kind.fields or ()) if "drafts" in key.lower()}
        assert used == set(), job.name


def test_runs_do_not_choose_their_settings(ui: Ui) -> None:
    """Nor the folder of what steps hand to each other: not even an admin of the web UI says so in a launch."""
    for name, config in (("backups", {"settings_path": "/tmp/evil.toml"}), ("io_manager", {"base_dir": "/tmp/evil"})):
        for job in jobs():
            with pytest.raises(dg.DagsterInvalidConfigError):
                dg.validate_run_config(job, {"resources": {name: {"config": config}}})
    with ui.client("operator") as client:
        for more in ({"stepKeys": ["validate_backups"]}, {"preset": "x"}):
            answer = ui.ask(client, LAUNCH, p=validation(tenants=["tenant-1"]) | more)
            assert answer["errors"][0]["extensions"]["code"] == "SBH-206"


def test_runs_do_not_have_the_token_of_who_started_the_web_ui(ui: Ui) -> None:
    """The processes that load the definitions, and those of runs, are not that person."""
    ours, children = f"DAGSTER_HOME={ui.home}".encode(), 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if ours in environment and b"guarded_ui" not in command:
            children += 1
            assert not any(CALLERS_TOKEN.encode() in variable for variable in environment), command
    assert children


@pytest.mark.parametrize(
    "parse", [TenantId.parse, BackupId.parse, RestoreId.parse, ApprovalId.parse, BackupType.parse, MergeMode.parse]
)
def test_what_does_not_parse_is_not_repeated(parse: Any) -> None:
    """Its length and four digits of a digest say which of several it was, and nobody what it is."""
    secret = "s3cret of/somebody: " + SECRET
    with pytest.raises(RequestError) as refused:
        parse(secret)
    said = str(refused.value.as_dict())
    assert isinstance(refused.value, InvalidId | SbhError)
    assert not any(part in said for part in (secret, secret[:8], SECRET))
    assert f"{len(secret)} characters" in said
