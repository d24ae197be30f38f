"""zstd frames: what is sealed is compressed before. Contexts are costly to make and not thread-safe: one per thread and level."""

import threading

import zstandard

_local = threading.local()


def compress(plain: bytes | bytearray | memoryview, level: int = 1) -> bytes:
    made: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    return made[level].compress(plain)


def decompress(packed: bytes | memoryview, most: int) -> bytes:
    """Raises ValueError for what is no frame, or has more than `most` bytes: that is looked at before memory is taken."""
    if "decompressor" not in _local.__dict__:
        _local.decompressor = zstandard.ZstdDecompressor()
    context: zstandard.ZstdDecompressor = _local.decompressor
    try:
        if zstandard.frame_content_size(packed) > most:  # -1 where the frame does not tell: then `most` bounds it below
            raise ValueError("more than there can be")
        return context.decompress(packed, max_output_size=most)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
