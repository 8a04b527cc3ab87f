"""Wheels and sdists by their hash: from the cache, a folder of wheels, or wherever the index has them."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.at_once import at_once
from builder.errors import BuildError
from builder.files_by_hash import AT_ONCE, FilesByHash, sha256_of
from builder.packages.index import Sources
from builder.packages.names import identity, safe_name
from builder.packages.uv import File, Found, Metadata, Resolution, resolve
from builder.progress import Progress
from builder.shelf import cache_error, remove
from builder.transfer import Transfer

_CHUNK_BYTES = 1 << 20
_SCRATCH = "scratch-"
_ABANDONED_S = 24 * 3600
_NETWORK_HINT = "is the network up? --wheelhouse DIR --no-index needs none"


@dataclass(frozen=True)
class Wanted:
    """A file that is known by its hash."""

    name: str
    version: str
    sha256: str
    is_wheel: bool = True

    def __str__(self) -> str:
        return f"{self.name} {self.version}{'' if self.is_wheel else ' (source)'}"


class Store:
    """The files that were fetched, in the cache: one folder a hash."""

    def __init__(self, cache: Path, sources: Sources, python_version: str, progress: Progress) -> None:
        self._cache = cache
        self._kept = FilesByHash(cache, "wheels", progress)
        self._sources = sources
        self._python_version = python_version
        self._progress = progress
        self._stop = threading.Event()
        self._transfer = Transfer(
            self._stop, hint=_NETWORK_HINT, credentials=sources.credentials, environ=sources.environ
        )

    def get(self, wanted: Sequence[Wanted]) -> dict[str, Path]:
        """Each file by its hash; BuildError where one is not to be had, or is another than it should be."""
        found = {}
        for one in wanted:
            if (path := self.at_hand(one)) is not None:
                found[one.sha256] = path
        lacking = [one for one in wanted if one.sha256 not in found]
        if lacking:
            if not self._sources.index:
                raise self._not_in_folder(lacking[0])
            found |= self._download_all(self._locate(lacking))
        return found

    def at_hand(self, wanted: Wanted) -> Path | None:
        """The file, where no index has to be asked for it; BuildError where the hash is another package's."""
        path = self._kept.find(wanted.sha256) or self._from_folder(wanted)
        if path is not None:
            _check_name(wanted, path)
        return path

    def in_folder(self, name: str, version: str) -> list[Path]:
        """The wheels of a package that the user's folder has, whatever their hashes."""
        return list(self._in_folder(Wanted(name, version, "")))

    def hash_of(self, found: Found) -> str:
        """The hash of a package's only file: what the index says, or what the file itself has."""
        (file,) = found.files
        return self.add(file)[0] if file.sha256 is None else file.sha256

    def add(self, file: File) -> tuple[str, Path]:
        """Fetches a file whose index has no hash for it; returns the hash that it has."""
        if file.sha256 is not None:
            return file.sha256, self._kept.find(file.sha256) or self._download(file, file.sha256)
        with Scratch(self._cache) as folder:
            digest = self._transfer.fetch(file.url, file.size, folder / "file", file.filename)
            with (folder / "file").open("rb") as content:
                return digest, self._keep(digest, file.filename, content)

    # From a folder

    def _from_folder(self, wanted: Wanted) -> Path | None:
        for path in self._in_folder(wanted):
            if sha256_of(path) == wanted.sha256:
                with path.open("rb") as file:
                    return self._keep(wanted.sha256, path.name, file)
        return None

    def _in_folder(self, wanted: Wanted) -> Iterator[Path]:
        folder = self._sources.wheelhouse
        for path in sorted(folder.iterdir()) if folder else ():
            if identity(path.name) == (wanted.name, Version(wanted.version), wanted.is_wheel):
                yield path

    def _not_in_folder(self, wanted: Wanted) -> BuildError:
        folder = self._sources.wheelhouse
        hint = f"fill it where there is a network: sandbox-build wheelhouse {folder}"
        if folder is None:
            return BuildError(f"{wanted} is not in the cache", "name a folder that has it: --wheelhouse DIR")
        if other := next(self._in_folder(wanted), None):
            kind = "sdist" if not wanted.is_wheel else "wheel"
            what = f"{other} has not the hash of the {kind} that is locked"
            return BuildError(
                what, f"{hint}; it takes the place of no file that is there: move this one away"
            )
        return BuildError(f"{folder} has no {wanted} with the locked hash", hint)

    # From an index

    def _locate(self, wanted: Sequence[Wanted]) -> list[tuple[Wanted, File]]:
        """Where the index has each file."""
        located = []
        sdists = [Metadata(one.name, None) for one in wanted if not one.is_wheel]
        for group in _groups(wanted):
            lines = [f"{one.name}=={one.version}" for one in group]
            question = Resolution(lines, self._python_version, None, sources=sdists, with_dependencies=False)
            found = {one.name: one for one in resolve(question, self._sources, self._cache, self._progress)}
            for one in group:
                files = found[one.name].files if one.name in found else ()
                match = next((file for file in files if file.sha256 == one.sha256), None)
                # An index without hashes: only what comes can tell.
                unknown = [file for file in files if file.sha256 is None and file.is_wheel == one.is_wheel]
                match = match or (unknown[0] if len(unknown) == 1 else None)
                if match is None:
                    raise BuildError(
                        f"{one}: the index has no file with the locked hash any more",
                        "look what became of it, then lock anew: sandbox-build lock --upgrade",
                    )
                located.append((one, match))
        return located

    def _download_all(self, located: Sequence[tuple[Wanted, File]]) -> dict[str, Path]:
        work = {one: partial(self._download, file, one.sha256) for one, file in located}
        found = {}
        for one, path in at_once(work, self._stop, AT_ONCE, self._progress.detail):
            _check_name(one, path)
            found[one.sha256] = path
        return found

    def _download(self, file: File, sha256: str) -> Path:
        name = safe_name(file.filename)
        return self._kept.fetch(
            sha256, name, lambda target: self._transfer.fetch(file.url, file.size, target, name)
        )

    def _keep(self, sha256: str, filename: str, content: BinaryIO) -> Path:
        name = safe_name(filename)

        def fill(work: Path) -> None:
            digest = hashlib.sha256()
            with (work / name).open("wb") as copy:
                while chunk := content.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    copy.write(chunk)
            if digest.hexdigest() != sha256:
                raise BuildError(f"{name} was changed while it was read", "run this again")

        return next(self._kept.shelf.open(sha256, fill).iterdir())


