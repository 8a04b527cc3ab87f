"""Real packages of Debian: fetched, kept, assembled for both architectures, run where this machine can."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from builder.arch import ARCHES, host_arch
from builder.base.debian import MAX_AGE_S, DebianBase
from builder.base.rootfs import CachedRootfs
from builder.bases import find_suite
from builder.errors import BuildError
from builder.layers import write_layer
from builder.tree.elf import is_elf, read_elf
from builder.tree.spec import TREE_PATH
from tests.integration.bases import IMPORTS, QUIET, USE, Bases

MB = 1_000_000
COMPRESSED_LIMIT_BYTES = 15 * MB
ON_DISK_LIMIT_BYTES = 45 * MB

OTHER = next(arch for arch in ARCHES.values() if arch != host_arch())


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


SUITES = pytest.mark.parametrize("suite", ["trixie", "bookworm"])


def entries(folder: Path) -> Iterator[Path]:
    """Everything below a folder, no link followed."""
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(here, name)


@pytest.mark.parametrize("arch", ARCHES)
@SUITES
def test_a_tree_of_packages_is_whole(bases: Bases, suite: str, arch: str) -> None:
    """No warning; every ELF file is of the architecture; every link ends in the tree; two programs in all."""
    tree = bases.assembled(suite, ARCHES[arch])
    assert tree.report["warnings"] == []
    assert tree.version == find_suite(suite).python_path.removeprefix("/usr/bin/python")
    files = [path for path in entries(tree.tree) if path.is_file() and not path.is_symlink()]
    elves = [path for path in files if is_elf(path)]
    assert len(elves) > 40
    assert {read_elf(path).machine for path in elves} == {ARCHES[arch].elf_machine}
    for path in entries(tree.tree):
        if path.is_symlink():
            assert path.resolve(strict=True).is_relative_to(tree.tree), path
    programs = {path.name for path in files if path.stat().st_mode & 0o111}
    assert len(programs) == 2
    assert f"python{tree.version}" in programs


@SUITES
def test_every_module_of_the_standard_library_can_be_imported_in_the_tree(bases: Bases, suite: str) -> None:
    """In a chroot of the tree, but for two that ask for a database library that Debian packs apart."""
    count, failed = json.loads(bases.assembled(suite, host_arch()).python(IMPORTS))
    assert count > 400
    assert set(failed) == {"dbm.gnu", "dbm.ndbm"}, failed


@SUITES
def test_what_modules_need_besides_themselves_is_there(bases: Bases, suite: str) -> None:
    """Certificates, zones, name service, codecs, bytecode that is read, sources for tracebacks."""
    tree = bases.assembled(suite, host_arch())
    found = json.loads(tree.python(USE))
    stdlib = f"/usr/lib/python{tree.version}"
    assert found.pop("certificates") > 100
    assert found.pop("path") == tree.report["python"]["sys_path"]
    assert found == {
        "sqlite": 42,
        "ctypes": 5,
        "sha": "a7ffc6f8",
        "decimal": "0.3333",
        "lzma": "x",
        "bz2": "x",
        "offset_h": 2,
        "local": "UTC",
        "zones": True,
        "user": "nobody",
        "https": 443,
        "localhost": "127.0.0.1",
        "docx": True,
        "gbk": True,
        "source line": True,
        "file": f"{stdlib}/json/__init__.py",
        "cached": f"{stdlib}/json/__pycache__/__init__.cpython-{tree.version.replace('.', '')}.pyc",
    }


def test_imports_read_bytecode_and_no_source(bases: Bases) -> None:
    """With every source emptied the modules still import: nothing looks whether a source has changed."""
    tree = bases.assembled("trixie", host_arch())
    copy = bases.folder / "emptied"
    subprocess.run(["cp", "-a", tree.tree, copy], check=True)
    for source in copy.rglob("*.py"):
        # What is built into the interpreter finds its own folder by os.py.
        if source.name != "os.py":
            source.write_text("")
    emptied = replace(tree, image=bases.folder / "emptied-image")
    (emptied.image / TREE_PATH[1:]).parent.mkdir(parents=True)
    copy.rename(emptied.tree)
    assert emptied.python("import asyncio, json, ssl; print(json.dumps([1]))") == "[1]\n"


@pytest.mark.parametrize("arch", ARCHES)
def test_the_default_image_is_small(bases: Bases, arch: str) -> None:
    """The figures of the design: 15 MB compressed, 45 MB on disk, bytecode included."""
    tree = bases.assembled("trixie", ARCHES[arch])
    layer = bases.folder / f"{arch}.tar"
    write_layer(tree.image, layer, epoch=0)
    compressed = len(gzip.compress(layer.read_bytes(), 9))
    on_disk = sum(path.lstat().st_blocks * 512 for path in entries(tree.image))
    assert compressed <= COMPRESSED_LIMIT_BYTES
    assert on_disk <= ON_DISK_LIMIT_BYTES


def test_two_trees_of_the_same_packages_are_the_same_but_for_machine_code(bases: Bases) -> None:
    """Bytecode does not depend on the architecture; the other one is assembled with no emulation."""
    own, other = (bases.assembled("trixie", arch).tree for arch in (host_arch(), OTHER))

    def compiled(tree: Path) -> dict[str, bytes]:
        return {
            str(p.relative_to(tree)): p.read_bytes()
            for p in tree.rglob("*.pyc")
            if "_sysconfig" not in p.name
        }

    assert compiled(own) == compiled(other)
    assert len(compiled(own)) > 300


def test_libraries_outside_the_default_folders_are_found_by_the_cache(bases: Bases) -> None:
    """A library in /usr/local/lib, where images have libpython: the loader finds it by the cache alone."""
    arch = host_arch()
    root = bases.folder / "local-root"
    subprocess.run(["cp", "-a", bases.open("trixie").rootfs(arch).directory, root], check=True)
    library = root / f"usr/lib/{arch.triplet}/libz.so.1"
    moved = root / "usr/local/lib/libz.so.1"
    moved.parent.mkdir(parents=True, exist_ok=True)
    library.resolve().rename(moved)
    library.unlink()
    (root / "etc/ld.so.conf").write_text("/usr/local/lib\n")
    tree = bases.assemble("trixie", arch, root, name="local")
    assert tree.python("import zlib; print(zlib.crc32(b'x'))") == "2363233923\n"
    (tree.tree / "etc/ld.so.cache").unlink()
    command = ["chroot", str(tree.tree), tree.report["python"]["path"], "-c", ""]
    without = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "libz.so.1: cannot open shared object file" in without.stderr


@SUITES
def test_packages_are_unpacked_as_mmdebstrap_unpacks_them(bases: Bases, suite: str) -> None:
    """The same packages, the same files, links and modes; but for what is of the machine, and dpkg's."""
    ours = bases.open(suite).rootfs(host_arch())
    theirs = bases.folder / f"mmdebstrap-{suite}"
    packages = f"--include={','.join(sorted(find_suite(suite).packages))}"
    command = ["mmdebstrap", "--quiet", "--mode=chrootless", "--variant=extract", "--format=directory"]
    subprocess.run([*command, "--skip=cleanup/apt/cache", packages, suite, theirs], check=True)
    files = {unquote(path.stem) for path in (theirs / "var/cache/apt/archives").glob("*.deb")}
    assert files == {f"{one.name}_{one.version}_{one.architecture}" for one in ours.packages}

    def listing(root: Path) -> dict[str, tuple[int, object]]:
        found: dict[str, tuple[int, object]] = {}
        for path in entries(root):
            name, mode = str(path.relative_to(root)), path.lstat().st_mode
            if not name.startswith(MMDEBSTRAPS_OWN):
                content = path.read_bytes() if stat.S_ISREG(mode) else None
                found[name] = (mode, path.readlink() if path.is_symlink() else content)
        return found

    assert listing(ours.directory) == listing(theirs)


