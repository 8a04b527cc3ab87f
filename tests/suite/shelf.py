"""What the suites need from outside: images, built now, and Debian's packages, kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder import jailrun
from builder.arch import Arch, host_arch

_REPOSITORY = Path(__file__).parents[2]
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sandbox-build" / "for-tests"
_MAX_AGE_S = 24 * 3600
"""As old as the packages of an image may be."""

SHIPPED = _REPOSITORY / "config.yaml"
QUICK = Path(__file__).parent / "quick.yaml"
"""An image with a selection of small packages."""
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


@dataclass(frozen=True)
class Wheel:
    """One line of wheels.txt: a distribution, pinned."""

    name: str
    version: str
    hashes: tuple[str, ...]
    """SHA-256 of its file for either architecture."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version} {' '.join(f'--hash=sha256:{one}' for one in self.hashes)}"


def unpack_wheels(wheels: Iterable[Wheel], target: Path) -> None:
    """Puts the packages of `wheels` into the folder `target`; what is not in the cache is fetched."""
    wheels = list(wheels)
    folder = _CACHE / "wheels"
    with _locked(folder):
        folder.mkdir(exist_ok=True)
        if missing := [wheel for wheel in wheels if _file(folder, wheel) is None]:
            _download(missing, folder)
        for wheel in wheels:
            path = _file(folder, wheel)
            if path is None:
                raise SystemExit(
                    f"error: {wheel.name} {wheel.version} was not fetched with the hash of wheels.txt"
                )
            _unpack(path, target)


def _file(folder: Path, wheel: Wheel) -> Path | None:
    """The file of `wheel`, if it is there and whole."""
    for path in folder.iterdir():
        name, version = path.name.removesuffix(".tar.gz").split("-")[:2]
        if (_plain(name), version) == (_plain(wheel.name), wheel.version) and (
            hashlib.sha256(path.read_bytes()).hexdigest() in wheel.hashes
        ):
            return path
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _download(wheels: Sequence[Wheel], folder: Path) -> None:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[host_arch().name]
    platforms = [f"--platform=manylinux_2_{n}_{machine}" for n in (28, 27, 26, 24, 17)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.writelines(f"{wheel.requirement}\n" for wheel in wheels)
        requirements.flush()
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"),
                *("--python-version=3.13", "--implementation=cp", "--abi=cp313", "--abi=abi3", "--abi=none"),
                *platforms,
                f"--platform=manylinux2014_{machine}",
                # jieba has no wheel; it is pure Python.
                *("--only-binary=:all:", "--no-binary=jieba"),
                *(f"--dest={folder}", f"--requirement={requirements.name}"),
            ],
            check=True,
        )


def _unpack(path: Path, target: Path) -> None:
    if path.name.endswith(".whl"):
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(target)
        return
    with tarfile.open(path) as source, tempfile.TemporaryDirectory() as temporary:
        source.extractall(temporary, filter="data")
        package = path.name.split("-")[0]
        (unpacked,) = Path(temporary).iterdir()
        shutil.copytree(unpacked / package, target / package)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time has `path`."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
