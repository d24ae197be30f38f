"""Frames: what goes in comes out, and nothing takes memory before its size was looked at."""

import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.repository.compression import compress, compress_into, decompress


@given(st.binary(max_size=2000), st.sampled_from([1, 3, 19]))
def test_what_was_compressed_is_read(plain: bytes, level: int) -> None:
    assert decompress(compress(plain, level), len(plain)) == plain


@pytest.mark.parametrize("size", [0, 1, 64 << 10, (64 << 10) + 1, 1 << 20, 5 << 20])
def test_a_buffer_is_used_again(size: int) -> None:
    """Whatever was in it, and whether it was large enough."""
    for plain in (random.Random(size).randbytes(size), bytes(size)):
        for buffer in (bytearray(), bytearray(b"former" * 10_000), bytearray(8 << 20)):
            length = compress_into(buffer, plain)
            assert decompress(bytes(buffer[:length]), size) == plain


def test_a_frame_that_says_it_has_more_than_there_can_be_is_refused() -> None:
    """A KiB of it would become a GiB."""
    frame = compress(bytes(1 << 20))
    assert len(frame) < 1000
    with pytest.raises(ValueError, match="more than"):
        decompress(frame, (1 << 20) - 1)


def test_a_frame_that_does_not_say_how_much_it_has_is_bounded_too() -> None:
    """As another program may write it."""
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    with pytest.raises(ValueError, match="."):  # noqa: RUF043  whatever the library says of it
        decompress(frame, 1000)


@pytest.mark.parametrize("packed", [b"", b"\x28\xb5\x2f\xfd", b"not a frame at all"])
def test_what_is_no_frame_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="."):  # noqa: RUF043  whatever the library says of it
        decompress(packed, 1000)
