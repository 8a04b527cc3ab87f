"""A .deb file, read: its control fields, and the tar of its files (deb(5)). Nothing of it is run."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard

from builder.apt import stanzas
from builder.errors import BuildError
from builder.layers import BoundedInfo

_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60
_CONTROL_BYTES = 1 << 20

_OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "": lambda file: file,
    ".gz": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    ".xz": lambda file: cast(IO[bytes], lzma.LZMAFile(file)),  # noqa: SIM115 - closed with its file
    ".zst": lambda file: cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(file)),
}
"""How each part of a .deb may be compressed. (bzip2 and the old LZMA are of Debian's distant past.)"""


_MOST_CHARS = 500
"""Of what is said of a package: it may quote a name of a megabyte."""

_DAMAGE = (
    *(tarfile.TarError, EOFError, RecursionError),
    *(gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError),
    *(ValueError, OverflowError, KeyError),
)
"""What reading a part of a file that is no .deb, or half of one, raises. The last line: fields that say what
cannot be, as a date that is no number or a control file that begins in the middle of a field."""


class Deb:
    """One .deb. BuildError for a file that is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, tuple[str, int, int]] = {}
        """control.tar or data.tar -> how it is compressed, where it starts, its size."""
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise self.refused("is no .deb file")
            while header := file.read(_HEADER_BYTES):
                self._add(header, file.tell())
                _, start, size = next(reversed(self._parts.values()))
                file.seek(start + size + size % 2)
        self.control = self._control()

    def _add(self, header: bytes, start: int) -> None:
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        stem, tar, kind = name.partition(".tar")
        size = header[48:58].strip()
        if header[58:] != b"`\n" or not size.isdigit():
            raise self.refused("is damaged")
        self._parts[stem + tar] = (kind, start, int(size))

    @property
    def name(self) -> str:
        """Of the package."""
        return self.control["Package"]

    def refused(self, why: str) -> BuildError:
        """What to say of a .deb that is not in order."""
        return BuildError(
            f"{self._path.name}: {why[:_MOST_CHARS]}", "its package is not as Debian makes them"
        )

    @contextmanager
    def files(self) -> Iterator[tarfile.TarFile]:
        """The tar of its files, to be read from its beginning to its end.

        What its content makes fail while the tar is open is a BuildError too; a failure of the disk stays an
        OSError.
        """
        with self._tar("data.tar") as tar:
            yield tar

    def _control(self) -> dict[str, str]:
        with self._tar("control.tar") as tar:
            for entry in tar:
                if entry.name.removeprefix("./") == "control" and entry.size <= _CONTROL_BYTES:
                    content = tar.extractfile(entry)
                    text = content.read().decode("utf-8", "replace") if content else ""
                    fields = next(stanzas(text), {})
                    if {"Package", "Version", "Architecture"} <= fields.keys():
                        return fields
        raise self.refused("does not say what it is")

    @contextmanager
    def _tar(self, name: str) -> Iterator[tarfile.TarFile]:
        kind, start, size = self._parts.get(name, ("?", 0, 0))
        if kind not in _OPENERS:
            raise self.refused(f"has no {name} that can be read")
        try:
            with self._path.open("rb") as file:
                part = io.BufferedReader(_Part(file, start, size), 1 << 16)
                content = _OPENERS[kind](cast(IO[bytes], part))
                with tarfile.open(fileobj=content, mode="r|", bufsize=1 << 18, tarinfo=BoundedInfo) as tar:
                    yield tar
        except _DAMAGE as error:
            raise self.refused(f"{name} is damaged: {error}") from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise self.refused(f"{name} has a name that is too long") from error


class _Part(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        file.seek(start)
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable buffer
        chunk = self._file.read(min(len(buffer), self._left))
        if not chunk and self._left:
            raise EOFError("it ends too early")
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)
