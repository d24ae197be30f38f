"""A TCP proxy over a slow or breaking line: so many bytes a second in each direction, or cut after so many."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_TICK_S = 0.02


@dataclass
class Line:
    """How the line is.

    Attributes:
        rate: Bytes a second of all connections together, in each direction; 0: without a bound.
        silent: Whether nothing goes over it any more.
        cuts: After how many bytes of answers each of the next connections breaks, in their order.
        broken: Connections that broke.
        port: Where it listens.
        hears: Called with what clients send, as it comes.
    """

    rate: int = 0
    silent: bool = False
    cuts: list[int] = field(default_factory=list)
    broken: int = 0
    port: int = 0
    hears: Callable[[bytes], None] = lambda _: None
    tokens: dict[str, float] = field(default_factory=dict, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def allow(self, direction: str) -> int:
        """How many bytes may go now; waits for the tick."""
        while self.silent:
            time.sleep(_TICK_S)
        if not self.rate:
            return 1 << 16
        time.sleep(_TICK_S)
        with self.lock:
            now = time.monotonic()
            since = min(now - self.tokens.get(direction, now - _TICK_S), 4 * _TICK_S)
            self.tokens[direction] = now
            return max(int(self.rate * since), 1)


@contextmanager
def slow_line(target: str, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, Line]]:
    """A proxy before `target` (http://host:port): its address, and the line to change. With `tls` it is spoken to in TLS."""
    parts, line = urlsplit(target), Line()
    listener = socket.create_server(("127.0.0.1", 0))
    line.port = listener.getsockname()[1]

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=joined, args=(client,), daemon=True).start()

    def joined(client: socket.socket) -> None:
        with suppress(OSError), client:
            ours = tls.wrap_socket(client, server_side=True) if tls else client
            with ours, socket.create_connection((parts.hostname or "", parts.port or 0)) as server:
                cut = line.cuts.pop(0) if line.cuts else 0
                up = threading.Thread(target=relay, args=(ours, server, "up", 0), daemon=True)
                up.start()
                relay(server, ours, "down", cut)

    def relay(source: socket.socket, sink: socket.socket, direction: str, cut: int) -> None:
        sent = 0
        with suppress(OSError):
            while data := source.recv(line.allow(direction)):
                if direction == "up":
                    line.hears(data)
                if cut and sent + len(data) >= cut:
                    line.broken += 1
                    sink.sendall(data[: cut - sent])
                    break
                sink.sendall(data)
                sent += len(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{line.port}", line
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes what waits for the next client
        listener.close()
