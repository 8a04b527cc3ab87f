"""Shared libraries: found where ld.so would find them, read from headers alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from builder.arch import ARCHES, Arch
from builder.errors import MissingLibrary
from builder.tree.elf import CorruptElf, is_elf, read_elf
from builder.tree.folders import configured_folders, default_folders, loader_folders
from builder.tree.ldcache import ld_so_cache, read_ld_so_cache
from builder.tree.libraries import LibrarySearch
from builder.tree.root import Root
from tests.fakeroot import ARCH, LIBRARIES, NODEFLIB, FakeRoot, elf

PROGRAM = "/usr/bin/program"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    """A root with a loader and a C library."""
    root = FakeRoot(tmp_path)
    root.write(f"{LIBRARIES}/libc.so.6", elf())
    root.write(PROGRAM, elf(needed=["libc.so.6"], interpreter=ARCH.loader))
    return root


def search(root: Root, program: str = PROGRAM) -> LibrarySearch:
    """As in a base whose loader has no folders of its own."""
    folders = (*configured_folders(root), *default_folders(ARCH))
    found = LibrarySearch(root, ARCH, folders, defaults=default_folders(ARCH))
    found.start(program)
    return found


@pytest.mark.parametrize("program", ["/bin/sh", "/usr/bin/apt-get", "/usr/bin/gpgv", sys.executable])
def test_a_real_program_needs_what_ldd_finds(program: str) -> None:
    """On this machine's own root the libraries of a program are those that ld.so itself loads for it."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    loaded = {Path(path).resolve() for path in re.findall(r"(/\S+) \(0x", listed)}
    root = Root(Path("/"))
    folders = (*configured_folders(root), *loader_folders(root, ARCH.loader))
    needs = LibrarySearch(root, ARCH, folders).start(program)
    loader = read_elf(Path(program)).interpreter
    assert {root.host(root.resolve(path).path) for path in (*needs.found, str(loader))} == loaded
    assert needs.missing == ()


def test_needs_are_followed_through_every_library(root: FakeRoot) -> None:
    """What a library needs is needed by whoever needs the library; circles come to an end."""
    root.write(f"{LIBRARIES}/liba.so", elf(needed=["libb.so", "libc.so.6"]))
    root.write(f"{LIBRARIES}/libb.so", elf(needed=["liba.so"]))
    root.write("/x.so", elf(needed=["liba.so"]))
    assert set(search(root).needs("/x.so").found) == {
        f"{LIBRARIES}/liba.so",
        f"{LIBRARIES}/libb.so",
        f"{LIBRARIES}/libc.so.6",
    }


def test_a_missing_library_is_named_with_the_chain_that_leads_to_it(root: FakeRoot) -> None:
    """The message has every file from the one that was asked about down to the missing name."""
    root.write(f"{LIBRARIES}/liba.so", elf(needed=["libgone.so.1"]))
    root.write("/x.so", elf(needed=["liba.so"]))
    (missing,) = search(root).needs("/x.so").missing
    assert str(missing) == f"/x.so -> {LIBRARIES}/liba.so -> libgone.so.1 (not found)"


@pytest.mark.parametrize("kind", ["rpath", "runpath"])
def test_origin_is_the_folder_of_the_file_that_says_it(root: FakeRoot, kind: str) -> None:
    """$ORIGIN and ${ORIGIN} in DT_RPATH and DT_RUNPATH, as wheels have them."""
    root.write("/opt/pkg.libs/libown.so", elf())
    for number, origin in enumerate(("$ORIGIN", "${ORIGIN}")):
        path = f"/opt/pkg/x{number}.so"
        paths = f"{origin}/../pkg.libs:/nowhere"
        rpath, runpath = (paths, "") if kind == "rpath" else ("", paths)
        root.write(path, elf(needed=["libown.so"], rpath=rpath, runpath=runpath))
        (found,) = search(root).needs(path).found
        assert root.real(found) == "/opt/pkg.libs/libown.so"


def test_rpath_is_inherited_and_runpath_is_not(root: FakeRoot) -> None:
    """ld.so(8): DT_RPATH counts for what the object's libraries need, DT_RUNPATH for the object alone."""
    root.write("/opt/deep.so", elf())
    root.write("/opt/middle.so", elf(needed=["deep.so"]))
    root.write("/by-rpath.so", elf(needed=["middle.so"], rpath="/opt"))
    root.write("/by-runpath.so", elf(needed=["middle.so"], runpath="/opt"))
    assert search(root).needs("/by-rpath.so").missing == ()
    (missing,) = search(root).needs("/by-runpath.so").missing
    assert missing.soname == "deep.so"


def test_runpath_silences_rpath(root: FakeRoot) -> None:
    """An object with both is searched by DT_RUNPATH."""
    root.write("/old/lib.so", elf())
    root.write("/new/lib.so", elf())
    root.write("/x.so", elf(needed=["lib.so"], rpath="/old", runpath="/new"))
    assert set(search(root).needs("/x.so").found) == {"/new/lib.so"}


