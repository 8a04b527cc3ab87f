"""What a base gives, and how to run its interpreter on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from builder.arch import Arch
from builder.base.debian_package import DebianPackage
from builder.tree.folders import default_folders
from builder.tree.interpreter import find_interpreter
from builder.tree.root import Root
from builder.tree.spec import ISOLATED, TreeSpec


class Rootfs(Protocol):
    """A root filesystem that lies on this machine."""

    @property
    def directory(self) -> Path:
        """The folder that is its root: only read from."""

    @property
    def identity(self) -> str:
        """Another text whenever its files may be others."""

    @property
    def cached_age_s(self) -> float | None:
        """How long ago it was fetched; None where it was not fetched earlier."""

    @property
    def packages(self) -> tuple[DebianPackage, ...]:
        """The Debian packages that it was made of; none where it was not made of such."""

    def write_tar(self, destination: Path, spec: TreeSpec, packages: Path | None) -> None:
        """Writes what a Dockerfile's stage needs of it, to assemble `spec` or to run its interpreter.

        `packages` is the folder of the locked packages, which need libraries of the base too.
        """


class Base(Protocol):
    """Where the target's root filesystem comes from."""

    def rootfs(self, arch: Arch) -> Rootfs | None:
        """The root filesystem for `arch`, fetched where need be; None where only Docker can have it."""

    def build_rootfs(self) -> Rootfs | None:
        """The same for this machine's architecture: what the assembler's interpreter comes from."""


@dataclass(frozen=True)
class CachedRootfs:
    """A root filesystem that was fetched into the cache."""

    directory: Path
    tar: Path
    identity: str
    """Made of its packages' hashes: the same packages, the same identity."""
    cached_age_s: float | None
    packages: tuple[DebianPackage, ...] = ()
    published: str = ""
    """When their archives were: the date of a Release file, as 20250301T000000Z."""

    def write_tar(self, destination: Path, spec: TreeSpec, packages: Path | None) -> None:  # noqa: ARG002 - whole
        """Copies the tar file of the whole root."""
        # A copy, not a hard link: what lies in an output folder is the user's to change.
        shutil.copyfile(self.tar, destination)


def assembler_command(directory: Path, spec: TreeSpec, arch: Arch) -> tuple[str, ...]:
    """The command that runs the interpreter of `spec` in the root filesystem `directory` in its place.

    Neither chroot nor root is needed: the base's own loader starts it, with the base's libraries. `arch` must
    be this machine's. Behind the command go the program and its arguments.
    """
    root = Root(directory)
    interpreter = find_interpreter(root, spec.python_path, arch, spec.base)
    if directory == Path("/"):
        return (interpreter.path, *ISOLATED)
    libraries = [root.real(folder) for folder in default_folders(arch)]
    python = str(root.host(root.resolve(spec.python_path).path))
    return (
        str(root.host(root.resolve(interpreter.loader).path)),
        # sys.prefix, and so the standard library, is found from argv[0].
        *("--argv0", python),
        *("--library-path", ":".join(str(root.host(real)) for real in dict.fromkeys(libraries) if real)),
        python,
        *ISOLATED,
    )
