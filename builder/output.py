"""The folder that a build writes into: one build at a time, and each image in it whole, whatever happens."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.arch import ARCHES
from builder.errors import BuildError, UsageError, room_hint

ARCHIVE = "image.tar"
REPORT = "report.json"
"""The files of one image, in the folder of its architecture."""

_ASIDE = "replaced"
"""What an earlier image is called in a build's temporary folder."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>


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


def put(finished: Path, output: Path) -> None:
    """Puts the folder `finished`, beside or below `output`'s parent, where `output` is or is to be.

    What was there is where `finished` was, then. There is always one of the two, whatever stops us; on a file
    system that cannot exchange them, after a kill, once `sweep` has been there.
    """
    if not output.exists():
        finished.rename(output)
    elif not _exchange(finished, output):
        aside = finished.with_name(_ASIDE)
        try:
            output.rename(aside)
            finished.rename(output)
        except BaseException:  # Ctrl-C too: `aside` goes with the temporary folder that it is in
            if aside.exists() and not output.exists():
                aside.rename(output)
            raise
        aside.rename(finished)


def sweep(leftovers: Iterable[Path], output: Path) -> None:
    """Removes the temporary folders of builds of `output` that were killed; puts back what one had aside."""
    for leftover in leftovers:
        if (leftover / _ASIDE).is_dir() and not output.exists():
            (leftover / _ASIDE).rename(output)
        shutil.rmtree(leftover, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders at once; False where that cannot be done here. rename(2), Linux alone."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _lock(descriptor: int, output: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "wait for it, or name another folder"
        raise BuildError(f"--output {output}: another build is writing there", hint) from None
