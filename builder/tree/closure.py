"""Brings the shared libraries that the entries of a selection need, and says which it could not."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from builder.arch import Arch
from builder.errors import BuildError
from builder.tree.elf import is_elf
from builder.tree.interpreter import Interpreter
from builder.tree.libraries import LibrarySearch
from builder.tree.root import Root, is_below
from builder.tree.selection import Selection
from builder.tree.spec import Rule

_SHOWN = 5


def add_libraries(
    selection: Selection, root: Root, arch: Arch, interpreter: Interpreter, opened: Sequence[Rule], base: str
) -> list[str]:
    """Adds what the interpreter, each ELF file of the selection and the `opened` sonames need, recursively.

    Returns those that the loader finds by no RPATH, as it would open them. BuildError where the interpreter
    cannot start. An extension module of the standard library that cannot be loaded is taken out; for
    whatever else cannot be loaded there is a warning, since nothing may ever load it.
    """
    search = LibrarySearch(root, arch)
    libraries = {interpreter.loader, *_start(search, interpreter, base)}
    for rule in opened:
        found = search.find(rule.match)
        if found is not None:
            libraries |= {found, *search.needs(found).found}
        elif not rule.optional:
            raise BuildError(f"{rule.match} is not in {base}: {rule.reason}")

    unloadable, foreign, damaged = [], [], []
    for jail_path in sorted(selection.files - {interpreter.executable}):
        # Sources are half of all files: not worth a look.
        if jail_path.endswith(".py") or not is_elf(root.host(jail_path)):
            continue
        elf, needs = search.elf(jail_path), search.needs(jail_path)
        standard = _is_standard(jail_path, interpreter)
        if elf is None:
            damaged.append(jail_path)
        elif elf.machine != arch.elf_machine:
            foreign.append(jail_path)
        elif needs.missing and standard:
            unloadable.append(str(needs.missing[0]))
        else:
            selection.warnings.extend(map(str, needs.missing))
            libraries.update(needs.found)
            continue
        if standard:
            selection.discard_file(jail_path)
    for library in sorted(libraries):
        selection.add(library)
    for what, paths in (
        (f"left out modules of the standard library whose libraries are not in {base}", unloadable),
        (f"not for {arch.name}, so that nothing can load them", foreign),
        ("damaged ELF files", damaged),
    ):
        if paths:
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            selection.warnings.append(f"{what}: {', '.join(paths[:_SHOWN])}{more}")
    return [library for library in sorted(libraries) if posixpath.dirname(library) in search.folders]


def _start(search: LibrarySearch, interpreter: Interpreter, base: str) -> tuple[str, ...]:
    needs = search.start(interpreter.executable)
    if needs.missing:
        chains = "; ".join(map(str, needs.missing))
        raise BuildError(
            f"the interpreter needs libraries that {base} does not have: {chains}",
            "install them in the base, or name the folder that has them in its /etc/ld.so.conf",
        )
    return needs.found


def _is_standard(jail_path: str, interpreter: Interpreter) -> bool:
    """Whether the file is the standard library's own and not a package's that lies in the same folder."""
    packages = any(is_below(jail_path, site) for site in interpreter.site)
    return is_below(jail_path, interpreter.stdlib) and not packages
