"""How a layer's tar is compressed: gzip or zstd, with libraries that come with us.

The bytes are part of an image's digest, so they may depend on neither the machine's own zlib nor on how many
processors it has: libdeflate and libzstd come in wheels of exact versions.
"""

from __future__ import annotations

import gzip
import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import deflate
import zstandard

from builder.errors import BuildError

_GZIP_LEVEL = 10
"""Of libdeflate: 4 % less than zlib's 6, for twice its time; 12 takes twice as long again for 0.1 %."""
_GZIP_CHUNK_BYTES = 4 << 20

_ZSTD_LEVEL = 22
_ZSTD_WINDOW_LOG = 25
"""32 MiB of memory for whoever unpacks it; left to the level it would be 128 MiB."""
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Compression:
    """One way of compressing a layer."""

    name: str
    media_type: str
    """Of a layer that is compressed so: OCI image specification, layer.md."""
    version: str
    """Another one, other bytes."""
    pack: Callable[[IO[bytes]], Iterator[bytes]]
    unpack: Callable[[IO[bytes]], IO[bytes]]


def _gzip(source: IO[bytes]) -> Iterator[bytes]:
    """A gzip file of one member for each chunk (RFC 1952, 2.2): the members are made side by side."""
    ahead = 2 * (os.cpu_count() or 1)
    with ThreadPoolExecutor() as pool:
        pending: deque[Future[bytes]] = deque()
        while (chunk := source.read(_GZIP_CHUNK_BYTES)) or not pending:
            pending.append(pool.submit(_gzip_member, chunk))
            if len(pending) > ahead:
                yield pending.popleft().result()
        for member in pending:
            yield member.result()


def _gzip_member(chunk: bytes) -> bytes:
    return bytes(deflate.gzip_compress(chunk, _GZIP_LEVEL))


def _zstd(source: IO[bytes]) -> Iterator[bytes]:
    # What one thread writes differs from what several write, and the number of several makes no difference.
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _ZSTD_LEVEL, window_log=_ZSTD_WINDOW_LOG, threads=max(2, os.cpu_count() or 1)
    )
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    while chunk := source.read(_CHUNK_BYTES):
        yield packer.compress(chunk)
    yield packer.flush()


def _unpack_gzip(source: IO[bytes]) -> IO[bytes]:
    return gzip.GzipFile(fileobj=source)  # type: ignore[return-value]  # the stubs know no IO of it


def _unpack_zstd(source: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True))


_WAYS = (
    Compression(
        "gzip",
        media_type="application/vnd.oci.image.layer.v1.tar+gzip",
        version=f"deflate {deflate.__version__} {_GZIP_LEVEL}",
        pack=_gzip,
        unpack=_unpack_gzip,
    ),
    Compression(
        "zstd",
        media_type="application/vnd.oci.image.layer.v1.tar+zstd",
        version=f"zstandard {zstandard.__version__} {_ZSTD_LEVEL} {_ZSTD_WINDOW_LOG}",
        pack=_zstd,
        unpack=_unpack_zstd,
    ),
)
COMPRESSIONS = {one.name: one for one in _WAYS}
"""By the name that config.yaml has for it."""


def compression_of(media_type: str) -> Compression:
    """How a layer of this media type is compressed; BuildError for one that sandbox-build never writes."""
    for one in COMPRESSIONS.values():
        if one.media_type == media_type:
            return one
    raise BuildError(f"a layer of type {media_type[:100]!r}, which sandbox-build never writes")
