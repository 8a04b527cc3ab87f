"""A shelf of the cache: entries that are filled once and whole, however many builds run at once."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from builder.errors import BuildError, room_hint
from builder.progress import Progress

_KEY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_UNUSED_S = 30 * 24 * 3600
"""An entry that no build has opened for this long goes."""


class Shelf:
    """One folder of the cache. An entry never changes once it is there; each use renews its date."""

    def __init__(self, cache: Path, name: str, progress: Progress, *, unused_s: float = _UNUSED_S) -> None:
        self.folder = cache.absolute() / name
        self._progress = progress
        self._unused_s = unused_s

    def find(self, key: str) -> Path | None:
        """The entry called `key`, if it is there."""
        _check_key(key)
        entry = self.folder / key
        if not entry.is_dir():
            return None
        with suppress(OSError):  # the cache may be on a read-only disk
            os.utime(entry)
        return entry

    def open(self, key: str, fill: Callable[[Path], None]) -> Path:
        """The entry called `key`; where it is not there, `fill` gets an empty folder and makes it.

        BuildError where the cache cannot be written. Whatever `fill` raises leaves nothing behind.
        """
        if (entry := self.find(key)) is not None:
            return entry
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(key):
                return self.find(key) or self._make(key, fill)
        except OSError as error:
            raise cache_error(error, self.folder) from error

    def find_whole(self, key: str, is_whole: Callable[[Path], bool]) -> Path | None:
        """The entry called `key`, if it is there and whole; a damaged one goes, and that is said.

        BuildError where that cannot be. An OSError that `is_whole` raises is damage, too.
        """
        entry = self.find(key)
        if entry is None or _holds(is_whole, entry):
            return entry
        try:
            with self._lock(key):
                # Another build may have made it anew meanwhile.
                if (entry := self.find(key)) is None or _holds(is_whole, entry):
                    return entry
                self._progress.note(f"damaged in the cache, and made anew: {entry}")
                self._remove_whole(entry)
        except OSError as error:
            raise cache_error(error, self.folder) from error
        return None

    def _make(self, key: str, fill: Callable[[Path], None]) -> Path:
        # Whoever made one of this key holds no lock any more, so it is of a build that was killed.
        for leftover in self.folder.glob(f"new-{key}-*"):
            remove(leftover)
        self._remove_unused()
        work = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"new-{key}-"))
        try:
            fill(work)
            work.chmod(0o755)
            work.rename(self.folder / key)
        except BaseException:
            remove(work)
            raise
        return self.folder / key

    def _remove_unused(self) -> None:
        oldest = time.time() - self._unused_s
        for entry in self.folder.iterdir():
            with suppress(OSError):
                if entry.stat().st_mtime < oldest:
                    if entry.is_dir():
                        self._remove_whole(entry)
                    else:
                        entry.unlink()

    def _remove_whole(self, entry: Path) -> None:
        # Under another name first: half of an entry must not look like a whole one.
        remove(entry.rename(tempfile.mktemp(dir=self.folder, prefix="new-old-")))  # noqa: S306

    def _lock(self, key: str) -> AbstractContextManager[None]:
        return locked(self.folder / f"{key}.lock", "makes the same", self._progress)


@contextmanager
def locked(path: Path, doing: str, progress: Progress) -> Iterator[None]:
    """Holds the lock file at `path`, which one build at a time can; `doing` is what the others wait for.

    OSError where the file cannot be written.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"waiting for another build that {doing}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _holds(is_whole: Callable[[Path], bool], entry: Path) -> bool:
    try:
        return is_whole(entry)
    except OSError:
        return False


def _check_key(key: str) -> None:
    """A key is the name of a folder in the shelf: never a path that leads elsewhere."""
    if not _KEY.fullmatch(key):
        raise BuildError(f"{key[:80]!r} is no name of an entry in the cache")


def remove(folder: Path) -> None:
    """Removes `folder`, whatever the modes of what is in it."""

    def retry(function: Callable[..., object], path: str, _error: object) -> None:
        with suppress(OSError):
            Path(path).parent.chmod(0o700)
            Path(path).chmod(0o700, follow_symlinks=True)
            function(path)

    shutil.rmtree(folder, onerror=retry)


def cache_error(error: OSError, place: Path) -> BuildError:
    """What to say of an OSError in the cache."""
    hint = "XDG_CACHE_HOME names another folder for it"
    message = f"cache {error.filename or place}: {error.strerror or error}"
    return BuildError(message, f"make room there; {hint}" if room_hint(error) else hint)
