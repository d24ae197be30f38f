"""A viewer, an operator, or somebody without a token wants to change something in Dagster, or to have code run, by GraphQL.

Requests are made anew of what the guard has read, each mutation and each reading that does something has its permission, and
Dagster's own records are looked at afterwards. A hunt draws requests from Dagster's schema.
"""

import json
from functools import cache
from typing import Any

import dagster as dg
import httpx
import pytest
from hypothesis import given, settings

from sbh_pipelines.model import BackupType
from sbh_pipelines.orchestration.guarded_ui.mutations import ACTIONS, JOBS, LAUNCHES, OF_BACKFILLS
from sbh_pipelines.orchestration.guarded_ui.request import read_body
from sbh_pipelines_tests.support.dagster_internals import graphql_schema
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.fix_ui import SECRET, VARIABLE, Ui
from sbh_pipelines_tests.support.graphql_hunt import Hunt

WHERE = {"repositoryName": "__repository__", "repositoryLocationName": "sbh_pipelines.definitions"}
WORDS = [
    *JOBS, "validate_backup_job_partition_set", "restore_job_partition_set", "tenant-1", "*", "tenants", "source_db", "backup_watch",
    "daily_full", "user", "sbh/role", "admin", "dagster/partition", "__repository__", "sbh_pipelines.definitions", "nowhere", "",
    "validate_backups", f"ops: {{validate_backups: {{config: {{tenants: [{{env: {VARIABLE}}}]}}}}}}", "../../dagster.yaml",
    "00000000-0000-0000-0000-000000000000", "ops: {}", "FROM_FAILURE", "mutation { reloadWorkspace { __typename } }",
]  # fmt: skip
WANTED = (*LAUNCHES, *OF_BACKFILLS, "terminateRuns", "startSensor", "addDynamicPartition", "sensorOrError", "instance")
SELECTOR = "{" + ", ".join(f'{name}: "{value}"' for name, value in WHERE.items()) + "}"
LOOK = f"""{{ sensorsOrError(repositorySelector: {SELECTOR}) {{ ... on Sensors {{ results {{ name nextTick {{
    evaluationResult {{ skipReason error {{ message }} }} }} }} }} }} }}"""


@cache
def hunt() -> Hunt:
    return Hunt(graphql_schema(), WORDS, WANTED)


