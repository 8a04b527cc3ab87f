"""report.json, read: what an image's tree holds, why, and how large each part is."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from builder.archive import DAMAGE, open_archive
from builder.errors import BuildError, UsageError
from builder.layers import BoundedInfo
from builder.output import ARCHIVE, REPORT
from builder.tree.distributions import Distribution
from builder.tree.origin import KINDS, Origin
from builder.tree.root import MAX_LINKS, parents
from builder.tree.spec import REPORT_FORMAT, REPORT_PATH

_MOST_BYTES = 64 << 20
"""A report.json of a million files is as large."""

_ANEW = "build the image again with this sandbox-build"


@dataclass(frozen=True)
class Size:
    """Of a group of files."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.files + other.files, self.bytes + other.bytes)


@dataclass(frozen=True)
class Owner:
    """A package of the base's package manager that owns files of the tree."""

    name: str
    version: str
    architecture: str
    source: str
    """NAME, or NAME VERSION where the source package's version is another one."""
    files: int
    """How many it owns."""
    origins: tuple[int, ...]
    """Which origins these belong to."""


class Report:
    """What a report.json says. Paths are jail paths; those that are not UTF-8 have surrogate escapes."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        """`raw` is the parsed file: BuildError where it is no report, or another version's."""
        if not isinstance(raw, Mapping) or raw.get("format") != REPORT_FORMAT:
            raise BuildError("its report.json is not one that this sandbox-build reads", _ANEW)
        try:
            self.raw = raw
            self.arch: str = raw["arch"]
            self.base: str = raw["base"]
            self.python: Mapping[str, Any] = raw["python"]
            self.warnings: tuple[str, ...] = tuple(raw["warnings"])
            self.image: str | None = raw.get("image")
            """What the image is called; not known inside of it."""
            self.proven: tuple[str, ...] = tuple(raw.get("proven", ()))
            """What was proven of it and what was not, in lines."""
            self.layers = tuple((str(one["name"]), int(one["bytes"])) for one in raw.get("layers", ()))
            """The image's layers, the lowest first: name and compressed bytes; not known inside of it."""
            self.distributions = tuple(
                Distribution(**(one | {"imports": tuple(one["imports"])})) for one in raw["distributions"]
            )
            self.os_release: Mapping[str, str] = dict(raw.get("os_release", {}))
            """id, version_id and version_codename of the base, as far as it has them."""
            self.debian = tuple(_owner(one) for one in raw.get("debian", ()))
            self.apk = tuple(_owner(one) for one in raw.get("apk", ()))
            self.unclaimed = tuple(map(str, raw.get("unclaimed", ())))
            """Files that neither a package, a distribution, the interpreter nor sandbox-build claims."""
            self.origins = tuple(
                Origin(**(one | {"needs": tuple(one.get("needs", ()))})) for one in raw["origins"]
            )
            self.files: dict[str, tuple[int, int]] = dict(sorted(_files(raw)))
            """Path -> (bytes, index of its origin), sorted by path."""
            self.links = {
                posixpath.join(folder, name): target
                for folder, links in raw["links"].items()
                for name, target in links
            }
            _check(self.origins, self.files)
            _check_owners((*self.debian, *self.apk), self.unclaimed, self.origins, self.files)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BuildError(f"its report.json is damaged: {type(error).__name__}: {error}", _ANEW) from None

    @cached_property
    def total(self) -> Size:
        """Of everything."""
        return self.size(self.files)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Of each origin's own files."""
        found = [Size()] * len(self.origins)
        for length, origin in self.files.values():
            found[origin] += Size(1, length)
        return tuple(found)

    def size(self, paths: Iterable[str]) -> Size:
        """Of some of the files."""
        lengths = [self.files[path][0] for path in paths]
        return Size(len(lengths), sum(lengths))

    def size_of(self, origins: Iterable[int]) -> Size:
        """Of all files of some origins."""
        return sum((self.sizes[index] for index in origins), Size())

    def of_kind(self, *kinds: str) -> list[int]:
        """The origins of these kinds, the largest first."""
        found = [index for index, origin in enumerate(self.origins) if origin.kind in kinds]
        return sorted(found, key=lambda index: (-self.sizes[index].bytes, self.origins[index].what, index))

    def of_origin(self, index: int) -> list[str]:
        """The files that an origin brought."""
        return self._owned[index]

    def origin_of(self, distribution: Distribution) -> int | None:
        """The origin that a package is; None where it brought nothing."""
        for path in (distribution.path, *self.below(distribution.path)):
            if path in self.files:
                return self.files[path][1]
        what = f"{distribution.name} {distribution.version}".strip()
        return next((index for index, origin in enumerate(self.origins) if origin.what == what), None)

    def below(self, folder: str) -> list[str]:
        """The files in a folder, however deep."""
        start = folder.rstrip("/") + "/"
        return [path for path in self.files if path.startswith(start)]

    def chain(self, index: int) -> list[Origin]:
        """From the origin to what config.yaml or a rule asked for."""
        found: list[int] = []
        step: int | None = index
        while step is not None and step not in found:
            found.append(step)
            step = self.origins[step].because
        return [self.origins[one] for one in found]

    def needers(self, index: int) -> list[int]:
        """The origins that need this one."""
        return self._needers[index]

    def alone(self, index: int) -> list[int]:
        """What would not be in the tree without this origin: itself, and what nothing else needs."""
        return sorted({index} | (self._reached() - self._reached(without=index)))

    def resolve(self, path: str) -> str:
        """Where `path` leads through the tree's links; itself where it is no link or leads nowhere."""
        pending, here, left = path.split("/")[::-1], "", MAX_LINKS
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            here = f"{here}/{name}"
            if here in self.links:
                if not left:
                    return path
                left -= 1
                target = self.links[here]
                here = "" if target.startswith("/") else here.rpartition("/")[0]
                pending += target.split("/")[::-1]
        return here or "/"

    @cached_property
    def folders(self) -> frozenset[str]:
        """Every folder that holds a file."""
        return frozenset(folder for path in self.files for folder in parents(path))

    @cached_property
    def _owned(self) -> Mapping[int, list[str]]:
        found: dict[int, list[str]] = defaultdict(list)
        for path, (_, origin) in self.files.items():
            found[origin].append(path)
        return found

    @cached_property
    def _needers(self) -> Mapping[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for index, origin in enumerate(self.origins):
            for needed in origin.needs:
                found[needed].append(index)
        return found

    def _reached(self, without: int | None = None) -> set[int]:
        """What is in the tree for itself, and what that needs, in turn."""
        # Only packages and libraries come along with others.
        pending = [
            index
            for index, origin in enumerate(self.origins)
            if origin.because is None or origin.kind not in ("package", "library")
        ]
        found = set()
        while pending:
            index = pending.pop()
            if index != without and index not in found:
                found.add(index)
                pending += self.origins[index].needs
        return found


def load_report(path: Path) -> Report:
    """The report of an image archive, of an unpacked image, of a folder dist/ARCH, or a report.json itself.

    UsageError where there is none, BuildError where it cannot be read.
    """
    if path.is_dir():
        inside = [path / REPORT_PATH[1:], path / REPORT, path / ARCHIVE]
        found = next((one for one in inside if one.is_file()), None)
        if found is None:
            hint = "build one with `sandbox-build`, or name one with --image"
            raise UsageError(f"{path}: no {REPORT} and no {ARCHIVE} in it", hint)
        return load_report(found)
    if not path.is_file():
        hint = "build one with `sandbox-build`, or name one with --image"
        raise UsageError(f"{path}: no such file", hint)
    with path.open("rb") as file:
        is_json = file.read(1) == b"{"
    text = path.read_bytes() if is_json else _of_archive(path)
    try:
        return Report(json.loads(text))
    except ValueError:
        raise BuildError(f"{path}: its report.json is damaged", _ANEW) from None
    except BuildError as error:
        raise BuildError(f"{path}: {error.message}", error.hint) from None


def _of_archive(path: Path) -> bytes:
    """The file at REPORT_PATH in an image archive, from the uppermost layer that has it."""
    with open_archive(path) as archive:
        for layer in reversed(archive.layers):
            try:
                with (
                    archive.layer(layer) as plain,
                    tarfile.open(fileobj=plain, mode="r|", tarinfo=BoundedInfo) as tar,
                ):
                    for entry in tar:
                        if "/" + entry.name.removeprefix("./") == REPORT_PATH and entry.isreg():
                            return _content(tar, entry, path)
            except (*DAMAGE, OSError) as error:
                raise BuildError(f"{path}: a layer is damaged: {error}", _ANEW) from None
    raise BuildError(f"{path}: an image without {REPORT_PATH}, of an older sandbox-build", _ANEW)


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> bytes:
    content = tar.extractfile(entry)
    if content is None or entry.size > _MOST_BYTES or entry.issparse():
        raise BuildError(f"{path}: its {REPORT_PATH} is not one that sandbox-build writes", _ANEW)
    return content.read()


def _files(raw: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each file, bytecode that its source has with it included."""
    # python3.13 -> cpython-313, as sys.implementation.cache_tag has it; python3.13t keeps its t.
    tag = "cpython-" + posixpath.basename(raw["python"]["stdlib"]).removeprefix("python").replace(".", "")
    for folder, entries in raw["files"].items():
        for name, length, origin, *bytecode in entries:
            yield posixpath.join(folder, name), (length, origin)
            if bytecode:
                compiled = f"{name.removesuffix('.py')}.{tag}.pyc"
                yield posixpath.join(folder, "__pycache__", compiled), (bytecode[0], origin)


def _owner(raw: Mapping[str, Any]) -> Owner:
    return Owner(**(dict(raw) | {"origins": tuple(raw["origins"])}))


def _check_owners(
    owners: Iterable[Owner],
    unclaimed: Iterable[str],
    origins: tuple[Origin, ...],
    files: Mapping[str, object],
) -> None:
    """IndexError or KeyError where an origin or a file is none of the report's."""
    for index in (index for owner in owners for index in owner.origins):
        if index not in range(len(origins)):
            raise IndexError(f"no origin {index}")
    for path in unclaimed:
        if path not in files:
            raise KeyError(path)


def _check(origins: tuple[Origin, ...], files: Mapping[str, tuple[int, int]]) -> None:
    """IndexError, TypeError or ValueError where a number or a kind is none of ours."""
    every = range(len(origins))
    for origin in origins:
        if origin.kind not in KINDS:
            raise ValueError(f"no such kind: {origin.kind!r}")
        for index in (origin.because, *origin.needs):
            if index is not None and index not in every:
                raise IndexError(f"no origin {index}")
    for length, index in files.values():
        if index not in every or length < 0:
            raise IndexError(f"no origin {index}")
