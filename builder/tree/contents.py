"""TreeSpec + root filesystem -> everything that the tree holds. Decides; writes nothing."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from builder.arch import Arch, parse_arch
from builder.errors import BuildError, ConfigError
from builder.tree import ldcache, supplied
from builder.tree.elf import is_elf
from builder.tree.interpreter import Interpreter, find_interpreter
from builder.tree.libraries import LibrarySearch
from builder.tree.patterns import Patterns
from builder.tree.root import Root, is_below
from builder.tree.selection import Selection
from builder.tree.spec import Rule, TreeSpec

_KERNEL_FOLDERS = ("/dev", "/proc", "/sys")
_SHOWN = 5


@dataclass(frozen=True)
class Contents:
    """The tree, decided. Keys and members are jail paths whose folders hold no link."""

    interpreter: Interpreter
    directories: frozenset[str]
    files: frozenset[str]
    """Copied from the base, from the very same path."""
    links: dict[str, str]
    texts: dict[str, bytes]
    """Files that the base does not have."""
    modules: frozenset[str]
    """Python sources, links to one included."""
    sourceless: frozenset[str]
    """The modules of which only the bytecode is written. No link leads to any of them."""
    executables: frozenset[str]
    sys_path: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())


def tree_contents(spec: TreeSpec, root: Root, progress: Callable[[str], None]) -> Contents:
    """Everything that the tree of `spec` holds.

    ConfigError (exit 2) with every member of python_lib_path that the base lacks; BuildError where the
    interpreter or a rule of the spec needs what the base does not have.
    """
    arch = parse_arch(spec.arch)
    warnings: list[str] = []
    given = _given_paths(spec, root, warnings)
    interpreter = find_interpreter(root, spec.python_path, arch, spec.base)
    places = _places(interpreter, given)
    prune = _patterns(spec.prune, places, root)
    if spec.python_lib_path is not None:
        # In the layout of /usr/local the packages lie inside the standard library: only what is listed.
        prune += [site for site in interpreter.site if not any(is_below(site, path) for path in given)]
    selection = Selection(root, Patterns(prune, places), progress)
    selection.warnings = warnings

    progress("looking through the base")
    real = root.resolve(spec.python_path).path
    needed = [spec.python_path, interpreter.path, interpreter.stdlib, interpreter.loader]
    needed += [interpreter.venv_config] if interpreter.venv_config else []
    for jail_path in needed:
        _add_needed(selection, jail_path, spec.base)
    for jail_path in interpreter.site if spec.python_lib_path is None else given:
        selection.add(jail_path)
    for rule in spec.system_files:
        jail_path = rule.match.format(triplet=arch.triplet)
        if root.real(jail_path) is not None:
            selection.add(jail_path)
        elif not rule.optional:
            raise BuildError(f"{jail_path} is not in {spec.base}: {rule.reason}")

    progress("resolving shared libraries")
    libraries = _add_libraries(spec, selection, root, arch, interpreter, real)
    texts = _add_supplied(selection, root)
    cache = selection.place(ldcache.PATH)
    if not selection.holds(cache):
        texts[cache] = ldcache.ld_so_cache(libraries, arch)
    selection.finish()
    sourceless = Patterns(_patterns(spec.sourceless, places, root), places)
    linked = {root.real(link) for link in selection.links}
    return Contents(
        interpreter=interpreter,
        directories=frozenset(selection.directories),
        files=frozenset(selection.files),
        links=selection.links,
        texts=texts,
        modules=frozenset(
            path
            for path in (*selection.files, *selection.links)
            if path.endswith(".py") and root.real(path) in selection.files
        ),
        sourceless=frozenset(path for path in selection.files - linked if sourceless.match(path)),
        executables=frozenset({real, root.resolve(interpreter.loader).path}),
        sys_path=_sys_path(interpreter, given, selection, root),
        warnings=tuple(selection.warnings),
    )


def _given_paths(spec: TreeSpec, root: Root, warnings: list[str]) -> list[str]:
    """The members of python_lib_path that the base has."""
    given, problems = [], []
    for index, jail_path in enumerate(spec.python_lib_path or ()):
        where = f"python_lib_path[{index}]"
        try:
            real = root.resolve(jail_path).path
        except OSError as error:
            message = f"{where}: {jail_path} is not in {spec.base}"
            if error.errno == errno.ELOOP:
                message = f"{where}: {jail_path} in {spec.base} is a link that goes round in a circle"
            if spec.allow_missing or jail_path in spec.optional_paths:
                warnings.append(f"{message}: passed over")
            else:
                nearest = root.nearest(jail_path)
                problems.append((message, f"the nearest that exists is {nearest}; or build with --allow-missing"))
            continue
        if real == "/" or any(is_below(real, folder) for folder in _KERNEL_FOLDERS):
            problems.append((f"{where}: {jail_path} cannot be part of a tree", "list the folders that are needed"))
        given.append(jail_path)
    if problems:
        raise ConfigError(problems)
    return given


def _places(interpreter: Interpreter, given: Sequence[str]) -> dict[str, list[str]]:
    """What stands for {stdlib} and {site} in a pattern."""
    named = [path for path in given if posixpath.basename(path) in ("site-packages", "dist-packages")]
    return {"stdlib": [interpreter.stdlib], "site": [*interpreter.site, *named]}


def _patterns(rules: Sequence[Rule], places: Mapping[str, Sequence[str]], root: Root) -> list[str]:
    """The patterns of the rules that hold for this base."""

    def holds(where: str) -> bool:
        folder, _ = posixpath.split(where.format(stdlib=places["stdlib"][0]))
        pattern = Patterns([where], places)
        return any(pattern.match(posixpath.join(folder, name)) for name in root.names(folder))

    return [rule.match for rule in rules if rule.where is None or holds(rule.where)]


def _add_needed(selection: Selection, jail_path: str, base: str) -> None:
    try:
        selection.add(jail_path)
    except OSError as error:
        raise BuildError(f"{jail_path}, which the interpreter needs, is not in {base}: {error.strerror}") from None


def _add_libraries(
    spec: TreeSpec, selection: Selection, root: Root, arch: Arch, interpreter: Interpreter, program: str
) -> list[str]:
    """Adds every library that an entry of the tree needs; returns those that no RPATH tells the loader about."""
    search = LibrarySearch(root, arch)
    needs = search.start(program)
    if needs.missing:
        chains = "; ".join(map(str, needs.missing))
        raise BuildError(f"the interpreter needs libraries that {spec.base} does not have: {chains}")
    libraries = set(needs.found)
    for rule in spec.libraries:
        found = search.find(rule.match)
        if found is not None:
            libraries |= {found, *search.needs(found).found}
        elif not rule.optional:
            raise BuildError(f"{spec.base} has no {rule.match}: {rule.reason}")

    modules, foreign, damaged = [], [], []
    for jail_path in sorted(selection.files - {program}):
        host_path = root.host(jail_path)
        if jail_path.endswith(".py") or not is_elf(host_path):
            continue
        own = is_below(jail_path, interpreter.stdlib) and not any(is_below(jail_path, s) for s in interpreter.site)
        elf = search.elf(jail_path)
        needs = search.needs(jail_path)
        if elf is None:
            damaged.append(jail_path)
        elif elf.machine != arch.elf_machine:
            foreign.append(jail_path)
        elif needs.missing and own:
            modules.append(str(needs.missing[0]))
        else:
            selection.warnings += map(str, needs.missing)
            libraries.update(needs.found)
            continue
        if own:
            selection.discard_file(jail_path)
    for library in sorted(libraries):
        selection.add(library)
    for what, paths in (
        ("left out extension modules of the standard library whose libraries are not in the base", modules),
        (f"not for {arch.name}, so that nothing can load them", foreign),
        ("damaged ELF files", damaged),
    ):
        if paths:
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            selection.warnings.append(f"{what}: {', '.join(paths[:_SHOWN])}{more}")
    return [path for path in sorted(libraries) if posixpath.dirname(path) in search.folders]


def _add_supplied(selection: Selection, root: Root) -> dict[str, bytes]:
    """What the base lacks: mount points, name service files, certificates, the local time zone."""
    texts = {}
    for folder in supplied.MOUNT_POINTS:
        selection.add_directory(folder)
    for jail_path, text in supplied.TEXTS.items():
        placed = selection.place(jail_path)
        if not selection.holds(placed):
            texts[placed] = text.encode()
    bundle = selection.place(supplied.BUNDLE)
    if not selection.holds(bundle):
        certificates = supplied.certificate_bundle(root)
        if certificates is not None:
            texts[bundle] = certificates
    for folder in supplied.openssl_folders(root, selection.files):
        wanted = posixpath.join(folder, "cert.pem")
        if root.is_file(wanted):
            selection.add(wanted)
        elif bundle in texts or selection.holds(bundle):
            placed = selection.place(wanted)
            selection.links[placed] = posixpath.relpath(bundle, posixpath.dirname(placed))
        else:
            selection.warnings.append(f"no certificates: neither {wanted} nor {supplied.BUNDLE} is in the base")
    zone, localtime = root.real(supplied.UTC), selection.place(supplied.LOCALTIME)
    if zone in selection.files and not selection.holds(localtime):
        selection.links[localtime] = posixpath.relpath(zone, posixpath.dirname(localtime))
    return texts


def _sys_path(
    interpreter: Interpreter, given: Sequence[str], selection: Selection, root: Root
) -> tuple[str, ...]:
    """sys.path of the code in the jail: the interpreter's own, then the listed folders that hold modules."""
    path = [interpreter.zip, interpreter.stdlib, interpreter.dynload]
    path += [folder for folder in interpreter.site if folder in selection.directories]
    for jail_path in given:
        folder = _import_folder(root, root.resolve(jail_path).path)
        if folder is not None and not is_below(folder, interpreter.stdlib) and folder not in path:
            path.append(folder)
    return tuple(path)


def _import_folder(root: Root, real: str) -> str | None:
    """The folder that must be on sys.path so that what was listed can be imported; None where nothing can.

    A folder of packages is one by its name or because a module or a package lies right in it; a package
    itself, however deep, is imported from the folder that holds the outermost one.
    """
    if not root.host(real).is_dir():
        return None
    if posixpath.basename(real) in ("site-packages", "dist-packages"):
        return real
    if root.is_file(posixpath.join(real, "__init__.py")):
        while root.is_file(posixpath.join(real, "__init__.py")):
            real = posixpath.dirname(real)
        return real
    for name in root.names(real):
        if name.endswith((".py", ".so")) or root.is_file(posixpath.join(real, name, "__init__.py")):
            return real
    return None
