"""A listener that speaks just enough of PostgreSQL's protocol to ask whoever connects for the password in clear."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_ENCRYPTION = {80877103, 80877104}  # SSLRequest, GSSENCRequest
_REFUSED = b"SFATAL\0C28P01\0Mpassword authentication failed for user\0\0"


@dataclass
class GreedyServer:
    """Attributes:
    port: Where it listens, on 127.0.0.1.
    asked: How many clients it asked.
    passwords: What they answered.
    """

    port: int
    asked: int = 0
    passwords: list[str] = field(default_factory=list)

    def dsn(self, more: str = "") -> str:
        return f"host=127.0.0.1 port={self.port} user=x dbname=x {more}".strip()


@contextmanager
def greedy_server() -> Iterator[GreedyServer]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = GreedyServer(listening.getsockname()[1])
        threading.Thread(target=_serve, args=(listening, server), daemon=True).start()
        yield server


def _serve(listening: socket.socket, server: GreedyServer) -> None:
    with suppress(OSError):
        while True:
            client, _ = listening.accept()
            with client, suppress(OSError, struct.error):
                client.settimeout(60)
                _ask(client, server)


def _ask(client: socket.socket, server: GreedyServer) -> None:
    while True:
        length, code = struct.unpack("!II", _exactly(client, 8))
        _exactly(client, length - 8)
        if code not in _ENCRYPTION:
            break
        client.sendall(b"N")
    server.asked += 1
    client.sendall(b"R" + struct.pack("!II", 8, 3))  # AuthenticationCleartextPassword
    kind, length = struct.unpack("!cI", _exactly(client, 5))
    if kind == b"p":
        server.passwords.append(_exactly(client, length - 4).rstrip(b"\0").decode())
    client.sendall(b"E" + struct.pack("!I", 4 + len(_REFUSED)) + _REFUSED)


def _exactly(client: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = client.recv(size - len(found))
        if not piece:
            raise OSError("the client hung up")
        found += piece
    return found
