"""The guard over real HTTP and websockets, in front of the real Dagster: without a login nothing is reachable."""

import contextlib
import json
import socket
from urllib.parse import urlsplit

import dagster as dg
import pytest
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from sbh_pipelines.errors import OrchestratorError, SettingsError
from sbh_pipelines.orchestration.guarded_ui.login import safe_path
from sbh_pipelines.orchestration.guarded_ui.operations import Launch
from sbh_pipelines.orchestration.guarded_ui.origins import origins_of
from sbh_pipelines.orchestration.guarded_ui.record import recorder
from sbh_pipelines.orchestration.guarded_ui.server import check_version
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import UiSettings
from sbh_pipelines_tests.support.dagster_internals import webserver_routes
from sbh_pipelines_tests.support.servers import PATIENCE_S

ADMIN = UserContext("ada", "*", Role.ADMIN)
OPEN = {"/healthz", "/login", "/logout"}
VERSION = "{ version }"
NEWS = "subscription { locationStateChangeEvents { event { message } } }"
RELOAD = "mutation { reloadWorkspace { __typename } }"
LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


@pytest.fixture(scope="module")
def routes():
    """Every path of Dagster's own application, with a file of each of its folders."""
    found = set()
    for route in webserver_routes():
        assert isinstance(route, Route | Mount | WebSocketRoute)
        path = route.path.replace("{path:path}", "x").replace("{run_id:str}", "x").replace("{asset_key:path}", "x")
        found |= {path, f"{path}/index.html"} if isinstance(route, Mount) else {path}
    assert {"/graphql", "/server_info", "/logs/x", "/download_debug/x", "/report_asset_check/x", "/"} <= found
    return sorted(found)


def test_without_a_login_nothing_is_reachable(ui, routes):
    """Every route of the application, each method, and ways to write /graphql that another reader could take for it."""
    odd = [
        "/graphql/",
        "/graphql%0a",
        "/graphql%00",
        "/%67raphql",
        "/login/../graphql",
        "/login/graphql",
        "/x;/graphql",
    ]
    odd += ["//graphql", "/healthz/", "/healthz%0a", "/login/", "/LOGIN", "/logs/..%2f..%2fetc%2fpasswd", "/a\\b"]
    with ui.client() as client:
        for path in [*routes, *odd]:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
                for given in ({}, {"params": {"query": VERSION}}, {"json": {"query": VERSION}}):
                    answer = client.request(method, path, **given)
                    assert answer.status_code in (400, 401), (method, path, given)
                    assert "1.13" not in answer.text
        for path in OPEN:
            assert client.get(path).status_code in (200, 303), path
        page = client.get("/graphql", headers={"accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/login?next=%2Fgraphql")


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer x", "Bearer a.b.c", "Basic YTpi", "Bearer " + "x" * 9000, "bearer ..", "Negotiate x"],
)
def test_bad_credentials_are_no_login(ui, header):
    """All of them get the same as none."""
    with ui.client(authorization=header) as client:
        assert client.post("/graphql", json={"query": VERSION}).status_code == 401
        assert client.get("/server_info").status_code == 401


def test_cookies_that_were_made_up_are_no_login(ui):
    """Names of sessions that do not exist, of any shape."""
    for value in ("x", "a" * 43, "a" * 5000, '"', "../x", "%00"):
        with ui.client(cookie=f"sbh-session={value}") as client:
            assert client.get("/server_info").status_code == 401


def test_users_of_one_tenant_are_kept_out(ui, sample_service):
    """The pages show all tenants: neither the login page nor a bearer token lets such a user in. It is on record who tried."""
    token = ui.token("one", "admin", tenant="tenant-1")
    with ui.client(origin=ui.url) as client:
        refused = client.post("/login", data={"token": token})
        assert refused.status_code == 403
        assert "set-cookie" not in refused.headers
        assert client.get("/server_info", headers={"authorization": f"Bearer {token}"}).status_code == 403
        for _ in range(20):
            assert client.post("/login", data={"token": token[:-8] + "AAAAAAAA"}).status_code == 401
    with ui.log_in("wes", "viewer"):
        pass
    denied = [e for e in sample_service.audit.events(ADMIN, event="access.denied").events if e.via == "ui"]
    assert [e.props["own_tenant"] for e in denied if (e.user_id, e.props["action"]) == ("one", "ui.sign_in")] == [
        "tenant-1"
    ]
    (bad,) = (e for e in denied if "signature" in str(e.props["why"]))  # a flood of them is one
    assert (bad.user_id, bad.props["action"]) == ("", "ui.sign_in")
    (entered,) = sample_service.audit.events(ADMIN, event="ui.signed_in", user="wes").events
    assert (entered.via, entered.props["role"]) == ("ui", "viewer")


