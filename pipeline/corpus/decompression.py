"""Open files as decompressed bytes; truncated or corrupt compressed streams raise an error.

Beam's own `CompressedFile` silently accepts a stream that is truncated in the middle, and its
`read()` stops after 16 MiB. So files are opened raw and decompressed here.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import zstandard
from apache_beam.io.filesystem import CompressionTypes

from pipeline.errors import DamagedFileError
from pipeline.storage.encodings import suspicion
from pipeline.storage.remote_files import open_to_read

CHUNK_BYTES = 1 << 16
"""Compressed bytes read at a time."""

_WINDOW_BYTES = 1 << 31  # the largest that `zstd --ultra --long=31` writes

_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    # + 16: with the header and checksum of gzip (zlib's `inflateInit2`).
    CompressionTypes.GZIP: lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    CompressionTypes.DEFLATE: zlib.decompressobj,
    CompressionTypes.BZIP2: bz2.BZ2Decompressor,
    CompressionTypes.LZMA: lzma.LZMADecompressor,
    CompressionTypes.ZSTD: lambda: zstandard.ZstdDecompressor(
        max_window_size=_WINDOW_BYTES
    ).decompressobj(),
}
"""Factory of a decompressor for one stream, by Beam's name of the compression."""

_CORRUPT = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError)


def open_file(path: str) -> BinaryIO:
    """Open a local or remote file; its extension selects the decompressor.

    Reading raises `DamagedFileError` if a compressed stream is truncated or corrupt.
    """
    compression = CompressionTypes.detect_compression_type(path)
    raw = open_to_read(path)
    if compression == CompressionTypes.UNCOMPRESSED:
        return raw
    return io.BufferedReader(_Decompressed(raw, path, compression), 1 << 20)


def is_compressed(path: str) -> bool:
    """Return whether a file's extension is that of a compressed file."""
    return CompressionTypes.detect_compression_type(path) != CompressionTypes.UNCOMPRESSED


class _Decompressed(io.RawIOBase):
    """The decompressed content of a file, as an unbuffered file object."""

    def __init__(self, raw: BinaryIO, path: str, compression: str) -> None:
        super().__init__()
        self._raw = raw
        self._chunks = _decompress(raw, path, compression)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _decompress(raw: BinaryIO, path: str, compression: str) -> Iterator[bytes]:
    """Yield the decompressed chunks of concatenated streams; zero padding may follow each stream.

    Raises:
        DamagedFileError: a stream is truncated or corrupt, other data follow it, or the file has
            0 bytes: even empty content compresses to a few bytes.
    """
    stream: Any = None
    streams = 0
    while data := raw.read(CHUNK_BYTES):
        while data:
            if stream is None:
                # gzip and xz allow zero padding after a stream, not before the first one.
                data = data.lstrip(b"\0") if streams else data
                if not data:
                    break
                stream = _DECOMPRESSORS[compression]()
                streams += 1
            try:
                chunk = stream.decompress(data)
            except _CORRUPT as error:
                raise damaged(path, _why_corrupt(compression, error, data)) from error
            yield chunk
            # Streams may be concatenated (`cat a.gz b.gz`): what follows one begins the next.
            data, stream = (stream.unused_data, None) if stream.eof else (b"", stream)
    if not streams:
        raise damaged(path, "has 0 bytes: not even a compressed stream begins in it")
    if stream is not None:
        raise damaged(path, "ends in the middle of the compressed stream")


def _why_corrupt(compression: str, error: Exception, data: bytes) -> str:
    """Return the description of a decompression error; `data` are the bytes that caused it."""
    reason = " ".join(str(error).split())
    remedy = "" if suspicion(data) else "; rename it if it is not compressed"
    return f"is not intact {compression} data, which its name promises ({reason}){remedy}"


def damaged(path: str, damage: str) -> DamagedFileError:
    """Return the error to raise for a damaged file; `damage` describes the fault."""
    return DamagedFileError(
        f"`input` {path}: {damage}; get the file again, or add `skip_damaged_files` to use what "
        "can be read",
        damage,
    )
