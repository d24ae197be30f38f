"""What is put on disk comes back as it was, also after the disk was full."""

import errno
import random
from typing import IO, Any

import pytest

from sbh_pipelines import spill as spill_module
from sbh_pipelines.errors import NoRoom
from sbh_pipelines.spill import Spill


@pytest.mark.parametrize("seed", range(6))
def test_what_was_put_comes_back_however_often_the_disk_is_full(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces smaller and larger than what is written at once, taken and dropped in any order, while the file is moved now and then."""
    chance = random.Random(seed)
    written, full = spill_module._write, False

    def write(file: IO[bytes], sealed: Any, at: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(file, sealed, at)

    monkeypatch.setattr(spill_module, "_write", write)
    monkeypatch.setattr(spill_module, "_SLACK", 1 << 20)
    there: dict[int, bytes] = {}
    refused = moved = 0
    with Spill() as spill:
        for _ in range(400):
            full = chance.random() < 0.3
            plain = chance.randbytes(chance.choice((0, 1, 1000, 100_000, 1 << 20, 3 << 20)))
            before = spill.bytes
            try:
                there[spill.put(plain)] = plain
            except NoRoom:
                refused += 1
            moved += spill.bytes < before
            full = False
            while len(there) > 8:
                number = chance.choice(list(there))
                plain = there.pop(number)
                if chance.random() < 0.2:
                    spill.drop(number)
                else:
                    assert spill.take(number) == plain
        for number, plain in there.items():
            assert spill.take(number) == plain
    assert refused > 10
    assert moved