def test_a_login_lasts_until_logout(ui):
    """The cookie is HttpOnly and Strict, works, and after signing out does not, even if it was kept."""
    with ui.log_in("ann", "viewer") as client:
        cookie = client.cookies["sbh-session"]
        assert client.get("/server_info").status_code == 200
        assert "ann" in client.get("/logout").text
        left = client.post("/logout")
        assert "HttpOnly; SameSite=Strict" in left.headers["set-cookie"]
        assert client.get("/server_info", headers={"cookie": f"sbh-session={cookie}"}).status_code == 401


def test_other_sites_pages_can_do_nothing(ui):
    """A request with the cookie from another origin, from none, or to another name of this host is refused."""
    with ui.log_in("ann", "admin") as client:
        good = client.post("/graphql", json={"query": VERSION})
        assert good.json()["data"]["version"].startswith("1.")
        for origin in ("https://evil.example", "null", ui.url.replace("127.0.0.1", "127.0.0.2"), ui.url + "0", ""):
            for path in ("/graphql", "/logout", "/login", "/report_asset_check/x"):
                assert client.post(path, json={"query": RELOAD}, headers={"origin": origin}).status_code == 403
        for host in ("evil.example", "127.0.0.1", "", urlsplit(ui.url).netloc + ".evil.example"):
            assert client.get("/server_info", headers={"host": host}).status_code == 400
        del client.headers["origin"]
        assert client.post("/graphql", json={"query": VERSION}).status_code == 403
        fetched = {"sec-fetch-site": "same-origin"}
        assert client.post("/graphql", json={"query": VERSION}, headers=fetched).status_code == 200
        # A proxy that adds a bearer token does not make another site's page a program.
        bearer = {"authorization": f"Bearer {ui.token('ann', 'admin')}", "origin": "https://evil.example"}
        assert client.post("/graphql", json={"query": VERSION}, headers=bearer).status_code == 403
        # A link on another site: no login page for somebody who is logged in, but one more step that brings the cookie.
        link = {"accept": "text/html", "sec-fetch-site": "cross-site", "cookie": ""}
        assert 'content="0;url=/runs?a=1"' in client.get("/runs?a=1", headers=link).text


def test_graphql_is_taken_one_way_only(ui):
    """As a JSON object in a POST of bounded size: no query strings, forms, uploads, batches."""
    with ui.client("admin") as client:
        assert client.post("/graphql", json={"query": VERSION}).json()["data"]
        assert client.get("/graphql", params={"query": VERSION}).status_code == 405
        page = {"accept": "text/html"}
        assert client.get("/graphql", params={"query": RELOAD}, headers=page).status_code == 405
        assert client.get("/graphql", headers=page).status_code == 200
        asked = {"params": {"query": RELOAD}}
        assert client.post("/graphql", content=b"", **asked).status_code == 415
        assert (
            client.post("/graphql", content=b"{version}", headers={"content-type": "application/graphql"}).status_code
            == 415
        )
        assert client.post("/graphql", files={"0": b"x"}, data={"operations": "{}"}).status_code == 415
        assert client.post("/graphql", json=[{"query": VERSION}]).status_code == 400
        large = json.dumps({"query": VERSION, "variables": {"x": "y" * (5 << 20)}})
        with contextlib.suppress(OSError):
            answer = client.post("/graphql", content=large, headers={"content-type": "application/json"})
            assert answer.status_code == 413


def test_a_viewer_reads_and_changes_nothing(ui):
    """Refused in the words that Dagster's page shows; the page itself is told that this user's buttons are off."""
    with ui.log_in("vic", "viewer") as client:
        refused = ui.ask(client, RELOAD)
        assert refused["errors"][0]["extensions"]["code"] == "SBH-206"
        assert "needs the role admin" in refused["errors"][0]["message"]
        permissions = ui.ask(client, "{ permissions { permission value } }")["data"]["permissions"]
        assert {p["permission"]: p["value"] for p in permissions}["reload_workspace"] is False
        assert client.post("/report_asset_materialization/x", json={}).status_code == 403
        assert client.get("/notebook?path=/etc/passwd.ipynb&repoLocName=x").status_code == 404
        assert ui.ask(client, "{ runsOrError { __typename } }")["data"]["runsOrError"]["__typename"] == "Runs"


