"""The locked packages, installed into the cache: once, whole, and with the same bytes everywhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from builder.arch import Arch
from builder.layers import write_layer
from builder.packages.fetch import Store, Wanted, counted
from builder.packages.index import Sources
from builder.packages.lockfile import Lock
from builder.packages.shelf import Shelf
from builder.packages.source import Built, built_wheel
from builder.packages.tags import GLIBC
from builder.packages.unpack import unpack
from builder.progress import Progress

_FORMAT = 1
"""Counts up when the same lock comes to other files."""


@dataclass(frozen=True)
class Packages:
    """The packages of one architecture."""

    directory: Path
    """The folder that becomes /packages: only read from."""
    tar: Path
    """The same as a tar file."""
    identity: str
    """Another text whenever the files may be others."""


def open_packages(
    lock: Lock, arch: Arch, *, cache: Path, progress: Progress, wheelhouse: Path | None, index: bool
) -> Packages:
    """The locked packages for `arch`, installed unless the cache has them.

    Wheels come from the cache, from the folder `wheelhouse`, and with `index` from where the index has them.
    BuildError for a wheel that is not to be had or is not in order. Nothing of a package is executed, but for
    builds from source, which are confined.
    """
    key = _key(lock, arch)

    def fill(work: Path) -> None:
        sources = Sources(wheelhouse, index, lock.inputs.index)
        wheels = wheel_files(lock, arch, sources, cache, progress)
        with progress.step(f"installing {counted(wheels, 'package')} for {arch.name}"):
            unpack(wheels, work / "packages", lock.python_version, arch, progress)
            write_layer(work / "packages", work / "packages.tar", epoch=0)

    entry = Shelf(cache, "packages", progress).open(key, fill)
    return Packages(entry / "packages", entry / "packages.tar", key)


def wheel_files(lock: Lock, arch: Arch, sources: Sources, cache: Path, progress: Progress) -> list[Path]:
    """The wheel of each package that is locked for `arch`, in the order of their names."""
    pins = lock.pins[arch.name]
    store = Store(cache, sources, lock.python_version, progress)
    wanted = [Wanted(pin.name, pin.version, pin.hashes[0]) for pin in pins if pin.name not in lock.sources]
    with progress.step(f"fetching {counted(wanted, 'package')} for {arch.name}"):
        fetched = store.get(wanted)
    found = {one.name: fetched[one.sha256] for one in wanted}
    for pin in pins:
        if pin.name in lock.sources:
            built = Built(lock.inputs, pin.name, pin.version, lock.sources[pin.name])
            found[pin.name] = built_wheel(built, arch, pin.hashes, sources, cache, progress)
    return [found[pin.name] for pin in pins]


def _key(lock: Lock, arch: Arch) -> str:
    """What decides every byte."""
    pins = [[pin.name, pin.version, list(pin.hashes)] for pin in lock.pins[arch.name]]
    facts = json.dumps([_FORMAT, arch.name, lock.python_version, GLIBC, pins])
    return f"{arch.name}-{hashlib.sha256(facts.encode()).hexdigest()[:32]}"
