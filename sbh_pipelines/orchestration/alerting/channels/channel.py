"""An HTTP POST of JSON, whose address may be a secret."""

import json
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from sbh_pipelines.errors import AlertError

TIMEOUT_S = 6.0  # a tick of a sensor has a minute for all channels


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What is posted may be secret, and a redirected POST would arrive as a GET: neither goes elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def post(url: str, document: Any, setting: str) -> None:
    """Raises AlertError (the address is not one) and urllib's errors, whose text may hold the address."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise AlertError(f"{setting} is not an http or https address", remedy="correct it")
    headers = {"Content-Type": "application/json", "User-Agent": "sbh-pipelines"}
    request = urllib.request.Request(url, json.dumps(document).encode(), headers)  # noqa: S310  the scheme is checked
    with _OPENER.open(request, timeout=TIMEOUT_S):
        pass
