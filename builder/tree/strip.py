"""Copies files; of ELF files without what serves a debugger alone: symbols of the linker and DWARF.

The loader reads neither. A file is changed only where it is sure that nothing but these sections goes: all
that its segments map stays at its place, byte by byte, and so does every section's number.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from builder.tree.elf import HEADER, MAGIC, PT_LOAD, SEGMENT, CorruptElf, read_elf

_SECTION = struct.Struct("<IIQQQQIIQQ")
_DROPPED = re.compile(rb"\.(debug_\w+|zdebug_\w+|gdb_index|symtab|strtab|symtab_shndx)")
_ALLOCATED = 2
_NULL, _NOBITS = 0, 8
_LAYOUT = b"\x02\x01"
_WORTH_BYTES = 4096
"""Less is not worth a second look at the file."""
_MOST_SECTIONS = 1 << 12
_MOST_PADDING = 1 << 16
_SHOFF = 40
"""Where the header says where the section headers are."""


@dataclass(frozen=True)
class _Section:
    name: bytes
    kind: int
    flags: int
    offset: int
    size: int
    """In the file."""
    align: int
    refers: tuple[int, ...]
    raw: bytes

    @property
    def is_dropped(self) -> bool:
        return not self.flags & _ALLOCATED and _DROPPED.fullmatch(self.name) is not None


@dataclass(frozen=True)
class _Plan:
    mapped: int
    """Bytes from the file's start that stay as they are: all that a segment or an allocated section has."""
    sections: tuple[_Section, ...]
    gain: int


def copy_file(source: Path, target: Path, *, link: bool = False) -> None:
    """Copies a file's content, an ELF file's without what serves a debugger, where that surely harms nothing.

    A file whose library checks itself against a sum beside it is copied as it is. With `link` a file that
    stays as it is becomes a hard link, where the file system has both.
    """
    with source.open("rb") as file:
        plan = _plan(file) if file.read(4) == MAGIC else None
        if plan is not None and plan.gain >= _WORTH_BYTES and not _has_sum(source):
            _write(file, plan, target)
            if _is_same(source, target):
                return
    if link:
        with suppress(OSError):
            target.hardlink_to(source)
            return
    shutil.copyfile(source, target, follow_symlinks=False)


def _has_sum(source: Path) -> bool:
    """Whether a sum of the whole file lies beside it, as FIPS modules have one."""
    sums = (source.with_name(f".{source.name}.hmac"), source.with_suffix(".chk"))
    return any(path.exists() for path in sums)


def _plan(file: BinaryIO) -> _Plan | None:
    """What to drop; None where the file is not laid out as linkers do it."""
    try:
        return _read(file)
    except (struct.error, ValueError, IndexError, OverflowError, OSError):
        return None


def _read(file: BinaryIO) -> _Plan | None:
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    header = file.read(HEADER.size)
    ident, _, _, _, _, segments, table, _, _, entry, count, section_entry, number, names = HEADER.unpack(
        header
    )
    if ident[4:6] != _LAYOUT or entry != SEGMENT.size or section_entry != _SECTION.size:
        return None
    if not 0 < number < _MOST_SECTIONS or not names < number:
        return None
    mapped = max(HEADER.size, segments + count * SEGMENT.size)
    file.seek(segments)
    for _ in range(count):
        kind, _, offset, _, _, length, _, _ = SEGMENT.unpack(file.read(SEGMENT.size))
        mapped = max(mapped, offset + length if length or kind == PT_LOAD else 0)
    file.seek(table)
    raws = [file.read(_SECTION.size) for _ in range(number)]
    sections = _sections(file, raws, names, size)
    mapped = max([mapped, *(one.offset + one.size for one in sections if one.flags & _ALLOCATED)])
    end = table + number * _SECTION.size
    behind = [one for one in sections if one.size and not one.flags & _ALLOCATED]
    if mapped > table or end > size or any(one.offset < mapped for one in behind):
        return None
    if any(sections[index].is_dropped for one in sections if not one.is_dropped for index in one.refers):
        return None
    ranges = [(mapped, mapped), (table, end), *((one.offset, one.offset + one.size) for one in behind)]
    if not _only_padding(file, sorted(ranges), size):
        return None
    plan = _Plan(mapped, tuple(sections), 0)
    return _Plan(mapped, tuple(sections), size - _layout(plan)[1])


