"""The console's pages without a browser: who sees what, whose forms are taken, what becomes of hostile names."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import anyio
import pytest
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from sbh_pipelines.api.app.app import make_app
from sbh_pipelines.api.app.limits import Streams
from sbh_pipelines.api.console import app as console
from sbh_pipelines.api.console.download import Download, Sent
from sbh_pipelines.api.console.render import POLICY, _templates, duration, render, size
from sbh_pipelines.api.console.restore import options_of
from sbh_pipelines.api.console.session import safe_path
from sbh_pipelines.api.console.visit import Form
from sbh_pipelines.api.schema.bodies import RestoreBody
from sbh_pipelines.backup.contents.moment_facts import MomentFacts
from sbh_pipelines.backup.contents.reader import OpenFile
from sbh_pipelines.backup.restore.plan import LeftBehind
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import TooManyRequests
from sbh_pipelines.model import BackupId
from sbh_pipelines.security.policy import PERMISSIONS, Role, UserContext
from sbh_pipelines.security.tokens import Tokens
from sbh_pipelines.settings import Settings

OWN, OTHER, HOSTILE = "tenant-1", "tenant-3", "tenant-4"
SCRIPT = "<script>alert(1)</script>"
RESTORE, OPERATION = "restore_20240115_120000_0a1b2c", "0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11"
APPROVAL = "approval_20240115_120000_0a1b2c"
HOME, AT = "/console/tenants/{slug}", "/console/tenants/{slug}/backups/{backup_id}"

# Each page: what the policy calls it, and what who may gets, where there is no Dagster.
PAGES: dict[tuple[str, str], tuple[str, int]] = {
    ("GET", HOME): ("backup.list", 200),
    ("GET", HOME + "/moment"): ("backup.list", 303),
    ("GET", HOME + "/journal"): ("journal.read", 200),
    ("GET", HOME + "/backups"): ("backup.list", 200),
    ("GET", AT): ("backup.list", 200),
    ("GET", AT + "/rows"): ("restore.plan", 200),
    ("POST", AT + "/rows"): ("restore.plan", 200),
    ("GET", AT + "/files"): ("restore.plan", 200),
    ("POST", AT + "/files"): ("restore.plan", 200),
    ("GET", AT + "/file"): ("backup.export", 400),
    ("GET", AT + "/diff"): ("restore.plan", 200),
    ("POST", AT + "/diff"): ("restore.plan", 200),
    ("POST", AT + "/restore"): ("backup.restore", 503),
    ("POST", AT + "/ask"): ("restore.request", 200),
    ("GET", HOME + "/restores/{restore_id}"): ("backup.status", 404),
    ("POST", HOME + "/restores/{restore_id}/diff"): ("backup.status", 404),
    ("POST", HOME + "/restores/{restore_id}/undo"): ("backup.restore", 404),
    ("POST", HOME + "/restores/{restore_id}/ask"): ("restore.request", 404),
    ("GET", HOME + "/operations/{operation_id}"): ("backup.status", 503),
    ("GET", HOME + "/operations/{operation_id}/state"): ("backup.status", 503),
    ("POST", HOME + "/operations/{operation_id}/cancel"): ("run.cancel", 503),
    ("GET", HOME + "/requests"): ("backup.status", 200),
    ("POST", HOME + "/requests/{approval_id}/approve"): ("restore.approve", 400),
    ("POST", HOME + "/requests/{approval_id}/reject"): ("restore.approve", 400),
    ("GET", HOME + "/audit"): ("audit.read", 200),
    ("GET", HOME + "/compliance"): ("report.read", 200),
}
OF_NO_TENANT = {
    ("GET", "/console"), ("GET", "/console/login"), ("POST", "/console/login"), ("POST", "/console/logout"),
    ("GET", "/console/login/issuer"), ("GET", "/console/login/callback"),
    ("GET", "/console/static/{name}"), ("GET", "/console/audit"), ("GET", "/console/compliance"),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(api_settings: Settings) -> Iterator[TestClient]:
    own = api_settings.api.model_copy(
        update={
            "dagster_url": "http://127.0.0.1:9",
            "expensive_per_minute": 100_000,
            "expensive_burst": 10_000,
            "calls_burst": 100_000,
        }
    )
    restore = api_settings.restore.model_copy(update={"sensitive": ["users.email"]})
    settings = api_settings.model_copy(update={"api": own, "restore": restore})
    with TestClient(make_app(settings), follow_redirects=False) as made:
        yield made


@pytest.fixture
def sign_in(site: TestClient, tokens: Tokens) -> Iterator[Any]:
    """Signs in; the mark that this session's forms carry."""

    def signed_in(tenant: str, role: Role, user: str = "ann") -> str:
        site.cookies.clear()
        answer = site.post("/console/login", data={"token": tokens.issue(user, tenant, role, 600), "next": ""})
        assert (answer.status_code, answer.headers["location"]) == (303, "/console")
        page = site.get("/console/tenants/" + (OWN if tenant == "*" else tenant))
        found = re.search(r'name="mark" value="([0-9a-f]{64})"', page.text)
        assert found, page.text
        return found[1]

    yield signed_in
    site.cookies.clear()