MMDEBSTRAPS_OWN = (
    *("dev", "proc", "tmp", "var/lib/apt", "var/cache/apt", "var/lib/dpkg/", "var/log"),
    *("etc/apt/preferences.d", "etc/apt/sources.list", "etc/fstab", "etc/hostname", "etc/resolv.conf"),
)
"""What mmdebstrap leaves of itself, or copies from where it runs; and what only one of the two makes."""


def test_an_ordinary_user_fetches_the_same_files(bases: Bases) -> None:
    """Fetched by a user who is not root, packages are the same tar: no file is lost for want of rights."""
    own = bases.open("trixie").rootfs(host_arch())
    with tempfile.TemporaryDirectory(prefix="ordinary-") as folder:
        os.chown(folder, 65534, 65534)
        child = multiprocessing.get_context("fork").Process(target=fetch_as_nobody, args=(folder,))
        child.start()
        child.join()
        assert child.exitcode == 0
        (tar,) = Path(folder).glob("cache/debian/*/rootfs.tar")
        assert tar.stat().st_uid == 65534
        assert tar.read_bytes() == own.tar.read_bytes()


def fetch_as_nobody(folder: str) -> None:
    """In a process of its own."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    os.environ["HOME"] = folder
    DebianBase("trixie", mirror=None, cache=Path(folder) / "cache", refresh=False, progress=QUIET).rootfs(
        host_arch()
    )


def test_what_was_fetched_is_taken_again_until_it_is_refreshed(bases: Bases) -> None:
    """What apt chose is said to be as old as it is; --no-cache asks Debian anew, once in a process."""
    arch = host_arch()
    first = bases.open("trixie").rootfs(arch)
    again = bases.open("trixie").rootfs(arch)
    assert (again.directory, again.identity) == (first.directory, first.identity)
    assert again.cached_age_s is not None
    assert 0 < again.cached_age_s < 3600
    # Chosen by this very process: new enough for --no-cache.
    assert bases.open("trixie", refresh=True).rootfs(arch).cached_age_s is not None
    code = f"from tests.integration.test_base_debian import fetch; fetch({str(bases.cache)!r}, True)"
    refreshed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert refreshed.stdout.split() == [first.identity, "None"], "the same packages, asked for anew"


def test_what_was_chosen_a_day_ago_is_chosen_anew(bases: Bases) -> None:
    """Security updates of Debian are to be in an image within a day."""
    arch = host_arch()
    bases.open("trixie").rootfs(arch)
    for path in (bases.cache / "debian-packages").glob("*.json"):
        known = json.loads(path.read_text())
        path.write_text(json.dumps(known | {"time_ns": time.time_ns() - MAX_AGE_S * 10**9}))
    assert bases.open("trixie").rootfs(arch).cached_age_s is None
    assert bases.open("trixie").rootfs(arch).cached_age_s is not None


def fetch(cache: str, refresh: bool) -> None:
    """Fetches trixie, and prints which it was and how long ago that was chosen."""
    base = DebianBase("trixie", mirror=None, cache=Path(cache), refresh=refresh, progress=QUIET)
    rootfs: CachedRootfs = base.rootfs(host_arch())
    assert (rootfs.directory / "usr/bin/python3.13").is_file()
    assert rootfs.tar.is_file()
    print(rootfs.identity, rootfs.cached_age_s)


def names(cache: Path) -> list[str]:
    """The entries of the cache, whole ones and others."""
    return sorted(path.name for path in cache.glob("debian/*") if path.is_dir())


def test_two_builds_at_once_fetch_once(tmp_path: Path) -> None:
    """One fetches, the other waits and takes what the first one fetched."""
    code = f"from tests.integration.test_base_debian import fetch; fetch({str(tmp_path)!r}, False)"
    command = [sys.executable, "-c", code]
    builds = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [build.communicate()[0].split() for build in builds]
    assert [build.returncode for build in builds] == [0, 0]
    assert said[0][0] == said[1][0]
    assert [one[1] for one in said].count("None") == 1, "only one asked Debian"
    assert names(tmp_path) == [said[0][0]]


def test_an_entry_that_nobody_uses_any_more_goes_when_a_new_one_comes(tmp_path: Path) -> None:
    """The cache does not grow with every day."""
    arch = host_arch()
    facts = {"mirror": None, "cache": tmp_path, "refresh": False, "progress": QUIET}
    first = DebianBase("trixie", **facts).rootfs(arch)  # type: ignore[arg-type]
    long_ago = time.time() - 4 * 24 * 3600
    os.utime(first.directory.parent, (long_ago, long_ago))
    second = DebianBase("trixie", packages=["libgomp1"], **facts).rootfs(arch)  # type: ignore[arg-type]
    assert names(tmp_path) == [second.identity]


def test_a_mirror_that_cannot_be_reached_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The message has what mmdebstrap said; the cache has no half of an entry."""
    base = DebianBase(
        "trixie", mirror="http://127.0.0.1:9/debian", cache=tmp_path, refresh=False, progress=QUIET
    )
    with pytest.raises(BuildError, match="Connection refused") as failure:
        base.rootfs(host_arch())
    assert "127.0.0.1:9" in str(failure.value.hint)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".lock"}