def test_rpath_of_the_program_counts_for_what_it_opens(root: FakeRoot) -> None:
    """An extension module is found the libraries of its interpreter's DT_RPATH, as in a conda prefix."""
    root.write("/conda/lib/libssl.so", elf())
    root.write("/conda/bin/python", elf(rpath="$ORIGIN/../lib", interpreter=ARCH.loader))
    root.write("/x.so", elf(needed=["libssl.so"]))
    found = search(root, "/conda/bin/python")
    assert set(found.needs("/x.so").found) == {"/conda/bin/../lib/libssl.so"}


def test_ld_so_conf_is_read_with_its_includes(root: FakeRoot) -> None:
    """Folders of /etc/ld.so.conf.d come before the default ones; comments and other folders' files do not."""
    root.write("/etc/ld.so.conf", "# /comment\ninclude /etc/ld.so.conf.d/*.conf\n")
    root.write("/etc/ld.so.conf.d/local.conf", "/usr/local/lib # libpython\n")
    root.write("/etc/ld.so.conf.d/ignored.txt", "/ignored\n")
    root.write("/usr/local/lib/libx.so", elf())
    root.write(f"{LIBRARIES}/libx.so", elf())
    root.write("/ignored/liby.so", elf())
    assert search(root).find("libx.so") == "/usr/local/lib/libx.so"
    assert search(root).find("liby.so") is None


def test_a_configuration_that_includes_itself_comes_to_an_end(root: FakeRoot) -> None:
    """ldconfig's include can go round in a circle."""
    root.write("/etc/ld.so.conf", "include /etc/ld.so.conf\n/usr/local/lib\n")
    root.write("/usr/local/lib/libx.so", elf())
    assert search(root).find("libx.so") == "/usr/local/lib/libx.so"


def test_a_library_of_another_machine_is_passed_over(root: FakeRoot) -> None:
    """As ld.so does: the search goes on at one for another architecture, and ends at what is no library."""
    root.write(f"{LIBRARIES}/libx.so", elf(machine="EM_386"))
    root.write("/usr/lib/libx.so", elf())
    root.write(f"{LIBRARIES}/liby.so", "INPUT(liby.so.1)\n")
    root.write("/usr/lib/liby.so", elf())
    found = search(root)
    assert found.find("libx.so") == "/usr/lib/libx.so"
    assert found.find("liby.so") is None
    assert set(found.broken) == {f"{LIBRARIES}/liby.so"}


def test_what_the_program_has_loaded_is_not_searched_again(root: FakeRoot) -> None:
    """A module's own folder does not replace a library that the interpreter brought."""
    root.write("/opt/libc.so.6", elf())
    root.write("/x.so", elf(needed=["libc.so.6"], runpath="/opt"))
    assert set(search(root).needs("/x.so").found) == {f"{LIBRARIES}/libc.so.6"}


def test_libraries_are_looked_up_inside_the_root(root: FakeRoot) -> None:
    """An absolute link of the root to a library is followed in the root, never on this machine."""
    root.symlink(f"{LIBRARIES}/liblink.so", f"{LIBRARIES}/libc.so.6")
    root.symlink(f"{LIBRARIES}/libhost.so", "/bin/sh")
    assert search(root).find("liblink.so") == f"{LIBRARIES}/liblink.so"
    assert search(root).find("libhost.so") is None


@pytest.mark.parametrize("length", [4, 20, 64, 100, 200])
def test_a_damaged_file_is_told_from_one_that_is_no_elf(root: FakeRoot, length: int) -> None:
    """A file cut short raises CorruptElf, whichever part is missing."""
    whole = elf(needed=["libc.so.6"], interpreter=ARCH.loader)
    path = root.write("/cut.so", whole[:length])
    assert is_elf(path)
    with pytest.raises(CorruptElf):
        read_elf(path)
    assert not is_elf(root.write("/text", "#!"))
    assert search(root).elf("/cut.so") is None


def test_x32_is_not_amd64(root: FakeRoot) -> None:
    """A 32-bit file with x86-64's machine number is not taken for a library of ours."""
    content = bytearray(elf())
    content[4] = 1
    root.write(f"{LIBRARIES}/libx.so", bytes(content))
    assert search(root).find("libx.so") is None