def ask(site: TestClient, method: str, path: str, slug: str, backup_id: str, **form: str) -> Any:
    names = {
        "slug": slug,
        "backup_id": backup_id,
        "restore_id": RESTORE,
        "operation_id": OPERATION,
        "approval_id": APPROVAL,
    }
    query = (
        {"table": "public.users"} if path.endswith("/rows") else {"path": "no/such"} if path.endswith("/file") else {}
    )
    form = {"confirm": slug, "reason": "a test", **form}
    return site.request(method, path.format(**names), params=query, data=form if method == "POST" else None)


def routes() -> set[tuple[str, str]]:
    found = [*console._own.routes, *(route for pages in console.PAGES for route in pages.router.routes)]
    return {(method, route.path) for route in found if isinstance(route, APIRoute) for method in route.methods}


def test_every_page_is_in_the_table() -> None:
    assert routes() == set(PAGES) | OF_NO_TENANT


def test_the_table_of_permissions_holds_on_every_page(site: TestClient, sign_in: Any, backed_up: str) -> None:
    """Of one's own tenant as the role says; of another one nothing, whether there is such a tenant or not."""
    wrong = {}
    for role in Role:
        mark = sign_in(OWN, role)
        for (method, path), (action, status) in PAGES.items():
            if path.endswith("/ask") and path.startswith(AT):
                continue  # leaves a request behind: `test_one_asks_and_another_approves`
            got = ask(site, method, path, OWN, backed_up, mark=mark)
            wanted = status if role >= PERMISSIONS[action] else 403
            if got.status_code != wanted:
                wrong[role.name, method, path] = (got.status_code, wanted, got.text[-900:])
            assert got.headers["content-security-policy"] == POLICY
    assert wrong == {}
    mark = sign_in(OWN, Role.ADMIN)
    for slug in (OTHER, "no-such-tenant"):
        got = {key: ask(site, *key, slug, backed_up, mark=mark).status_code for key in PAGES}
        assert set(got.values()) == {403}
    assert "tenant-2" not in site.get("/console", follow_redirects=True).text


def test_nobody_in_sees_nothing_but_the_login_page(site: TestClient, backed_up: str) -> None:
    site.cookies.clear()
    for method, path in {page for page in set(PAGES) | OF_NO_TENANT if not page[1].startswith("/console/login")}:
        answer = ask(site, method, path.replace("{name}", "nothing.css"), OWN, backed_up)
        assert answer.status_code == 303, (method, path)
        assert answer.headers["location"].startswith("/console/login?next=/console")
    refused = site.post("/console/login", data={"token": "not.a.token"})
    assert refused.status_code == 401
    assert "The token is not valid" in refused.text
    assert "set-cookie" not in refused.headers


def test_the_cookie_is_for_the_browser_alone_and_ends(site: TestClient, sign_in: Any, tokens: Tokens) -> None:
    answer = site.post("/console/login", data={"token": tokens.issue("ann", OWN, Role.VIEWER, 300)})
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert 290 <= int(re.search(r"Max-Age=(\d+)", cookie)[1]) <= 300
    mark = sign_in(OWN, Role.VIEWER)
    assert site.post("/console/logout", data={"mark": mark}).headers["location"] == "/console/login"
    assert site.get("/console").headers["location"].startswith("/console/login")


@pytest.mark.parametrize(
    "given",
    [
        "//evil.example",
        "https://evil.example",
        "/console//evil.example",
        "/console\\@evil",
        "/api/backup",
        "",
        "/console/login",
        "/console/../login",
        "/console/./login/issuer",
        "/console/%2E%2e/api/backup",
        "/console/.%2e?a=b",
        "/console?" + "x" * 2000,
    ],
)
def test_after_signing_in_one_stays_here(given: str) -> None:
    assert safe_path(given) == "/console"


