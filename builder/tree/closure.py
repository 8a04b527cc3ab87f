"""Brings the shared libraries that the entries of a selection need. What is missing is an error."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from builder.arch import Arch
from builder.errors import BuildError, LibrariesMissing, MissingLibrary
from builder.tree import ldcache
from builder.tree.elf import read_elf
from builder.tree.examine import Examination, at_once, can_be_imported, is_optional
from builder.tree.folders import configured_folders, default_folders, loader_folders
from builder.tree.interpreter import Interpreter
from builder.tree.libraries import LibrarySearch
from builder.tree.patterns import Patterns
from builder.tree.root import Root, is_below
from builder.tree.selection import Selection
from builder.tree.spec import PACKAGES_PATH, Rule, TreeSpec

RULE = "rule: "
"""How `needed_by` begins where no file but a rule of tree.yaml asks for a library."""

_SHOWN = 5
_KERNEL_FOLDERS = ("/proc", "/sys", "/dev")


@dataclass(frozen=True)
class Closure:
    """The libraries of a tree."""

    cached: dict[str, str]
    """What /etc/ld.so.cache is to list: soname -> path, as the loader opens it."""
    needed_by: dict[str, tuple[str, ...]]
    """Library -> the ELF files that need it, the first one first; or RULE and a reason."""


def add_libraries(
    selection: Selection, root: Root, arch: Arch, interpreter: Interpreter, spec: TreeSpec
) -> Closure:
    """Adds what the interpreter, each ELF file of the selection and the rules' libraries need, recursively.

    LibrariesMissing has all that is not found, and BuildError names locked files that are damaged or for
    another machine and that something would load. An extension module of the standard library that a rule
    or the config lets go is taken out, with a warning; so is one that is damaged.
    """
    search = base_search(root, arch, interpreter, spec)
    seen = Examination(search, root)
    start = search.start(interpreter.executable)
    seen.add_found(start)
    seen.libraries.setdefault(seen.spelled(interpreter.loader), [interpreter.executable])
    seen.look(selection.files - {interpreter.executable})
    _apply_rules(selection, seen, arch, spec)

    missing = list(start.missing)
    lacking = Patterns([rule.match for rule in spec.lacking], {"stdlib": [interpreter.stdlib], "site": []})
    says = _Sayings(spec.base, arch)
    for jail_path, needs in sorted(seen.needs.items()):
        optional = [one for one in needs.missing if is_optional(one, spec.optional_libraries)]
        real = [one for one in needs.missing if one not in optional]
        standard = _is_standard(jail_path, interpreter)
        if standard and needs.missing and (not real or lacking.match(jail_path)):
            selection.discard_file(jail_path)
            says.unloadable.append(str(needs.missing[0]))
            continue
        says.optional += optional
        if jail_path in seen.programs:
            says.programs += real
            continue
        for one in real:
            before = seen.loaded_before(one)
            if before is None:
                missing.append(one)
            else:
                says.before.append(f"{one.chain[-1]} needs {one.soname}, as {before} once that is loaded")
    _check_damaged(seen, root, interpreter, arch, bool(missing))
    if missing:
        places = _places(root, search, {one.soname for one in missing if one.version is None})
        shown = [replace(one, places=places.get(one.soname, ())) for one in at_once(missing)]
        raise LibrariesMissing(shown, spec.base)
    for jail_path in (*seen.damaged, *seen.foreign):
        if _is_standard(jail_path, interpreter):
            selection.discard_file(jail_path)
    for library in sorted(seen.opened | set(seen.libraries)):
        selection.add(library)
    selection.warnings += says.lines(seen)
    return Closure(_cached(seen, selection), {path: tuple(by) for path, by in seen.libraries.items()})


def check_closure(
    root: Root, arch: Arch, interpreter_path: str, optional: Sequence[str]
) -> tuple[MissingLibrary, ...]:
    """What the ELF files of a finished jail tree need and would not find in the jail.

    The tree's own ld.so.cache counts, and the default folders of its loader; nothing else does.
    """
    loader = read_elf(root.host(root.resolve(interpreter_path).path)).interpreter or arch.loader
    defaults = loader_folders(root, loader) or default_folders(arch)
    cache = root.real(ldcache.PATH)
    cached = ldcache.read_ld_so_cache(root.host(cache).read_bytes(), arch) if cache is not None else {}
    search = LibrarySearch(root, arch, defaults, cache=cached, defaults=defaults)
    seen = Examination(search, root)
    missing = list(search.start(interpreter_path).missing)
    seen.look(path for path, is_link in _entries(root) if not is_link)
    for jail_path, needs in seen.needs.items():
        if jail_path not in seen.programs:
            missing += [one for one in needs.missing if seen.loaded_before(one) is None]
    return at_once(one for one in missing if not is_optional(one, optional))


def base_search(root: Root, arch: Arch, interpreter: Interpreter, spec: TreeSpec) -> LibrarySearch:
    """The search in a base. Whatever it finds in a folder will be in the tree's ld.so.cache.

    Last come the libraries that python_lib_path lists, and the folders between which only a script of
    Debian's packages would choose.
    """
    defaults = loader_folders(root, interpreter.loader)
    alternatives = [rule.match.replace("{triplet}", arch.triplet) for rule in spec.alternatives]
    listed = [path for path in spec.python_lib_path or () if any(map(_is_library_name, root.names(path)))]
    folders = (*configured_folders(root), *defaults, *default_folders(arch), *listed, *alternatives)
    known = [folder for folder in dict.fromkeys(folders) if root.is_dir(folder)]
    search = LibrarySearch(root, arch, known, defaults=defaults)
    for path in spec.python_lib_path or ():
        elf = search.elf(path) if _is_library_name(posixpath.basename(path)) else None
        if elf is not None:
            search.listed.setdefault(elf.soname or posixpath.basename(path), path)
    return search


def _apply_rules(selection: Selection, seen: Examination, arch: Arch, spec: TreeSpec) -> None:
    """Adds what is opened by dlopen, so that no header names it; a rule may bring what another waits for."""
    pending = list(spec.libraries)
    while True:
        held = [rule for rule in pending if rule.opener and not seen.import_any(rule.opener.split())]
        for rule in pending:
            if rule not in held:
                _apply_rule(rule, selection, seen, arch, spec.base)
        if held == pending:
            return
        pending = held


def _apply_rule(rule: Rule, selection: Selection, seen: Examination, arch: Arch, base: str) -> None:
    by = f"{RULE}{rule.reason}"
    match = rule.match.replace("{triplet}", arch.triplet)
    if rule.beside is not None:
        libraries = sorted(
            path for path in seen.libraries if fnmatchcase(posixpath.basename(path), rule.beside)
        )
        paths = [posixpath.join(posixpath.dirname(path), match) for path in libraries]
    elif "/" in match:
        paths = [match]
    else:
        found = seen.search.find(match)
        if found is not None:
            seen.libraries.setdefault(seen.spelled(found), [by])
            seen.add_found(seen.search.needs(found))
        paths = [found] if found is not None else []
    there = [path for path in paths if seen.root.real(path) is not None]
    if not there and not rule.optional:
        raise BuildError(f"{rule.match} is not in {base}: {rule.reason}")
    for path in there:
        known = set(selection.files)
        selection.add(path)
        for library in seen.look(selection.files - known - set(seen.needs)):
            seen.libraries.setdefault(library, [by])


@dataclass
class _Sayings:
    """What the user is told of files that stay or go."""

    base: str
    arch: Arch

    def __post_init__(self) -> None:
        self.unloadable: list[str] = []
        self.optional: list[MissingLibrary] = []
        self.programs: list[MissingLibrary] = []
        self.before: list[str] = []

    def lines(self, seen: Examination) -> list[str]:
        """One line of each kind."""
        kinds = (
            (
                f"left out modules of the standard library whose libraries are not in {self.base}",
                self.unloadable,
            ),
            ("optional_libraries that are not there", list(map(str, at_once(self.optional)))),
            ("programs without their libraries, which nothing in the jail can start", self._programs()),
            ("libraries that only something loaded before provides", self.before),
            (f"not for {self.arch.name}, so that nothing can load them", seen.foreign),
            ("damaged ELF files", seen.damaged),
        )
        return [f"{what}: {_some(values)}" for what, values in kinds if values]

    def _programs(self) -> list[str]:
        return list(map(str, at_once(self.programs)))


def _some(values: Sequence[str]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return f"{', '.join(values[:_SHOWN])}{more}"


def _check_damaged(
    seen: Examination, root: Root, interpreter: Interpreter, arch: Arch, is_missing: bool
) -> None:
    """BuildError for files that something would load and that cannot be loaded."""
    lines = []
    for jail_path in sorted((*seen.damaged, *seen.foreign)):
        what = "is damaged" if jail_path in seen.damaged else f"is not for {arch.name}"
        if is_below(jail_path, PACKAGES_PATH) and can_be_imported(jail_path, root, interpreter.version, arch):
            lines.append(f"{jail_path} {what}")
    for jail_path, needer in sorted(seen.search.broken.items()):
        if is_missing or is_below(jail_path, PACKAGES_PATH):
            lines.append(f"{jail_path} is no whole library, and {needer} needs it")
    if lines:
        raise BuildError(
            f"files that cannot be loaded: {'; '.join(lines)}",
            "install them anew; for a locked package: sandbox-build lock, then build with --no-cache",
        )


def _cached(seen: Examination, selection: Selection) -> dict[str, str]:
    """The libraries that lie in the folders of the search or are listed; of one name, as it finds them."""
    search = seen.search
    order: dict[str, int] = {}
    for index, folder in enumerate(search.folders):
        order.setdefault(search.real(folder) or folder, index)
    known = {path for path in seen.libraries if posixpath.dirname(path) in order}
    # Those that nobody asked for yet, as a program that knows their name may.
    for entry in (*selection.files, *selection.links):
        folder, name = posixpath.split(entry)
        if folder in order and _is_library_name(name) and _is_own_name(search, entry, name):
            known.add(entry)
    paths: dict[str, str] = {}
    for path in sorted(known, key=lambda path: (order[posixpath.dirname(path)], path)):
        paths.setdefault(posixpath.basename(path), path)
    return {soname: seen.spelled(path) for soname, path in search.listed.items()} | paths


def _is_library_name(name: str) -> bool:
    """Whether ldconfig(8) would look at a file of this name."""
    return name.startswith(("lib", "ld-")) and ".so" in name


def _is_own_name(search: LibrarySearch, jail_path: str, name: str) -> bool:
    """Whether a library's file is called as the loader asks for it."""
    elf = search.elf(jail_path)
    return elf is not None and search.fits(elf) and elf.is_dynamic and elf.soname in (None, name)