class Scratch:
    """A folder in the cache, on the same disk, that goes when the block ends."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache.absolute()

    def __enter__(self) -> Path:
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            for folder in self._cache.glob(f"{_SCRATCH}*"):
                # Of a build that was killed.
                if folder.stat().st_mtime < time.time() - _ABANDONED_S:
                    remove(folder)
            self._folder = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._cache)
        except OSError as error:
            raise cache_error(error, self._cache) from error
        return Path(self._folder.name)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _check_name(wanted: Wanted, path: Path) -> None:
    """A lock can give any package the hash of any file."""
    if identity(path.name) != (canonicalize_name(wanted.name), Version(wanted.version), wanted.is_wheel):
        raise BuildError(
            f"{wanted}: the locked hash is that of {path.name}", "it was changed by hand: sandbox-build lock"
        )


def counted(things: Sequence[object], noun: str) -> str:
    """1 package, 2 packages."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _groups(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """`wanted` in groups that have no package in two versions, which uv would not resolve."""
    groups: list[dict[str, list[Wanted]]] = []
    for one in wanted:
        for group in groups:
            same = group.setdefault(canonicalize_name(one.name), [])
            if all((other.version, other.is_wheel) == (one.version, one.is_wheel) for other in same):
                same.append(one)
                break
        else:
            groups.append({canonicalize_name(one.name): [one]})
    return [[one for ones in group.values() for one in ones] for group in groups]
