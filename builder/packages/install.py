"""The locked packages, installed into the cache: once, whole, and with the same bytes everywhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from builder.arch import Arch
from builder.errors import BuildError
from builder.files_by_hash import sha256_of
from builder.layers import write_layer
from builder.packages.fetch import Store, Wanted, counted
from builder.packages.index import Sources
from builder.packages.lockfile import Lock
from builder.packages.reach import unasked
from builder.packages.source import Built, built_wheel, wheel_requires
from builder.packages.tags import GLIBC
from builder.packages.unpack import unpack
from builder.progress import Progress
from builder.shelf import Shelf

_FORMAT = 2
"""Counts up when the same lock comes to other files."""


_DIGEST = "wheels"
"""The file of an entry that says which wheels are installed."""


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
        _check_asked_for(lock, arch, wheels)
        with progress.step(f"installing {counted(list(wheels), 'package')} for {arch.name}"):
            unpack(wheels, work / "packages", lock.python_version, arch, progress)
            write_layer(work / "packages", work / "packages.tar", epoch=0)
        # What is built from source may be another wheel each time, and the lock the same.
        digest = hashlib.sha256("\n".join(wheels.values()).encode()).hexdigest()
        (work / _DIGEST).write_text(digest[:32])

    entry = Shelf(cache, "packages", progress).open(key, fill)
    identity = f"{key}-{(entry / _DIGEST).read_text()}"
    return Packages(entry / "packages", entry / "packages.tar", identity)


def wheel_files(lock: Lock, arch: Arch, sources: Sources, cache: Path, progress: Progress) -> dict[Path, str]:
    """The wheel of each package that is locked for `arch`, in the order of their names, and its SHA-256.

    The hash is the locked one; of what was just built from source it is the wheel's own.
    """
    pins = lock.pins[arch.name]
    store = Store(cache, sources, lock.python_version, progress)
    wanted = [Wanted(pin.name, pin.version, pin.hashes[0]) for pin in pins if pin.name not in lock.sources]
    with progress.step(f"fetching {counted(wanted, 'package')} for {arch.name}"):
        fetched = store.get(wanted)
    found = {one.name: (fetched[one.sha256], one.sha256) for one in wanted}
    for pin in pins:
        if pin.name in lock.sources:
            built = Built(lock.inputs, pin.name, pin.version, lock.sources[pin.name])
            wheel = built_wheel(built, arch, pin.hashes, sources, cache, progress)
            found[pin.name] = (wheel, sha256_of(wheel))
    return dict(found[pin.name] for pin in pins)


def _check_asked_for(lock: Lock, arch: Arch, wheels: Iterable[Path]) -> None:
    """BuildError for a lock with packages that the config does not ask for, not even indirectly."""
    names = [pin.name for pin in lock.pins[arch.name]]
    asked_by = {name: wheel_requires(wheel) for name, wheel in zip(names, wheels, strict=True)}
    if extra := unasked(lock.inputs.requirements, asked_by, lock.python_version, arch):
        raise BuildError(
            f"locked for {arch.name}, but nothing asks for it: {', '.join(extra)}",
            "it was added by hand, or is left over: sandbox-build lock",
        )


def _key(lock: Lock, arch: Arch) -> str:
    """What decides every byte."""
    pins = [[pin.name, pin.version, list(pin.hashes)] for pin in lock.pins[arch.name]]
    names = {pin.name for pin in lock.pins[arch.name]}
    sources = [
        [name, source.sdist, sorted(source.tools.items()), lock.inputs.from_source.get(name, ())]
        for name, source in sorted(lock.sources.items())
        if name in names
    ]
    facts = json.dumps(
        [_FORMAT, arch.name, lock.python_version, GLIBC, pins, sources, lock.inputs.requirements],
        default=dataclasses.astuple,
    )
    return f"{arch.name}-{hashlib.sha256(facts.encode()).hexdigest()[:32]}"
