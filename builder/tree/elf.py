"""What the dynamic section of an ELF file says, read with pyelftools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

MAGIC = b"\x7fELF"


class CorruptElf(ValueError):
    """The file starts like an ELF file and is not a whole one."""


@dataclass(frozen=True)
class Elf:
    """The part of an ELF file's headers that decides what the dynamic loader does with it."""

    machine: str
    """e_machine as pyelftools spells it; with "/32" behind it in a 32-bit file: x32 has x86-64's number."""
    interpreter: str | None
    """PT_INTERP: the dynamic loader of a program; None in a library."""
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()


def is_elf(host_path: Path) -> bool:
    """Whether the file starts as an ELF file does; reads four bytes."""
    with host_path.open("rb", buffering=0) as file:
        return file.read(4) == MAGIC


def read_elf(host_path: Path) -> Elf:
    """The headers of an ELF file; CorruptElf where they make no sense."""
    with host_path.open("rb") as file:
        try:
            return _read(ELFFile(file))
        # pyelftools lets whatever a nonsensical offset or index runs into come through.
        except (ELFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
            raise CorruptElf(str(error) or type(error).__name__) from None


def _read(elf: ELFFile) -> Elf:
    machine = str(elf["e_machine"])
    interpreter: str | None = None
    strings: dict[str, list[str]] = {"DT_NEEDED": [], "DT_RPATH": [], "DT_RUNPATH": []}
    for segment in elf.iter_segments():
        if isinstance(segment, InterpSegment):
            interpreter = segment.get_interp_name()
        elif isinstance(segment, DynamicSegment):
            for tag in segment.iter_tags():
                if tag.entry.d_tag in strings:
                    name = {"DT_NEEDED": "needed", "DT_RPATH": "rpath", "DT_RUNPATH": "runpath"}
                    strings[tag.entry.d_tag].append(getattr(tag, name[tag.entry.d_tag]))
    return Elf(
        machine=machine if elf.elfclass == 64 else f"{machine}/32",
        interpreter=interpreter,
        needed=tuple(strings["DT_NEEDED"]),
        rpath=_folders(strings["DT_RPATH"]),
        runpath=_folders(strings["DT_RUNPATH"]),
    )


def _folders(values: list[str]) -> tuple[str, ...]:
    return tuple(folder for value in values for folder in value.split(":") if folder)
