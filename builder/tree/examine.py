"""ELF files of a tree -> what each pulls in, and which of them nothing can load."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from builder.arch import Arch
from builder.errors import MissingLibrary
from builder.tree.elf import Elf, imported, is_elf
from builder.tree.libraries import LibrarySearch, Needs
from builder.tree.root import Root

_SOURCES = (".py", ".pyc")
"""Half of all files, and none of them an ELF file."""


@dataclass
class Examination:
    """What is known of the ELF files that were looked at, by jail path."""

    search: LibrarySearch
    root: Root
    needs: dict[str, Needs] = field(default_factory=dict)
    """Of each file that something may open by its path. A library that another pulls in is judged there."""
    libraries: dict[str, list[str]] = field(default_factory=dict)
    """What was pulled in, its folder without links -> who needs it."""
    opened: set[str] = field(default_factory=set)
    """The same, as the loader opens it: links on the way must be in the tree too."""
    damaged: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """For another machine."""
    programs: set[str] = field(default_factory=set)
    _sonames: dict[str, str] = field(default_factory=dict)
    _imported: dict[str, set[str]] = field(default_factory=dict)

    def look(self, jail_paths: Iterable[str]) -> list[str]:
        """Looks at more files, which hold no link; returns those that are ELF files and can be loaded."""
        found: dict[str, Elf] = {}
        for jail_path in sorted(jail_paths):
            if jail_path.endswith(_SOURCES) or not is_elf(self.root.host(jail_path)):
                continue
            elf = self.search.elf(jail_path)
            if elf is None:
                self.damaged.append(jail_path)
            elif not self.search.fits(elf):
                self.foreign.append(jail_path)
            elif elf.is_program:
                self.programs.add(jail_path)
                found[jail_path] = elf
            elif elf.is_dynamic:
                self._sonames.setdefault(elf.soname or "", jail_path)
                found[jail_path] = elf
        # First the files that no other asks for. What they bring is loaded by them, with their search paths.
        asked = {posixpath.basename(name) for elf in found.values() for name in elf.needed}
        order = sorted(found, key=lambda path: (_names(path, found[path]) & asked != set(), path))
        reached: set[str] = set()
        for jail_path in order:
            if jail_path in reached:
                continue
            needs = self.needs[jail_path] = self.search.needs(jail_path)
            self.add_found(needs)
            reached |= {real for path in needs.found if (real := self.search.real(path)) is not None}
        return order

    def add_found(self, needs: Needs) -> None:
        """Takes down what a file pulls in."""
        self.opened.update(needs.found)
        for library, needer in needs.found.items():
            needers = self.libraries.setdefault(self.spelled(library), [])
            real = self.search.real(needer)
            if real is not None and real not in needers:
                needers.append(real)

    def spelled(self, jail_path: str) -> str:
        """The path with its folder's links resolved and its own kept: the loader's name for the file."""
        folder, name = posixpath.split(jail_path)
        return posixpath.join(self.search.real(folder) or folder, name)

    def loaded_before(self, missing: MissingLibrary) -> str | None:
        """The file of the tree that satisfies the need once something else has loaded it."""
        return self._sonames.get(missing.soname) if missing.version is None else None

    def import_any(self, symbols: Sequence[str]) -> bool:
        """Whether a file that was looked at, or a library of it, takes one of `symbols` from a library."""
        reals = {self.search.real(library) for library in self.libraries}
        for real in sorted({*self.needs, *(real for real in reals if real is not None)}):
            key = " ".join((real, *symbols))
            if key not in self._imported:
                self._imported[key] = imported(self.root.host(real), symbols)
            if self._imported[key]:
                return True
        return False


def is_optional(missing: MissingLibrary, optional: Sequence[str]) -> bool:
    """Whether the config says that this library may be missing."""
    return any(fnmatchcase(missing.soname, pattern) for pattern in optional)


def at_once(missing: Iterable[MissingLibrary]) -> tuple[MissingLibrary, ...]:
    """One of each soname and version, with its shortest chain; in the order of the names."""
    chosen: dict[tuple[str, str], MissingLibrary] = {}
    for one in sorted(missing, key=lambda one: (len(one.chain), one.chain)):
        chosen.setdefault((one.soname, one.version or ""), one)
    return tuple(chosen[key] for key in sorted(chosen))


def can_be_imported(jail_path: str, root: Root, version: tuple[int, int], arch: Arch) -> bool:
    """Whether `import` would open the file: an extension module for this interpreter, by its name.

    A bare .so may be any library, so it counts where it has the function that Python calls in a module.
    """
    name = posixpath.basename(jail_path)
    tags = rf"cpython-{version[0]}{version[1]}t?-{arch.triplet}|abi3|abi3-{arch.triplet}"
    if re.search(rf"\.(?:{tags})\.so$", name):
        return True
    stem, dot, suffix = name.partition(".")
    init = b"PyInit_" + stem.encode(errors="surrogateescape")
    return dot + suffix == ".so" and init in root.host(jail_path).read_bytes()


def _names(jail_path: str, elf: Elf) -> set[str]:
    return {posixpath.basename(jail_path), elf.soname or ""}