@pytest.mark.parametrize(
    "given", ["/console/tenants/x/backups?path=a//b/../c", "/console/tenants/a.b/..c", "/console?" + "x" * 1991]
)
def test_after_signing_in_one_gets_to_the_page_that_was_asked_for(given: str) -> None:
    assert safe_path(given) == given


def test_forms_of_other_sites_are_refused(site: TestClient, sign_in: Any, backed_up: str) -> None:
    """Without the session's mark, with another session's, from another origin."""
    others = sign_in(OWN, Role.ADMIN, "bob")
    mark = sign_in(OWN, Role.ADMIN)
    posts = [path for method, path in {*PAGES, ("POST", "/console/logout")} if method == "POST"]
    assert len(posts) == 12
    for path in posts:
        assert ask(site, "POST", path, OWN, backed_up).status_code == 403
        assert ask(site, "POST", path, OWN, backed_up, mark=others).status_code == 403
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert site.post("/console/logout", data={"mark": mark}, headers=headers).status_code == 403
        assert site.post("/console/login", data={"token": "x"}, headers=headers).status_code == 403


def test_names_and_values_of_others_are_text(site: TestClient, sign_in: Any, api_settings: Settings) -> None:
    made = BackupService(api_settings).create_backup(
        HOSTILE, UserContext("fixture", "*", Role.ADMIN), description=SCRIPT + "\"'"
    )
    mark = sign_in("*", Role.ADMIN)
    home = f"/console/tenants/{HOSTILE}"
    shown = [
        site.get(home),
        site.get(f"{home}/backups/{made['id']}"),
        site.get("/console", params={"search": SCRIPT}),
        site.post(f"{home}/backups/latest/rows", params={"table": "users"}, data={"mark": mark, "search": SCRIPT}),
        site.post(f"{home}/backups/latest/diff", data={"mark": mark, "scope": "parts", "tables": SCRIPT}),
        site.get(f"/console/tenants/{SCRIPT}"),
    ]
    for page in shown:
        assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert" in shown[0].text
    assert [page.status_code for page in shown] == [200, 200, 200, 200, 400, 404]


def test_what_is_sensitive_is_masked_and_not_searched(site: TestClient, sign_in: Any, backed_up: str) -> None:
    """Who may export sees it where they ask for it, and that is recorded."""
    path = f"/console/tenants/{OWN}/backups/{backed_up}/rows?table=users"
    mark = sign_in(OWN, Role.ADMIN)
    clear = site.get(path + "&sensitive=true").text
    (email, *_) = re.findall(r"[\w.+-]+@[\w.-]+", clear)
    mark = sign_in(OWN, Role.OPERATOR)
    hidden = site.get(path).text
    assert "***" in hidden
    assert email not in hidden
    assert site.get(path + "&sensitive=true").status_code == 403
    assert "No row holds it" in site.post(path, data={"mark": mark, "search": email}).text
    sign_in("*", Role.ADMIN)
    trail = site.get(f"/console/tenants/{OWN}/audit", params={"event": "backup.exported", "user": "ann"}).text
    assert "show sensitive" in trail


def test_rows_come_a_page_at_a_time_and_files_whole(
    site: TestClient, sign_in: Any, backed_up: str, api_settings: Settings
) -> None:
    sign_in(OWN, Role.ADMIN)
    here = f"/console/tenants/{OWN}/backups/{backed_up}"
    seen: list[str] = []
    path: str | None = f"{here}/rows?table=public.tasks"
    while path:
        page = site.get(path).text
        seen += re.findall(r"<tr><td class=\"value\">(\d+)</td>", page)
        following = re.search(r'<a href="([^"]+)">Next</a>', page)
        path = following[1].replace("&amp;", "&") if following else None
    with BackupService(api_settings).open_backup(backed_up, OWN, UserContext("fixture", "*", Role.ADMIN)) as backup:
        assert sorted(seen) == sorted(str(row["id"]) for rows in backup.read_rows("tasks") for row in rows)
        entry = next(backup.files())
        content = b"".join(backup.slices(entry))
    for _ in range(5):  # more than one caller may have under way at once: each is ended
        got = site.get(f"{here}/file", params={"path": entry.path})
        assert got.content == content
    assert got.headers["content-disposition"].startswith("attachment")
    assert site.get(f"{here}/file", params={"path": "no/such"}).status_code == 400
    admin = UserContext("fixture", "*", Role.ADMIN)
    made = BackupService(api_settings).audit.events(admin, OWN, event="backup.exported", user="ann").events
    taken = [event.props for event in made if event.props.get("what") == "file"]
    assert taken == [{"backup_id": backed_up, "what": "file", "size": entry.size}] * 5
    assert entry.path not in str(made)


