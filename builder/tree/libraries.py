"""Which shared libraries a file pulls in: what ld.so(8) would find, looked up in a root filesystem."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.arch import Arch
from builder.errors import MissingLibrary
from builder.tree.elf import CorruptElf, Elf, is_elf, read_elf
from builder.tree.root import Root

_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM)(?![A-Za-z0-9_]))")
"""A token without braces counts only where the name ends behind it."""


@dataclass(frozen=True)
class Needs:
    """Everything that one file pulls in."""

    found: Mapping[str, str]
    """Library -> who needs it first: jail paths as the loader opens them, links not followed."""
    missing: tuple[MissingLibrary, ...]


@dataclass(frozen=True)
class _Object:
    """A file as the loader has it in memory."""

    path: str
    elf: Elf
    chain: tuple[str, ...]
    """From the file that was asked about to this one."""
    rpath: tuple[str, ...]
    """DT_RPATH of it and of those that led to it."""


@dataclass
class _Scope:
    """What is in memory, in the order of loading, by each name that it answers to."""

    by_name: dict[str, _Object] = field(default_factory=dict)
    by_place: dict[str, _Object] = field(default_factory=dict)
    """By the file itself: two links to one file are one library."""

    def copy(self) -> _Scope:
        return _Scope(dict(self.by_name), dict(self.by_place))

    def add(self, loaded: _Object, real: str, *names: str) -> None:
        self.by_place[real] = loaded
        for name in (loaded.path, loaded.elf.soname, *names):
            if name is not None:
                self.by_name.setdefault(name, loaded)


class LibrarySearch:
    """Finds shared libraries the way glibc's loader does, but in `root` and without running anything.

    The order, from ld.so(8) and glibc's elf/dl-load.c: a library that is in memory by that name or DT_SONAME;
    DT_RPATH of the file, of those that led to it and of the program (only where the file has no DT_RUNPATH);
    DT_RUNPATH of the file; `cache`; `folders`; `listed`. A file for another machine is passed over; one that
    is no library, or a damaged one, ends the search. $PLATFORM is the kernel's word for the machine, for
    which glibc has another on some processors of Intel. Folders of a search path that are relative count from
    wherever a run is, so they are nowhere. The glibc-hwcaps folders are passed over: they hold faster copies
    of what is above them.
    """

    def __init__(
        self,
        root: Root,
        arch: Arch,
        folders: Sequence[str],
        *,
        cache: Mapping[str, str] | None = None,
        defaults: Sequence[str] = (),
    ) -> None:
        """`cache` has paths by soname; `defaults` are the folders that a file with DF_1_NODEFLIB lacks."""
        self.folders = tuple(folders)
        self.listed: dict[str, str] = {}
        """More libraries by soname, for what is in none of the folders."""
        self.broken: dict[str, str] = {}
        """What ended a search, being no library -> who needs it."""
        self._root = root
        self._arch = arch
        self._cache = dict(cache or {})
        self._defaults = frozenset(defaults)
        # Debian builds glibc with the slibdir of its multiarch folder, others with lib64.
        self._lib = (defaults or (f"/lib/{arch.triplet}",))[0].lstrip("/")
        self._headers: dict[str, Elf | None] = {}
        self._reals: dict[str, str | None] = {}
        self._names: dict[str, frozenset[str]] = {}
        self._searched: dict[tuple[tuple[str, ...], bool, str], str | None] = {}
        self._program_rpath: tuple[str, ...] = ()
        self._opener_rpath: tuple[str, ...] = ()
        self._started = _Scope()

    def start(self, program: str) -> Needs:
        """What `program` pulls in; what is searched later is searched as if opened by it with dlopen."""
        elf = self.elf(program) or Elf("")
        self._program_rpath = self._expand(elf.rpath, program)
        needs, self._started = self._load(program, _Scope(), ())
        # What calls dlopen: libpython where there is one, else the program itself.
        openers = [one for one in self._started.by_place.values() if _is_libpython(one.path)]
        self._opener_rpath = openers[0].rpath if openers else self._program_rpath
        return needs

    def needs(self, jail_path: str) -> Needs:
        """What the file at `jail_path` pulls in, recursively; nothing where it is none that can be loaded."""
        return self._load(jail_path, self._started.copy(), self._opener_rpath)[0]

    def find(self, soname: str) -> str | None:
        """Where dlopen(soname) from the program finds it."""
        if soname in self._started.by_name:
            return self._started.by_name[soname].path
        caller = _Object("", Elf(""), (), self._opener_rpath)
        return self._find(soname, caller)

    def elf(self, jail_path: str) -> Elf | None:
        """The headers of the file that `jail_path` leads to; None unless it is a whole ELF file."""
        real = self.real(jail_path)
        if real is None:
            return None
        if real not in self._headers:
            self._headers[real] = _whole_elf(self._root.host(real))
        return self._headers[real]

    def real(self, jail_path: str) -> str | None:
        """Where the path leads to."""
        if jail_path not in self._reals:
            self._reals[jail_path] = self._root.real(jail_path)
        return self._reals[jail_path]

    def fits(self, elf: Elf | None) -> bool:
        """Whether a file is a whole one for this machine."""
        return elf is not None and elf.machine == self._arch.elf_machine

    def _load(self, jail_path: str, scope: _Scope, inherited: tuple[str, ...]) -> tuple[Needs, _Scope]:
        """Loads the file and what it needs, breadth first, as the loader does."""
        elf, real = self.elf(jail_path), self.real(jail_path)
        if elf is None or real is None or not self.fits(elf):
            return Needs({}, ()), scope
        first = _Object(jail_path, elf, (jail_path,), (*self._expand(elf.rpath, jail_path), *inherited))
        scope.add(first, real)
        queue, found = [first], dict[str, str]()
        absent: dict[str, MissingLibrary] = {}
        for one in queue:  # which grows
            for name in self._named(one):
                known = scope.by_name.get(name)
                if known is None:
                    path = self._find(name, one)
                    if path is None:
                        absent.setdefault(name, MissingLibrary(name, one.chain))
                        continue
                    known, new = self._object(path, name, one, scope)
                    if new:
                        queue.append(known)
                if known is not first:
                    found.setdefault(known.path, one.path)
        lacking = [lack for one in queue for lack in self._lacks(one, scope) if lack.soname not in absent]
        return Needs(found, (*absent.values(), *lacking)), scope

    def _object(self, path: str, name: str, loader: _Object, scope: _Scope) -> tuple[_Object, bool]:
        """The library at `path`, and whether it was not in memory yet."""
        elf, real = self.elf(path), self.real(path)
        assert elf is not None  # noqa: S101 - _find looked
        assert real is not None  # noqa: S101 - _find looked
        known = scope.by_place.get(real)
        if known is not None:
            scope.add(known, real, name)
            return known, False
        rpath = (*self._expand(elf.rpath, path), *loader.rpath)
        loaded = _Object(path, elf, (*loader.chain, path), rpath)
        scope.add(loaded, real, name)
        return loaded, True

    def _lacks(self, one: _Object, scope: _Scope) -> list[MissingLibrary]:
        """The versions of symbols that a file needs and that the libraries in memory do not have."""
        return [
            MissingLibrary(soname, one.chain, version)
            for soname, wanted in one.elf.wanted
            if (library := scope.by_name.get(soname)) is not None and library.elf.versions is not None
            for version in wanted
            if version not in library.elf.versions
        ]

    def _find(self, name: str, loader: _Object) -> str | None:
        if "/" in name:
            return name if name.startswith("/") and self._look(name, loader) else None
        own = tuple(dict.fromkeys((*loader.rpath, *self._program_rpath)))
        if loader.elf.runpath:
            own = self._expand(loader.elf.runpath, loader.path)
        key = (own, loader.elf.passes_defaults, name)
        if key not in self._searched:
            self._searched[key] = self._search(own, loader, name)
        return self._searched[key]

    def _search(self, own: tuple[str, ...], loader: _Object, name: str) -> str | None:
        candidates = [posixpath.join(folder, name) for folder in own if name in self._listing(folder)]
        more = [self._cache[name]] if name in self._cache else []
        more += [posixpath.join(folder, name) for folder in self.folders if name in self._listing(folder)]
        more += [self.listed[name]] if name in self.listed else []
        if loader.elf.passes_defaults:
            more = [path for path in more if posixpath.dirname(path) not in self._defaults]
        for path in (*candidates, *more):
            if (answer := self._look(path, loader)) is not None:
                return path if answer else None
        return None

    def _look(self, path: str, loader: _Object) -> bool | None:
        """True: a library that fits. False: something that ends the search. None: the search goes on."""
        real = self.real(path)
        if real is None:
            return None
        elf = self.elf(path)
        if elf is not None and not self.fits(elf):
            return None
        if elf is None or not elf.is_dynamic:
            self.broken.setdefault(real, loader.path)
            return False
        return True

    def _listing(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            self._names[folder] = frozenset(self._root.names(folder))
        return self._names[folder]

    def _named(self, one: _Object) -> Iterable[str]:
        """What a file needs, tokens in their place."""
        return (self._fill(name, one.path) if "$" in name else name for name in one.elf.needed)

    def _expand(self, paths: Iterable[str], jail_path: str) -> tuple[str, ...]:
        """Tokens in their place; what is relative then names no fixed place: left out."""
        named = (self._fill(path, jail_path) if "$" in path else path for path in paths)
        return tuple(path for path in named if path.startswith("/"))

    def _fill(self, path: str, jail_path: str) -> str:
        values = {"ORIGIN": posixpath.dirname(jail_path), "LIB": self._lib, "PLATFORM": self._arch.machine}
        return _TOKEN.sub(lambda match: values[match[1] or match[2]], path)


def _is_libpython(path: str) -> bool:
    return posixpath.basename(path).startswith("libpython")


def _whole_elf(host_path: Path) -> Elf | None:
    try:
        return read_elf(host_path) if host_path.is_file() and is_elf(host_path) else None
    except CorruptElf:
        return None
