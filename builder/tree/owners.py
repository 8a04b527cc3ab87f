"""Which package of the base's own package manager owns a file: dpkg's database, distroless images', apk's.

Only files are read, so it works for a base of any architecture. What they say is somebody else's text: a name
or a version that is none is passed over. RPM's database is a binary one: its files stay without an owner.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from builder.tree.bytecode import cache_path
from builder.tree.contents import Contents
from builder.tree.origin import LOADER, Origin
from builder.tree.root import Root
from builder.tree.supplied import BUNDLE, certificate_files

STATUS = "/var/lib/dpkg/status"
INFO = "/var/lib/dpkg/info"
DIVERSIONS = "/var/lib/dpkg/diversions"
STATUS_D = "/var/lib/dpkg/status.d"
"""Of distroless images: a file for each package, and a list of its files with their MD5 sums."""
APK = ("/usr/lib/apk/db/installed", "/lib/apk/db/installed")
OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
"""os-release(5): the first that is there."""

_MOST_BYTES = 64 << 20
"""No file of a database is larger; the status of a desktop has 5 MB."""

_NAME = re.compile(r"[a-z0-9][A-Za-z0-9+._-]{0,200}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+:~_-]{0,200}")
_ARCH = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")
_SOURCE = re.compile(rf"({_NAME.pattern})(?: \(({_VERSION.pattern})\))?")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")

_NOT_ON_DISK = ("not-installed", "config-files")
"""Of dpkg's states those in which a package has left no more than its configuration."""


@dataclass(frozen=True, order=True)
class Package:
    """A package of the base's package manager."""

    name: str
    version: str
    architecture: str
    source: str
    """The source package: NAME, or NAME VERSION where the version is another one."""
    manager: str = "dpkg"
    """dpkg or apk."""


def find_owners(contents: Contents, root: Root, arch: str) -> dict[str, Package]:
    """The package of each file of the tree that one owns, its bytecode included; keys are jail paths."""
    bundled = certificate_files(root) if BUNDLE in contents.files.union(contents.texts) else []
    found = owners(root, contents.files.union(bundled), arch)
    # No package lists the bundle: it is these files, one behind the other.
    if BUNDLE not in found and (owner := next((found[one] for one in bundled if one in found), None)):
        found[BUNDLE] = owner
    for module in contents.modules:
        owner = found.get(root.real(module) or module)
        if owner is not None:
            found |= {f"{module}c": owner, cache_path(module): owner}
    return {path: owner for path, owner in found.items() if path in contents.files or path not in bundled}


def owners(root: Root, wanted: Collection[str], arch: str) -> dict[str, Package]:
    """The package of each of `wanted`, jail paths without links, that one owns.

    Of several that list a path, as those for several architectures do, the first by name that is for `arch`.
    """
    names = {posixpath.basename(path) for path in wanted}
    folders: dict[str, str | None] = {}
    found: dict[str, Package] = {}
    listed = [*_dpkg(root), *_distroless(root), *_apk(root)]
    for package, paths in sorted(listed, key=lambda one: (one[0].architecture not in (arch, "all"), one[0])):
        for path in paths:
            folder, name = posixpath.split(path)
            if name not in names:
                continue
            if folder not in folders:
                # Listed as /lib/..., where /lib has become a link into /usr.
                folders[folder] = root.real(folder)
            place = folders[folder]
            if place is not None and (real := posixpath.join(place, name)) in wanted:
                found.setdefault(real, package)
    return found


def dpkg_database(owned: Mapping[str, Package]) -> dict[str, str]:
    """The files, by jail path, of a database that says of these paths, and of no other, who owns them."""
    lists: dict[Package, list[str]] = {}
    for path, package in sorted(owned.items()):
        lists.setdefault(package, []).append(f"{path}\n")
    stanzas = []
    for one in sorted(lists):
        name, _, version = one.source.partition(" ")
        stanzas.append(
            f"Package: {one.name}\nStatus: install ok installed\nArchitecture: {one.architecture}\n"
            f"Source: {name}{f' ({version})' if version else ''}\nVersion: {one.version}\n"
        )
    files = {f"{INFO}/{one.name}:{one.architecture}.list": "".join(paths) for one, paths in lists.items()}
    return {STATUS: "\n".join(stanzas)} | files


