"""Takes pictures of a running console, for docs/images and for looking at: every page at two widths, with the system's Chromium.

    python checks/console_pictures.py http://127.0.0.1:8400 TOKEN_FILE FOLDER TENANT [AXE.js]

With the path of axe-core's `axe.min.js` each page is also checked for accessibility, and what it finds is printed.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTHS = {"": (1440, 700), "-narrow": (390, 844)}
MOST_HIGH = 1500


def main(address: str, token_file: str, folder: str, tenant: str, axe: str | None = None) -> int:
    """The number of serious findings."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    Path(folder).mkdir(parents=True, exist_ok=True)
    serious = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for name, (width, height) in WIDTHS.items():
            # axe is evaluated in the page, which the console's policy would refuse.
            context = browser.new_context(viewport={"width": width, "height": height}, bypass_csp=axe is not None)
            page = context.new_page()
            for title in visits(page, address, Path(token_file).read_text().strip(), tenant):
                high = min(page.evaluate("document.documentElement.scrollHeight"), MOST_HIGH)
                shown = {"x": 0, "y": 0, "width": width, "height": max(high, height)}
                page.screenshot(path=f"{folder}/console-{title}{name}.png", full_page=True, clip=shown)
                over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                if over > 0:
                    print(f"{title}{name}: {over} px wider than the window")
                serious += findings(page, f"{title}{name}", axe)
        browser.close()
    return serious


def visits(page: Page, address: str, token: str, tenant: str) -> Iterator[str]:
    """Goes from page to page; the name of each once it is there."""
    page.goto(f"{address}/console")
    yield "login"
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("h1:text('Fleet')")
    yield "fleet"
    home = f"{address}/console/tenants/{tenant}"
    page.goto(home)
    yield "tenant"
    for name in ("backups", "journal", "requests", "audit", "compliance"):
        page.goto(f"{home}/{name}")
        yield name
    page.goto(home)
    page.locator("main a[href*='/restores/']").first.click()
    yield "restore"
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


def findings(page: Page, title: str, axe: str | None) -> int:
    if axe is None:
        return 0
    page.evaluate(Path(axe).read_text())
    found = page.evaluate("axe.run()")["violations"]
    for one in found:
        nodes = [node["target"] for node in one["nodes"][:3]]
        print(f"{title}: {one['impact']} {one['id']}: {one['help']} {json.dumps(nodes)}")
    return sum(one["impact"] in ("serious", "critical") for one in found)


if __name__ == "__main__":
    sys.exit(min(main(*sys.argv[1:]), 1))
