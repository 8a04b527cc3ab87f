"""Shared libraries: found where ld.so would find them, read from headers alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.tree.elf import CorruptElf, is_elf, read_elf
from builder.tree.ldcache import ld_so_cache
from builder.tree.libraries import LibrarySearch
from builder.tree.root import Root
from tests.fakeroot import ARCH, LIBRARIES, FakeRoot, elf

PROGRAM = "/usr/bin/program"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    """A root with a loader and a C library."""
    root = FakeRoot(tmp_path)
    root.write(f"{LIBRARIES}/libc.so.6", elf())
    root.write(PROGRAM, elf(needed=["libc.so.6"], interpreter=ARCH.loader))
    return root


def search(root: FakeRoot) -> LibrarySearch:
    found = LibrarySearch(root, ARCH)
    found.start(PROGRAM)
    return found


@pytest.mark.parametrize("program", ["/bin/sh", "/usr/bin/apt-get", "/usr/bin/gpgv", sys.executable])
def test_a_real_program_needs_what_ldd_finds(program: str) -> None:
    """On this machine's own root the libraries of a program are those that ld.so itself loads for it."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    loaded = {Path(path).resolve() for path in re.findall(r"(/\S+) \(0x", listed)}
    root = Root(Path("/"))
    needs = LibrarySearch(root, ARCH).start(program)
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
        paths = {kind: f"{origin}/../pkg.libs:/nowhere"}
        root.write(path, elf(needed=["libown.so"], **paths))
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
    assert search(root).needs("/x.so").found == ("/new/lib.so",)


def test_rpath_of_the_program_counts_for_what_it_opens(root: FakeRoot) -> None:
    """An extension module is found the libraries of its interpreter's DT_RPATH, as in a conda prefix."""
    root.write("/conda/lib/libssl.so", elf())
    root.write("/conda/bin/python", elf(rpath="$ORIGIN/../lib", interpreter=ARCH.loader))
    root.write("/x.so", elf(needed=["libssl.so"]))
    found = LibrarySearch(root, ARCH)
    found.start("/conda/bin/python")
    assert found.needs("/x.so").found == ("/conda/bin/../lib/libssl.so",)


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
    """As ld.so does: the search goes on where a name is there for another architecture, or is no ELF file."""
    root.write(f"{LIBRARIES}/libx.so", elf(machine="EM_386"))
    root.write("/usr/lib/libx.so", elf())
    root.write(f"{LIBRARIES}/liby.so", "INPUT(liby.so.1)\n")
    assert search(root).find("libx.so") == "/usr/lib/libx.so"
    assert search(root).find("liby.so") is None


def test_what_the_program_has_loaded_is_not_searched_again(root: FakeRoot) -> None:
    """A module's own folder does not replace a library that the interpreter brought."""
    root.write("/opt/libc.so.6", elf())
    root.write("/x.so", elf(needed=["libc.so.6"], runpath="/opt"))
    assert search(root).needs("/x.so").found == (f"{LIBRARIES}/libc.so.6",)


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
    (tmp_path / "cache").write_bytes(ld_so_cache([*paths, "/second/libz.so.1"], ARCHES[arch]))
    command = ["/sbin/ldconfig", "-p", "-C", str(tmp_path / "cache")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    names = ["libz.so.1", "libx.so.10", "libx.so.9", "libm.so.6", "ld-linux.so.2"]
    assert [line.strip() for line in lines if "=>" in line] == [f"{n} ({shown}) => /lib/{n}" for n in names]
