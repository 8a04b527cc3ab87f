"""The reader of ELF files: what it says of real ones, and that no damage makes it fail in any other way."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import time
from pathlib import Path

import pytest

from builder.tree.elf import CorruptElf, Elf, imported, read_elf
from tests.fakeroot import ARCH, PIE, elf

LIBRARIES = Path(f"/usr/lib/{ARCH.triplet}")
REAL = [
    Path(f"{LIBRARIES}/libc.so.6"),
    Path(f"{LIBRARIES}/libgcc_s.so.1"),
    Path(f"{LIBRARIES}/libresolv.so.2"),
    Path(f"{LIBRARIES}/libcrypto.so.3"),
    Path("/usr/bin/apt-get"),
    Path("/usr/bin/gpgv"),
]


def readelf(option: str, path: Path) -> str:
    return subprocess.run(["readelf", "-W", option, path], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_files_say_what_readelf_says(path: Path) -> None:
    """Needed libraries, soname, versions defined and wanted, and the functions taken from libraries."""
    read, dynamic, versions = read_elf(path), readelf("-d", path), readelf("-V", path)
    assert list(read.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert [read.soname] == (re.findall(r"\(SONAME\).*\[(.*)\]", dynamic) or [None])
    defined, _, wanted = versions.partition("Version needs section")
    assert sorted(read.versions or ()) == sorted(re.findall(r"Rev: .* Cnt: .* Name: (\S+)", defined))
    strong = re.findall(r"Name: (\S+)  Flags: (?!.*WEAK)", wanted)
    assert sorted(name for _, names in read.wanted for name in names) == sorted(strong)
    undefined = set(re.findall(r" UND (\w+)@", readelf("--dyn-syms", path)))
    assert undefined
    assert imported(path, undefined | {"iconv_opened", "main"}) == undefined


def test_a_name_that_only_ends_like_a_function_is_not_that_function(tmp_path: Path) -> None:
    """Linkers store `iconv_open` within `g_iconv_open`, and a library may define what it is asked for."""
    path = tmp_path / "x.so"
    path.write_bytes(elf(imports=["g_iconv_open"]))
    assert imported(path, ["iconv_open"]) == set()
    path.write_bytes(elf(imports=["g_iconv_open", "iconv_open"]))
    assert imported(path, ["iconv_open"]) == {"iconv_open"}


def test_a_program_is_told_from_a_library(tmp_path: Path) -> None:
    """By DF_1_PIE: libc has a program's interpreter too, and is a library."""
    path = tmp_path / "x"
    path.write_bytes(elf(interpreter=ARCH.loader, flags=PIE))
    assert read_elf(path).is_program
    assert not read_elf(LIBRARIES / "libc.so.6").is_program
    assert read_elf(LIBRARIES / "libc.so.6").interpreter == ARCH.loader


@pytest.mark.parametrize("path", REAL[1:3], ids=lambda path: path.name)
def test_whatever_is_damaged_the_reader_ends_and_says_so(tmp_path: Path, path: Path) -> None:
    """Bytes changed where the loader looks, and files cut short: an answer or CorruptElf, at once."""
    content = path.read_bytes()
    chance = random.Random(7)
    places = [*range(0, 64 + 56 * 12), *_dynamic(content), *_tables(content)]
    copy = tmp_path / "copy.so"
    started = time.monotonic()
    corrupt = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            at = chance.choice(places)
            damaged[at : at + 4] = chance.choice((b"\0" * 4, b"\xff" * 4, b"\x01\0\0\0", chance.randbytes(4)))
        copy.write_bytes(damaged[: chance.choice((len(damaged), chance.randint(0, len(damaged))))])
        try:
            assert isinstance(read_elf(copy), Elf)
            imported(copy, ["iconv_open", "free"])
        except CorruptElf:
            corrupt += 1
    assert 100 < corrupt < 400
    assert time.monotonic() - started < 60


def _dynamic(content: bytes) -> range:
    """Where PT_DYNAMIC lies in the file."""
    count, at = struct.unpack_from("<H", content, 56)[0], struct.unpack_from("<Q", content, 32)[0]
    for number in range(count):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", content, at + 56 * number)
        if kind == 2:
            return range(offset, offset + size)
    raise AssertionError("no dynamic section")


def _tables(content: bytes) -> list[int]:
    """Places in the tables of versions, which the file's first segment has at their addresses."""
    places: list[int] = []
    for at in _dynamic(content)[::16]:
        tag, value = struct.unpack_from("<QQ", content, at)
        if tag in (0x6FFFFFFC, 0x6FFFFFFE, 0x6FFFFEF5):
            places += range(value, value + 200)
    return places


@pytest.mark.parametrize("next_at", [1, 16, 0xFFFFFFF0])
def test_endless_chains_of_versions_end(tmp_path: Path, next_at: int) -> None:
    """A chain of overlapping records through a large file, and one that leads out of it."""
    content = bytearray(elf(needed=["liba.so"], wanted={"liba.so": ["V_1"]}))
    at = content.index(struct.pack("<HH", 1, 1))
    content[at + 12 : at + 16] = struct.pack("<I", next_at)
    # One segment with all of the file, which is long and repeats the record.
    record = bytes(content[at : at + 16])
    body = bytes(content) + record * 300_000
    size = struct.pack("<QQ", len(body), len(body))
    path = tmp_path / "x.so"
    path.write_bytes(body[: 64 + 32] + size + body[64 + 48 :])
    started = time.monotonic()
    with pytest.raises(CorruptElf):
        read_elf(path)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF" + b"\xff" * 60])
def test_what_is_no_elf_file_is_corrupt(tmp_path: Path, content: bytes) -> None:
    """An empty file among them, which cannot be mapped."""
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(CorruptElf):
        raise (
            CorruptElf(str(read_elf(path).machine)) if b"\xff" in content else AssertionError(read_elf(path))
        )