@pytest.mark.parametrize(("arch", "shown"), [("amd64", "libc6,x86-64"), ("arm64", "libc6,AArch64")])
def test_ldconfig_reads_the_cache_that_is_written(tmp_path: Path, arch: str, shown: str) -> None:
    """glibc's own ldconfig lists every entry, for either architecture, in the order that the loader needs."""
    paths = [
        f"/lib/{name}" for name in ("libz.so.1", "libm.so.6", "libx.so.10", "libx.so.9", "ld-linux.so.2")
    ]
    (tmp_path / "cache").write_bytes(ld_so_cache({Path(path).name: path for path in paths}, ARCHES[arch]))
    command = ["/sbin/ldconfig", "-p", "-C", str(tmp_path / "cache")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    names = ["libz.so.1", "libx.so.10", "libx.so.9", "libm.so.6", "ld-linux.so.2"]
    assert [line.strip() for line in lines if "=>" in line] == [f"{n} ({shown}) => /lib/{n}" for n in names]


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_a_cache_is_read_as_it_was_written(arch: Arch) -> None:
    """Each soname has its path; another architecture's loader would see none of it."""
    paths = {"libz.so.1": "/a/libz.so.1.2", "lib\udcff.so": "/b/lib\udcff.so"}
    content = ld_so_cache(paths, arch)
    assert read_ld_so_cache(content, arch) == paths
    (other,) = (one for one in ARCHES.values() if one != arch)
    assert read_ld_so_cache(content, other) == {}


def test_what_ldconfig_wrote_is_read() -> None:
    """The cache of this machine, by glibc's own program: every library that ldconfig lists for us."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    shown = {"amd64": "libc6,x86-64", "arm64": "libc6,AArch64"}[ARCH.name]
    lines = re.findall(r"^\t(\S+) \(([^)]*)\) => (\S+)$", listed, re.MULTILINE)
    expected: dict[str, str] = {}
    for soname, kind, path in lines:
        if kind == shown:
            expected.setdefault(soname, path)
    assert len(expected) > 10
    assert read_ld_so_cache(Path("/etc/ld.so.cache").read_bytes(), ARCH) == expected


@pytest.mark.parametrize("cut", [0, 10, 40, 60, 100, 130])
def test_a_damaged_cache_has_no_entries_that_are_not_whole(cut: int) -> None:
    """Cut short, or with offsets that lead out of it: what is left, or nothing, but no failure."""
    content = ld_so_cache({"libz.so.1": "/a/libz.so.1", "liby.so": "/b/liby.so"}, ARCH)
    assert set(read_ld_so_cache(content[:cut], ARCH).items()) <= {("libz.so.1", "/a/libz.so.1")}
    assert read_ld_so_cache(content[:52] + b"\xff" * (len(content) - 52), ARCH) == {}


def test_the_loader_says_which_folders_it_searches(root: FakeRoot) -> None:
    """Debian's own loader; one with lib64 as of Fedora; one that says nothing."""
    own = (f"/lib/{ARCH.triplet}", f"/usr/lib/{ARCH.triplet}", "/lib", "/usr/lib")
    assert loader_folders(Root(Path("/")), ARCH.loader) == own
    root.write("/fedora", b"\0text/\0/lib64/\0/usr/lib64/\0/etc/\0")
    assert loader_folders(root, "/fedora") == ("/lib64", "/usr/lib64")
    root.write("/other", b"\0/lib64/\0")
    assert loader_folders(root, "/other") == loader_folders(root, "/none") == ()


def test_a_version_that_a_library_lacks_is_missing(root: FakeRoot) -> None:
    """GLIBC_2.38 of a libc that has 2.36; not where it is wanted weakly, or the library knows no versions."""
    root.write(f"{LIBRARIES}/libc.so.6", elf(soname="libc.so.6", versions=["GLIBC_2.2.5", "GLIBC_2.36"]))
    root.write(f"{LIBRARIES}/libbare.so", elf())
    wanted = {"libc.so.6": ["GLIBC_2.36", "GLIBC_2.38"]}
    root.write(f"{LIBRARIES}/libdeep.so", elf(needed=["libc.so.6"], wanted=wanted))
    root.write("/x.so", elf(needed=["libdeep.so", "libbare.so"], wanted={"libbare.so": ["V_1"]}))
    root.write("/weak.so", elf(needed=["libc.so.6"], wanted=wanted, weak=True))
    (missing,) = search(root).needs("/x.so").missing
    assert missing == MissingLibrary("libc.so.6", ("/x.so", f"{LIBRARIES}/libdeep.so"), "GLIBC_2.38")
    assert search(root).needs("/weak.so").missing == ()


def test_a_file_with_nodeflib_is_not_searched_in_the_default_folders(root: FakeRoot) -> None:
    """DF_1_NODEFLIB: its own paths and what ldconfig was told count, the default folders do not."""
    root.write("/etc/ld.so.conf", "/opt/lib\n")
    root.write("/opt/lib/libtold.so", elf())
    root.write(f"{LIBRARIES}/libx.so", elf())
    root.write("/x.so", elf(needed=["libtold.so", "libx.so"], flags=NODEFLIB))
    needs = search(root).needs("/x.so")
    assert set(needs.found) == {"/opt/lib/libtold.so"}
    assert [one.soname for one in needs.missing] == ["libx.so"]


def test_cycles_of_links_and_names_that_are_not_utf8_come_to_an_end(root: FakeRoot) -> None:
    """A link to itself is no library; a name of any bytes is one."""
    root.symlink(f"{LIBRARIES}/libloop.so", "libloop.so")
    root.write(f"{LIBRARIES}/lib\udcff.so", elf(soname="lib\udcff.so"))
    root.write("/\udcfe/x.so", elf(needed=["libloop.so", "lib\udcff.so"], runpath="$ORIGIN/\udcfd"))
    needs = search(root).needs("/\udcfe/x.so")
    assert set(needs.found) == {f"{LIBRARIES}/lib\udcff.so"}
    assert [one.soname for one in needs.missing] == ["libloop.so"]
