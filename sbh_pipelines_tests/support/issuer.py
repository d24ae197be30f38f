"""An OpenID Connect issuer over real HTTP, whose answers a test changes: keys, outages, nonsense."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sbh_pipelines_tests.support.served import served

KINDS = {
    "rsa": ("RS256", lambda: rsa.generate_private_key(65537, 2048)),
    "ec": ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", Ed25519PrivateKey.generate),
}


@dataclass
class Page:
    """An answer as browsers get them. `kind` is its media type."""

    status: int = 200
    content: bytes = b""
    kind: str = ""
    location: str = ""


class Issuer:
    """`requests` lists the paths asked for. `answers` maps paths to documents, to a status, to raw bytes, to a `Page`, or to what
    makes one of these of a request's headers and its body, for GET its query.
    """

    def __init__(self, url: str) -> None:
        self.url, self.requests = url, []
        self.answers: dict[str, Any] = {
            "/.well-known/openid-configuration": {
                "issuer": url,
                "jwks_uri": f"{url}/keys",
                "authorization_endpoint": f"{url}/authorize",
                "token_endpoint": f"{url}/token",
            },
            "/keys": {"keys": []},
        }
        self._private: dict[str, tuple[str, Any]] = {}

    def add_key(self, name: str, kind: str = "ec", **more: Any) -> None:
        algorithm, make = KINDS[kind]
        private = make()
        self._private[name] = (algorithm, private)
        document = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key()))
        self.answers["/keys"]["keys"].append({**document, "kid": name, "alg": algorithm, "use": "sig", **more})

    def sign(self, claims: dict[str, Any], key: str, headers: dict[str, Any] | None = None) -> str:
        algorithm, private = self._private[key]
        return jwt.encode(claims, private, algorithm=algorithm, headers={"kid": key, **(headers or {})})


@contextmanager
def issuer() -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(urlsplit(self.path).query.encode())

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("content-length", 0))))

        def _answer(self, body: bytes) -> None:
            path = self.path.split("?")[0]
            it.requests.append(path)
            answer = it.answers.get(path, 404)
            if callable(answer):
                answer = answer(self.headers, body)
            page = answer if isinstance(answer, Page) else Page(location=f"{it.url}/elsewhere")
            if isinstance(answer, int):
                page.status = answer
            elif not isinstance(answer, Page):
                page.content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            status, content = page.status, page.content
            self.send_response(status)
            self.send_header("location", page.location)
            if page.kind:
                self.send_header("content-type", page.kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        it = Issuer(f"http://127.0.0.1:{server.server_port}")
        yield it
