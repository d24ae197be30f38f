"""What GraphQL requests would do, who may, and as whom the runs act: judged over Dagster's real schema, without a server."""

import json

import pytest
from graphql import print_schema

from sbh_pipelines.definitions import defs
from sbh_pipelines.errors import AccessDenied, RequestError, SbhError
from sbh_pipelines.orchestration.guarded_ui import sockets
from sbh_pipelines.orchestration.guarded_ui.mutations import (
    ACTIONS,
    ASSETS,
    FIELDS,
    JOBS,
    LAUNCHES,
    MANAGE,
    OF_BACKFILLS,
)
from sbh_pipelines.orchestration.guarded_ui.operations import Earlier, permit, permit_fields
from sbh_pipelines.orchestration.guarded_ui.request import read_body
from sbh_pipelines.security.policy import PERMISSIONS, Role, UserContext
from sbh_pipelines_tests.support.dagster_internals import graphql_schema

ADMIN, OPERATOR, VIEWER = (UserContext(name, "*", Role[name.upper()], "ui") for name in ("admin", "operator", "viewer"))
SERVICE = UserContext("service:api", "*", Role.ADMIN, "ui")
RUNS = {"full": ("full_backup_job", {}), "valid": ("validate_backup_job", {"dagster/partition": "tenant-2"})}
BACKFILLS = {
    "mine": {"user": "admin", "sbh/role": "admin", "sbh/tenant": "*"},
    "theirs": {"user": "bob", "sbh/role": "admin", "sbh/tenant": "*"},
    "untold": {},
}
EARLIER = Earlier(RUNS.get, BACKFILLS.get)
LAUNCH = "mutation L($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename } }"
AGAIN = "mutation R($p: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $p) { __typename } }"
BACKFILL = "mutation B($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename } }"


@pytest.fixture(scope="module")
def schema():
    return graphql_schema()


def asked(query, name=None, **variables):
    return read_body(json.dumps({"query": query, "variables": variables, "operationName": name}).encode())


def allowed(request, user):
    return permit(request, user, ["service:api"], EARLIER)


def denied(request, user):
    try:
        allowed(request, user)
    except AccessDenied:
        return True
    return False


def job(name, tags=(), **more):
    metadata = {"tags": [{"key": key, "value": value} for key, value in tags]}
    return {"selector": {"jobName": name, "repositoryName": "r", "repositoryLocationName": "l"}} | {
        "executionMetadata": metadata,
        **more,
    }


def tags(params):
    return {tag["key"]: tag["value"] for tag in params["executionMetadata"]["tags"]}


def test_every_mutation_of_the_schema_has_a_class(schema):
    """A new version of Dagster with a mutation that nobody has looked at fails here; until then it is for admins."""
    known = set(ACTIONS) | set(LAUNCHES) | set(OF_BACKFILLS)
    assert set(schema.mutation_type.fields) == known
    assert {*ACTIONS.values(), *JOBS.values(), MANAGE} <= set(PERMISSIONS)
    for name, arguments in (LAUNCHES | {k: (v,) for k, v in OF_BACKFILLS.items()}).items():
        assert set(arguments) == set(schema.mutation_type.fields[name].args), name


