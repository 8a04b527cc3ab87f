"""Zip files of strangers: opened in bounded memory, and refused where they would unpack to too much."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

ENTRIES = 200_000
UNPACKED_BYTES = 4 << 30

_DIRECTORY_BYTES = 24 << 20
"""Of the list of entries, which `zipfile` reads at once."""
_RATIO = 200
_RATIO_FROM_BYTES = 64 << 20
"""What is smaller unpacked may be of any ratio."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those that Python unpacks chunk by chunk; what one chunk of another comes to has no bound."""


class OversizeError(Exception):
    """A file is, or would unpack to, more than we take."""


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip file at `path`; OversizeError where it is too much."""
    with path.open("rb") as file, zipfile.ZipFile(cast(io.BufferedReader, _Bounded(file))) as archive:
        entries = archive.infolist()
        if len(entries) > ENTRIES:
            raise OversizeError(f"it has more than {ENTRIES} entries")
        total = sum(entry.file_size for entry in entries)
        if total > UNPACKED_BYTES:
            raise OversizeError(f"unpacked it has more than {UNPACKED_BYTES >> 20} MiB")
        if total > max(_RATIO_FROM_BYTES, _RATIO * path.stat().st_size):
            raise OversizeError(f"unpacked it is more than {_RATIO} times as large as it is")
        yield archive


def check_method(entry: zipfile.ZipInfo) -> None:
    """NotImplementedError for a compression whose reader in Python unpacks without bound."""
    if entry.compress_type not in METHODS:
        raise NotImplementedError(f"{entry.filename!r} is compressed in an unusual way")


class _Bounded:
    """A file that does not give much at once."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _DIRECTORY_BYTES:
            raise OversizeError(f"its list of entries has more than {_DIRECTORY_BYTES >> 20} MiB")
        return self._file.read(size if size >= 0 else _DIRECTORY_BYTES)
