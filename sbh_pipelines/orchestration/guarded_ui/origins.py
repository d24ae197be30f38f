"""Which pages requests may come from: those of the web UI itself.

Checked by Host, Origin and Sec-Fetch-Site, which a page of another site cannot forge in its visitor's browser: neither
can such a page launch a run, nor can a name that was made to point here (DNS rebinding) read anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import UiSettings
from sbh_pipelines.settings.access import is_loopback, origin_of


@dataclass(frozen=True, slots=True)
class Origins:
    """`allowed` are origins such as https://backups.example.com; the first is the one that links are made with."""

    allowed: tuple[str, ...]

    @property
    def secure(self) -> bool:
        """Whether cookies travel over https only."""
        return self.allowed[0].startswith("https:")

    def knows_host(self, headers: Mapping[str, str]) -> bool:
        return headers.get("host", "").lower() in {urlsplit(origin).netloc for origin in self.allowed}

    def from_own_page(self, headers: Mapping[str, str]) -> bool:
        """Whether a page of ours sent it. Requests that say neither are not from a browser of the last ten years."""
        if "origin" in headers:
            return headers["origin"].lower() in self.allowed
        return headers.get("sec-fetch-site") == "same-origin"


def origins_of(ui: UiSettings, host: str, port: int) -> Origins:
    """Raises SettingsError where others can reach the port, but the settings do not say by which name."""
    names = ("localhost", "127.0.0.1", "[::1]") if is_loopback(host) else ()
    local = tuple(origin_of(f"http://{name}:{port}") for name in names)
    if ui.public_url is None:
        if not local:
            raise SettingsError(
                "The web UI would be reachable by others without TLS",
                on=f"ui.host = {host}",
                why="a login sent over plain http can be read on its way",
                remedy="put a reverse proxy with TLS in front, set ui.public_url to its https address, see docs/access.md",
            )
        return Origins(local)
    return Origins((origin_of(ui.public_url), *local))
