"""A shelf of the cache: entries that are filled once and whole, however many builds run at once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from builder.errors import BuildError, room_hint
from builder.progress import Progress
from builder.whole_file import whole_file

_KEY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_UNUSED_S = 30 * 24 * 3600
"""An entry that no build has opened for this long goes."""


class Shelf:
    """One folder of the cache. An entry never changes once it is there; each use renews its date."""

    def __init__(self, cache: Path, name: str, progress: Progress, *, unused_s: float = _UNUSED_S) -> None:
        self.folder = cache.absolute() / name
        self._progress = progress
        self._unused_s = unused_s

    def find(self, key: str, is_whole: Callable[[Path], bool] = lambda _: True) -> Path | None:
        """The entry called `key`, if it is there and as it was filled; a damaged one goes, and that is said.

        What is compared are the names, kinds and sizes of all files: what a machine that lost its power, or a
        cache that was copied in part, leaves behind shows there; dates and modes are whose umask copied it.
        `is_whole` may look further; an OSError of it is damage, too. BuildError where a damaged entry cannot
        be removed.
        """
        _check_key(key)
        if (entry := self._whole(key, is_whole)) is not None or not (self.folder / key).is_dir():
            return entry
        try:
            with self._lock(key):
                # Another build may have made it anew meanwhile.
                if (entry := self._whole(key, is_whole)) is None and (self.folder / key).is_dir():
                    if self._seal(key).is_file():  # else an older sandbox-build has made it
                        self._progress.note(f"damaged in the cache, and made anew: {self.folder / key}")
                    self._remove_whole(self.folder / key)
        except OSError as error:
            raise cache_error(error, self.folder) from error
        return entry

    def open(
        self, key: str, fill: Callable[[Path], None], is_whole: Callable[[Path], bool] = lambda _: True
    ) -> Path:
        """The entry called `key`; where find() finds none, `fill` gets an empty folder and makes it.

        BuildError where the cache cannot be written. Whatever `fill` raises leaves nothing behind.
        """
        if (entry := self.find(key, is_whole)) is not None:
            return entry
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(key):
                return self._whole(key, is_whole) or self._make(key, fill)
        except OSError as error:
            raise cache_error(error, self.folder) from error

    def _whole(self, key: str, is_whole: Callable[[Path], bool]) -> Path | None:
        entry, seal = self.folder / key, self._seal(key)
        try:
            if seal.read_text() != listing(entry) or not is_whole(entry):
                return None
        except OSError:
            return None
        with suppress(OSError):  # the cache may be on a read-only disk
            os.utime(entry)
            os.utime(seal)
        return entry

    def _make(self, key: str, fill: Callable[[Path], None]) -> Path:
        # Whoever made one of this key holds no lock any more, so it is of a build that was killed.
        for leftover in self.folder.glob(f"new-{key}-*"):
            remove(leftover)
        self._remove_unused()
        work = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"new-{key}-"))
        try:
            fill(work)
            work.chmod(0o755)
            with whole_file(self._seal(key), mode=0o644) as seal:
                seal.write(listing(work).encode())
            if (self.folder / key).is_dir():  # damaged since it was looked at
                self._remove_whole(self.folder / key)
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

    def _seal(self, key: str) -> Path:
        """The file that has the hash of an entry's listing."""
        return self.folder / f"{key}.seal"

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


def listing(folder: Path) -> str:
    """A hash of what lies below `folder`, without a look into its files."""
    found = hashlib.sha256()
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(folder / below) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                about = entry.stat(follow_symlinks=False)
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder:
                    pending.append(f"{below}{entry.name}/")
                size = 0 if is_folder else about.st_size
                line = f"{below}{entry.name}\0{stat.S_IFMT(about.st_mode)} {size}\0"
                found.update(line.encode(errors="surrogateescape"))
    return found.hexdigest()


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
            if function in (os.open, os.scandir):
                shutil.rmtree(path, ignore_errors=True)
            else:
                function(path)

    shutil.rmtree(folder, onerror=retry)


def cache_error(error: OSError, place: Path) -> BuildError:
    """What to say of an OSError in the cache."""
    hint = "XDG_CACHE_HOME names another folder for it"
    message = f"cache {error.filename or place}: {error.strerror or error}"
    return BuildError(message, f"make room there; {hint}" if room_hint(error) else hint)