def test_a_download_is_bounded_and_closed_whatever_becomes_of_it(api_settings: Settings, backed_up: str) -> None:
    """Whose browser leaves before the first piece, who takes too long, whose turn was given up, whose file is not there."""
    service, admin = BackupService(api_settings), UserContext("fixture", "*", Role.ADMIN)
    with service.open_backup(backed_up, OWN, admin) as backup:
        path = next(entry.path for entry in backup.files() if entry.size)
    streams, opened = Streams(3, 2), list[OpenFile]()

    def open_file() -> OpenFile:
        opened.append(service.exports.file(backed_up, OWN, admin, path))
        return opened[-1]

    def is_closed() -> bool:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            opened[-1]._backup._repository.index.packs()
        return True

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def gone(_: Any) -> None:
        raise OSError("the browser is gone")

    async def slow(_: Any) -> None:
        await anyio.sleep(60)

    async def all_of_it() -> None:
        for version, send, raised in (("2.4", gone, True), ("2.4", slow, False), ("2.3", slow, False)):
            scope = {"type": "http", "asgi": {"spec_version": version}}
            download = Download(streams, OWN, 0.01)
            download.opened(open_file)()
            with pytest.raises(ClientDisconnect) if raised else nullcontext():
                await Sent(download)(scope, receive, send)
            assert is_closed()
        given_up = Download(streams, OWN, 1)
        await given_up.close()
        given_up.opened(open_file)()
        assert is_closed()
        held = [Download(streams, OWN, 1), Download(streams, OWN, 1), Download(streams, OTHER, 1)]
        for whose in (OWN, OTHER):
            with pytest.raises(TooManyRequests):
                Download(streams, whose, 1)
        for one in held:
            await one.close()
        await Download(streams, OWN, 1).close()

    anyio.run(all_of_it)


def test_one_asks_and_another_approves(site: TestClient, sign_in: Any, backed_up: str) -> None:
    mark = sign_in(OWN, Role.ADMIN, "ann")
    before = set(re.findall(r"approval_\w+", site.get(f"/console/tenants/{OWN}/requests").text))
    asked = ask(site, "POST", AT + "/ask", OWN, backed_up, mark=mark, scope="parts", tables="public.tasks")
    assert asked.status_code == 303
    page = site.get(asked.headers["location"]).text
    assert "Another person has to decide it" in page
    (approval,) = set(re.findall(r"approval_\w+", page)) - before
    mark = sign_in(OWN, Role.ADMIN, "bea")
    path = f"/console/tenants/{OWN}/requests/{approval}/approve"
    assert site.post(path, data={"mark": mark, "comment": "agreed"}).status_code == 303
    page = site.get(f"/console/tenants/{OWN}/requests").text
    assert "agreed" in page
    assert "public.tasks" in page
    assert "Compare, then restore" in page


