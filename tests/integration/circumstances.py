"""Builds by other users, in other places and in other ways, each from the same packages."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.arch import ARCHES
from tests.conftest import REPOSITORY, Result, sandbox_build

SOURCES = ("builder", "images", "runtime", "config.yaml")
"""What a build reads of a checkout."""

_FETCHED = ("debs", "debian-packages")
"""Of the cache: what came from Debian. All else is made by each build itself."""

_ABOUT_THE_BUILD = ("report.json", "build.json")
"""What is said of one build, with how long it took."""


@dataclass(frozen=True)
class Build:
    """What one build made."""

    output: Path
    stderr: str

    def files(self, arch: str) -> dict[str, str]:
        """The SHA-256 of each file beside the archive, but for what is about this one build."""
        folder = self.output / arch
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in (*_ABOUT_THE_BUILD, "image.tar")
        }


@dataclass(frozen=True)
class Maker:
    """Builds images below `folder`, each with a cache of its own that has what `fetched` fetched."""

    folder: Path
    fetched: Path

    def place(self, name: str, owner: int = 0) -> Path:
        """A folder for one build, `owner`'s, with a cache in it."""
        place = self.folder / name
        cache = place / "cache/sandbox-build"
        cache.mkdir(parents=True)
        for part in _FETCHED:
            shutil.copytree(self.fetched / "sandbox-build" / part, cache / part)
        if owner:
            for path in (place, *place.rglob("*")):
                os.chown(path, owner, owner, follow_symlinks=False)
        return place

    def build(
        self,
        place: Path,
        *arguments: str,
        arches: Sequence[str] = tuple(ARCHES),
        before: Sequence[str] = (),
        checkout: Path = REPOSITORY,
        env: dict[str, str] | None = None,
        driver: str = "oci",
    ) -> Build:
        """Runs a build of `checkout` in `place`; `before` is put before its command line."""
        command = [*before, sys.executable, "-m", "builder", f"--driver={driver}"]
        command += [f"--output={place}/dist", *(f"--arch={arch}" for arch in arches), *arguments]
        done = subprocess.run(
            command,
            cwd=checkout,
            env=os.environ | {"XDG_CACHE_HOME": f"{place}/cache"} | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return Build(place / "dist", done.stderr)


def compared(before: Build, after: Build, arch: str) -> Result:
    """What `sandbox-build compare` says of the two images for `arch`."""
    return sandbox_build("compare", str(before.output / arch), str(after.output / arch))


def copy_checkout(target: Path) -> Path:
    """The sources once more, in the new folder `target`: made in another order, dated and moded otherwise."""
    copies = []
    for path in reversed([*_sources()]):
        copy = target / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        os.utime(copy, (1, 1))
        copies.append(copy)
    assert copies
    return target


def _sources() -> Iterator[Path]:
    for name in SOURCES:
        path = REPOSITORY / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (one for one in found if one.is_file() and "__pycache__" not in one.parts)