def test_every_job_and_every_asset_has_a_class():
    """A job or an asset that nobody has classed is for admins alone, and one that is gone is in no table."""
    repository = defs.get_repository_def()
    assert set(JOBS) == {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert set(ASSETS) == {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert {*JOBS.values(), *ASSETS.values()} <= set(PERMISSIONS)


def test_a_backfill_of_assets_does_what_its_strictest_asset_does():
    """Those of one kind need what their work needs; a mixture, one that is not known, and all of them need an admin."""

    def fill(*keys):
        return asked(
            BACKFILL, p={"assetSelection": [{"path": key.split("/")} for key in keys], "partitionNames": ["t"]}
        )

    for keys, action in (
        (["tenant_backup/full", "tenant_backup/incremental"], "backup.create"),
        (["tenant_backup/drill"], "drill.run"),
        (["tenant_backup/full", "tenant_backup/drill"], MANAGE),
        (["tenant_backup"], MANAGE),
        (["tenant_drill"], MANAGE),
        ([], MANAGE),
    ):
        assert [launch.action for launch in allowed(fill(*keys), ADMIN)[1]] == [action]


def test_jobs_and_assets_of_the_sites_that_are_named_need_what_they_need_of_any():
    """Of a site that is not, as of any other code on the instance, they are for admins; and each is on record for its site."""

    def launched(request, sites=("", "eu", "us")):
        (launch,) = permit(request, ADMIN, [], EARLIER, frozenset(sites))[1]
        return launch.action, launch.site

    def fill(key):
        return asked(BACKFILL, p={"assetSelection": [{"path": key.split("/")}], "partitionNames": ["t"]})

    restore, full = asked(LAUNCH, p=job("us__restore_job")), fill("us/tenant_backup/full")
    assert launched(restore) == ("backup.restore", "us")
    assert launched(full) == ("backup.create", "us")
    assert launched(full, sites=("", "eu")) == (MANAGE, "")
    assert launched(restore, sites=("", "eu")) == (MANAGE, "us")
    assert launched(asked(LAUNCH, p=job("restore_job")), sites=("eu",)) == (MANAGE, "")
    assert launched(fill("tenant_backup/full"), sites=("eu",)) == (MANAGE, "")
    assert launched(fill("us/reports/recovery_report")) == (MANAGE, "us")


def test_fields_that_need_more_than_a_login_are_of_the_schema(schema):
    """A field that was renamed would be open; what dry runs answer with is known by its one field that does something."""
    named = {"evaluationResult {}": "DryRunInstigationTick", "info": "Instance"}
    assert set(FIELDS) == set(named)
    assert all(field.split()[0] in schema.type_map[on].fields for field, on in named.items())
    assert set(schema.type_map["DryRunInstigationTick"].fields) == {"timestamp", "evaluationResult"}


@pytest.mark.parametrize(
    "query",
    [
        "{ sensorsOrError { ... on Sensors { results { nextTick { evaluationResult { skipReason } } } } } }",
        "{ x { y: evaluationResult { skipReason } } }",
        "query A { version } query B { ...F } fragment F on Sensor { nextTick { ... { evaluationResult { cursor } } } }",
        "query A { version } fragment F on DryRunInstigationTick { evaluationResult { cursor } }",
        "subscription { x { evaluationResult { cursor } } }",
        "{ instance { info } }",
        "{ instance { ...F } } fragment F on Instance { i: info @include(if: true) }",
    ],
)
def test_a_query_that_does_something_is_for_admins(query):
    """Wherever in the document it is."""
    for user in (VIEWER, OPERATOR):
        with pytest.raises(AccessDenied):
            permit_fields(asked(query), user)
    permit_fields(asked(query), ADMIN)
    permit_fields(asked("{ latestDefsStateInfo { keyStateInfo { info { version } } } }"), VIEWER)


def test_every_argument_that_carries_tags_is_one_that_the_guard_fills(schema):
    """Input types with tags are those of launches: a new way to send tags would be one to act for somebody else."""
    with_tags = {
        name
        for name, kind in schema.type_map.items()
        if hasattr(kind, "fields") and not name.startswith("__")
        for field in kind.fields.values()
        if "ExecutionTag" in str(field.type) and "input " + name in print_schema(schema)
    }
    assert with_tags == {"ExecutionMetadata", "LaunchBackfillParams", "ReexecutionParams", "RunsFilter"}


def test_every_job_has_a_permission():
    """The jobs of the definitions, except those that only admins are to launch, are in the table; no job that is not is."""
    names = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert set(JOBS) <= names


@pytest.mark.parametrize("field", sorted({*ACTIONS, *LAUNCHES, *OF_BACKFILLS} - {"setNuxSeen", "logTelemetry"}))
def test_a_viewer_may_launch_and_change_nothing(schema, field):
    """Every mutation of the schema, however its operation or its field is called."""
    argument = next(iter(schema.mutation_type.fields[field].args), None)
    call = f"{field}({argument}: $p)" if argument else field
    for query in (
        f"mutation {{ {call} }}",
        f"mutation Query {{ query: {call} {{ __typename }} }}",
        f"mutation Q {{ ... {{ ... on Mutation {{ a: __typename b: {call} }} }} }}",
        f"mutation Q {{ ...F }} fragment F on Mutation {{ ...G }} fragment G on Mutation {{ {call} }}",
    ):
        assert denied(asked(query, p={}), VIEWER), query


def test_reads_are_for_everybody():
    """A query, also one whose fields are named like mutations, is passed on as it is."""
    request = asked("query launchRun { terminateRun: version runsOrError { __typename } }")
    assert allowed(request, VIEWER) == (request, [])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"null",
        b'"query"',
        b'[{"query": "{version}"}]',
        b"{}",
        b'{"query": 7}',
        b'{"query": "{version}", "variables": []}',
        b'{"query": "{version}", "variables": "{"}',
        b'{"query": "{version}", "operationName": ["a"]}',
        b'{"query": ""}',
        b'{"query": "{"}',
        b'{"query": "fragment F on Query { version }"}',
        b'{"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "00"}}}',
        json.dumps({"query": "{a" * 30_000}).encode(),
        json.dumps({"query": "query A { version } mutation B { reloadWorkspace }", "operationName": "A"}).encode(),
        json.dumps(
            {"query": "mutation A { setNuxSeen } mutation B { reloadWorkspace }", "operationName": "A"}
        ).encode(),
    ],
    ids=lambda body: body[:40].decode("latin1"),
)
def test_what_is_not_one_plain_request_is_not_taken(body):
    """Batches, persisted queries, several mutations, nonsense: an error of ours, before Dagster sees any of it."""
    with pytest.raises(RequestError):
        allowed(read_body(body), ADMIN)