def test_who_approves_sees_all_that_was_asked_for(
    site: TestClient, sign_in: Any, backed_up: str, api_settings: Settings
) -> None:
    """What a form can say has the button that does it; what it cannot say has none."""
    mark = sign_in(OWN, Role.ADMIN, "ann")
    before = set(re.findall(r"approval_\w+", site.get(f"/console/tenants/{OWN}/requests").text))
    options = {
        "scope": "all_but",
        "tables": "public.tasks",
        "files": "a/**",
        "references": "keep",
        "mode": "missing-only",
    }
    path = ask(site, "POST", AT + "/ask", OWN, backed_up, mark=mark, safety_backup="no", **options).headers["location"]
    ann = UserContext("ann", "*", Role.ADMIN)
    made = BackupService(api_settings).approvals.request_restore(
        backed_up,
        OWN,
        ann,
        RestoreRequest(tables=("public.users",), as_tenant=True),
        reason="a test",
        into_database="host=db dbname=other",
    )
    mark = sign_in(OWN, Role.ADMIN, "bea")

    def own() -> list[str]:
        """The boxes of the two: other tests have asked as well."""
        boxes = site.get(path).text.split("<section ")[1:]
        return [one for one in boxes if set(re.findall(r"approval_\w+", one)) - before]

    expressible, not_so = (next(b for b in own() if word in b) for word in ("keep", str(made.approval_id)))
    for name, text in (
        ("All but", "public.tasks"),
        ("Files", "a/**"),
        ("References", "keep"),
        ("Mode", "missing-only"),
        ("Safety backup", "no"),
    ):
        assert f"<dt>{name}</dt><dd>{text}</dd>" in expressible
    for name, text in (("Tables", "public.users"), ("As tenant", "yes"), ("Into database", "host=db dbname=other")):
        assert f"<dt>{name}</dt><dd>{text}</dd>" in not_so
    for box in (expressible, not_so):
        (approval,) = set(re.findall(r"approval_\w+", box))
        assert site.post(f"{path}/{approval}/approve", data={"mark": mark}).status_code == 303
    decided = own()
    (decided_form,) = (one for one in decided if "missing-only" in one)
    assert "Compare, then restore" in decided_form
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', decided_form))
    assert fields.items() >= {**options, "safety_backup": "no"}.items()
    (decided_other,) = (one for one in decided if str(made.approval_id) in one)
    assert "no form for exactly this" in decided_other
    assert "Compare, then restore" not in decided_other


def test_the_journal_tells_what_rows_do_not_and_what_it_lacks() -> None:
    event = {
        "time": "2026-01-15T14:32:07Z",
        "table": "public.tasks",
        "kind": "truncated",
        "why": "emptied",
        "before": "2026-01-15T14:32:06.9Z",
    }
    listed = {"transactions": [], "events": [event], "gaps": ["from 1 until 2: lost"], "issues": [], "more": True}
    shown = {"slug": OWN, "title": "", "user": None, "since": "", "until": ""}
    page = bytes(render("journal.html", listed=listed, **shown).body).decode()
    assert "truncated: emptied" in page
    assert f"/console/tenants/{OWN}/backups/@2026-01-15T14%3A32%3A06.9Z/diff" in page
    assert "Nothing is told from 1 until 2: lost." in page
    assert "Earlier ones were left out" in page
    assert "Nothing is told of this time" not in page


def test_a_plan_says_its_scope_what_stays_behind_and_what_is_not_sure() -> None:
    left = LeftBehind("public.comments", "public.tasks", "comments_task", 7, 4)
    moment = MomentFacts(
        asked="2026-01-15T14:32:07Z",
        base=BackupId("backup_20260115_1200"),
        base_time="2026-01-15T12:00:00Z",
        incarnation="1",
        transactions=3,
        changes=9,
        last_in=None,
        first_out=None,
        as_of_backup={"public.tags": "the journal does not tell of it"},
        files={"source": "versions", "as_of": "then", "doubt_count": 2},
    )
    scope = RestoreRequest(rows="tasks where id = 1", files=("a/**", "b/*")).scope()
    plan = as_document({"scope": scope, "left_behind": (left,), "moment": moment})
    nothing = {"problems": [], "schema": [], "tables": [], "references": [], "left_out": {}, "kept": []}
    page = _templates.get_template("parts.html").module.plan_tables(
        {**plan, **nothing, "nothing_to_do": True, "files": {"samples": []}}
    )
    assert "Only rows <code>tasks where id = 1</code>; files like <code>a/**, b/*</code>." in page
    assert "public.comments was not chosen and has 3 fewer of its rows" in page
    assert "public.tags is as that backup has it: the journal does not tell of it" in page
    assert "2 files are in doubt" in page
    record = {
        "restore_id": RESTORE,
        "status": "completed",
        "scope": plan["scope"],
        "result": {"left_behind": plan["left_behind"]},
    }
    record["touches"] = {"tables": ["public.tasks"], "files": []}
    done = bytes(render("restore.html", slug=OWN, title="", user=None, plan=None, record=record).body).decode()
    assert "<dd>Only rows <code>tasks where id = 1</code>; files like" in done
    assert "<dd>public.tasks; files like none</dd>" in done
    assert "public.comments was not chosen and has 3 fewer of its rows" in done


def test_nothing_is_restored_until_the_name_is_typed(site: TestClient, sign_in: Any, backed_up: str) -> None:
    mark = sign_in("*", Role.ADMIN)
    answer = ask(site, "POST", AT + "/restore", OWN, backed_up, mark=mark, confirm=OTHER)
    assert answer.status_code == 409
    assert "was not typed" in answer.text


