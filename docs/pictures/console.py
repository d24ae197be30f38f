"""Takes the pictures of the console that documents show, with the system's Chromium, of embedded servers with sample data.

    python docs/pictures/console.py           docs/images, as documents show them
    python docs/pictures/console.py FOLDER    every page, wide and narrow, for looking at; what axe-core finds in them is printed

The tests open the same pages (`visits`), and let none have a serious finding.
"""

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from sbh_pipelines.api.app.app import make_app
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.sample import changes
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.servers.stack import running
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import Settings, load_settings

IMAGES = Path(__file__).parents[1] / "images"
TENANT = "tenant-1"
ADA = UserContext("ada", "*", Role.ADMIN)
_SHOWN = ("fleet", "tenant", "diff", "tenant-narrow")  # what documents show
_WIDTHS = {"": (1240, 700), "-narrow": (390, 844)}
_MOST_HIGH = 1000


def main(folder: str | None = None) -> int:
    """The number of serious findings."""
    target = IMAGES if folder is None else Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with site() as settings, serving(settings) as address:
        return pictures(address, open_tokens(settings).issue("ada", "*", Role.ADMIN, 3600), target)


@contextmanager
def site() -> Iterator[Settings]:
    """Servers on which every page of the console has something to show."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running(Path(directory) / "stack", fsync=False, kms=False) as stack,
    ):
        sample.generate(stack, tenants=5, rows=1200, files=12, seed=5)
        settings = load_settings(stack.settings)
        settings = settings.model_copy(
            update={
                "restore": settings.restore.model_copy(update={"sensitive": ["users.email"]}),
            }
        )
        service = BackupService(settings)
        service.journal.setup(ADA)
        for number in (1, 2, 3):
            service.create_backup(f"tenant-{number}", ADA)
        changes.work(stack, TENANT)
        made = service.create_backup(TENANT, ADA, "incremental", "before the import")
        service.retention.pin(str(made["id"]), TENANT, ADA, "before the import")
        service.restore_backup(str(service.list_backups(TENANT, ADA)[-1]["id"]), TENANT, ADA)
        changes.wreck(stack, TENANT)
        service.journal.drain(ADA)
        service.approvals.request_restore("latest", TENANT, ADA, reason="titles were overwritten at noon")
        yield settings


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(make_app(settings), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def pictures(address: str, token: str, folder: Path) -> int:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    serious = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for name, (width, height) in _WIDTHS.items():
            # axe is evaluated in the page, which the console's policy would refuse.
            context = browser.new_context(viewport={"width": width, "height": height}, bypass_csp=folder != IMAGES)
            page = context.new_page()
            for title in visits(page, address, token):
                if folder == IMAGES and title + name not in _SHOWN:
                    continue
                high = min(page.evaluate("document.documentElement.scrollHeight"), _MOST_HIGH)
                shown = {"x": 0, "y": 0, "width": width, "height": max(high, height)}
                page.screenshot(path=folder / f"console-{title}{name}.png", full_page=True, clip=shown)
                if folder != IMAGES:
                    for finding in (*too_wide(page), *serious_findings(page)):
                        serious += 1
                        print(f"{title}{name}: {finding}")
        browser.close()
    return serious


def visits(page: Page, address: str, token: str) -> Iterator[str]:
    """Goes from page to page; the name of each once it is there."""
    page.goto(f"{address}/console")
    yield "login"
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("h1:text('Fleet')")
    yield "fleet"
    home = f"{address}/console/tenants/{TENANT}"
    page.goto(home)
    yield "tenant"
    for name in ("backups", "journal", "requests", "audit", "compliance"):
        page.goto(f"{home}/{name}")
        yield name
    page.goto(home)
    page.locator("main a[href*='/restores/']").last.click()
    yield "restore"
    page.get_by_role("button", name="See what undoing it would change").click()
    page.wait_for_selector("#plan")
    yield "undo"
    page.goto(f"{home}/backups/latest")
    yield "backup"
    page.goto(f"{home}/backups/latest/rows?table=public.users")
    yield "rows"
    page.goto(f"{home}/backups/latest/files")
    yield "files"
    page.goto(f"{home}/backups/latest/diff")
    yield "choice"
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector("#plan")
    yield "diff"
    page.goto(f"{home}/backups/backup_20010101_0000")
    yield "error"
    for name in ("audit", "compliance"):
        page.goto(f"{address}/console/{name}")
        yield f"platform-{name}"


def too_wide(page: Page) -> Iterator[str]:
    if (over := page.evaluate("document.documentElement.scrollWidth - window.innerWidth")) > 0:
        yield f"{over} px wider than the window"


def serious_findings(page: Page) -> Iterator[str]:
    """What axe-core says of the page that keeps somebody from using it."""
    for one in Axe().run(page).response["violations"]:
        if one["impact"] in ("serious", "critical"):
            targets = [node["target"] for node in one["nodes"][:3]]
            yield f"{one['impact']} {one['id']}: {one['help']} {json.dumps(targets)}"


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