def test_answers_cannot_be_framed_or_guessed_at(ui):
    """Security headers on every answer, the login page's own policy without scripts, Dagster's policy made narrower."""
    with ui.log_in("ann", "viewer") as client:
        for path in ("/login", "/server_info", "/", "/favicon.png", "/no/such/page"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "script-src" not in client.get("/login").headers["content-security-policy"]
        assert "connect-src 'self'" in client.get("/").headers["content-security-policy"]
        assert "server" not in client.get("/login").headers


def socket_to(ui, path="/graphql", **headers):
    return connect(
        ui.url.replace("http", "ws") + path, subprotocols=["graphql-ws"], additional_headers=headers, proxy=None,
        open_timeout=PATIENCE_S, ping_timeout=PATIENCE_S,
    )  # fmt: skip


def test_websockets_need_a_login_and_our_own_page(ui):
    """Without a cookie, with one but from another origin, or to another path: the upgrade is refused."""
    with ui.log_in("ann", "viewer") as client:
        cookie = {"cookie": f"sbh-session={client.cookies['sbh-session']}"}
    bearer = {"authorization": f"Bearer {ui.token('vic', 'viewer')}"}
    evil = {"origin": "https://evil.example"}
    refused = [{}, {"origin": ui.url}, cookie, cookie | evil, bearer | evil, {"authorization": "Bearer x"}]
    for headers in refused:
        with pytest.raises(InvalidStatus, match="403"):
            socket_to(ui, **headers)
    with pytest.raises(InvalidStatus, match="403"):
        socket_to(ui, "/other", **cookie, origin=ui.url)
    for headers in (cookie | {"origin": ui.url}, bearer):
        with socket_to(ui, **headers) as ws:
            ws.send(json.dumps({"type": "connection_init"}))
            assert json.loads(ws.recv(PATIENCE_S)) == {"type": "connection_ack"}
            ws.send(json.dumps({"type": "start", "id": "1", "payload": {"query": NEWS}}))
            ws.send(json.dumps({"type": "start", "id": "2", "payload": {"query": RELOAD}}))
            with pytest.raises(ConnectionClosed, match="1008"):
                ws.recv(PATIENCE_S)


def test_a_websocket_ends_with_its_session(ui):
    """A connection does not outlive the token that the session was opened with, nor by much the logout."""
    with ui.log_in("ann", "viewer") as client:
        cookie = f"sbh-session={client.cookies['sbh-session']}"
        with socket_to(ui, cookie=cookie, origin=ui.url) as ws:
            client.post("/logout")
            with pytest.raises(ConnectionClosed, match="1008"):
                ws.recv(PATIENCE_S)
    with ui.client(origin=ui.url) as client:
        token = ui.token("ann", "viewer", ttl_s=10)
        assert client.post("/login", data={"token": token}).status_code == 303
        cookie = f"sbh-session={client.cookies['sbh-session']}"
        with socket_to(ui, cookie=cookie, origin=ui.url) as ws, pytest.raises(ConnectionClosed, match="1008"):
            ws.recv(PATIENCE_S)
        assert client.get("/server_info").status_code == 401


def test_a_service_launches_for_the_user_it_names(ui):
    """The run's tags are those that the API's own token sent; the run then is judged by that user's role and tenant."""
    params = {
        "selector": {
            "jobName": "validate_backup_job",
            "repositoryName": "__repository__",
            "repositoryLocationName": "sbh_pipelines.definitions",
        },
        "runConfigData": {"ops": {"validate_backups": {"config": {"tenants": ["tenant-1"]}}}},
        "executionMetadata": {
            "tags": [
                {"key": "user", "value": "ann"},
                {"key": "sbh/role", "value": "viewer"},
                {"key": "sbh/tenant", "value": "tenant-1"},
            ]
        },
    }
    with ui.client(authorization=f"Bearer {ui.token('service:api', 'admin')}") as client:
        launched = ui.ask(client, LAUNCH, p=params)
    assert launched["data"]["launchRun"]["__typename"] == "LaunchRunSuccess"
    (run,) = ui.runs(user="ann")
    assert (run.tags["sbh/role"], run.tags["sbh/tenant"]) == ("viewer", "tenant-1")


def test_a_launch_with_a_made_up_partition_is_on_record_too(sample_service):
    """In the platform's trail; and so is what was launched along with it."""
    settings, ann = sample_service.settings, UserContext("una", "*", Role.OPERATOR, "ui")
    partitions = ("no-such-tenant", "../x" * 100, "tenant-6", None)
    elsewhere = Launch("us__validate_backup_job", "backup.validate", "tenant-6", "us")  # whose tenant is another one
    here = [Launch("validate_backup_job", "backup.validate", one) for one in partitions]
    recorder(settings)(ann, None, [*here, elsewhere])
    found = [
        (trail, event.props.get("partition"))
        for trail in ("*", "tenant-6")
        for event in sample_service.audit.events(ADMIN, trail, event="run.launched", user="una").events
    ]
    assert sorted(found, key=str) == sorted(
        [("*", None), ("*", "no-such-tenant"), ("*", ("../x" * 100)[:128]), ("*", "tenant-6"), ("tenant-6", None)],
        key=str,
    )


def test_a_backfill_is_its_users(ui):
    """The tags of its runs are those of whoever launched it, whatever was sent; nobody else resumes it."""
    where = {"repositoryName": "__repository__", "repositoryLocationName": "sbh_pipelines.definitions"}
    params = {
        "selector": {"partitionSetName": "validate_backup_job_partition_set", "repositorySelector": where},
        "partitionNames": ["tenant-1", "tenant-2"],
        "tags": [
            {"key": "user", "value": "root"},
            {"key": "sbh/role", "value": "admin"},
            {"key": "note", "value": "x"},
        ],
    }
    launch = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
        __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
    with ui.client("operator") as client:
        answer = ui.ask(client, launch, p=params)
    backfill = answer["data"]["launchPartitionBackfill"]["backfillId"]
    with dg.DagsterInstance.from_config(str(ui.home)) as instance:
        tags = instance.get_backfill(backfill).tags
    assert tags | {"user": "operator", "sbh/role": "operator", "sbh/tenant": "*", "note": "x"} == tags
    with ui.client("admin") as client:
        resume = "mutation($b: String!) { resumePartitionBackfill(backfillId: $b) { __typename } }"
        assert ui.ask(client, resume, b=backfill)["errors"][0]["extensions"]["code"] == "SBH-206"
        cancel = "mutation($b: String!) { cancelPartitionBackfill(backfillId: $b) { __typename } }"
        assert (
            ui.ask(client, cancel, b=backfill)["data"]["cancelPartitionBackfill"]["__typename"]
            == "CancelBackfillSuccess"
        )


def test_slow_and_broken_clients_harm_nobody(ui):
    """Connections that stop in the middle of a request leave the server answering."""
    address = urlsplit(ui.url)
    head = f"POST /login HTTP/1.1\r\nHost: {address.netloc}\r\nOrigin: {ui.url}\r\nContent-Length: 999999\r\n\r\n"
    held = []
    for start in (head, head + "token=", "GET /", "\0\xff" * 100):
        client = socket.create_connection((address.hostname, address.port), PATIENCE_S)
        client.sendall(start.encode("latin1"))
        held.append(client)
    with ui.client() as client:
        assert client.get("/healthz").status_code == 200
        for form in (b"token=" + b"x" * 100_000, b"a=b&" * 20):
            assert client.post("/login", content=form, headers={"origin": ui.url}).status_code == 401
    for one in held:
        one.close()


@pytest.mark.parametrize(
    "path", ["//evil.example", "https://evil.example", "/\\evil", "/a\nb", "/login", "/é", "x", "", "/" * 3]
)
def test_after_the_login_one_stays_on_this_site(path):
    """Only paths of this site are followed."""
    assert safe_path(path) == "/"
    assert safe_path("/runs?a=b") == "/runs?a=b"


def test_a_version_that_was_not_tried_is_refused():
    """Older, newer, or unreadable: the guard could have holes that nobody has looked for."""
    check_version("1.13.27")
    for version in ("1.12.9", "1.14.0", "2.0.0", "1", "x", ""):
        with pytest.raises(OrchestratorError, match="not tried"):
            check_version(version)


def test_an_open_port_needs_an_address_with_tls():
    """Where others can reach it, the settings must name the https address in front."""
    with pytest.raises(SettingsError, match="TLS"):
        origins_of(UiSettings(), "0.0.0.0", 3000)
    behind = origins_of(UiSettings(public_url="https://Backups.example.com"), "0.0.0.0", 3000)
    assert behind.allowed == ("https://backups.example.com",)
    assert behind.secure
    assert not origins_of(UiSettings(), "127.0.0.1", 3000).secure


def test_a_port_that_browsers_leave_out_is_not_asked_for():
    """They send `Host: localhost`, and of a page the origin without it."""
    plain = origins_of(UiSettings(), "127.0.0.1", 80)
    assert plain.allowed == ("http://localhost", "http://127.0.0.1", "http://[::1]")
    assert plain.knows_host({"host": "localhost"})
    behind = origins_of(UiSettings(public_url="https://backups.example.com:443"), "0.0.0.0", 3000)
    assert behind.from_own_page({"origin": "https://backups.example.com"})
