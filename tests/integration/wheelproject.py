"""A project whose packages are wheels that a test makes."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.arch import ARCHES, Arch
from builder.config import load_config
from builder.errors import ConfigError, SandboxError
from builder.packages import (
    Inputs,
    Lock,
    Packages,
    lock,
    open_packages,
    read_inputs,
    read_lock,
)
from builder.progress import Progress
from tests.wheels import wheel

QUIET = Progress(quiet=True)
AMD64, ARM64 = ARCHES["amd64"], ARCHES["arm64"]
LIVE = "cp313-cp313-manylinux_2_17_{}"


@dataclass
class Project:
    """A folder with a config.yaml, wheels and a cache."""

    folder: Path
    index: str | None = None
    arches: tuple[Arch, ...] = (AMD64, ARM64)

    @property
    def wheels(self) -> Path:
        return self.folder / "wheels"

    @property
    def lock_path(self) -> Path:
        return self.folder / "config.lock"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def inputs(self) -> Inputs:
        path = self.folder / "config.yaml"
        found = read_inputs(load_config(path, {})[0], path, self.arches, "3.13")
        assert found is not None
        return found

    def lock(self, *requirements: str, extra: str = "", upgrade: bool = False) -> Lock:
        url = f"python_pip_mirror_url: {self.index}\n" if self.index else ""
        (self.folder / "config.yaml").write_text(f"dependencies: {list(requirements)}\n{url}{extra}")
        made = lock(
            self.inputs(),
            self.lock_path,
            cache=self.cache,
            progress=QUIET,
            wheelhouse=None if self.index else self.wheels,
            index=self.index is not None,
            upgrade=upgrade,
        )
        assert read_lock(self.lock_path, self.inputs()) == made
        return made

    def open(self, made: Lock, arch: Arch = ARM64, *, cache: Path | None = None) -> Packages:
        return open_packages(
            *(made, arch),
            cache=cache or self.cache,
            progress=QUIET,
            wheelhouse=None if self.index else self.wheels,
            index=self.index is not None,
        )


def native(project: Project, name: str, version: str = "1.0") -> None:
    """A package with another wheel for each architecture, neither of them for this machine's Python."""
    for arch in ARCHES.values():
        wheel(
            project.wheels, name, version, {f"{name}.py": arch.name.encode()}, tag=LIVE.format(arch.machine)
        )


def listing(folder: Path) -> list[tuple[str, str, bytes]]:
    """Path, mode and content of everything in `folder`."""
    found = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((path.relative_to(folder).as_posix(), stat.filemode(path.lstat().st_mode), content))
    return found


def refusal(project: Project, *requirements: str, extra: str = "") -> SandboxError:
    """The error of a lock or of what is installed by it."""
    with pytest.raises(SandboxError) as caught:
        project.open(project.lock(*requirements, extra=extra))
    error = caught.value
    assert error.hint or (isinstance(error, ConfigError) and all(hint for _, hint in error.problems))
    return error
