"""A folder that has every file of a lock, so that everything works with no index."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from builder.arch import Arch
from builder.errors import BuildError, room_hint
from builder.files_by_hash import sha256_of
from builder.packages.fetch import Store, Wanted, counted
from builder.packages.index import Sources
from builder.packages.inputs import Inputs
from builder.packages.install import wheel_files
from builder.packages.lockfile import Lock
from builder.progress import Progress
from builder.whole_file import whole_file


def fill_wheelhouse(
    lock: Lock, inputs: Inputs, arches: Sequence[Arch], folder: Path, *, cache: Path, progress: Progress
) -> list[Path]:
    """Copies the locked files for `arches` into `folder`, each whole or not at all; returns them all.

    Besides wheels it gets the sdists of what is built from source, the wheels that they come to, and what
    their builds need. A file that is there already with the right hash stays; BuildError for one that has
    another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{folder}: {error.strerror}", room_hint(error)) from None
    sources = Sources(folder, True, inputs.index)
    store = Store(cache, sources, lock.python_version, progress)
    files: dict[str, Path] = {}
    for arch in arches:
        files |= {path.name: path for path in wheel_files(lock, arch, sources, cache, progress)}
    for arch in arches:
        for one in lock.sources.values():
            tools = [Wanted(pin.name, pin.version, pin.hashes[0]) for pin in one.tools.get(arch.name, ())]
            files |= {path.name: path for path in store.get(tools).values()}
    versions = {pin.name: pin.version for pins in lock.pins.values() for pin in pins}
    sdists = [Wanted(name, versions[name], one.sdist, is_wheel=False) for name, one in lock.sources.items()]
    files |= {path.name: path for path in store.get(sdists).values()}
    with progress.step(f"copying {counted(list(files), 'file')} into {folder}"):
        for name, path in sorted(files.items()):
            progress.detail(name)
            _copy(path, folder / name)
    return [folder / name for name in sorted(files)]


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        if sha256_of(target) != sha256_of(source):
            what = f"{target} is there already, and is not the locked file"
            raise BuildError(what, "move it away, or name another folder")
        return
    try:
        with whole_file(target, mode=0o644) as copy, source.open("rb") as original:
            shutil.copyfileobj(original, copy, 1 << 20)
    except OSError as error:
        hint = "make room there, or name another folder" if room_hint(error) else None
        raise BuildError(f"{target}: not written: {error.strerror}", hint) from error
