"""Debian's kernels for both architectures, of one version, fetched once and kept in the cache."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from builder.arch import ARCHES, Arch
from builder.cli_options import cache
from builder.command import run
from builder.progress import Progress
from builder.shelf import Shelf

SUITE = "trixie"
_FORMAT = 1
"""Counts up when what is kept of a package is something else."""

# $1 is the root that mmdebstrap has made, with lists of packages and nothing else. Nothing is run of it.
_FETCH = """
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$1/fetched"
cd "$1/fetched"
for arch in {arches}; do
    image=$(apt-cache depends --important "linux-image-$arch:$arch" |
        sed -n 's/.*Depends: //p' | grep ^linux-image-)
    apt-get --option APT::Sandbox::User=root download "$image"
done
"""


def kernel(arch: Arch) -> Path:
    """The kernel for `arch`, as Debian has it, with the drivers of virtio's PCI devices built in."""
    shelf = Shelf(cache(), "kernels", Progress(verbose=False))
    return shelf.open(f"{SUITE}-{_FORMAT}", _fetch) / arch.name


def _fetch(folder: Path) -> None:
    """Puts one kernel per architecture into `folder`, each called by its architecture's name."""
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / "root"
        run(
            [
                *("mmdebstrap", "--mode=chrootless", "--variant=custom", "--format=directory"),
                f"--architectures={','.join(ARCHES)}",
                f"--customize-hook={_FETCH.format(arches=' '.join(ARCHES))}",
                *(SUITE, str(root)),
            ],
            missing="apt-get install mmdebstrap",
        )
        for package in sorted((root / "fetched").iterdir()):
            arch = package.stem.rpartition("_")[2]
            unpacked = Path(work) / arch
            subprocess.run(["dpkg-deb", "--extract", package, unpacked], check=True)
            (found,) = (unpacked / "boot").glob("vmlinuz-*")
            shutil.move(found, folder / arch)
    missing = ARCHES.keys() - {path.name for path in folder.iterdir()}
    assert not missing, f"no kernel of Debian's for {missing}"
