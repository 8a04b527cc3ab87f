"""Which shared libraries a program pulls in: what ld.so(8) would find, looked up in a root filesystem."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from builder.arch import Arch
from builder.tree.elf import CorruptElf, Elf, is_elf, read_elf
from builder.tree.root import Root


@dataclass(frozen=True)
class Missing:
    """A library that no folder has."""

    soname: str
    chain: tuple[str, ...]
    """Jail paths from the file that was asked about to the one that needs the library."""

    def __str__(self) -> str:
        return " -> ".join((*self.chain, self.soname)) + " (not found)"


@dataclass(frozen=True)
class Needs:
    """Everything that one file pulls in."""

    found: tuple[str, ...]
    """Jail paths, each as the loader would open it: links not followed."""
    missing: tuple[Missing, ...]


class LibrarySearch:
    """Finds shared libraries the way glibc's loader does, but in `root` and without running anything.

    Order, from ld.so(8): DT_RPATH of the object and of those that led to it (only where the object has no
    DT_RUNPATH), DT_RUNPATH of the object, then ld.so.conf's and the default folders. The glibc-hwcaps
    folders are passed over: they hold faster copies of what the folder above them has.
    """

    def __init__(self, root: Root, arch: Arch) -> None:
        self._root = root
        self._arch = arch
        self.folders = _system_folders(root, arch)
        self._headers: dict[str, Elf | None] = {}
        self._needed: dict[str, tuple[tuple[str, str | None], ...]] = {}
        self._program_rpath: tuple[str, ...] = ()
        self._loaded: dict[str, str] = {}

    def start(self, program: str) -> Needs:
        """What `program` pulls in; what is searched later is searched as if opened by it with dlopen."""
        elf = self.elf(program)
        if elf is not None and not elf.runpath:
            self._program_rpath = _expand(elf.rpath, program)
        needs = self.needs(program)
        self._loaded = {posixpath.basename(path): path for path in needs.found}
        return needs

    def needs(self, jail_path: str) -> Needs:
        """What the file at `jail_path` pulls in, recursively."""
        found: dict[str, None] = {}
        missing = []
        queue: deque[tuple[tuple[str, ...], tuple[str, ...]]] = deque([((jail_path,), self._program_rpath)])
        while queue:
            chain, inherited = queue.popleft()
            path = chain[-1]
            elf = self.elf(path)
            rpath = inherited if elf is None or elf.runpath else (*_expand(elf.rpath, path), *inherited)
            for soname, library in self._direct(path, inherited):
                if library is None:
                    missing.append(Missing(soname, chain))
                elif library not in found:
                    found[library] = None
                    queue.append(((*chain, library), rpath))
        return Needs(tuple(found), tuple(missing))

    def find(self, soname: str) -> str | None:
        """Where dlopen(soname) from the program finds it."""
        return self._find(soname, self._program_rpath)

    def elf(self, jail_path: str) -> Elf | None:
        """The headers of the file that `jail_path` leads to; None unless it is a whole ELF file."""
        real = self._root.real(jail_path)
        if real is None:
            return None
        if real not in self._headers:
            self._headers[real] = _whole_elf(self._root.host(real))
        return self._headers[real]

    def _direct(self, path: str, inherited: tuple[str, ...]) -> tuple[tuple[str, str | None], ...]:
        if path not in self._needed:
            elf = self.elf(path)
            folders: tuple[str, ...] = ()
            if elf is not None:
                folders = _expand(elf.runpath, path) or (*_expand(elf.rpath, path), *inherited)
            names = elf.needed if elf is not None else ()
            self._needed[path] = tuple((name, self._find(name, folders)) for name in names)
        return self._needed[path]

    def _find(self, soname: str, folders: tuple[str, ...]) -> str | None:
        if "/" in soname:
            return soname if self._fits(soname) else None
        if soname in self._loaded:
            return self._loaded[soname]
        for folder in (*folders, *self.folders):
            candidate = posixpath.join(folder, soname)
            if self._fits(candidate):
                return candidate
        return None

    def _fits(self, jail_path: str) -> bool:
        elf = self.elf(jail_path)
        return elf is not None and elf.machine == self._arch.elf_machine


def _whole_elf(host_path: Path) -> Elf | None:
    try:
        return read_elf(host_path) if host_path.is_file() and is_elf(host_path) else None
    except CorruptElf:
        return None


def default_folders(arch: Arch) -> tuple[str, ...]:
    """The folders that the loader searches with no cache: Debian's, then those of other distributions."""
    triplet = (f"/lib/{arch.triplet}", f"/usr/lib/{arch.triplet}")
    return (*triplet, "/lib64", "/usr/lib64", "/lib", "/usr/lib")


def _system_folders(root: Root, arch: Arch) -> tuple[str, ...]:
    configured = _ld_so_conf(root, "/etc/ld.so.conf", depth=0)
    return tuple(f for f in dict.fromkeys((*configured, *default_folders(arch))) if root.is_dir(f))


def _ld_so_conf(root: Root, jail_path: str, depth: int) -> list[str]:
    """The folders that a configuration file of ldconfig(8) names, its includes followed."""
    real = root.real(jail_path)
    if real is None or depth > 4 or not root.host(real).is_file():
        return []
    folders = []
    for line in root.host(real).read_text(errors="surrogateescape").splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 1 and words[0] == "include":
            for pattern in words[1:]:
                folder, name = posixpath.split(posixpath.join(posixpath.dirname(jail_path), pattern))
                for entry in root.names(folder):
                    if fnmatchcase(entry, name):
                        folders += _ld_so_conf(root, posixpath.join(folder, entry), depth + 1)
        elif words and words[0].startswith("/"):
            folders.append(words[0])
    return folders


def _expand(folders: Iterable[str], jail_path: str) -> tuple[str, ...]:
    """$ORIGIN in its place; entries with another token, or relative ones, name no fixed place: left out."""
    origin = posixpath.dirname(jail_path)
    named = (f.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for f in folders)
    return tuple(f for f in named if f.startswith("/") and "$" not in f)