def to_report(
    files: Mapping[str, Sequence[Sequence[Any]]],
    origins: Sequence[Origin],
    owned: Mapping[str, Package],
    distributions: Collection[str],
) -> dict[str, Any]:
    """`debian`, `apk` and `unclaimed` of report.json, for its `files` and its origins.

    Each package has `files`, how many of them are in the tree, and `origins`, which of them its files belong
    to. `unclaimed` are the files that neither a package, one of the Python `distributions` (NAME VERSION),
    the interpreter nor we claim.
    """
    claims = [_claims(origin, distributions) for origin in origins]
    counts: Counter[Package] = Counter()
    brought: dict[Package, set[int]] = {}
    unclaimed = []
    for folder, entries in files.items():
        for name, _, index, *bytecode in entries:
            path = posixpath.join(folder, name)
            owner = owned.get(path)
            if owner is not None:
                counts[owner] += 1 + len(bytecode)
                brought.setdefault(owner, set()).add(index)
            elif not claims[index]:
                unclaimed.append(path)
    shown: dict[str, list[dict[str, Any]]] = {"dpkg": [], "apk": []}
    for package in sorted(counts):
        facts = asdict(package)
        more = {"files": counts[package], "origins": sorted(brought[package])}
        shown[facts.pop("manager")].append(facts | more)
    return {"debian": shown["dpkg"], "apk": shown["apk"], "unclaimed": sorted(unclaimed)}


def _claims(origin: Origin, distributions: Collection[str]) -> bool:
    """Whether the origin is something by itself, whose files need no other name."""
    if origin.kind in ("package", "base-package"):
        return origin.what in distributions
    return origin.kind == "supplied" or (origin.kind == "python" and origin.what != LOADER)


def os_release(root: Root) -> dict[str, str]:
    """id, version_id and version_codename of the base's os-release(5), as far as it has them."""
    text = next(filter(None, (_text(root, path) for path in OS_RELEASE)), "")
    pairs = (line.partition("=")[::2] for line in text.split("\n"))
    values = {key.lower(): value.strip("\"'") for key, value in pairs}
    wanted = ("id", "version_id", "version_codename")
    return {key: values[key] for key in wanted if _WORD.fullmatch(values.get(key, ""))}


Listed = Iterator[tuple[Package, Iterable[str]]]
"""Packages, and the paths that each of them lists."""


def _dpkg(root: Root) -> Listed:
    diverted = _diversions(root)
    for stanza in _text(root, STATUS).split("\n\n"):
        fields = _fields(stanza)
        package = _package(fields)
        if package is None or fields.get("Status", "").rpartition(" ")[2] in _NOT_ON_DISK:
            continue
        # With the architecture where packages for several can be installed at once.
        for name in (f"{package.name}:{package.architecture}", package.name):
            if text := _text(root, f"{INFO}/{name}.list"):
                yield package, [_undiverted(path, package.name, diverted) for path in text.split("\n")]
                break


def _distroless(root: Root) -> Listed:
    for name in root.names(STATUS_D):
        if name.endswith(".md5sums"):
            continue
        package = _package(_fields(_text(root, f"{STATUS_D}/{name}")))
        sums = _text(root, f"{STATUS_D}/{name}.md5sums")
        if package is not None:
            paths = (line.partition("  ")[2] for line in sums.split("\n"))
            yield package, [f"/{path.removeprefix('./').lstrip('/')}" for path in paths]


def _apk(root: Root) -> Listed:
    text = next(filter(None, (_text(root, path) for path in APK)), "")
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        paths = []
        folder = ""
        for line in stanza.split("\n"):
            key, _, value = line.partition(":")
            if key == "F":
                folder = value
            elif key == "R":
                paths.append(posixpath.join("/", folder, value))
            else:
                fields[key] = value
        names = {"Package": "P", "Version": "V", "Architecture": "A", "Source": "o"}
        named = {name: fields[key] for name, key in names.items() if key in fields}
        if package := _package(named, "apk"):
            yield package, paths


def _package(fields: Mapping[str, str], manager: str = "dpkg") -> Package | None:
    """The package that the fields of a control file are about; None where they are about none."""
    name, version, arch = (fields.get(key, "") for key in ("Package", "Version", "Architecture"))
    source = _SOURCE.fullmatch(fields.get("Source", name))
    if not (_NAME.fullmatch(name) and _VERSION.fullmatch(version) and _ARCH.fullmatch(arch) and source):
        return None
    other = source[2] if source[2] != version else None
    return Package(name, version, arch, f"{source[1]} {other}" if other else source[1], manager)


def _fields(stanza: str) -> dict[str, str]:
    """deb-control(5) as far as one line holds it."""
    lines = (line.partition(":") for line in stanza.split("\n") if line[:1] not in ("", " ", "\t"))
    return {key: value.strip() for key, _, value in lines}


def _diversions(root: Root) -> dict[str, tuple[str, str]]:
    """Path -> (where it lies instead, the package that it stays for): dpkg-divert(1)."""
    lines = _text(root, DIVERSIONS).split("\n")
    return {lines[at]: (lines[at + 1], lines[at + 2]) for at in range(0, len(lines) - 2, 3)}


def _undiverted(path: str, package: str, diverted: Mapping[str, tuple[str, str]]) -> str:
    place, keeper = diverted.get(path, (path, package))
    return path if keeper == package else place


def _text(root: Root, jail_path: str) -> str:
    real = root.real(jail_path)
    if real is None or not root.host(real).is_file() or root.host(real).stat().st_size > _MOST_BYTES:
        return ""
    return root.host(real).read_text(encoding="utf-8", errors="surrogateescape")
