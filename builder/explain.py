"""Why something is in an image's tree, and how large it is: a path, a package or a shared library."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from builder.errors import UsageError, printable
from builder.report import Report, Size
from builder.tree.distributions import normalized

KIND_NAMES = {
    "python": "Python itself",
    "package": "a locked package",
    "base-package": "a package of the base",
    "library": "a shared library",
    "listed": "listed in python_lib_path",
    "system": "system files",
    "supplied": "written by sandbox-build",
}

_MOST = 8
"""As many names or files are shown; the JSON has all."""

_COLUMN = 32
"""As wide is the column of names; a longer one has a line for itself."""

_MANY = 12
"""As many matches are told in full; more are listed."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Explanation:
    """What is known of one thing in the tree."""

    what: str
    kind: str
    """file, folder, or an origin's kind."""
    files: int
    bytes: int
    chain: tuple[tuple[str, str], ...]
    """(what, why) from the thing to the line of config.yaml, or the rule, that asked for it."""
    imports: tuple[str, ...] = ()
    needed_by: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    alone_bytes: int | None = None
    """With all that nothing else needs."""
    alone: tuple[str, ...] = ()
    """What nothing else needs, itself left out."""
    parts: tuple[tuple[str, int], ...] = ()
    """The files, or of a folder what brought them, each with its bytes, the largest first."""

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield printable(self.what)
        size = f"{human(self.bytes)} ({self.bytes:,} bytes)"
        many = f" in {self.files:,} files" if self.files != 1 else ""
        named = f", {KIND_NAMES[self.kind]}" if self.kind in KIND_NAMES else ""
        yield f"  {size}{many}{named}"
        if self.alone:
            yield f"  {human(self.alone_bytes or 0)} with what nothing else needs: {_some(self.alone)}"
        if self.imports:
            yield f"  imported as: {_some(self.imports)}"
        if self.chain:
            yield "  why:"
            width = min(max(len(printable(what)) for what, _ in self.chain), _COLUMN)
            for what, why in self.chain:
                name = printable(what)
                if len(name) > width:
                    yield f"    {name}"
                    name = ""
                yield f"    {name:<{width}}  {printable(why)}".rstrip()
        for title, names in (("needed by", self.needed_by), ("needs", self.needs)):
            if names:
                yield f"  {title}: {_some(names)}"
        if len(self.parts) > 1:
            yield "  largest:"
            for name, length in self.parts[:_MOST]:
                yield f"    {human(length):>8}  {printable(name)}"


def explain(report: Report, what: str) -> list[Explanation]:
    """All that `what` may mean: a jail path, a package's or a module's name, a library or part of its name.

    UsageError, with the nearest names, where it means nothing.
    """
    if not what.strip():
        found = []
    elif what.startswith("/"):
        found = _of_path(report, what)
    else:
        found = _of_name(report, what) or _of_library(report, what) or _of_end(report, what)
    if not found:
        near = _near(report, what)
        hint = (
            f"did you mean {' or '.join(map(printable, near))}?"
            if near
            else "give a path, a package or a library"
        )
        raise UsageError(f"{printable(what)}: nothing in the tree is called so", hint)
    return found


def lines(found: Sequence[Explanation]) -> Iterator[str]:
    """The explanations for a person; of many, a list of what to ask about."""
    if len(found) > _MANY:
        yield f"{len(found)} match; ask about one of them:"
        for one in found:
            yield f"  {human(one.bytes):>8}  {printable(one.what)}"
        return
    for index, one in enumerate(found):
        if index:
            yield ""
        yield from one.lines()


def human(length: int) -> str:
    """Bytes in three digits: 999 B, 1.50 kB, 138 MB."""
    size, unit = float(length), 0
    # 999.5 would be shown as 1000.
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    digits = 0 if unit == 0 or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f} {_UNITS[unit]}"


def _of_path(report: Report, what: str) -> list[Explanation]:
    path = report.resolve(what)
    if path in report.files:
        length, index = report.files[path]
        leads = [(what, f"leads to {path}")] if path != what else []
        brought_by = report.origins[index].what
        itself = [(path, f"of {brought_by}")] if brought_by != path else []
        chain = (*leads, *itself, *_chain(report, index))
        return [Explanation(path, "file", 1, length, chain, needed_by=_needers(report, index, path))]
    if path not in report.folders:
        return []
    sizes: dict[int, Size] = {}
    for inside in report.below(path):
        length, index = report.files[inside]
        sizes[index] = sizes.get(index, Size()) + Size(1, length)
    total = sum(sizes.values(), Size())
    order = sorted(sizes, key=lambda index: (-sizes[index].bytes, index))
    chain = tuple(_chain(report, order[0])) if len(order) == 1 else ()
    parts = tuple((report.origins[index].what, sizes[index].bytes) for index in order)
    if len(order) == 1:
        parts = _largest(report, report.below(path))
    return [Explanation(path, "folder", total.files, total.bytes, chain, parts=parts)]


