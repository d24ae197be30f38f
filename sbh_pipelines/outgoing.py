"""JSON posted to addresses that the settings name: hooks of restores, channels of alerts.

Whoever answers there is not trusted. What is posted goes to that address and to no other: a redirect would turn it into a GET, take
it to plain http, or point at something inside this network. It has so many seconds in all, however slowly the answer comes, and
of the answer nothing but the status is read.
"""

import http.client
import json
import queue
import threading
import urllib.request
from typing import Any
from urllib.parse import urlsplit


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def post(url: str, document: object, timeout_s: float) -> None:
    """Raises ValueError (no http or https address), OSError (urllib's errors and TimeoutError are some) and HTTPException.

    Their texts may hold the address, which may be a secret.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("not an http or https address")
    headers = {"Content-Type": "application/json", "User-Agent": "sbh-pipelines"}
    request = urllib.request.Request(url, json.dumps(document).encode(), headers, method="POST")  # noqa: S310  checked
    ended: queue.Queue[Exception | None] = queue.Queue(1)

    def send() -> None:
        try:
            with _OPENER.open(request, timeout=timeout_s):
                ended.put(None)
        except (OSError, ValueError, http.client.HTTPException) as error:
            ended.put(error)

    # The timeout of a socket bounds a silence only. A thread that is left behind ends with its connection.
    threading.Thread(target=send, name="outgoing", daemon=True).start()
    try:
        error = ended.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"no whole answer within {timeout_s:g} s") from None
    if error is not None:
        raise error