def _sections(file: BinaryIO, raws: list[bytes], names: int, size: int) -> list[_Section]:
    rows = [_SECTION.unpack(raw) for raw in raws]
    file.seek(rows[names][4])
    texts = file.read(min(rows[names][5], size))
    sections = []
    for raw, (name, kind, flags, _, offset, length, link, info, align, _) in zip(raws, rows, strict=True):
        in_file = 0 if kind in (_NULL, _NOBITS) else length
        if in_file and offset + in_file > size:
            raise ValueError("a section leads out of the file")
        refers = tuple(index for index in (link, info if flags & 0x40 or kind in (4, 9) else 0) if index)
        text = texts[name : texts.index(b"\0", name)]
        sections.append(_Section(text, kind, flags, offset, in_file, align, refers, raw))
    return sections


def _only_padding(file: BinaryIO, ranges: list[tuple[int, int]], size: int) -> bool:
    """Whether nothing but zeros lies between the ranges and behind them: no file was put behind this one."""
    at = ranges[0][0]
    for start, end in (*ranges, (size, size)):
        if start > at:
            file.seek(at)
            if start - at > _MOST_PADDING or file.read(start - at).strip(b"\0"):
                return False
        at = max(at, end)
    return True


def _layout(plan: _Plan) -> tuple[dict[int, int], int, int]:
    """(offset of each section that moves, bytes of the new file, offset of the section headers)."""
    at, places = plan.mapped, {}
    order = sorted(range(len(plan.sections)), key=lambda number: plan.sections[number].offset)
    for number in order:
        one = plan.sections[number]
        if one.size and not one.flags & _ALLOCATED and not one.is_dropped:
            at = _aligned(at, one.align)
            places[number] = at
            at += one.size
    table = _aligned(at, 8)
    return places, table + len(plan.sections) * _SECTION.size, table


def _aligned(offset: int, align: int) -> int:
    return offset if align < 2 or align > _WORTH_BYTES else -(-offset // align) * align


def _write(file: BinaryIO, plan: _Plan, target: Path) -> None:
    places, _, table = _layout(plan)
    with target.open("wb") as out:
        file.seek(0)
        _copy(file, out, plan.mapped)
        for number, place in places.items():
            one = plan.sections[number]
            file.seek(one.offset)
            out.seek(place)
            _copy(file, out, one.size)
        out.seek(table)
        for number, one in enumerate(plan.sections):
            fields = list(_SECTION.unpack(one.raw))
            if number in places:
                fields[4] = places[number]
            # An empty header in its place: every other section keeps its number.
            out.write(bytes(_SECTION.size) if one.is_dropped else _SECTION.pack(*fields))
        out.seek(_SHOFF)
        out.write(struct.pack("<Q", table))


def _copy(file: BinaryIO, out: BinaryIO, length: int) -> None:
    while length:
        chunk = file.read(min(length, 1 << 20))
        if not chunk:
            raise OSError("the file became shorter while it was read")
        out.write(chunk)
        length -= len(chunk)


def _is_same(source: Path, target: Path) -> bool:
    """Whether the loader reads the same in both files."""
    try:
        return read_elf(source) == read_elf(target) and _program_headers(source) == _program_headers(target)
    except CorruptElf:
        return False


def _program_headers(path: Path) -> bytes:
    with path.open("rb") as file:
        header = HEADER.unpack(file.read(HEADER.size))
        file.seek(header[5])
        return file.read(header[10] * SEGMENT.size)
