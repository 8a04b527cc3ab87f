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
RECORD = "build.json"
"""The files of one image, in the folder of its architecture; the last one says what a build was made of."""

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
    made = not os.path.exists(output)  # noqa: PTH110 - Path's own raises where that may not be looked at
    lock = _open_locked(output)
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # not empty: something was built
                output.rmdir()
        os.close(lock)


@contextmanager
def blaming(output: Path) -> Iterator[None]:
    """Makes an error about the output folder of one that says that a disk is full."""
    try:
        yield
    except OSError as error:
        if full := room_hint(error):
            raise BuildError(f"--output {output}: {error.strerror}", full) from None
        raise


def check_place(place: Path) -> None:
    """UsageError where `place`, which an image is to take, holds what no build of ours has put there."""
    ours = any((place / name).is_file() for name in (ARCHIVE, RECORD))
    if place.exists() and not ours and not (place.is_dir() and not any(place.iterdir())):
        raise UsageError(
            f"{place}: something is there that no build has made", "name another folder: --output"
        )


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


def _open_locked(output: Path) -> int:
    """A descriptor of the folder, made where need be, which one build at a time can have."""
    while True:
        try:
            output.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
            if not os.access(output, os.W_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            hint = "name a folder that this user can write"
            raise UsageError(f"--output {output}: {error.strerror}", hint) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            hint = "wait for it, or name another folder"
            raise BuildError(f"--output {output}: another build is writing there", hint) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(output.stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # a build that failed has removed the folder that it had made
