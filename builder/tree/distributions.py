"""The distributions that folders of packages hold, and the names under which they are imported.

Metadata is what its author wrote, so nothing of it is trusted: a name counts when the tree has its module.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.errors import MessageError
from email.parser import HeaderParser
from keyword import iskeyword

from builder.tree.root import Root
from builder.tree.spec import PACKAGES_PATH

_MAX_BYTES = 64 * 1024 * 1024
"""No metadata file is larger than this; the largest RECORDs have some 5 MB."""

_MAX_HEADERS = 1024 * 1024
"""As much of METADATA is read: headers come first, the description last."""

_MAX_DEPTH = 6
"""As deep a package below namespaces is looked for where no list of files says where it is."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,198}[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,98}")

_EXTENSION = re.compile(r"\.(?:(?:abi3|cpython-[a-z0-9_-]+)\.)?so")
"""What follows the name of an extension module (importlib.machinery.EXTENSION_SUFFIXES on Linux)."""

_INSTALLED_BESIDE = frozenset({"bin", "etc", "include", "lib", "man", "share"})
"""Folders of programs and data that installing into a folder makes beside the packages."""

_NOT_MEANT = frozenset(
    {"benchmarks", "conftest", "doc", "docs", "example", "examples", "scripts", "setup", "test", "tests"}
)
"""What many distributions install beside their packages by mistake, and nobody imports."""


@dataclass(frozen=True)
class Distribution:
    """One installed distribution."""

    name: str
    version: str
    """Empty where its metadata does not say it."""
    path: str
    """Jail path of its *.dist-info or *.egg-info."""
    imports: tuple[str, ...]
    """Names that import its modules, sorted: top-level ones, and the first ones below namespace packages."""
    locked: bool
    """Whether it comes from the lock file."""


def distributions(
    root: Root, folders: Sequence[str], kept: Callable[[str], bool]
) -> tuple[Distribution, ...]:
    """What is installed in `folders`, jail paths without links; `kept` says which files the tree has."""
    found = []
    for folder in dict.fromkeys(folders):
        for entry in root.names(folder):
            if entry.endswith((".dist-info", ".egg-info")) and (one := _read(root, folder, entry, kept)):
                found.append(one)
    return tuple(found)


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _read(root: Root, folder: str, entry: str, kept: Callable[[str], bool]) -> Distribution | None:
    """The distribution that `entry` of `folder` is about; None where nothing says what it is called."""
    path = posixpath.join(folder, entry)
    headers = _Headers(root, path)
    # NAME-VERSION, and behind it, for eggs, -pyX.Y.
    by_file = entry.rpartition(".")[0].split("-")
    name = _first(_NAME, headers.all("Name"), by_file[:1])
    if name is None:
        return None
    return Distribution(
        name=name,
        version=_first(_VERSION, headers.all("Version"), by_file[1:2]) or "",
        path=path,
        imports=tuple(sorted(_imports(name, headers, root, folder, path, kept))),
        locked=folder == PACKAGES_PATH,
    )


def _imports(
    name: str, headers: _Headers, root: Root, folder: str, path: str, kept: Callable[[str], bool]
) -> Iterable[str]:
    """As importlib.metadata.packages_distributions finds them, and PEP 794's names before all else."""
    listed = _listed(root, folder, path)
    if listed is None:
        modules: Modules = _Folder(root, folder, kept)
    else:
        modules = _Files(file for file in listed if kept(posixpath.join(folder, file)))
    declared = headers.all("Import-Name") + headers.all("Import-Namespace")
    if declared:
        names = {one.partition(";")[0].strip() for one in declared}
        exact = {one for one in names if _is_dotted(one) and modules.has(one)}
        # A namespace has no module of its own: what lies below it stands for it.
        return exact or {below for one in names if _is_dotted(one) for below in modules.outermost(one)}
    if tops := _text(root, posixpath.join(path, "top_level.txt")).split():
        found = {below for top in tops if _is_meant(top) for below in modules.outermost(top)}
        if found:
            return found
    if listed is not None:
        return {below for top in modules.tops() if _is_meant(top) for below in modules.outermost(top)}
    # Debian leaves out the list of files. What is called as its distribution is its module.
    alike = [top for top in modules.tops() if normalized(top) == normalized(name)]
    return {below for top in alike for below in modules.outermost(top)}


class _Files:
    """The modules among the files that a distribution lists."""

    def __init__(self, files: Iterable[str]) -> None:
        self._packages: dict[str, bool] = {}
        """Each module's name, and whether it is a package."""
        for file in files:
            *parents, last = file.split("/")
            stem = _module(last)
            if stem is None or not all(map(_is_name, parents)):
                continue
            if stem != "__init__":
                self._packages.setdefault(".".join((*parents, stem)), False)
            elif parents:
                self._packages[".".join(parents)] = True

    def tops(self) -> list[str]:
        return sorted({name.partition(".")[0] for name in self._packages})

    def has(self, name: str) -> bool:
        return name in self._packages

    def outermost(self, name: str) -> Iterator[str]:
        """`name`, or, where it is a namespace, the modules below it that no package of these files holds."""
        for module in [name] if name in self._packages else self._packages:
            parts = module.split(".")
            above = (".".join(parts[:depth]) for depth in range(1, len(parts)))
            if (module == name or module.startswith(f"{name}.")) and not any(map(self._packages.get, above)):
                yield module