def state(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What mutations change, but for runs: those are looked at one by one."""
    return {
        "backfills": sorted((fill.backfill_id, str(fill.status)) for fill in instance.get_backfills()),
        "switches": sorted(
            (s.selector_id, str(s.status), str(s.instigator_data)) for s in instance.all_instigator_state()
        ),
        "partitions": sorted(instance.get_dynamic_partitions("tenants")),
        "limits": sorted((p.name, p.limit) for p in instance.event_log_storage.get_pool_limits()),
        "assets": sorted(str(key) for key in instance.all_asset_keys()),
        "paused": dict(instance.daemon_cursor_storage.get_cursor_values({"ASSET_DAEMON_PAUSED"})),
    }


@pytest.mark.soak
@pytest.mark.parametrize("role", [None, "viewer", "operator"])
def test_whatever_is_sent_nothing_beyond_the_role_is_done(ui: Ui, role: str | None) -> None:
    """And the server stays: no answer is an error of the guard's, and none has a secret of the process."""
    with ui.instance() as instance, ui.client(role) as client:
        before, known = state(instance), {run.run_id for run in instance.get_runs()}

        @settings(max_examples=examples(40))
        @given(hunt().bodies())
        def sent(body: object) -> None:
            answer = client.post("/graphql", content=json.dumps(body), headers={"content-type": "application/json"})
            check(answer, body, role)

        sent()
        launched = [run for run in instance.get_runs() if run.run_id not in known]
        after = state(instance)
        if role == "operator":
            allowed = {"validate_backup_job"}
            assert {run.job_name for run in launched} <= allowed
            assert all((run.tags["user"], run.tags["sbh/role"]) == ("operator", "operator") for run in launched)
            new = {fill for fill in after["backfills"] if fill not in before["backfills"]}
            named = [instance.get_backfill(backfill) for backfill, _ in new]
            assert {
                fill.partition_set_origin.partition_set_name for fill in named if fill and fill.partition_set_origin
            } <= {"validate_backup_job_partition_set"}
            before["backfills"] = after["backfills"] = []
            # What is validated is told of its backup, whenever the run comes to that; other tests do not meet it at work.
            told = set(after["assets"]) - set(before["assets"])
            assert not launched or told <= {str(dg.AssetKey(["tenant_backup", kind.value])) for kind in BackupType}
            before["assets"] = sorted({*before["assets"], *told} if launched else before["assets"])
            for run in launched:
                ui.ended(run.run_id)
        else:
            assert launched == []
        assert after == before


def check(answer: httpx.Response, body: object, role: str | None) -> None:
    assert SECRET not in answer.text
    if role is None:
        assert answer.status_code == 401
        return
    if answer.status_code >= 500:  # a resolver of Dagster's that failed
        assert answer.json()["errors"], body
    try:
        asked = read_body(json.dumps(body).encode())
    except Exception:
        assert answer.status_code == 400, body
        return
    names = {field.name.value for field in asked.mutations}
    if role == "viewer" and names - {"setNuxSeen", "logTelemetry", "__typename"}:
        assert answer.json()["data"] is None, body
        assert (answer.json()["errors"][0].get("extensions") or {}).get("code", "SBH-")[:4] == "SBH-", body


def test_each_mutation_is_refused_to_a_viewer_by_the_server(ui: Ui) -> None:
    """All of the schema, with an argument list that Dagster would take for some of them."""
    with ui.client("viewer") as client:
        for name in sorted({*ACTIONS, *LAUNCHES, *OF_BACKFILLS} - {"setNuxSeen", "logTelemetry"}):
            answer = ui.ask(client, f"mutation M {{ ... {{ a: {name} }} }}")
            assert answer["errors"][0]["extensions"]["code"] == "SBH-206", name


def test_reading_does_not_run_sensors_or_schedules(ui: Ui) -> None:
    """The next tick of a sensor, asked for in a query, would be evaluated: it tells people, and remembers that it did."""
    for role in ("viewer", "operator"):
        with ui.client(role) as client:
            assert ui.ask(client, LOOK)["errors"][0]["extensions"]["code"] == "SBH-206"
            hidden = "query A { version ...F } fragment F on Query { " + LOOK.strip()[1:]
            assert ui.ask(client, hidden)["errors"][0]["extensions"]["code"] == "SBH-206"
            assert ui.ask(client, "{ instance { info } }")["errors"][0]["extensions"]["code"] == "SBH-206"
            assert ui.ask(client, LOOK.replace("evaluationResult { skipReason error { message } }", "timestamp"))[
                "data"
            ]


def test_what_a_run_printed_is_all_that_is_read_of_the_servers_disk(ui: Ui) -> None:
    """Neither settings, nor databases, nor what steps handed to each other."""
    (ui.home / "storage" / "some-run" / "step").mkdir(parents=True, exist_ok=True)
    for name in ("result", "result.json", "result.out.bak"):
        (ui.home / "storage" / "some-run" / "step" / name).write_text('[{"x": "handed-over"}]')
    (ui.home / "storage" / "some-run" / "step.out").write_text("what it printed")
    keys = [["..", "dagster.yaml"], ["..", "..", "etc", "passwd"], ["/etc/passwd"], ["some-run", "step", "result.json"]]
    paths = [
        "/logs/..%2fdagster.yaml",
        "/logs/%2fetc%2fpasswd",
        "/logs/some-run/step/result.json",
        "/logs/some-run/step/result/json",
        "/logs/some-run/step/result",
        "/logs/some-run/step/result/",
        "/logs/some-run/step/result/json/../out",
        "/logs/some-run/step/result.out/bak",
    ]
    with ui.client("viewer") as client:
        for key in keys:
            answer = ui.ask(client, "query($k: [String!]!) { capturedLogs(logKey: $k) { stdout stderr } }", k=key)
            assert not any((answer.get("data") or {}).get("capturedLogs", {}).values() if answer.get("data") else [])
        for path in paths:
            answer = client.get(path)
            assert answer.status_code in (400, 404), path
            assert not any(text in answer.text for text in ("telemetry", "handed-over", "root:"))
        assert client.get("/logs/some-run/step/out").text == "what it printed"
