"""The closure against real packages: glibc's loader in a chroot, Debian's numpy, find_library in a jail."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from builder.arch import host_arch
from builder.bases import find_suite
from builder.rules import tree_rules
from builder.tree.closure import check_closure
from builder.tree.contents import tree_contents
from builder.tree.elf import is_elf
from builder.tree.folders import loader_folders
from builder.tree.libraries import LibrarySearch
from builder.tree.root import Root
from builder.tree.spec import TreeSpec
from builder.tree.write import copy_contents
from tests.suite.place import Place
from tests.suite.shelf import built_root, debian_packages, locked_packages

ARCH = host_arch()
CHROOT = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); os.execve(sys.argv[2], sys.argv[2:], {})"
TRACE = CHROOT.replace("{}", "{'LD_TRACE_LOADED_OBJECTS': '1'}")
WHEELS = ("numpy", "pillow", "lxml", "shapely", "psycopg2-binary", "scikit-learn", "duckdb")


def in_root(top: Path, command: Iterable[str], program: str = CHROOT) -> subprocess.CompletedProcess[str]:
    """Runs a command in a chroot, as root of this machine or of a user namespace."""
    prefix = [] if os.getuid() == 0 else ["unshare", "--map-root-user"]
    words = [*prefix, sys.executable, "-c", program, str(top), *command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def loader_says(top: Path, jail_path: str) -> tuple[set[str], set[str], set[tuple[str, str]]]:
    """(libraries, missing ones, missing versions and who needs them) of glibc's own loader."""
    done = in_root(top, [ARCH.loader, jail_path], TRACE)
    found = set(re.findall(r"^\t(?:\S+ => )?(/.*) \(0x", done.stdout, re.MULTILINE))
    missing = set(re.findall(r"^\t(\S+) => not found", done.stdout, re.MULTILINE))
    versions = set(re.findall(r": version [`'](\S+)' not found \(required by (\S+)\)", done.stderr))
    return found, missing, versions


def search_says(search: LibrarySearch, jail_path: str) -> tuple[set[str], set[str], set[tuple[str, str]]]:
    """The same from us."""
    needs = search.needs(jail_path)
    missing = {one.soname for one in needs.missing if one.version is None}
    versions = {(one.version, one.chain[-1]) for one in needs.missing if one.version is not None}
    return set(needs.found), missing, versions


def elf_files(top: Path, *folders: str) -> list[str]:
    """The ELF files in folders of a root, by jail path."""
    paths = [path for folder in folders for path in sorted((top / folder).rglob("*.so*"))]
    return [f"/{path.relative_to(top)}" for path in paths if path.is_file() and is_elf(path)]


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder of packages from PyPI."""
    return locked_packages(WHEELS)


@pytest.fixture(scope="module")
def trixie() -> Path:
    """A root with Debian's interpreter and its numpy."""
    packages = (*find_suite("trixie").packages, "python3-numpy", "libblas3", "liblapack3")
    return debian_packages("closure", packages)


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_every_file_of_real_packages_is_resolved_as_the_loader_resolves_it(
    tmp_path: Path, packages: Path, trixie: Path, suite: str
) -> None:
    """The same libraries at the same paths, the same missing ones, the same missing versions of glibc."""
    top = tmp_path / "root"
    source = trixie if suite == "trixie" else debian_packages("old", ("base-files", "libc6", "zlib1g"), suite)
    subprocess.run(["cp", "-al", source, top], check=True)
    subprocess.run(["cp", "-al", packages, top / "packages"], check=True)
    shutil.copytree(trixie / "usr/lib/python3.13/lib-dynload", top / "opt/dynload")
    shutil.copytree(trixie / "usr/lib" / ARCH.triplet, top / "opt/lib", symlinks=True)
    root = Root(top)
    defaults = loader_folders(root, ARCH.loader)
    search = LibrarySearch(root, ARCH, defaults, defaults=defaults)
    loader = root.real(ARCH.loader)
    lacking = 0
    files = elf_files(top, "packages", "opt")
    assert len(files) > 200
    for jail_path in files:
        truth, ours = loader_says(top, jail_path), search_says(search, jail_path)
        for found in (truth[0], ours[0]):
            found.difference_update([path for path in found if root.real(path) == loader])
        assert ours == truth, jail_path
        lacking += bool(ours[2])
    assert (lacking > 20) is (suite == "bookworm")


def test_debians_numpy_works_though_no_script_made_its_links(trixie: Path, tmp_path: Path) -> None:
    """libblas.so.3 and liblapack.so.3 are update-alternatives' links, which an extracted base lacks."""
    assert not (trixie / "usr/lib" / ARCH.triplet / "libblas.so.3").is_symlink()
    # Nothing is compiled here, so every module has its source.
    rules = tree_rules() | {"sourceless": ()}
    spec = TreeSpec(ARCH.name, "debian:trixie", find_suite("trixie").python_path, None, **rules)
    root = Root(trixie)
    contents = tree_contents(spec, root, lambda _: None)
    assert contents.warnings == ()
    tree = tmp_path / "tree"
    tree.mkdir()
    copy_contents(contents, root, tree, 0, lambda _: None)
    code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import numpy; "
    code += "print(numpy.linalg.solve([[2.0, 1.0], [1.0, 3.0]], [3.0, 4.0]))"
    python = [contents.interpreter.path, "-I", "-S", "-B", "-c", code, json.dumps(contents.sys_path)]
    done = in_root(tree, python)
    assert (done.stdout, done.stderr) == ("[1. 1.]\n", "")

    finished = Root(tree)
    assert check_closure(finished, ARCH, contents.interpreter.path, ()) == ()
    blas = next(path for path in contents.files if "/libblas.so.3" in path)
    finished.host(blas).unlink()
    (missing,) = check_closure(finished, ARCH, contents.interpreter.path, ())
    assert missing.soname == "libblas.so.3"
    assert "libblas.so.3: cannot open shared object file" in in_root(tree, python).stderr


def test_find_library_works_in_the_jail() -> None:
    """By the tree's own cache: what is found can be opened, what is not there is None, nothing is denied."""
    code = """
import ctypes, ctypes.util
for name in ("c", "ssl", "stdc++", "nothing"):
    found = ctypes.util.find_library(name)
    print(name, found, found and bool(ctypes.CDLL(found)))
"""
    done = Place(built_root()).run(code)
    assert (done.exit_code, done.stderr, done.denied) == (0, "", ())
    assert done.stdout == "c libc.so.6 True\nssl libssl.so.3 True\nstdc++ None None\nnothing None None\n"
