"""A proxy in front of moto's KMS that knows the states which moto ignores: disabled, pending deletion, deleted, denied.

moto keeps a key's state but uses the key whatever it is. The proxy asks moto for the state and answers as KMS does; all else
is moto's own answer. Between a client and it is real HTTP.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sbh_pipelines_tests.support.served import served

_USES = {"Encrypt", "Decrypt"}
_STATES = {"Disabled": "DisabledException", "PendingDeletion": "KMSInvalidStateException"}


@dataclass
class KmsProxy:
    """`url` is the endpoint. The sets and `failure` may be changed at any time."""

    moto: str
    client: Any  # of moto itself
    url: str = ""
    denied: set[str] = field(default_factory=set)  # actions
    deleted: set[str] = field(default_factory=set)  # ids of keys
    failure: str = ""  # a code that every request is answered with
    gone: bool = False  # drops connections
    calls: list[str] = field(default_factory=list)

    def refusal(self, action: str, request: dict[str, Any]) -> str:
        if self.failure:
            return self.failure
        if action in self.denied:
            return "AccessDeniedException"
        if "KeyId" not in request:
            return ""
        try:
            found = self.client.describe_key(KeyId=request["KeyId"])["KeyMetadata"]
        except self.client.exceptions.NotFoundException:
            return "NotFoundException"
        if found["KeyId"] in self.deleted:
            return "NotFoundException"
        return _STATES.get(found["KeyState"], "") if action in _USES else ""


@contextmanager
def kms_proxy(moto: str, client: Any) -> Iterator[KmsProxy]:
    proxy = KmsProxy(moto, client)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            action = self.headers.get("X-Amz-Target", "").partition(".")[2]
            proxy.calls.append(action)
            if proxy.gone:
                self.close_connection = True
                return
            if code := proxy.refusal(action, json.loads(body or b"{}")):
                self._answer(400, json.dumps({"__type": code, "message": "it was to be"}).encode())
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
            forwarded = urllib.request.Request(proxy.moto + "/", body, headers, method="POST")
            try:
                with urllib.request.urlopen(forwarded, timeout=240) as answer:
                    self._answer(answer.status, answer.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.read())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield proxy
