"""TreeSpec + root filesystem -> everything that the tree holds. Decides; writes nothing."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from builder.arch import parse_arch
from builder.errors import BuildError
from builder.tree import ldcache, supplied
from builder.tree.closure import add_libraries
from builder.tree.distributions import Distribution, distributions
from builder.tree.interpreter import Interpreter, find_interpreter
from builder.tree.patterns import Patterns
from builder.tree.requested import find_requested
from builder.tree.root import Root, is_below
from builder.tree.selection import Selection
from builder.tree.spec import PACKAGES_PATH, Rule, TreeSpec
from builder.tree.whole import keep_whole

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
    """Files of our own, some of them in place of the base's."""
    modules: frozenset[str]
    """Python sources, links to one included."""
    sourceless: frozenset[str]
    """The modules of which only the bytecode is written. No link leads to any of them."""
    executables: frozenset[str]
    needed_by: Mapping[str, Sequence[str]]
    """Shared library, as the loader opens it -> the ELF files that need it, or a rule: closure.py."""
    distributions: tuple[Distribution, ...]
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
    _check_packages(spec, interpreter)
    listed = [root.resolve(path).path for path in requested.python_lib_path]
    packages = (PACKAGES_PATH,) if root.packages is not None else ()
    places = {
        "stdlib": [interpreter.stdlib],
        "site": [
            *packages,
            *interpreter.site,
            *(p for p in listed if posixpath.basename(p) in _PACKAGE_FOLDERS),
        ],
    }
    prune = _patterns(spec.prune, places, root)
    if spec.python_lib_path is not None:
        # In the layout of /usr/local the packages lie inside the standard library: only what is listed.
        prune += [site for site in interpreter.site if not any(is_below(site, path) for path in listed)]
    whole = keep_whole(root, places["site"], spec.keep_whole)
    selection = Selection(root, Patterns(prune, places), progress, whole.holds)
    selection.warnings.extend(requested.warnings)
    selection.warnings += [f"keep_whole: {name} is not in the tree" for name in whole.unknown]

    progress("looking through the base")
    _add_interpreter(selection, interpreter, spec.base)
    for jail_path in packages:
        selection.add(jail_path)
    for jail_path in interpreter.site if spec.python_lib_path is None else requested.python_lib_path:
        selection.add(jail_path)
    for jail_path in requested.system_files:
        selection.add(jail_path)
    progress("resolving shared libraries")
    closure = add_libraries(selection, root, arch, interpreter, spec)
    texts = supplied.add_supplied(selection, root)
    # In place of the base's own, which names what the tree does not have.
    texts[selection.place(ldcache.PATH)] = ldcache.ld_so_cache(closure.cached, arch)
    texts |= _added(spec, interpreter, selection, root)
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
        needed_by=closure.needed_by,
        distributions=distributions(root, places["site"], selection.holds),
        sys_path=_sys_path(interpreter, listed, selection, root),
        warnings=tuple(selection.warnings),
    )


def _check_packages(spec: TreeSpec, interpreter: Interpreter) -> None:
    """BuildError where the packages were resolved for another version of Python than the base's."""
    found = ".".join(map(str, interpreter.version))
    if spec.python_version not in (None, found):
        raise BuildError(
            f"the packages are for Python {spec.python_version}, and {spec.base} has Python {found}",
            f'write `python_version: "{found}"` into the config, then `sandbox-build lock`',
        )


def _patterns(rules: Sequence[Rule], places: Mapping[str, Sequence[str]], root: Root) -> list[str]:
    """The patterns of the rules that hold for this base."""

    def holds(where: str) -> bool:
        folder = posixpath.dirname(where.replace("{stdlib}", places["stdlib"][0]))
        pattern = Patterns([where], places)
        return any(pattern.match(posixpath.join(folder, name)) for name in root.names(folder))

    return [rule.match for rule in rules if rule.where is None or holds(rule.where)]


def _added(spec: TreeSpec, interpreter: Interpreter, selection: Selection, root: Root) -> dict[str, bytes]:
    """The modules that get more lines at their end; the lines of the base's stay where they are."""
    texts = {}
    for module, lines in spec.added.items():
        real = root.real(module.replace("{stdlib}", interpreter.stdlib))
        if real in selection.files:
            texts[real] = root.host(real).read_bytes().rstrip(b"\n") + f"\n\n\n{lines}".encode()
    return texts


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
    path += [folder for folder in (PACKAGES_PATH, *interpreter.site) if folder in selection.directories]
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