def test_a_package_that_debian_does_not_have_is_an_error_that_names_it(tmp_path: Path) -> None:
    base = DebianBase(
        "trixie", mirror=None, cache=tmp_path, refresh=False, progress=QUIET, packages=["no-such-thing"]
    )
    with pytest.raises(BuildError, match="Debian has no package no-such-thing") as failure:
        base.rootfs(host_arch())
    assert "apt-cache search no-such-thing" in str(failure.value.hint)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fetch_is_no_entry(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C leaves nothing; what a killed build left is cleared away by the next one, and never used."""
    code = f"from tests.integration.test_base_debian import fetch; fetch({str(tmp_path)!r}, False)"
    build = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.DEVNULL,
        process_group=0,
        cwd=Path(__file__).parents[2],
    )
    while not list(tmp_path.glob("debian/new-*/rootfs/var")):
        assert build.poll() is None
        time.sleep(0.02)
    os.killpg(build.pid, number)
    build.wait()
    assert len(names(tmp_path)) == (number == signal.SIGKILL)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert names(tmp_path) == [done.stdout.split()[0]]


@pytest.mark.parametrize("arch", ARCHES)
def test_the_tar_holds_the_packages_and_nothing_of_this_machine(bases: Bases, arch: str) -> None:
    """Owned by root, no device, and none of the files that mmdebstrap copies from where it runs."""
    rootfs = bases.open("trixie").rootfs(ARCHES[arch])
    with tarfile.open(rootfs.tar) as tar:
        members = tar.getmembers()
    assert {(member.uid, member.gid) for member in members} == {(0, 0)}
    assert not [member.name for member in members if member.isdev()]
    names = {member.name for member in members}
    assert "usr/bin/python3.13" in names
    assert not names & {"etc/resolv.conf", "etc/hostname", "etc/apt/sources.list"}
    destination = bases.folder / f"copy-{arch}.tar"
    rootfs.write_tar(destination, bases.spec("trixie", ARCHES[arch]), None)
    assert destination.stat().st_size == rootfs.tar.stat().st_size
    assert destination.stat().st_ino != rootfs.tar.stat().st_ino