class _Folder:
    """The modules that lie in a folder, where no list says whose they are."""

    def __init__(self, root: Root, folder: str, kept: Callable[[str], bool]) -> None:
        self._root, self._folder, self._kept = root, folder, kept

    def tops(self) -> list[str]:
        """What may be one, going by the names alone."""
        names = self._root.names(self._folder)
        return [*dict.fromkeys(top for one in names if (top := one if _is_name(one) else _module(one)))]

    def has(self, name: str) -> bool:
        parent, _, last = name.rpartition(".")
        here = posixpath.join(self._folder, *parent.split("."))
        return any(found == last and is_module for found, is_module in self._entries(here))

    def outermost(self, name: str) -> Iterator[str]:
        """`name`, or the outermost modules below it, where it is a namespace."""
        yield from self._below(name, _MAX_DEPTH)

    def _below(self, name: str, depth: int) -> Iterator[str]:
        if self.has(name):
            yield name
        elif depth:
            here = posixpath.join(self._folder, *name.split("."))
            for inner in dict.fromkeys(found for found, _ in self._entries(here)):
                yield from self._below(f"{name}.{inner}", depth - 1)

    def _entries(self, here: str) -> Iterator[tuple[str, bool]]:
        """What may be imported from the folder `here`: a name, and whether it is more than a folder."""
        for entry in self._root.names(here):
            inside = posixpath.join(here, entry)
            if _is_name(entry) and self._root.is_dir(inside):
                yield (
                    entry,
                    any(
                        _module(one) == "__init__" and self._kept(posixpath.join(inside, one))
                        for one in self._root.names(inside)
                    ),
                )
            elif (stem := _module(entry)) is not None and stem != "__init__" and self._kept(inside):
                yield stem, True


Modules = _Files | _Folder


class _Headers:
    """What METADATA, or PKG-INFO, says; nothing where it makes no sense."""

    def __init__(self, root: Root, path: str) -> None:
        texts = (_text(root, posixpath.join(path, name), _MAX_HEADERS) for name in ("METADATA", "PKG-INFO"))
        # An *.egg-info may be a file, which is then PKG-INFO itself.
        text = next(filter(None, texts), "") or _text(root, path, _MAX_HEADERS)
        try:
            self._message = HeaderParser().parsestr(text)
        except (MessageError, ValueError, LookupError):
            self._message = HeaderParser().parsestr("")

    def all(self, name: str) -> list[str]:
        return [str(value).strip() for value in self._message.get_all(name, [])]


def _listed(root: Root, folder: str, path: str) -> list[str] | None:
    """The files that the distribution says it has, from `folder` on; None where it does not say."""
    record = _text(root, posixpath.join(path, "RECORD"))
    if record:
        try:
            return [*_inside(row[0] for row in csv.reader(record.splitlines()) if row)]
        except csv.Error:
            return None
    installed = _text(root, posixpath.join(path, "installed-files.txt"))
    if installed:
        own = posixpath.relpath(path, folder)
        return [*_inside(posixpath.normpath(posixpath.join(own, line)) for line in installed.splitlines())]
    sources = _text(root, posixpath.join(path, "SOURCES.txt"))
    return [*_inside(sources.splitlines())] if sources else None


def _inside(files: Iterable[str]) -> Iterator[str]:
    """Those that can be modules: a path that leads out, or says one thing in two ways, is none."""
    for file in files:
        if not {"", ".", ".."} & set(file.split("/")) and "\0" not in file:
            yield file


def _text(root: Root, path: str, most: int = _MAX_BYTES) -> str:
    """The file at `path`, or its beginning; empty where there is none that can be read."""
    real = root.real(path)
    if real is None or not root.is_file(real):
        return ""
    try:
        with root.host(real).open("rb") as file:
            return file.read(most).decode(errors="replace")
    except OSError:
        return ""


def _first(pattern: re.Pattern[str], *candidates: Sequence[str]) -> str | None:
    texts = (text for texts in candidates for text in texts)
    return next((text for text in texts if pattern.fullmatch(text)), None)


def _module(file: str) -> str | None:
    """The name of the module that `file` is; None where it is none."""
    stem, dot, rest = file.partition(".")
    if not _is_name(stem):
        return None
    if rest == "so" and stem.startswith("lib"):
        return None  # a library that lies beside the modules that need it
    return stem if rest in ("py", "pyc") or _EXTENSION.fullmatch(dot + rest) else None


def _is_name(text: str) -> bool:
    """Whether `import TEXT` can be written."""
    return text.isidentifier() and not iskeyword(text) and len(text) <= 200


def _is_dotted(text: str) -> bool:
    return all(map(_is_name, text.split("."))) and len(text) <= 1000


def _is_meant(top: str) -> bool:
    return _is_name(top) and top not in _INSTALLED_BESIDE and top not in _NOT_MEANT