def test_an_operator_may_validate_and_nothing_that_the_table_gives_to_admins():
    """The launch of each job needs what its work needs; a job or an asset that is not known needs an admin."""
    for name, action in {**JOBS, "": MANAGE, "new_job": MANAGE, "__ASSET_JOB": MANAGE}.items():
        for request in (
            asked(LAUNCH, p=job(name)),
            asked(LAUNCH.replace("launchRun(", "x: launchPipelineExecution("), p=job(name)),
            asked(
                "mutation($p: [ExecutionParams!]!) { launchMultipleRuns(executionParamsList: $p) { __typename } }",
                p=[job("validate_backup_job"), job(name)],
            ),
            asked(BACKFILL, p={"selector": {"partitionSetName": f"{name}_partition_set"}, "partitionNames": ["t"]}),
        ):
            assert denied(request, OPERATOR) is (PERMISSIONS.get(action) is Role.ADMIN), (name, request.query)
            assert not denied(request, ADMIN)
    assert not denied(asked(AGAIN, p={"parentRunId": "valid", "strategy": "ALL_STEPS"}), OPERATOR)
    assert denied(asked(AGAIN, p={"parentRunId": "full", "strategy": "ALL_STEPS"}), OPERATOR)
    assert denied(asked(AGAIN, p={"parentRunId": "no such run", "strategy": "ALL_STEPS"}), OPERATOR)
    for field in ("startSensor", "wipeAssets", "terminateRun", "deleteRun", "addDynamicPartition", "not_yet_invented"):
        assert denied(asked(f"mutation {{ {field} }}"), OPERATOR)
        assert not denied(asked(f"mutation {{ {field} }}"), ADMIN)


@pytest.mark.parametrize(
    "params",
    [
        job("validate_backup_job", tags=[("dagster-k8s/config", "{}")]),
        job("validate_backup_job", tags=[("ecs/cpu", "9")]),
        job("validate_backup_job", runConfigData={"resources": {"backups": {"config": {"settings_path": "/tmp/x"}}}}),
        job("validate_backup_job", runConfigData="resources:\n  backups: {}\nops: {}"),
        job("validate_backup_job", runConfigData={"execution": {}, "ops": {}}),
        job("validate_backup_job") | {"selector": {"jobName": "validate_backup_job", "pipelineName": "restore_job"}},
        job("validate_backup_job")
        | {"selector": {"jobName": "validate_backup_job", "assetSelection": [{"path": ["a"]}]}},
    ],
)
def test_an_operator_cannot_turn_a_launch_into_another(params):
    """Tags, resources and selections that would change what runs, or with which settings, are for admins."""
    assert denied(asked(LAUNCH, p=params), OPERATOR)
    plain = job("validate_backup_job", tags=[("dagster/partition", "t"), ("note", "x")], runConfigData="ops: {}")
    assert not denied(asked(LAUNCH, p=plain), OPERATOR)


def test_runs_act_for_whoever_is_logged_in():
    """Over whatever tags were sent; other tags stay. Launches, several launches, re-executions, backfills."""
    who = [("user", "root"), ("sbh/role", "admin"), ("sbh/tenant", "*"), ("sbh/issued_by", "[]")]
    forged = [*who, ("note", "x"), ("dagster/partition", "t")]
    mine = {"user": "operator", "sbh/role": "operator", "sbh/tenant": "*"}
    request, launches = allowed(asked(LAUNCH, p=job("validate_backup_job", forged)), OPERATOR)
    assert tags(request.variables["p"]) == {"note": "x", "dagster/partition": "t", **mine}
    assert json.loads(request.body())["variables"] == request.variables
    assert [(launch.job, launch.partition) for launch in launches] == [("validate_backup_job", "t")]
    several = asked(
        "mutation($p: [ExecutionParams!]!) { launchMultipleRuns(executionParamsList: $p) { __typename } }",
        p=[job("validate_backup_job", forged), job("validate_backup_job")],
    )
    assert [tags(p)["user"] for p in allowed(several, OPERATOR)[0].variables["p"]] == ["operator", "operator"]
    listed = [{"key": key, "value": value} for key, value in forged]
    for query, params, name in (
        (AGAIN, {"parentRunId": "valid", "strategy": "ALL_STEPS", "extraTags": listed}, "extraTags"),
        (BACKFILL, {"selector": {"partitionSetName": "validate_backup_job_partition_set"}, "tags": listed}, "tags"),
    ):
        sent = allowed(asked(query, p=params), OPERATOR)[0].variables["p"][name]
        assert {tag["key"]: tag["value"] for tag in sent} == {"note": "x", "dagster/partition": "t", **mine}
        assert len(sent) == 5


