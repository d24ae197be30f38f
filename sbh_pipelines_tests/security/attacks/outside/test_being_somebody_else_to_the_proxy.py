"""Somebody outside wants to be taken for another address, another host or another proxy, or to wear out what asks who they are.

The sample of a reverse proxy puts what it knows in place of what clients say, answers to its own name alone, and bounds requests by
address. nginx itself runs with the file as it is shipped, in front of servers that tell what reached them.
"""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.certificates import Authority
from sbh_pipelines_tests.support.served import served
from sbh_pipelines_tests.support.servers import PATIENCE_S, free_port, until

ROOT = Path(__file__).parents[4]
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
NAME = "backups.example.com"

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")


@dataclass
class Upstream:
    """A server behind the proxy: answers with the headers that reached it."""

    name: str
    connections: set[Any] = field(default_factory=set)
    port: int = 0


@contextmanager
def upstream(name: str) -> Iterator[Upstream]:
    it = Upstream(name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            it.connections.add(self.client_address)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            said = {"by": it.name, "path": self.path, "headers": [[k.lower(), v] for k, v in self.headers.items()]}
            content = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        it.port = server.server_address[1]
        yield it


@dataclass(frozen=True)
class Proxy:
    https: int
    http: int
    ca: Path
    log: Path
    api: Upstream
    ui: Upstream

    def client(self, source: str = "127.0.0.1") -> httpx.Client:
        """Each test comes from an address of its own: bounds are by address."""
        context = ssl.create_default_context(cafile=str(self.ca))
        transport = httpx.HTTPTransport(verify=context, local_address=source)
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.https}", headers={"host": NAME}, transport=transport, timeout=PATIENCE_S
        )

    def get(self, client: httpx.Client, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        return client.request(method, path, extensions={"sni_hostname": NAME}, **more)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("nginx")
    authority = Authority(folder, "ca")
    certificate, key = authority.issue(folder, NAME)
    with upstream("api") as api, upstream("ui") as ui:
        https, http = free_port(), free_port()
        text = (ROOT / "deploy" / "reverse-proxy" / "nginx.conf").read_text()
        for there, here in (
            ("443 ", f"127.0.0.1:{https} "),
            ("80 ", f"127.0.0.1:{http} "),
            ("127.0.0.1:8400", f"127.0.0.1:{api.port}"),
            ("127.0.0.1:3000", f"127.0.0.1:{ui.port}"),
            (f"/etc/nginx/tls/{NAME}.crt", str(certificate)),
            (f"/etc/nginx/tls/{NAME}.key", str(key)),
            ("/var/log/nginx", str(folder)),
        ):
            assert there in text, there
            text = re.sub(rf"(?<=listen ){there}" if there.endswith(" ") else re.escape(there), here, text)
        (folder / "site.conf").write_text(text)
        (folder / "nginx.conf").write_text(
            f"{'user root; ' if os.geteuid() == 0 else ''}daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; events {{}}\n"
            f"http {{ client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;"
            f" uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; include {folder}/site.conf; }}\n"
        )
        command = [str(NGINX), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            until(lambda: _listens(https, process, folder / "error.log"))
            yield Proxy(https, http, authority.file, folder / "sbh.log", api, ui)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _listens(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_the_sample_leads_where_the_programs_listen() -> None:
    text = (ROOT / "deploy" / "reverse-proxy" / "nginx.conf").read_text()
    settings = Settings()
    assert f"server 127.0.0.1:{settings.api.port};" in text
    assert f"server 127.0.0.1:{settings.ui.port};" in text
    assert f"client_max_body_size  {settings.api.max_body_kib}k;" in text
    (kept,) = re.findall(r"keepalive_timeout (\d+)s;  # below api", text)
    assert int(kept) < settings.api.keep_alive_s


def test_what_clients_say_of_themselves_is_not_passed_on(proxy: Proxy) -> None:
    """Neither to the API nor to the web UI; what they need is: the token, the tenant, Host and Origin."""
    lies = dict.fromkeys(("x-forwarded-for", "x-real-ip", "forwarded", "x-forwarded-prefix"), "203.0.113.7")
    lies |= {"x-forwarded-host": "evil.example", "x-forwarded-proto": "http", "x-forwarded-port": "1"}
    needed = {"authorization": "Bearer x", "x-tenant-slug": "acme", "idempotency-key": "k", "origin": f"https://{NAME}"}
    with proxy.client("127.0.0.2") as client:
        of_api = ("/api/backup", "/metrics", "/console", "/console/tenants/acme", "/console/login")
        for path, by in (*((path, "api") for path in of_api), ("/graphql", "ui"), ("/login", "ui")):
            said = proxy.get(client, path, headers=lies | needed).json()
            headers = dict(said["headers"])
            assert (said["by"], said["path"]) == (by, path)
            assert len(headers) == len(said["headers"])
            assert "203.0.113.7" not in str(headers)
            assert "evil.example" not in str(headers)
            assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.2", "https")
            assert headers["host"] == NAME
            assert needed.items() <= headers.items()


def test_paths_arrive_as_they_were_sent(proxy: Proxy) -> None:
    """What the proxy takes for one path the programs do not take for another."""
    with proxy.client("127.0.0.3") as client:
        for path in ("/a%2fb", "/x?query=%7b", "/a/%2e%2e/graphql", "/%67raphql"):
            assert proxy.get(client, path).json()["path"] == path
        assert proxy.get(client, "/%2e%2e/graphql").status_code == 400


def test_another_name_gets_no_answer(proxy: Proxy) -> None:
    """Not even a certificate; and plain http leads to https under the own name, whatever the client calls it."""
    for name in ("evil.example", None):
        context = ssl.create_default_context(cafile=str(proxy.ca))
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", proxy.https), PATIENCE_S) as raw, pytest.raises(ssl.SSLError):
            context.wrap_socket(raw, server_hostname=name)
    moved = httpx.get(f"http://127.0.0.1:{proxy.http}/runs?a=b", headers={"host": "evil.example"}, timeout=PATIENCE_S)
    assert (moved.status_code, moved.headers["location"]) == (301, f"https://{NAME}/runs?a=b")


def test_one_address_does_not_wear_out_the_login(proxy: Proxy) -> None:
    """Nor the rest of it; others go on."""
    with proxy.client("127.0.0.4") as client, proxy.client("127.0.0.5") as other:
        logins = [proxy.get(client, "/login", "POST", data={"token": "x"}).status_code for _ in range(40)]
        assert logins.count(429) > 10
        assert logins[:20] == [200] * 20
        # A login in two seconds is let through.
        more = [proxy.get(client, "/console/login/", "POST", data={"token": "x"}).status_code for _ in range(20)]
        assert 429 in more
        assert proxy.get(client, "/console").status_code == 200
        assert proxy.get(other, "/login").status_code == 200
        assert proxy.get(client, "/api/backup").status_code == 200


def test_bodies_are_bounded_before_they_reach_a_program(proxy: Proxy) -> None:
    with proxy.client("127.0.0.6") as client:
        for path, size, status in (("/api/backup", 70_000, 413), ("/graphql", 70_000, 200), ("/graphql", 5 << 20, 413)):
            assert proxy.get(client, path, "POST", content=b"x" * size).status_code == status


def test_connections_are_kept_and_queries_are_not_logged(proxy: Proxy) -> None:
    with proxy.client("127.0.0.7") as client:
        before = len(proxy.api.connections)
        for _ in range(20):
            assert proxy.get(client, "/api/backup?cursor=c0de").status_code == 200
        assert proxy.get(client, "/login/callback?code=c0de").status_code == 200
    assert len(proxy.api.connections) - before <= 2
    until(lambda: "/login/callback" in proxy.log.read_text())  # it writes after it has answered
    lines = proxy.log.read_text()
    assert "c0de" not in lines
