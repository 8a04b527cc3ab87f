"""A library that the base lacks: the build says so, and what it says mends it, followed to the letter."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from builder.arch import host_arch
from builder.bases import find_suite
from builder.cli_options import cache
from builder.config import load_config
from builder.errors import BuildError, LibrariesMissing
from builder.packages import lock_path, open_packages, read_inputs, read_lock
from builder.plan import make_plan
from builder.progress import Progress
from builder.supplement import Supplement
from builder.tree.closure import RULE
from builder.tree.contents import Contents, tree_contents
from builder.tree.root import Root
from builder.tree.spec import TreeSpec
from tests.integration.debianarchive import Archive, serving
from tests.suite.shelf import QUICK, SHIPPED

ARCH = host_arch()
QUIET = Progress(quiet=True)
CXX = "libstdc++6"
"""Debian's package of the C++ library, which no base has by itself."""


@dataclass(frozen=True)
class Debian:
    """Debian's packages that a base is made of, and the root filesystem that they make."""

    directory: Path

    @classmethod
    def fetch(cls, directory: Path) -> Debian:
        packages = ",".join((*find_suite("trixie").packages, CXX))
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--mode=chrootless", "--variant=extract", "--format=directory"),
                *("--skip=cleanup", f"--include={packages}", "trixie", directory),
            ],
            check=True,
        )
        return cls(directory)

    def package(self, name: str) -> Path:
        """The file of one package."""
        (found,) = (self.directory / "var/cache/apt/archives").glob(f"{name}_*.deb")
        return found

    def contents(self) -> dict[str, list[str]]:
        """Package -> the shared libraries in it, as Debian's index of files spells them."""
        found = {}
        for package in sorted((self.directory / "var/cache/apt/archives").glob("*.deb")):
            done = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True)
            paths = (line.split()[5].removeprefix("./") for line in done.stdout.splitlines())
            found[package.name.partition("_")[0]] = [path for path in paths if ".so" in path]
        return found


@dataclass
class Base:
    """A root in which nothing is missing, to take libraries out of and to put packages back into."""

    config_path: Path
    spec: TreeSpec
    root: Root
    debian: Debian

    def contents(self) -> Contents:
        return tree_contents(self.spec, self.root, lambda _: None)

    def lose(self, jail_path: str) -> None:
        """Takes out a library: the name that the loader opens, and the file that it leads to."""
        real = self.root.real(jail_path)
        assert real is not None
        for path in {jail_path, real}:
            self.root.host(path).unlink()

    def install(self, package: str) -> None:
        """Puts in what is in one Debian package."""
        subprocess.run(["dpkg-deb", "-x", self.debian.package(package), self.root.directory], check=True)

    def hint(self, missing: LibrariesMissing, mirror: str, folder: Path) -> str:
        """What a build with `libraries: strict` says to do."""
        changes = {"libraries": "strict", "base_mirror": mirror}
        config = load_config(self.config_path, {})[0].model_copy(update=changes)
        with pytest.raises(LibrariesMissing) as told:
            Supplement(config, ARCH, "", folder, QUIET, refresh=False).add(missing)
        assert told.value.hint is not None
        return told.value.hint


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    folder = tmp_path_factory.mktemp("debian") / "root"
    yield Debian.fetch(folder)
    shutil.rmtree(folder)


@pytest.fixture(params=[QUICK, SHIPPED], ids=["quick", "shipped"])
def base(request: pytest.FixtureRequest, debian: Debian, tmp_path: Path) -> Iterator[Base]:
    """What an image is made of: that of quick.yaml, or that of the shipped config."""
    config, _ = load_config(request.param, {})
    inputs = read_inputs(config, request.param, (ARCH,), "3.13")
    packages = None
    if inputs is not None:
        locked = read_lock(lock_path(request.param), inputs)
        packages = open_packages(
            *(locked, ARCH), cache=cache(), progress=QUIET, wheelhouse=None, index=True
        ).directory
    root = tmp_path / "root"
    subprocess.run(["cp", "-al", debian.directory, root], check=True)
    spec = make_plan(config, ARCH, python_version="3.13" if inputs else None).spec
    yield Base(request.param, spec, Root(root, packages), debian)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def mirror(debian: Debian, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An archive whose index of files is that of the packages of the base."""
    contents = debian.contents()
    lines = "".join(f"{path}    libs/{package}\n" for package, paths in contents.items() for path in paths)
    archive = Archive(tmp_path_factory.mktemp("archive"), sorted(contents), lines)
    with serving(archive) as line:
        archive.publish()
        yield line


def test_whichever_library_is_missing_the_hint_mends_it(base: Base, mirror: str, tmp_path: Path) -> None:
    """It is named with who needs it; with the package that the hint has, nothing is missing any more.

    Of libraries that lie in folders of their own no index can tell, so those the hint makes optional.
    """
    before = base.contents()
    assert before.warnings == ()
    loader = base.root.real(ARCH.loader)
    taken = {
        path: by
        for path, by in before.needed_by.items()
        if not path.startswith("/packages/") and not by[0].startswith(RULE) and base.root.real(path) != loader
    }
    assert len(taken) >= 12
    for path, needers in taken.items():
        soname = path.rpartition("/")[2]
        base.lose(path)
        if soname == "libuuid.so.1":  # tree.yaml lets the module that needs it go: uuid does without
            (warning,) = base.contents().warnings
            assert soname in warning
            base.install("libuuid1")
            continue
        with pytest.raises(LibrariesMissing) as caught:
            base.contents()
        (lost,) = (one for one in caught.value.missing if one.soname == soname)
        assert base.root.real(lost.chain[-1]) in needers
        assert str(lost) in caught.value.message
        hint = base.hint(caught.value, mirror, tmp_path / "cache")
        told = yaml.safe_load(hint.partition(", if nothing ever loads ")[0])
        if "/gconv/" in path:
            assert list(told) == ["optional_libraries"]
            base.spec = replace(base.spec, optional_libraries=tuple(told["optional_libraries"]))
            assert [soname in warning for warning in base.contents().warnings] == [True]
            base.install("libc6")
            continue
        assert list(told) == ["base_packages"], f"{soname}: {hint}"
        for package in told["base_packages"]:
            base.install(package)
        assert base.contents() == before, soname


def test_without_the_loader_there_is_no_interpreter(base: Base) -> None:
    """It is no library among others."""
    base.lose(ARCH.loader)
    with pytest.raises(BuildError, match=f"{ARCH.loader}, which the interpreter needs, is not in"):
        base.contents()


def test_libraries_of_rules_that_no_file_asks_for_may_be_missing(base: Base) -> None:
    """The tree is then the same without them: an older or another base may never have had them."""
    before = base.contents()
    original = Root(base.debian.directory)
    lone = {path for path, by in before.needed_by.items() if by[0].startswith(RULE)}
    names = {path.rpartition("/")[2] for path in lone}
    assert {"libnss_files.so.2", "libnss_dns.so.2"} <= names
    for path in lone:
        base.lose(path)
    after = base.contents()
    assert before.files - after.files == {original.real(path) for path in lone}
    assert after.warnings == ()
