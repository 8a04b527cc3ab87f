"""The folder that a build writes into, and where in it an image lies."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.arch import ARCHES
from builder.errors import BuildError, UsageError, room_hint

ARCHIVE = "image.tar"
REPORT = "report.json"
"""The files of one image, in the folder of its architecture."""


def archives_at(path: Path) -> dict[str | None, Path]:
    """The archives that a command's argument means, by architecture.

    It is an archive, a folder dist/ARCH with one (both under the key None), or a folder dist. UsageError
    where there is none.
    """
    for one in (path, path / ARCHIVE):
        if one.is_file():
            return {None: one}
    found: dict[str | None, Path] = {arch: path / arch / ARCHIVE for arch in ARCHES}
    found = {arch: archive for arch, archive in found.items() if archive.is_file()}
    if not found:
        raise UsageError(f"{path}: no image is there", "name an image.tar, a folder dist/ARCH, or dist")
    return found


@contextmanager
def output_folder(output: Path) -> Iterator[None]:
    """Makes the folder where it is not there, and keeps a second build out of it.

    A folder that was made for a build that failed goes again.
    """
    made = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
        if not os.access(output, os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        hint = "name a folder that this user can write"
        raise UsageError(f"--output {output}: {error.strerror}", hint) from None
    try:
        _lock(lock, output)
        yield
    except OSError as error:
        if full := room_hint(error):
            raise BuildError(f"--output {output}: {error.strerror}", full) from None
        raise
    finally:
        os.close(lock)
        if made:
            with suppress(OSError):  # not empty: something was built
                output.rmdir()


def _lock(descriptor: int, output: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "wait for it, or name another folder"
        raise BuildError(f"--output {output}: another build is writing there", hint) from None