@pytest.mark.parametrize("way", ["diff", "ask"])
@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"scope": "parts"}, "Nothing was chosen"),
        ({"scope": "parts", "files": " \n "}, "Nothing was chosen"),
        ({"scope": "rows", "files": "**"}, "Nothing was chosen"),
        ({"scope": "all_but"}, "Nothing was chosen"),
        ({"scope": "part", "tables": "tasks"}, "There is no such scope"),
        ({"tables": "tasks"}, "More was chosen"),
        ({"scope": "config", "files": "**"}, "More was chosen"),
    ],
)
def test_a_form_that_says_too_little_is_no_restore_of_the_whole_tenant(
    site: TestClient, sign_in: Any, backed_up: str, way: str, form: dict[str, str], said: str
) -> None:
    mark = sign_in(OWN, Role.ADMIN)
    answer = ask(site, "POST", f"{AT}/{way}", OWN, backed_up, mark=mark, **form)
    assert (answer.status_code, said in answer.text) == (400, True), answer.text[-900:]
    assert "SBH-200" in answer.text


def test_rows_and_files_are_chosen_together() -> None:
    form = Form({"scope": ["rows"], "rows": ["tasks where id = 1"], "files": ["a/**\nb/*"]})
    assert RestoreBody(**options_of(form)).request() == RestoreRequest(rows="tasks where id = 1", files=("a/**", "b/*"))


def test_days_at_the_end_of_time_and_times_with_an_offset(site: TestClient, sign_in: Any) -> None:
    sign_in(OWN, Role.OPERATOR)
    home = f"/console/tenants/{OWN}"
    for page in ("audit", "compliance"):
        refused = site.get(f"{home}/{page}", params={"until": "9999-12-31"})
        assert (refused.status_code, "The day is out of range" in refused.text) == (400, True)
        assert site.get(f"{home}/{page}", params={"until": "0001-01-01"}).status_code == 200
    moved = site.get(f"{home}/moment", params={"at": "2026-01-15T14:30:00+02:00"}).headers["location"]
    assert "2026-01-15T12%3A30%3A00" in moved
    assert site.get(f"{home}/moment", params={"at": "0001-01-01T00:00:00+02:00"}).status_code == 400


def test_a_token_that_no_browser_keeps_is_refused(site: TestClient) -> None:
    site.cookies.clear()
    assert site.post("/console/login", data={"token": "x" * 3800}).status_code == 401  # what it says is looked at
    answer = site.post("/console/login", data={"token": "x" * 3801})
    assert (answer.status_code, "The token is too long" in answer.text) == (400, True)
    assert "xxx" not in answer.text
    assert "set-cookie" not in answer.headers


def test_who_signs_in_and_who_is_not_let_in_is_on_record(
    site: TestClient, sign_in: Any, tokens: Tokens, api_settings: Settings
) -> None:
    """A flood of bad ones leaves one event of a kind, and nothing of a token."""
    sign_in(OWN, Role.VIEWER, "signy")
    site.cookies.clear()
    expired = tokens.issue("signy", OWN, Role.VIEWER, 600)[:-8] + "AAAAAAAA"
    for _ in range(30):
        assert site.post("/console/login", data={"token": expired}).status_code == 401
    audit, admin = BackupService(api_settings).audit, UserContext("fixture", "*", Role.ADMIN)
    (entered,) = audit.events(admin, event="ui.signed_in", user="signy").events
    assert (entered.via, entered.props["tenant"], entered.props["role"]) == ("console", OWN, "viewer")
    denied = [e for e in audit.events(admin, event="access.denied").events if e.props.get("action") == "ui.sign_in"]
    (one,) = (e for e in denied if "signature" in str(e.props["why"]))
    assert (one.via, one.user_id) == ("console", "")
    assert expired.rpartition(".")[2] not in str(denied)


def test_figures_are_written_with_the_unit_one_reads() -> None:
    assert [size(n) for n in (None, 0, 1023, 1536, 250 << 20)] == ["–", "0 B", "1,023 B", "1.5 KiB", "250 MiB"]
    assert [duration(s) for s in (None, 3.14, 59, 61, 7200, 7260, 200_000, 900_000)] == [
        "–", "3.1 s", "59 s", "1 min", "2 h", "2 h 1 min", "2 d 7 h", "10 d",
    ]  # fmt: skip
