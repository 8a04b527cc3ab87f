"""What a copy of an ELF file loses: sections that serve a debugger, and nothing that the loader sees."""

from __future__ import annotations

import ctypes
import os
import random
import re
import struct
import subprocess
from pathlib import Path

import pytest

from builder.tree.elf import CorruptElf, read_elf
from builder.tree.strip import copy_file

SOURCE = """
static const char *filler = "%s";
int helper(int value) { return value + (filler != 0); }
int answer(int value) { return helper(value) * 2; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with symbols and DWARF, as a compiler leaves it."""
    folder = tmp_path_factory.mktemp("library")
    functions = "".join(f"int function_{number}(int x) {{ return x + {number}; }}\n" for number in range(300))
    (folder / "x.c").write_text(SOURCE % ("x" * 100) + functions)
    subprocess.run(
        ["gcc", "-g", "-shared", "-fPIC", "-o", folder / "libx.so", folder / "x.c"], check=True, cwd=folder
    )
    return folder / "libx.so"


def sections(path: Path) -> set[str]:
    listed = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True)
    assert "Warning" not in listed.stderr
    return set(re.findall(r"\] (\.\S+) ", listed.stdout))


def segments(path: Path) -> list[bytes]:
    """What each segment maps of the file; the header's place of sections is no part of a program."""
    content = bytearray(path.read_bytes())
    content[40:48] = bytes(8)
    count, at = struct.unpack_from("<H", content, 56)[0], struct.unpack_from("<Q", content, 32)[0]
    rows = [struct.unpack_from("<IIQQQQ", content, at + 56 * number) for number in range(count)]
    return [bytes(content[offset : offset + size]) for _, _, offset, _, _, size in rows]


def test_debug_sections_go_and_what_is_mapped_stays(library: Path, tmp_path: Path) -> None:
    """The copy is smaller, maps the same bytes, works, and is a sound file to readelf."""
    copy = tmp_path / "libx.so"
    copy_file(library, copy)
    assert copy.stat().st_size < library.stat().st_size * 2 / 3
    gone = sections(library) - sections(copy)
    assert {".symtab", ".strtab", ".debug_info", ".debug_str"} <= gone
    assert not [name for name in sections(copy) if name.startswith(".debug")]
    assert {".text", ".dynsym", ".dynstr", ".comment", ".shstrtab"} <= sections(copy)
    assert segments(copy) == segments(library)
    assert read_elf(copy) == read_elf(library)
    assert ctypes.CDLL(str(copy)).answer(20) == 42


def test_a_second_copy_changes_nothing(library: Path, tmp_path: Path) -> None:
    """The same file, the same bytes; and there is nothing more to lose."""
    for name in ("one", "two", "again"):
        copy_file(tmp_path / "one" if name == "again" else library, tmp_path / name)
    contents = {(tmp_path / name).read_bytes() for name in ("one", "two", "again")}
    assert len(contents) == 1


def test_a_file_that_was_put_behind_stays(library: Path, tmp_path: Path) -> None:
    """Programs look for their data at their own end: then the copy is the file as it is."""
    source = tmp_path / "x.so"
    source.write_bytes(library.read_bytes() + b"PK data")
    copy_file(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    source.write_bytes(library.read_bytes() + bytes(100))
    copy_file(source, tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size < source.stat().st_size * 2 / 3


@pytest.mark.parametrize("beside", [".x.so.hmac", "x.chk"])
def test_a_library_that_checks_itself_stays(library: Path, tmp_path: Path, beside: str) -> None:
    """FIPS modules compare their file with a sum beside it."""
    source = tmp_path / "x.so"
    source.write_bytes(library.read_bytes())
    (tmp_path / beside).write_text("sum")
    copy_file(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == library.read_bytes()


def test_relocations_that_name_a_dropped_table_keep_the_file_as_it_is(library: Path, tmp_path: Path) -> None:
    """-Wl,--emit-relocs: sections that stay refer to .symtab."""
    path = tmp_path / "x.so"
    source = library.with_name("x.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,--emit-relocs", "-o", path, source], check=True)
    assert ".rela.text" in sections(path)
    copy_file(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_a_section_within_what_is_mapped_keeps_the_file_as_it_is(library: Path, tmp_path: Path) -> None:
    """.symtab that says it is the last part of what a segment maps."""
    content = bytearray(library.read_bytes())
    table, count = struct.unpack_from("<Q", content, 40)[0], struct.unpack_from("<H", content, 60)[0]
    (symbols,) = (
        table + 64 * number
        for number in range(count)
        if struct.unpack_from("<I", content, table + 64 * number + 4)[0] == 2
    )
    offset, size = struct.unpack_from("<QQ", content, symbols + 24)
    content[offset : offset + size] = bytes(size)
    at, number = struct.unpack_from("<Q", content, 32)[0], struct.unpack_from("<H", content, 56)[0]
    rows = [struct.unpack_from("<IIQQQQ", content, at + 56 * index) for index in range(number)]
    mapped = max(start + length for kind, _, start, _, _, length in rows if kind == 1)
    struct.pack_into("<Q", content, symbols + 24, mapped - size)
    (tmp_path / "x.so").write_bytes(content)
    copy_file(tmp_path / "x.so", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_what_is_no_elf_file_is_copied(tmp_path: Path) -> None:
    """Texts, an empty file, and the start of an ELF file."""
    for number, content in enumerate((b"", b"text" * 5000, b"\x7fELF", b"\x7fELF" + bytes(9000))):
        (tmp_path / "source").write_bytes(content)
        copy_file(tmp_path / "source", tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == content


def test_damage_never_makes_a_copy_that_the_loader_sees_otherwise(library: Path, tmp_path: Path) -> None:
    """Random bytes in headers and section headers: a copy that maps the same, or the file as it is."""
    content = library.read_bytes()
    chance = random.Random(3)
    table = struct.unpack_from("<Q", content, 40)[0]
    places = [*range(16, 64 + 56 * 8), *range(table, len(content))]
    source, copy = tmp_path / "source.so", tmp_path / "copy.so"
    stripped = 0
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            at = chance.choice(places)
            damaged[at : at + 2] = chance.choice((b"\0\0", b"\xff\xff", chance.randbytes(2)))
        source.write_bytes(damaged[: len(content)])
        copy_file(source, copy)
        if copy.read_bytes() == source.read_bytes():
            continue
        stripped += 1
        try:
            assert read_elf(copy) == read_elf(source)
        except CorruptElf:
            pytest.fail("a damaged file was changed")
        assert segments(copy) == segments(source)
    assert 20 < stripped < 500


def test_a_real_interpreter_still_starts(tmp_path: Path) -> None:
    """The largest program at hand, from its copy."""
    real = Path("/usr/bin/python3").resolve() if Path("/usr/bin/python3").exists() else Path("/bin/bash")
    copy = tmp_path / "program"
    copy_file(real, copy)
    copy.chmod(0o755)
    done = subprocess.run(
        [copy, "-c", "exit 0" if "bash" in real.name else "pass"], env=os.environ, check=False
    )
    assert done.returncode == 0
