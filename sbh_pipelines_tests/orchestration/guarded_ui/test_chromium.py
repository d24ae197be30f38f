"""The web UI as people use it, in the system's Chromium: log in, back up a tenant, see it succeed, sign out."""

import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from sbh_pipelines.security.policy import Role, UserContext

ADMIN = UserContext("auditor", "*", Role.ADMIN)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
PATIENCE_MS = 240_000


@pytest.fixture
def page(tmp_path):
    """A fresh browser; what it reports as an error of its policies is collected in `page.violations`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.violations = []
        page.on("console", lambda said: page.violations.append(said.text) if "Security Policy" in said.text else None)
        yield page
        browser.close()


def log_in(page, ui, user, role, path):
    page.goto(ui.url + path)
    expect(page).to_have_title(re.compile("Sign in"))
    page.get_by_label("Access token").fill(ui.token(user, role))
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(ui.url + path)


def test_an_admin_backs_up_a_tenant(ui, page, sample_service):
    """From the login page to a run that succeeded, which acted for this user; then out again."""
    page.goto(ui.url + "/assets/tenant_backup/full")
    page.get_by_label("Access token").fill("not a token")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("The token is not valid (SBH-209).")
    log_in(page, ui, "ada", "admin", "/assets/tenant_backup/full")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_text("tenant-6", exact=True).first.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
    expect(page.get_by_text("Launched run")).to_be_visible()
    (run,) = ui.runs(user="ada")
    page.goto(f"{ui.url}/runs/{run.run_id}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    (run,) = ui.runs(user="ada")
    assert run.is_success
    assert (run.tags["sbh/role"], run.tags["sbh/tenant"], run.tags["dagster/partition"]) == ("admin", "*", "tenant-6")
    assert page.violations == []
    launched = sample_service.audit.events(ADMIN, "tenant-6", event="run.launched").events
    assert [event.user_id for event in launched if event.user_id == "ada"] == ["ada"]  # others launch for it as well
    page.goto(ui.url + "/logout")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_title(re.compile("Sign in"))
    page.goto(ui.url + "/runs")
    expect(page).to_have_url(re.compile("/login"))


def test_a_viewer_sees_all_of_it_with_the_buttons_off(ui, page, sample_service):
    """The button is disabled, and a page that sends the launch all the same is refused."""
    log_in(page, ui, "vera", "viewer", "/assets/tenant_backup/full")
    expect(page.get_by_role("button", name="Materialize").first).to_be_disabled()
    answer = page.evaluate(
        """async () => {
            const query = `mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename } }`;
            const selector = {jobName: "full_backup_job", repositoryName: "__repository__",
                              repositoryLocationName: "sbh_pipelines.definitions"};
            const body = JSON.stringify({query, variables: {p: {selector}}});
            const sent = await fetch("/graphql", {method: "POST", body, headers: {"content-type": "application/json"}});
            return await sent.json();
        }"""
    )
    assert answer["errors"][0]["extensions"]["code"] == "SBH-206"
    assert ui.runs(user="vera") == []
    denied = sample_service.audit.events(ADMIN, event="access.denied").events
    assert ("vera", "dagster.launch") in {(event.user_id, event.props["action"]) for event in denied}
