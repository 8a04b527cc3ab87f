"""TreeSpec + root filesystem -> everything that the tree holds. Decides; writes nothing."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from builder.arch import parse_arch
from builder.errors import BuildError
from builder.tree import ldcache, supplied
from builder.tree.closure import add_libraries
from builder.tree.interpreter import Interpreter, find_interpreter
from builder.tree.patterns import Patterns
from builder.tree.requested import find_requested
from builder.tree.root import Root, is_below
from builder.tree.selection import Selection
from builder.tree.spec import Rule, TreeSpec

_PACKAGE_FOLDERS = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Contents:
    """The tree, decided. Keys and members are jail paths whose folders hold no link."""

    interpreter: Interpreter
    directories: frozenset[str]
    files: frozenset[str]
    """Copied from the base, from the very same path."""
    links: Mapping[str, str]
    """Link -> what it says."""
    texts: Mapping[str, bytes]
    """Files that the base does not have."""
    modules: frozenset[str]
    """Python sources, links to one included."""
    sourceless: frozenset[str]
    """The modules of which only the bytecode is written. No link leads to any of them."""
    executables: frozenset[str]
    sys_path: tuple[str, ...]
    warnings: tuple[str, ...]


def tree_contents(spec: TreeSpec, root: Root, progress: Callable[[str], None]) -> Contents:
    """Everything that the tree of `spec` holds.

    ConfigError (exit 2) for what config.yaml asks of the base and the base lacks; BuildError where the
    interpreter lacks something that it needs.
    """
    arch = parse_arch(spec.arch)
    requested = find_requested(spec, root, arch.triplet)
    interpreter = find_interpreter(root, spec.python_path, arch, spec.base)
    listed = [root.resolve(path).path for path in requested.python_lib_path]
    places = {
        "stdlib": [interpreter.stdlib],
        "site": [*interpreter.site, *(p for p in listed if posixpath.basename(p) in _PACKAGE_FOLDERS)],
    }
    prune = _patterns(spec.prune, places, root)
    if spec.python_lib_path is not None:
        # In the layout of /usr/local the packages lie inside the standard library: only what is listed.
        prune += [site for site in interpreter.site if not any(is_below(site, path) for path in listed)]
    selection = Selection(root, Patterns(prune, places), progress)
    selection.warnings.extend(requested.warnings)

    progress("looking through the base")
    _add_interpreter(selection, interpreter, spec.base)
    for jail_path in interpreter.site if spec.python_lib_path is None else requested.python_lib_path:
        selection.add(jail_path)
    for jail_path in requested.system_files:
        selection.add(jail_path)
    progress("resolving shared libraries")
    libraries = add_libraries(selection, root, arch, interpreter, spec.libraries, spec.base)
    texts = supplied.add_supplied(selection, root)
    cache = selection.place(ldcache.PATH)
    if not selection.holds(cache):
        texts[cache] = ldcache.ld_so_cache(libraries, arch)
    selection.finish()

    sourceless = Patterns(_patterns(spec.sourceless, places, root), places)
    linked = {root.real(link) for link in selection.links}
    entries = (*selection.files, *selection.links)
    return Contents(
        interpreter=interpreter,
        directories=frozenset(selection.directories),
        files=frozenset(selection.files),
        links=selection.links,
        texts=texts,
        modules=frozenset(p for p in entries if p.endswith(".py") and root.real(p) in selection.files),
        sourceless=frozenset(path for path in selection.files - linked if sourceless.match(path)),
        executables=frozenset({interpreter.executable, root.resolve(interpreter.loader).path}),
        sys_path=_sys_path(interpreter, listed, selection, root),
        warnings=tuple(selection.warnings),
    )


def _patterns(rules: Sequence[Rule], places: Mapping[str, Sequence[str]], root: Root) -> list[str]:
    """The patterns of the rules that hold for this base."""

    def holds(where: str) -> bool:
        folder = posixpath.dirname(where.replace("{stdlib}", places["stdlib"][0]))
        pattern = Patterns([where], places)
        return any(pattern.match(posixpath.join(folder, name)) for name in root.names(folder))

    return [rule.match for rule in rules if rule.where is None or holds(rule.where)]


def _add_interpreter(selection: Selection, interpreter: Interpreter, base: str) -> None:
    needed = [interpreter.configured, interpreter.path, interpreter.stdlib, interpreter.loader]
    if interpreter.venv_config is not None:
        needed.append(interpreter.venv_config)
    for jail_path in needed:
        try:
            selection.add(jail_path)
        except OSError as error:
            message = f"{jail_path}, which the interpreter needs, is not in {base}: {error.strerror}"
            raise BuildError(message) from None


def _sys_path(
    interpreter: Interpreter, listed: Sequence[str], selection: Selection, root: Root
) -> tuple[str, ...]:
    """sys.path of the code in the jail: the interpreter's own, then the listed folders that hold modules."""
    path = [interpreter.zip, interpreter.stdlib, interpreter.dynload]
    path += [folder for folder in interpreter.site if folder in selection.directories]
    for real in listed:
        folder = _import_folder(root, real)
        if folder is not None and not is_below(folder, interpreter.stdlib):
            path.append(folder)
    return tuple(dict.fromkeys(path))


def _import_folder(root: Root, real: str) -> str | None:
    """The folder that must be on sys.path so that what was listed can be imported; None where nothing can.

    A folder of packages is one by its name, or because a module or a package lies right in it; a package
    itself, however deep, is imported from the folder that holds the outermost one.
    """
    if posixpath.basename(real) in _PACKAGE_FOLDERS:
        return real
    folder = real
    while root.is_file(posixpath.join(folder, "__init__.py")):
        folder = posixpath.dirname(folder)
    if folder != real:
        return folder
    for name in root.names(real):
        if name.endswith(".py") or root.is_file(posixpath.join(real, name, "__init__.py")):
            return real
    return None
