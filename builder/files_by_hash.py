"""Files that are known by their SHA-256: kept in the cache, checked at each use, fetched several at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from builder.errors import BuildError
from builder.progress import Progress
from builder.shelf import Shelf

AT_ONCE = 6
"""So many are fetched at a time."""


class FilesByHash:
    """One shelf of the cache, with a folder a hash."""

    def __init__(self, cache: Path, name: str, progress: Progress) -> None:
        self.shelf = Shelf(cache, name, progress)

    def find(self, sha256: str) -> Path | None:
        """The file with this hash; a damaged one goes, and that is said."""

        def is_whole(entry: Path) -> bool:
            files = list(entry.iterdir())
            return len(files) == 1 and files[0].is_file() and sha256_of(files[0]) == sha256

        entry = self.shelf.find(sha256, is_whole)
        return None if entry is None else next(entry.iterdir())

    def fetch(self, sha256: str, name: str, copy: Callable[[Path], str]) -> Path:
        """The file with this hash; where it is not there, `copy` writes it, as `name`, and returns its hash.

        BuildError where that is another one: then nothing is kept.
        """

        def fill(work: Path) -> None:
            digest = copy(work / name)
            if digest != sha256:
                raise BuildError(
                    f"{name}: its hash is {digest}, but {sha256} is locked",
                    "it was replaced, or damaged on its way: find out which, before locking again",
                )

        return next(self.shelf.open(sha256, fill).iterdir())


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
