"""What the suites need from outside: images, built now, and Debian's packages, kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from builder import jailrun
from builder.arch import Arch, host_arch
from builder.bases import python_version
from builder.cli_options import cache
from builder.config import load_config, parse_base
from builder.packages import lock_path, open_packages, read_inputs, read_lock
from builder.progress import Progress

_REPOSITORY = Path(__file__).parents[2]
_CACHE = cache() / "for-tests"
_MAX_AGE_S = 24 * 3600
"""As old as the packages of an image may be."""

SHIPPED = _REPOSITORY / "config.yaml"
QUICK = Path(__file__).parent / "quick.yaml"
"""An image with a selection of small packages."""
WARM = Path(__file__).parent / "warm.yaml"
"""An image with numpy and pandas in `warm:`."""
EVERYTHING = Path(__file__).parent / "everything.yaml"
"""An image with every library of uses/."""


def build(
    config: Path, output: Path, *arches: Arch, env: dict[str, str] | None = None, quiet: bool = False
) -> None:
    """Builds the images of `config` into `output`, as a user does; stderr has the progress."""
    subprocess.run(
        [
            *(sys.executable, "-m", "builder", "--driver=oci", f"--config={config}", f"--output={output}"),
            *(f"--arch={arch.name}" for arch in arches),
        ],
        cwd=_REPOSITORY,
        env=os.environ | (env or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
        check=True,
    )


def built_root(config: Path = SHIPPED, folder: Path | None = None) -> Path:
    """The root of the image of `config` for this machine, built now and unpacked.

    In `folder`, or in the cache, which keeps it: no place for large ones.
    """
    with scratch() as output:
        build(config, output, host_arch())
        return jailrun.unpack(output / host_arch().name / "image.tar", folder or _CACHE)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder with room for a large image, which /tmp in memory has not."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE, prefix="scratch-") as folder:
        yield Path(folder)


def debian_packages(name: str, packages: Sequence[str], suite: str = "trixie") -> Path:
    """A root filesystem of these packages and what they depend on, at most a day old."""
    facts = hashlib.sha256("\n".join((suite, *packages)).encode()).hexdigest()[:16]
    folder = _CACHE / f"{name}-{host_arch().name}-{facts}"
    with _locked(folder):
        if folder.is_dir() and time.time() - folder.stat().st_mtime < _MAX_AGE_S:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as temporary:
            subprocess.run(
                [
                    *(
                        "mmdebstrap",
                        "--quiet",
                        "--mode=chrootless",
                        "--variant=extract",
                        "--format=directory",
                    ),
                    *(f"--include={','.join(packages)}", suite, f"{temporary}/root"),
                ],
                check=True,
            )
            os.utime(f"{temporary}/root")
            Path(temporary, "root").rename(folder)
    return folder


def locked_packages(names: Collection[str]) -> Path:
    """A folder with packages of everything.lock, without what they depend on, as a build installs them."""
    config, _ = load_config(EVERYTHING, {})
    arch = host_arch()
    inputs = read_inputs(config, EVERYTHING, (arch,), python_version(parse_base(config.base), None, None))
    assert inputs is not None
    locked = read_lock(lock_path(EVERYTHING), inputs)
    pins = tuple(pin for pin in locked.pins[arch.name] if pin.name in names)
    assert len(pins) == len(names)
    some = replace(locked, pins={arch.name: pins}, sources={})
    progress = Progress(quiet=True)
    return open_packages(some, arch, cache=cache(), progress=progress, wheelhouse=None, index=True).directory


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time has `path`."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
