"""How a layer's tar is compressed: gzip or zstd, with libraries that come with us.

The bytes are part of an image's digest, so they may depend on neither the machine's own zlib nor on how many
processors it has: libdeflate and libzstd come in wheels of exact versions.
"""

from __future__ import annotations

import gzip
import io
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import deflate
import zstandard

from builder.errors import BuildError

_GZIP_LEVELS = ((64 << 20, 10), (1 << 63, 6))
"""Of libdeflate, each for tars of up to so many bytes. 10 gives 4 % less than zlib's 6 in twice its time, 6
gives 1 % less in half of it; 12 would take twice as long as 10 for 0.1 %."""

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
    pack: Callable[[Path], Iterator[bytes | bytearray]]
    """The compressed file, piece by piece."""
    unpack: Callable[[IO[bytes]], IO[bytes]]


def _gzip(source: Path) -> Iterator[bytearray]:
    """A gzip file (RFC 1952) of one member: not every reader goes on behind the first."""
    size = source.stat().st_size
    level = next(level for limit, level in _GZIP_LEVELS if size <= limit)
    with source.open("rb") as file:
        # libdeflate wants all of it at once: mapped, it need not be in memory at once.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else nullcontext(b"")
        with mapped as content:
            yield deflate.gzip_compress(content, level)


def _zstd(source: Path) -> Iterator[bytes]:
    # What one thread writes differs from what several write, and the number of several makes no difference.
    parameters = _zstd_parameters(source.stat().st_size)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield packer.compress(chunk)
    yield packer.flush()


def _zstd_parameters(size: int) -> zstandard.ZstdCompressionParameters:
    """For a tar of `size` bytes: without it tables would be made for the largest that there are, 660 MB."""
    fitting = partial(
        zstandard.ZstdCompressionParameters.from_level,
        _ZSTD_LEVEL,
        source_size=max(1, size),
        threads=max(2, os.cpu_count() or 1),
    )
    return fitting(window_log=min(fitting().window_log, _ZSTD_WINDOW_LOG))


def _unpack_gzip(source: IO[bytes]) -> IO[bytes]:
    return gzip.GzipFile(fileobj=source)  # type: ignore[return-value]  # the stubs know no IO of it


def _unpack_zstd(source: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True))


_WAYS = (
    Compression(
        "gzip",
        media_type="application/vnd.oci.image.layer.v1.tar+gzip",
        version=f"deflate {deflate.__version__} {_GZIP_LEVELS}",
        pack=_gzip,
        unpack=_unpack_gzip,
    ),
    Compression(
        "zstd",
        media_type="application/vnd.oci.image.layer.v1.tar+zstd",
        version=f"zstandard {zstandard.__version__} {_ZSTD_LEVEL} {_ZSTD_WINDOW_LOG} by size",
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