def _places(root: Root, search: LibrarySearch, sonames: set[str]) -> Mapping[str, tuple[str, ...]]:
    """Where else in the root libraries of these names lie."""
    found: dict[str, list[str]] = {}
    for jail_path, _ in _entries(root) if sonames else ():
        if posixpath.basename(jail_path) in sonames and search.fits(search.elf(jail_path)):
            found.setdefault(posixpath.basename(jail_path), []).append(jail_path)
    return {soname: tuple(sorted(paths)) for soname, paths in found.items()}


def _entries(root: Root) -> Iterator[tuple[str, bool]]:
    """Every file and link of the root, in folders that are none, and whether it is a link."""
    pending = ["/"]
    while pending:
        folder = pending.pop()
        # A folder of this machine that is not ours to read has nothing that a build could take.
        with suppress(PermissionError), os.scandir(root.host(folder)) as entries:
            for entry in entries:
                jail_path = posixpath.join(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if jail_path not in _KERNEL_FOLDERS:
                        pending.append(jail_path)
                elif entry.is_symlink() or entry.is_file():
                    yield jail_path, entry.is_symlink()


def _is_standard(jail_path: str, interpreter: Interpreter) -> bool:
    """Whether the file is the standard library's own and not a package's that lies in the same folder."""
    packages = any(is_below(jail_path, site) for site in interpreter.site)
    return is_below(jail_path, interpreter.stdlib) and not packages
