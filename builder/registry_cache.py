"""The files that config.lock names, shared through a registry: taken before a build, kept there after it.

A machine with an empty disk then needs neither a mirror nor an index, and versions that these no longer have
stay available. What comes has the locked hash, or is not taken. A build can do without the cache: whatever
is wrong with it is warned about, once, and the files come from the usual places.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packaging.version import Version

from builder.arch import Arch, host_arch
from builder.at_once import at_once
from builder.errors import BuildError, RegistryError, UsageError
from builder.files_by_hash import AT_ONCE, FilesByHash, sha256_of
from builder.options import Options
from builder.packages import Lock
from builder.packages.names import identity
from builder.progress import Progress
from builder.registry.cache import Listed, RegistryCache, open_cache

_LARGEST_BYTES = 1 << 30
"""A file passes through memory, several at once; larger ones come from the usual places."""

_DEBS, _WHEELS = "debs", "wheels"
"""Shelves of our own cache."""


@dataclass(frozen=True)
class LockedFile:
    """A file that a lock names."""

    shelf: str
    sha256: str
    file_name: str | None = None
    """Of a .deb: the lock has it."""
    python: tuple[str, Version, bool] | None = None
    """Of a wheel or an sdist, of which the lock has no name: what the name has to say (names.identity())."""

    def name(self, listed: str) -> str | None:
        """What the file is to be called, where a cache calls it `listed`; None for a name of something else.

        The hash says nothing of the name, which decides which package a wheel is.
        """
        if self.python is None:
            return self.file_name
        return listed if identity(listed) == self.python else None


@dataclass(frozen=True)
class Shared:
    """A locked file that a cache has."""

    file: LockedFile
    name: str
    size: int

    def __str__(self) -> str:
        return self.name


def locked_files(locked: Lock, arches: Iterable[Arch], machine: Arch) -> list[LockedFile]:
    """What builds for `arches` need of what is locked; on `machine` packages are built from source."""
    files = []
    for arch in arches:
        selection = locked.debian.get(arch.name)
        for package in selection.packages if selection else ():
            files.append(LockedFile(_DEBS, package.sha256, file_name=posixpath.basename(package.path)))
        for pin in locked.pins[arch.name]:
            source = locked.sources.get(pin.name)
            for sha256 in pin.hashes:
                is_wheel = source is None or sha256 != source.sdist
                files.append(LockedFile(_WHEELS, sha256, python=(pin.name, Version(pin.version), is_wheel)))
    for source in locked.sources.values():
        for pin in source.tools.get(machine.name, ()):
            wanted = (pin.name, Version(pin.version), True)
            files += [LockedFile(_WHEELS, sha256, python=wanted) for sha256 in pin.hashes]
    return list({file.sha256: file for file in files}.values())


def shared_of(files: Iterable[LockedFile], listed: Mapping[str, Listed]) -> list[Shared]:
    """Those of `files` that a cache has, under a name that is theirs."""
    found = []
    for file in files:
        there = listed.get(file.sha256)
        if there is not None and there.size <= _LARGEST_BYTES and (name := file.name(there.name)):
            found.append(Shared(file, name, there.size))
    return found


@contextmanager
def shared_files(locked: Lock | None, options: Options, progress: Progress) -> Iterator[None]:
    """Around a build: takes what it lacks from --registry-cache, and puts there what that lacks.

    UsageError where nothing is locked, or no registry is named.
    """
    reference = options.registry_cache
    if reference is None:
        yield
        return
    if locked is None:
        raise UsageError("--registry-cache is about the files that config.lock names", "sandbox-build lock")
    files = locked_files(locked, options.arches, host_arch())
    shelves = {name: FilesByHash(options.cache, name, progress) for name in (_DEBS, _WHEELS)}
    cache: RegistryCache | None = None
    with _doing_without(reference, progress):
        opened = open_cache(reference)
        shared = shared_of(files, opened.files())
        lacking = [one for one in shared if shelves[one.file.shelf].find(one.file.sha256) is None]
        gone = _take(opened, reference, lacking, shelves, progress)
        there = {one.file.sha256 for one in shared} - gone
        cache = opened
    yield
    if cache is not None:
        with _doing_without(reference, progress):
            _keep(cache, reference, [file for file in files if file.sha256 not in there], shelves, progress)


@contextmanager
def _doing_without(reference: str, progress: Progress) -> Iterator[None]:
    try:
        yield
    except (BuildError, RegistryError) as error:
        progress.warn(f"the build does without --registry-cache {reference}: {error.line}")


def _take(
    cache: RegistryCache,
    reference: str,
    wanted: Sequence[Shared],
    shelves: Mapping[str, FilesByHash],
    progress: Progress,
) -> set[str]:
    """Brings `wanted` into our own cache; returns the hashes of what the registry lists and does not have."""
    if not wanted:
        return set()
    work: dict[Shared, Callable[[], Path | None]] = {
        one: partial(_taken, cache, one, shelves[one.file.shelf]) for one in wanted
    }
    total = sum(one.size for one in wanted) / 1e6
    with progress.step(f"{reference}: taking {len(wanted)} files, {total:.1f} MB"):
        done = at_once(work, cache.stopped, AT_ONCE, progress.detail)
        return {one.file.sha256 for one, path in done if path is None}


def _taken(cache: RegistryCache, one: Shared, shelf: FilesByHash) -> Path | None:
    content = cache.get(one.file.sha256, one.size)
    if content is None:
        return None

    def write(target: Path) -> str:
        target.write_bytes(content)
        return sha256_of(target)

    return shelf.fetch(one.file.sha256, one.name, write)


def _keep(
    cache: RegistryCache,
    reference: str,
    files: Iterable[LockedFile],
    shelves: Mapping[str, FilesByHash],
    progress: Progress,
) -> None:
    found = {file.sha256: shelves[file.shelf].find(file.sha256) for file in files}
    sizes = {sha256: (path, path.stat().st_size) for sha256, path in found.items() if path is not None}
    kept = {sha256: path for sha256, (path, size) in sizes.items() if size <= _LARGEST_BYTES}
    if not kept:
        return
    total = sum(sizes[sha256][1] for sha256 in kept) / 1e6
    with progress.step(f"{reference}: keeping {len(kept)} files, {total:.1f} MB"):
        cache.put(kept)
