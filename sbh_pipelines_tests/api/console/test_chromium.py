"""The console as people use it, in the system's Chromium: from the login to a restore, its proof, and its undo."""

import re
import shutil
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.api.console.test_accessibility import pictures
from sbh_pipelines_tests.support.servers import Server

TENANT = "tenant-2"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
PATIENCE_MS = 240_000


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield page
        browser.close()


def findings(page: Page) -> list[str]:
    """What axe-core says of the page that is shown. It is evaluated in another one, for the console's policy would refuse it."""
    assert page.context.browser is not None
    context = page.context.browser.new_context(bypass_csp=True, storage_state=page.context.storage_state())
    beside = context.new_page()
    beside.goto(page.url)
    found = list(pictures().serious_findings(beside))
    context.close()
    return found


def tasks(stack: Stack) -> list[tuple[int, str]]:
    with closing(psycopg2.connect(stack.dsn())) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, title FROM tasks WHERE tenant_id = (SELECT id FROM tenants WHERE slug = %s) ORDER BY id",
            (TENANT,),
        )
        return list(cursor.fetchall())


def test_an_admin_brings_rows_back_and_undoes_it(
    page: Page, server: Server, api_stack: Stack, api_settings: Settings, backed_up: str
) -> None:
    """Sign in, fleet, tenant, rows of a backup, diff, restore with the name typed, proof, undo, sign out."""
    refused: list[str] = []
    page.on("console", lambda said: refused.append(said.text) if "Security Policy" in said.text else None)
    service, ada = BackupService(api_settings), UserContext("ada", "*", Role.ADMIN)
    before = tasks(api_stack)
    made = service.create_backup(TENANT, ada)["id"]
    with closing(psycopg2.connect(api_stack.dsn())) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE tasks SET title = 'ruined' WHERE id = %s", (before[0][0],))
    damaged = tasks(api_stack)

    page.goto(server.address + "/console")
    expect(page).to_have_url(re.compile(r"/console/login\?next=/console"))
    page.get_by_label("Access token").fill(server.tokens.issue("ada", "*", Role.ADMIN, 3600))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
    page.get_by_role("link", name=TENANT, exact=True).click()
    page.get_by_role("link", name=str(made), exact=True).first.click()
    page.get_by_role("link", name="public.tasks").click()
    page.get_by_label("Rows that hold").fill(before[0][1])
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("cell", name=str(before[0][0]), exact=True).first).to_be_visible()
    page.get_by_role("link", name=str(made)).click()

    page.get_by_role("link", name="Compare with what is live").click()
    page.get_by_label("Only some tables or files").check()
    page.get_by_text("Which tables, files or rows").click()
    page.get_by_role("checkbox", name=re.compile("public.tasks")).check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("cell", name="ruined", exact=True)).to_be_visible()
    page.get_by_label(re.compile("^Type")).fill(TENANT)
    page.get_by_role("button", name=f"Restore {TENANT}").click()
    expect(page).to_have_url(re.compile(r"/operations/[0-9a-f-]{36}$"))
    assert findings(page) == []
    page.get_by_role("link", name="Its proof, and how to undo it").click(timeout=PATIENCE_MS)
    expect(page.get_by_text("Read back before the commit")).to_be_visible()
    assert tasks(api_stack) == before

    page.get_by_role("button", name="See what undoing it would change").click()
    page.get_by_label(re.compile("^Type")).fill(TENANT)
    page.get_by_role("button", name=re.compile("^Undo the restore")).click()
    page.get_by_role("link", name="Its proof, and how to undo it").click(timeout=PATIENCE_MS)
    expect(page.get_by_text("It undoes")).to_be_visible()
    assert tasks(api_stack) == damaged

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert refused == []
    events = {(e.event, e.via) for e in service.audit.events(ada, TENANT, user="ada", limit=200).events}
    assert {("backup.accessed", "console"), ("restore.planned", "console"), ("restore.completed", "dagster")} <= events
