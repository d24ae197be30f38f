"""A file to COPY into that hands on lines."""

import io
from collections.abc import Callable


class LineFile(io.RawIOBase):
    """`take` gets every line that is written, whole and without its newline."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        super().__init__()
        self._take, self._rest = take, b""

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes") -> int:  # type: ignore[override]
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for text in lines:
            self._take(text)
        return len(data)
