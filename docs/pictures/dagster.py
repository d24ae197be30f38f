"""Takes the pictures of Dagster's pages that documents show, with the system's Chromium, of what the demo leaves.

python docs/pictures/dagster.py [FOLDER]
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parents[1] / "images"
SBH = Path(sys.executable).with_name("sbh")
_WIDTH, _HEIGHT = 1440, 820
_PATIENCE_MS = 120_000


def main(folder: str | None = None) -> None:
    target = IMAGES if folder is None else Path(folder)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with (
        tempfile.TemporaryDirectory(prefix="sbh-pictures-") as made,
        demo(Path(made) / "demo") as address,
        guarded(Path(made) / "demo") as behind_login,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
        page.set_default_timeout(_PATIENCE_MS)
        for name, (visit, height) in VISITS.items():
            page.set_viewport_size({"width": _WIDTH, "height": height})
            visit(page, behind_login if name == "login" else address)
            page.screenshot(path=target / f"{name}.png", timeout=_PATIENCE_MS)
        browser.close()


@contextmanager
def demo(directory: Path) -> Iterator[str]:
    """The address of the web UI that `sbh demo --ui` leaves."""
    command = [str(SBH), "demo", "--ui", "--dir", str(directory)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    )
    said = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                return
        raise SystemExit("".join(said[-40:]))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


@contextmanager
def guarded(directory: Path) -> Iterator[str]:
    """The address of `sbh ui` on the demo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(SBH), "ui", "--port", str(port), "--settings", str(directory / "sbh.toml")]
    process = subprocess.Popen(command, env={**os.environ, "DAGSTER_HOME": str(directory / "dagster")})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with suppress(OSError), urlopen(f"{address}/healthz", timeout=5):  # noqa: S310
                break
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def _login(page: Page, address: str) -> None:
    page.goto(f"{address}/login")


def _graph(page: Page, address: str) -> None:
    page.goto(f"{address}/asset-groups")
    page.get_by_text("backups").first.wait_for()
    page.wait_for_timeout(3000)  # it is laid out


def _materialization(page: Page, address: str) -> None:
    page.goto(f"{address}/assets/tenant_backup/full?view=partitions&partition=tenant-1")
    page.get_by_text("manifest").first.wait_for()
    page.wait_for_timeout(3000)


VISITS = {"asset-graph": (_graph, 640), "materialization": (_materialization, _HEIGHT), "login": (_login, 560)}


if __name__ == "__main__":
    main(*sys.argv[1:])