def test_a_service_may_act_for_the_user_it_names():
    """All three tags, and sound ones: else the run acts for the service, or is refused."""
    theirs = [("user", "ann"), ("sbh/role", "viewer"), ("sbh/tenant", "tenant-1")]
    request = asked(LAUNCH, p=job("validate_backup_job", theirs))
    assert tags(allowed(request, SERVICE)[0].variables["p"]) == dict(theirs)
    issued = [*theirs, ("sbh/issued_by", '["mallory", "os:root"]')]
    assert tags(allowed(asked(LAUNCH, p=job("validate_backup_job", issued)), SERVICE)[0].variables["p"]) == dict(issued)
    assert tags(allowed(request, ADMIN)[0].variables["p"])["user"] == "admin"
    half = asked(LAUNCH, p=job("validate_backup_job", theirs[:2]))
    assert tags(allowed(half, SERVICE)[0].variables["p"])["user"] == "service:api"
    assert denied(asked(LAUNCH, p=job("validate_backup_job", [*theirs[:1], ("sbh/role", "root"), theirs[2]])), SERVICE)


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        ('mutation { launchRun(executionParams: {selector: {jobName: "x"}}) { __typename } }', {}),
        ('mutation($p: ExecutionParams! = {selector: {jobName: "x"}}) { launchRun(executionParams: $p) { x } }', {}),
        (LAUNCH, {"p": "text"}),
        (LAUNCH, {"p": [["x"]]}),
        (LAUNCH, {"p": job("x") | {"executionMetadata": "x"}}),
        (LAUNCH, {"p": job("x") | {"executionMetadata": {"tags": "x"}}}),
        (LAUNCH, {"p": job("x") | {"executionMetadata": {"tags": {"key": "user", "value": "root"}}}}),
        (LAUNCH, {"p": {"selector": "x"}}),
        (LAUNCH, {"p": {"selector": {"jobName": {"x": 1}}}}),
        (BACKFILL, {"p": {"partitionsByAssets": 7}}),
        (BACKFILL, {"p": {"selector": {"partitionSetName": ["x"]}}}),
        (AGAIN, {"p": {"parentRunId": {"x": 1}}}),
    ],
)
def test_a_launch_whose_tags_cannot_be_set_is_not_taken(query, variables):
    """Literals, default values and misshapen parameters would carry tags past the guard."""
    with pytest.raises(SbhError):
        allowed(asked(query, **variables), ADMIN)


def test_only_its_own_user_goes_on_with_a_backfill():
    """Dagster gives no way to change for whom its runs act."""
    for name, mine in (("mine", True), ("theirs", False), ("untold", False), ("none", False)):
        resume = asked("mutation($b: String!) { resumePartitionBackfill(backfillId: $b) { x } }", b=name)
        again = asked(
            "mutation($b: ReexecutionParams) { reexecutePartitionBackfill(reexecutionParams: $b) { x } }",
            b={"parentRunId": name, "strategy": "ALL_STEPS"},
        )
        assert denied(resume, ADMIN) is not mine
        assert denied(again, ADMIN) is not mine
        assert denied(resume, OPERATOR)


@pytest.mark.parametrize(
    ("message", "fine"),
    [
        ({"type": "connection_init", "payload": {}}, True),
        ({"type": "start", "payload": {"query": "subscription { locationStateChangeEvents { __typename } }"}}, True),
        ({"type": "start", "payload": {"query": "mutation { reloadWorkspace { __typename } }"}}, False),
        ({"type": "start", "payload": {"query": "{ version }"}}, False),
        (
            {"type": "start", "payload": {"query": "subscription A { x } mutation B { y }", "operation_name": "A"}},
            False,
        ),
        ({"type": "start"}, False),
        ({"type": "other"}, False),
        ([], False),
    ],
)
def test_websockets_carry_subscriptions_only(message, fine):
    """Anything else ends the connection."""
    assert sockets._allowed({"type": "websocket.receive", "text": json.dumps(message)}, print) is fine
    assert not sockets._allowed({"type": "websocket.receive", "bytes": json.dumps(message).encode()}, print)