def _of_name(report: Report, what: str) -> list[Explanation]:
    """Packages by name or by what is imported; other origins by what they are called."""
    wanted = normalized(what)
    by_name = [one for one in report.distributions if normalized(one.name) == wanted]
    by_import = [
        one
        for one in report.distributions
        if any(name == what or name.startswith(f"{what}.") for name in one.imports)
    ]
    found = []
    for one in by_name or by_import:
        index = report.origin_of(one)
        if index is not None:
            found.append(_of_origin(report, index, one.imports))
    if found:
        return found
    return [
        _of_origin(report, index)
        for index, origin in enumerate(report.origins)
        if origin.kind != "library"
        and wanted in (normalized(origin.what), normalized(origin.what.split(" ")[0]))
    ]


def _of_library(report: Report, what: str) -> list[Explanation]:
    """Shared libraries whose name is `what`, or else has it as a part; those inside packages too."""
    origins = [
        (origin.what, _of_origin(report, index))
        for index, origin in enumerate(report.origins)
        if origin.kind == "library" and report.sizes[index].files
    ]
    own = {index for index, origin in enumerate(report.origins) if origin.kind == "library"}
    paths = [
        (posixpath.basename(path), path)
        for path, (_, index) in report.files.items()
        if ".so" in posixpath.basename(path) and index not in own
    ]
    for match in (
        lambda name: name == what,
        lambda name: name.startswith((f"{what}.so", f"{what}.", f"{what}-")),
        lambda name: what in name,
    ):
        found = [one for name, one in origins if match(name)]
        found += [one for name, path in paths if match(name) for one in _of_path(report, path)]
        if found:
            return found
    return []


def _of_end(report: Report, what: str) -> list[Explanation]:
    """Files and folders by the end of their paths."""
    end = f"/{what.strip('/')}"
    paths = [path for path in (*report.files, *sorted(report.folders)) if path.endswith(end)]
    return [one for path in paths for one in _of_path(report, path)]


def _of_origin(report: Report, index: int, imports: tuple[str, ...] = ()) -> Explanation:
    origin, size = report.origins[index], report.sizes[index]
    alone = [one for one in report.alone(index) if one != index] if origin.kind != "python" else []
    return Explanation(
        what=origin.what,
        kind=origin.kind,
        files=size.files,
        bytes=size.bytes,
        chain=tuple(_chain(report, index)),
        imports=imports,
        needed_by=tuple(report.origins[one].what for one in report.needers(index)),
        needs=tuple(report.origins[one].what for one in origin.needs),
        alone_bytes=report.size_of((index, *alone)).bytes if alone else None,
        alone=tuple(report.origins[one].what for one in alone),
        parts=_largest(report, report.of_origin(index)),
    )


def _needers(report: Report, index: int, path: str) -> tuple[str, ...]:
    """Who needs a file that is an origin by itself."""
    if report.of_origin(index) != [path]:
        return ()
    return tuple(report.origins[one].what for one in report.needers(index))


def _chain(report: Report, index: int) -> list[tuple[str, str]]:
    return [(origin.what, origin.text) for origin in report.chain(index)]


def _largest(report: Report, paths: Sequence[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(((path, report.files[path][0]) for path in paths), key=lambda one: (-one[1], one[0])))


def _near(report: Report, what: str) -> list[str]:
    """What there is that is called alike."""
    name = posixpath.basename(what.rstrip("/"))
    if what.startswith("/"):
        same = [path for path in (*report.files, *report.links) if posixpath.basename(path) == name]
        folder = posixpath.dirname(report.resolve(what.rstrip("/")))
        while folder not in report.folders:
            folder = posixpath.dirname(folder)
        start = folder.rstrip("/") + "/"
        every = (path for path in (*report.files, *sorted(report.folders)) if path.startswith(start))
        inside = {path[len(start) :].split("/")[0]: None for path in every if path != start}
        return same[:3] or [start + one for one in get_close_matches(name, inside, n=3)]
    names = {one.name.lower(): one.name for one in report.distributions}
    names |= {top.lower(): top for one in report.distributions for top in one.imports}
    libraries = (origin.what for origin in report.origins if origin.kind == "library")
    names |= {library.split(".so")[0].lower(): library for library in libraries}
    names |= {origin.what.lower(): origin.what for origin in report.origins if origin.kind == "python"}
    near = [names[one] for one in get_close_matches(what.lower(), names, n=3)]
    # Modules of the standard library are files and folders alone.
    ends = {posixpath.basename(path) for path in (*report.files, *report.folders)} - {""}
    return near or get_close_matches(name, ends, n=3)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(map(printable, names[:_MOST])) + more
