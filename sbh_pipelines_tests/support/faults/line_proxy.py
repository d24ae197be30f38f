"""A TCP proxy before PostgreSQL: a connection waits, or breaks after so many bytes of what the server says."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class FaultyLine:
    """The line to a database server.

    Attributes:
        port: Where it listens.
        seed: Of all chance.
        rate: Of connections that have a fault, 0 to 1, while it is on.
        on: Whether there are faults.
        most: A connection breaks before so many bytes of answers.
        cut: Connections that broke.
        delayed: Pauses that were made.
    """

    port: int = 0
    seed: int = 0
    rate: float = 0.08
    on: bool = False
    most: int = 60_000
    cut: int = 0
    delayed: int = 0
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def next_fault(self) -> tuple[int | None, float]:
        """After how many bytes of answers the next connection breaks, if it does; how long its pauses are, s."""
        with self._lock:
            self._count += 1
            chance = random.Random(f"{self.seed} {self._count}")
            if not self.on or chance.random() >= self.rate:
                return None, 0.0
            if chance.random() < 0.3:
                return None, chance.random() * 0.05
            # Small numbers hit the login and the first answers, large ones the middle of a COPY.
            return int(self.most ** chance.random()), 0.0


@contextmanager
def faulty_line(host: str, port: int, seed: int) -> Iterator[FaultyLine]:
    """A proxy before a server, gone at the end of the block."""
    line = FaultyLine(seed=seed)
    listener = socket.create_server(("127.0.0.1", 0))
    line.port = listener.getsockname()[1]

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=joined, args=(client,), daemon=True).start()

    def joined(client: socket.socket) -> None:
        cut, pause_s = line.next_fault()
        with suppress(OSError), client, socket.create_connection((host, port)) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=relay, args=(client, server, None, pause_s), daemon=True).start()
            relay(server, client, cut, pause_s)

    def relay(source: socket.socket, sink: socket.socket, cut: int | None, pause_s: float) -> None:
        sent = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if pause_s:
                    line.delayed += 1
                    time.sleep(pause_s)
                if cut is not None and sent + len(data) >= cut:
                    line.cut += 1
                    sink.sendall(data[: cut - sent])
                    break
                sink.sendall(data)
                sent += len(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield line
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
