"""An OpenID Connect issuer over real HTTP, whose answers a test changes: keys, outages, nonsense."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sbh_pipelines_tests.support.served import served

KINDS = {
    "rsa": ("RS256", lambda: rsa.generate_private_key(65537, 2048)),
    "ec": ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", Ed25519PrivateKey.generate),
}


class Issuer:
    """`answers` maps paths to documents, to a status, or to raw bytes; `requests` lists the paths asked for."""

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
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("content-length", 0))))

        def _answer(self, body: bytes) -> None:
            path = self.path.split("?")[0]
            it.requests.append(path)
            answer = it.answers.get(path, 404)
            if callable(answer):
                answer = answer(self.headers, body)
            status = answer if isinstance(answer, int) else 200
            content = answer if isinstance(answer, bytes) else b"" if status != 200 else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("location", f"{it.url}/elsewhere")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        it = Issuer(f"http://127.0.0.1:{server.server_port}")
        yield it
