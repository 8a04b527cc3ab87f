"""What an ELF file says to the dynamic loader: read as the loader reads it, from program headers alone.

Section headers are for linkers and may be missing. Every offset of a file may be nonsense: nothing here
raises anything but CorruptElf for it, and nothing goes on for ever.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"\x7fELF"

_MACHINES = {3: "EM_386", 40: "EM_ARM", 62: "EM_X86_64", 183: "EM_AARCH64", 243: "EM_RISCV"}

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")
_VERDEF = struct.Struct("<HHHHIII")
_VERDAUX = struct.Struct("<II")

_LAYOUT = b"\x02\x01"
"""64 bits, little-endian."""
_LOADABLE_TYPES = (2, 3)
"""ET_EXEC and ET_DYN."""
PT_LOAD, PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ = 0, 1, 4, 5, 6, 10
_DT_SONAME, _DT_RPATH, _DT_RUNPATH = 14, 15, 29
_DT_GNU_HASH, _DT_FLAGS_1, _DT_VERDEF, _DT_VERNEED = 0x6FFFFEF5, 0x6FFFFFFB, 0x6FFFFFFC, 0x6FFFFFFE
_DF_1_NODEFLIB, _DF_1_PIE = 0x800, 0x08000000
_VER_FLG_WEAK = 2

_MOST_RECORDS = 1 << 16
"""Of dynamic tags and versions together: libraries have some hundred."""
_LONGEST_TEXT = 1 << 16
_MOST_BUCKETS = 1 << 20


class CorruptElf(ValueError):
    """The file starts like an ELF file and is not a whole one."""


@dataclass(frozen=True)
class Elf:
    """The part of an ELF file that decides what the dynamic loader does with it."""

    machine: str
    """e_machine as <elf.h> spells it; with "/32" behind it in a 32-bit file: x32 has x86-64's number."""
    interpreter: str | None = None
    """PT_INTERP: the dynamic loader of a program; None in a library."""
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    """Empty where there is a runpath, which silences it."""
    runpath: tuple[str, ...] = ()
    soname: str | None = None
    is_dynamic: bool = False
    """Has segments to load and a dynamic section: all else the loader refuses."""
    is_program: bool = False
    """Can be executed only: dlopen refuses it."""
    passes_defaults: bool = False
    """DF_1_NODEFLIB: what it needs is not looked for in the default folders."""
    wanted: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(soname, the versions that it must have): DT_VERNEED, weak ones left out."""
    versions: frozenset[str] | None = None
    """What DT_VERDEF defines; None where the library knows no versions, which the loader puts up with."""


def is_elf(host_path: Path) -> bool:
    """Whether the file starts as an ELF file does; reads four bytes."""
    with host_path.open("rb", buffering=0) as file:
        return file.read(4) == MAGIC


def read_elf(host_path: Path) -> Elf:
    """What the file says; CorruptElf where it makes no sense, OSError where it cannot be read."""
    with _mapped(host_path) as image:
        ident, kind, machine, *_ = HEADER.unpack_from(image)
        name = _MACHINES.get(machine, f"EM_{machine}")
        if ident[4:6] != _LAYOUT:
            return Elf(f"{name}/32" if ident[4] == 1 else f"{name}/big")
        reader = _Reader(image)
        flags = reader.tags.get(_DT_FLAGS_1, 0)
        return Elf(
            machine=name,
            interpreter=reader.interpreter(),
            needed=tuple(map(reader.text, reader.needed)),
            rpath=reader.folders(_DT_RPATH) if _DT_RUNPATH not in reader.tags else (),
            runpath=reader.folders(_DT_RUNPATH),
            soname=reader.text(reader.tags[_DT_SONAME]) if _DT_SONAME in reader.tags else None,
            is_dynamic=_DT_STRTAB in reader.tags and kind in _LOADABLE_TYPES and bool(reader.loads),
            is_program=kind == _LOADABLE_TYPES[0] or bool(flags & _DF_1_PIE),
            passes_defaults=bool(flags & _DF_1_NODEFLIB),
            wanted=tuple(reader.wanted()),
            versions=frozenset(reader.defined()) if _DT_VERDEF in reader.tags else None,
        )


def imported(host_path: Path, symbols: Collection[str]) -> set[str]:
    """Those of `symbols` that the file takes from its libraries, whatever their version."""
    with _mapped(host_path) as image:
        return _Reader(image).imported(symbols) if image[4:6] == _LAYOUT else set()


@contextmanager
def _mapped(host_path: Path) -> Iterator[mmap.mmap]:
    """The file, of which only what is looked at is read."""
    with host_path.open("rb") as file:
        try:
            image = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise CorruptElf("the file is empty") from None
        with image:
            try:
                if image[:4] != MAGIC:
                    raise CorruptElf("no ELF file")
                yield image
            # Offsets near 2**64.
            except (struct.error, OverflowError):
                raise CorruptElf("an offset leads out of the file") from None


class _Reader:
    """Follows the addresses of a 64-bit little-endian file, as they lie when it is loaded."""

    def __init__(self, image: mmap.mmap) -> None:
        self._image = image
        self._records = 0
        _, _, _, _, _, table, _, _, _, entry_size, count, *_ = HEADER.unpack_from(image)
        if count and entry_size != SEGMENT.size:
            raise CorruptElf("program headers of an unknown size")
        self.loads: list[tuple[int, int, int]] = []
        """(address, offset, bytes) of what is loaded from the file."""
        dynamic, self._interpreter = None, None
        for number in range(count):
            kind, _, offset, address, _, size, _, _ = SEGMENT.unpack_from(
                image, table + number * SEGMENT.size
            )
            if kind == PT_LOAD:
                if offset + size > len(image):
                    raise CorruptElf("the file is cut short")
                self.loads.append((address, offset, size))
            elif kind == PT_DYNAMIC:
                dynamic = address
            elif kind == _PT_INTERP:
                self._interpreter = offset, size
        self.needed: list[int] = []
        self.tags: dict[int, int] = {}
        if dynamic is not None and self.loads:
            self._read_dynamic(dynamic)

    def interpreter(self) -> str | None:
        """The text of PT_INTERP."""
        if self._interpreter is None:
            return None
        offset, size = self._interpreter
        text = self._image[offset : offset + min(size, _LONGEST_TEXT)]
        if not text.endswith(b"\0"):
            raise CorruptElf("the loader's name has no end")
        return _decode(text[:-1])

    def text(self, index: int) -> str:
        """A text of the string table."""
        if _DT_STRTAB not in self.tags:
            raise CorruptElf("names without a table of names")
        start, end = self._span(self.tags[_DT_STRTAB])
        end = min(end, start + self.tags.get(_DT_STRSZ, end))
        stop = self._image.find(b"\0", start + index, min(end, start + index + _LONGEST_TEXT))
        if stop < 0:
            raise CorruptElf("a name leads out of the file")
        return _decode(self._image[start + index : stop])

    def folders(self, tag: int) -> tuple[str, ...]:
        """The folders of a search path."""
        if tag not in self.tags:
            return ()
        return tuple(folder for folder in self.text(self.tags[tag]).split(":") if folder)

    def wanted(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """DT_VERNEED: two chains, one within the other."""
        for address, (_, _, file, first, _) in self._chain(self.tags.get(_DT_VERNEED), _VERNEED):
            records = self._chain(address + first, _VERNAUX)
            names = [self.text(name) for _, (_, flags, _, name, _) in records if not flags & _VER_FLG_WEAK]
            yield self.text(file), tuple(names)

    def defined(self) -> Iterator[str]:
        """DT_VERDEF: the first name of each definition; the others are its predecessors'."""
        for address, (_, _, _, _, _, first, _) in self._chain(self.tags[_DT_VERDEF], _VERDEF):
            yield self.text(_VERDAUX.unpack_from(self._image, self._span(address + first)[0])[0])

    def imported(self, symbols: Collection[str]) -> set[str]:
        """Those of `symbols` that the symbol table has without a definition."""
        if _DT_STRTAB not in self.tags or _DT_SYMTAB not in self.tags:
            return set()
        start, end = self._span(self.tags[_DT_STRTAB])
        end = min(end, start + self.tags.get(_DT_STRSZ, end))
        # A name may be the end of a longer one, so that only its place in the table says what it is.
        places = {place - start: name for name in symbols for place in self._places(name, start, end)}
        if not places:
            return set()
        table, stop = self._span(self.tags[_DT_SYMTAB])
        count = min(self._symbols(), (stop - table) // _SYMBOL.size)
        rows = _SYMBOL.iter_unpack(self._image[table : table + count * _SYMBOL.size])
        return {places[name] for name, _, _, section, _, _ in rows if section == 0 and name in places}

    def _places(self, name: str, start: int, end: int) -> Iterator[int]:
        """Where in the file the text `name` ends as a name of the string table does."""
        text = name.encode() + b"\0"
        while (start := self._image.find(text, start, end)) >= 0:
            self._count()
            yield start
            start += 1

    def _symbols(self) -> int:
        """How many symbols there are: the older table of hashes says it, in the newer one it is sought."""
        if _DT_HASH in self.tags:
            return self._word(self._span(self.tags[_DT_HASH])[0] + 4)
        if _DT_GNU_HASH not in self.tags:
            return 0
        table = self._span(self.tags[_DT_GNU_HASH])[0]
        buckets, first, bloom, _ = struct.unpack_from("<4I", self._image, table)
        if buckets > _MOST_BUCKETS:
            raise CorruptElf("a larger table of symbols than any library has")
        at = table + 16 + 8 * bloom
        last = max(struct.unpack_from(f"<{buckets}I", self._image, at), default=0)
        if last < first:
            return int(first)
        while not self._word(at + 4 * (buckets + last - first)) & 1:
            self._count()
            last += 1
        return int(last) + 1

    def _word(self, offset: int) -> int:
        return int.from_bytes(self._image[offset : offset + 4], "little")

    def _read_dynamic(self, address: int) -> None:
        while True:
            self._count()
            tag, value = _DYNAMIC.unpack_from(self._image, self._span(address)[0])
            if tag == _DT_NULL:
                return
            if tag == _DT_NEEDED:
                self.needed.append(value)
            else:
                # Of a tag that is there twice, the loader takes the last.
                self.tags[tag] = value
            address += _DYNAMIC.size

    def _chain(self, address: int | None, record: struct.Struct) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(address, record) of each link; the last field says how far away the next one is, 0 at the end."""
        while address is not None:
            self._count()
            fields = record.unpack_from(self._image, self._span(address)[0])
            yield address, fields
            address = address + fields[-1] if fields[-1] else None

    def _count(self) -> None:
        self._records += 1
        if self._records > _MOST_RECORDS:
            raise CorruptElf("more records than any library has")

    def _span(self, address: int) -> tuple[int, int]:
        """(offset of an address, end of what is loaded with it)."""
        for start, offset, size in self.loads:
            if start <= address < start + size:
                return offset + address - start, offset + size
        raise CorruptElf("an address leads out of the file")


def _decode(text: bytes) -> str:
    return text.decode(errors="surrogateescape")
