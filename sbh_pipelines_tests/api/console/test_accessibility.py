"""The console's pages in Chromium, wide and on a phone: nothing that axe-core calls serious, nothing wider than the window."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import sync_playwright

from sbh_pipelines.security.policy import Role
from sbh_pipelines.security.tokens import open_tokens

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SIZES = ((1440, 900), (390, 844))
TEMPLATES = Path(__file__).parents[3] / "sbh_pipelines" / "api" / "console" / "templates"


def pictures() -> ModuleType:
    """The program that draws the pages for the documents: it goes to each."""
    file = Path(__file__).parents[3] / "docs" / "pictures" / "console.py"
    spec = importlib.util.spec_from_file_location("console_pictures", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_page_keeps_somebody_out() -> None:
    console, found, seen = pictures(), list[str](), set[str]()
    with console.site() as settings, console.serving(settings) as address, sync_playwright() as playwright:
        token = open_tokens(settings).issue("ada", "*", Role.ADMIN, 3600)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for width, height in SIZES:
            # axe is evaluated in the page, which the console's policy would refuse.
            page = browser.new_context(viewport={"width": width, "height": height}, bypass_csp=True).new_page()
            page.set_default_timeout(60_000)
            for title in console.visits(page, address, token):
                seen.add(title)
                found += [
                    f"{title} at {width}: {one}" for one in (*console.too_wide(page), *console.serious_findings(page))
                ]
        browser.close()
    assert found == []
    # Each page has a template of its name; an operation needs Dagster, and is looked at by `test_chromium`; the rest are parts, and
    # what is there for a moment on the way to another page.
    named = {"choice": "diff", "undo": "restore"}
    pages = {file.stem for file in TEMPLATES.glob("*.html")} - {"layout", "parts", "state", "operation", "going"}
    assert pages - {named.get(title, title) for title in seen} == set()
