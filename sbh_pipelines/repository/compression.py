"""zstd frames: what is sealed is compressed before. Contexts are costly to make and not thread-safe: one per thread and level."""

import threading

import zstandard

_SMALL = 64 << 10  # bytes that the allocator has at hand

_local = threading.local()


def compress(plain: bytes | bytearray | memoryview, level: int = 1) -> bytes:
    return _compressor(level).compress(plain)


def compress_into(buffer: bytearray, plain: bytes | bytearray | memoryview, level: int = 1) -> int:
    """The length of the frame, which is put at the beginning of `buffer`; that grows where it is too small.

    Memory that is fresh from the system costs as much as compressing what does not compress.
    """
    if len(plain) <= _SMALL:
        packed = compress(plain, level)
        buffer[: len(packed)] = packed
        return len(packed)
    most = len(plain) + (len(plain) >> 8) + 1024  # more than ZSTD_compressBound
    if len(buffer) < most:
        buffer += bytes(most - len(buffer))
    filled = 0
    with _compressor(level).stream_reader(plain, size=len(plain)) as frame, memoryview(buffer) as view:
        while read := frame.readinto(view[filled:]):
            filled += read
    return filled


def _compressor(level: int) -> zstandard.ZstdCompressor:
    made: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    return made[level]


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
