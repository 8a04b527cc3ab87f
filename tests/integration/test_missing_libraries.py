"""A library that the base lacks: the build says so, and what it says mends it when it is followed to the letter."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from builder.arch import host_arch
from builder.base import open_base
from builder.bases import find_suite
from builder.cli_options import cache
from builder.config import load_config, parse_base
from builder.errors import BuildError, LibrariesMissing
from builder.packages import lock_path, open_packages, read_inputs, read_lock
from builder.plan import make_plan
from builder.progress import Progress
from builder.supplement import Supplement
from builder.tree.closure import RULE
from builder.tree.contents import Contents, tree_contents
from builder.tree.root import Root
from builder.tree.spec import TreeSpec
from tests.conftest import Result, sandbox_build
from tests.fakeroot import elf
from tests.suite.shelf import QUICK, SHIPPED
from tests.wheels import wheel

ARCH = host_arch()
QUIET = Progress(quiet=True)
CXX = "libstdc++6"
"""Debian's package of the C++ library, which no base has by itself."""


# Every library, one by one


@dataclass
class Whole:
    """A base in which nothing is missing, to take libraries out of and put packages back into."""

    config_path: Path
    spec: TreeSpec
    root: Root
    source: Path
    """The same base, as it was."""

    @classmethod
    def open(cls, config_path: Path, folder: Path, *more: str) -> Whole:
        """The base of a config, with the Debian packages `more`, copied into `folder` by hard links."""
        config, _ = load_config(config_path, {})
        packages = None
        inputs = read_inputs(config, config_path, (ARCH,), "3.13")
        if inputs is not None:
            locked = read_lock(lock_path(config_path), inputs)
            packages = open_packages(
                *(locked, ARCH), cache=cache(), progress=QUIET, wheelhouse=None, index=True
            ).directory
        base = parse_base(config.base)
        opened = open_base(
            *(base,), packages=more, mirror=None, cache=cache(), refresh=False, progress=QUIET
        ).rootfs(ARCH)
        assert opened is not None
        subprocess.run(["cp", "-al", opened.directory, folder], check=True)
        spec = make_plan(config, ARCH, python_version="3.13" if inputs else None).spec
        return cls(config_path, spec, Root(folder, packages), opened.directory)

    def contents(self) -> Contents:
        return tree_contents(self.spec, self.root, lambda _: None)

    def lose(self, jail_path: str) -> None:
        """Takes out a library: the name that the loader opens, and the file that it leads to."""
        real = self.root.real(jail_path)
        assert real is not None
        for path in {jail_path, real}:
            self.root.host(path).unlink()

    def install(self, package: str) -> None:
        """Puts back the files of one Debian package; dpkg's own list says which they are."""
        info = self.source / "var/lib/dpkg/info"
        (listed,) = (path for path in info.iterdir() if path.name in _lists(package))
        here = Root(self.source)
        for line in listed.read_text().splitlines():
            # Debian's packages say /lib, and /usr/lib is meant.
            path = here.resolve(line, follow_last=False).path if line != "/." else "/"
            host = here.host(path)
            if (host.is_symlink() or host.is_file()) and not os.path.lexists(self.root.host(path)):
                os.link(host, self.root.host(path), follow_symlinks=False)

    def hint(self, missing: LibrariesMissing) -> str:
        """What a build with `libraries: strict` says to do."""
        config = load_config(self.config_path, {})[0].model_copy(update={"libraries": "strict"})
        with pytest.raises(LibrariesMissing) as told:
            Supplement(config, ARCH, "", cache(), QUIET, refresh=False).add(missing)
        assert told.value.hint is not None
        return told.value.hint


def _lists(package: str) -> tuple[str, str]:
    return f"{package}.list", f"{package}:{ARCH.name}.list"


@pytest.fixture(params=["quick", "shipped"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Whole]:
    if request.param == "quick":
        request.getfixturevalue("quick")  # it has its packages and its base in the cache
        made = Whole.open(QUICK, tmp_path / "root", CXX)
    else:
        made = Whole.open(SHIPPED, tmp_path / "root")
    yield made
    shutil.rmtree(made.root.directory)


def test_whichever_library_is_missing_the_hint_mends_it(whole: Whole) -> None:
    """It is named with who needs it; the package that the hint names has it, and with it nothing is missing.

    A rule's library that no file asks for is the exception, and libuuid, without which its module does.
    """
    before = whole.contents()
    assert before.warnings == ()
    taken = {path: by for path, by in before.needed_by.items() if not path.startswith("/packages/")}
    by_rule = {path for path, by in taken.items() if by[0].startswith(RULE)}
    loader = whole.root.real(ARCH.loader)
    asked = sorted(path for path in set(taken) - by_rule if whole.root.real(path) != loader)
    assert len(asked) > 12
    for path in asked:
        soname = path.rpartition("/")[2]
        whole.lose(path)
        if soname == "libuuid.so.1":
            (warning,) = whole.contents().warnings
            assert soname in warning
            whole.install("libuuid1")
            continue
        with pytest.raises(LibrariesMissing) as caught:
            whole.contents()
        lost = [one for one in caught.value.missing if one.soname == soname]
        assert [one.chain[-1] in taken[path] for one in lost] == [True], caught.value.message
        assert soname in caught.value.message
        told = yaml.safe_load(whole.hint(caught.value))
        assert set(told) == {"base_packages"}, (soname, told)
        for package in told["base_packages"]:
            whole.install(package)
        assert whole.contents() == before, soname
    for path in sorted(by_rule):
        if "/gconv/" in path:
            continue
        whole.lose(path)
    assert set(whole.contents().files) <= set(before.files)
