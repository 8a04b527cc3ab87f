"""This machine's own interpreter as base."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.arch import Arch, host_arch
from builder.base.debian_package import DebianPackage
from builder.errors import UsageError
from builder.layers import write_layer
from builder.progress import Progress
from builder.tree.contents import tree_contents
from builder.tree.owners import OS_RELEASE, dpkg_database, find_owners
from builder.tree.root import Root, is_below
from builder.tree.spec import PACKAGES_PATH, TreeSpec
from builder.tree.write import copy_contents

_READ = ("/etc/ld.so.conf", "/etc/ld.so.conf.d", *OS_RELEASE)
"""Read to find libraries, and to name the distribution: not part of the tree."""


@dataclass(frozen=True)
class HostRootfs:
    """The root filesystem of this machine."""

    progress: Progress
    directory: Path = Path("/")
    identity: str = field(default_factory=secrets.token_hex)
    """Never the same: what is installed on this machine may have changed since the last build."""
    cached_age_s: float | None = None
    packages: tuple[DebianPackage, ...] = ()

    def write_tar(self, destination: Path, spec: TreeSpec, packages: Path | None) -> None:
        """Writes the files that the tree of `spec` is made of, and nothing else of this machine."""
        root = Root(self.directory, packages)
        contents = tree_contents(spec, root, self.progress.detail)
        # The warnings come when the tree is assembled from this tar, which must then have all sources, and
        # nothing yet that the assembler adds to a base.
        contents = replace(
            contents,
            files=frozenset(path for path in contents.files if not is_below(path, PACKAGES_PATH)),
            directories=frozenset(path for path in contents.directories if not is_below(path, PACKAGES_PATH)),
            links={link: says for link, says in contents.links.items() if not is_below(link, PACKAGES_PATH)},
            texts={path: text for path, text in contents.texts.items() if path not in contents.files},
            sourceless=frozenset(),
        )
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".host-") as scratch:
            folder = Path(scratch)
            copy_contents(contents, root, folder, spec.epoch, self.progress.detail)
            for jail_path in _READ:
                real = root.real(jail_path)
                if real is not None:
                    copy = shutil.copytree if root.is_dir(real) else shutil.copyfile
                    copy(root.host(real), folder / jail_path[1:])
            # Which package owns what, and no other of this machine's packages.
            for jail_path, text in dpkg_database(find_owners(contents, root, spec.arch)).items():
                (folder / jail_path[1:]).parent.mkdir(parents=True, exist_ok=True)
                (folder / jail_path[1:]).write_bytes(os.fsencode(text))
            write_layer(folder, destination, epoch=spec.epoch)


class HostBase:
    """This machine, for its own architecture only."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def rootfs(self, arch: Arch) -> HostRootfs:
        """This machine's root filesystem; UsageError (exit 2) for another architecture than its own."""
        if arch != host_arch():
            raise UsageError(
                f"base: host cannot give an image for {arch.name}: this machine is {host_arch().name}",
                f"use base: debian:trixie, or build with --arch {host_arch().name}",
            )
        return HostRootfs(self._progress)

    def build_rootfs(self) -> HostRootfs:
        """This machine's root filesystem."""
        return self.rootfs(host_arch())
