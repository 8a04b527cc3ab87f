"""tree.json: every path of an image, read from its layers, and the digest that names all of it."""

from __future__ import annotations

import hashlib
import json
import posixpath
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, cast

from builder.archive import DAMAGE, Archive, open_archive
from builder.errors import BuildError, printable
from builder.layers import BoundedInfo

FORMAT = 1
"""Counts up when tree.json says something in another way."""

_MOST_ENTRIES = 1_000_000
_MOST_NAME = 4096
"""PATH_MAX: the kernel takes no longer path, and no longer target of a link."""
_MOST_WORDS_BYTES = 256 << 20
"""Of all paths and targets together: they are held in memory."""
_MOST_KEPT_BYTES = 64 << 20
"""Of a file whose content is kept."""
_MOST_BYTES = 64 << 30
"""Of all layers together, decompressed."""


@dataclass(frozen=True)
class Entry:
    """What lies at a path."""

    type: str
    """file, directory or symlink."""
    mode: int | None = None
    """Permission bits; None for a symlink, which has none."""
    size: int | None = None
    """In bytes, of a file."""
    sha256: str | None = None
    target: str | None = None
    """What a symlink says."""

    def to_json(self, path: str) -> dict[str, Any]:
        mode = None if self.mode is None else f"{self.mode:04o}"
        facts = {
            "path": path,
            "type": self.type,
            "mode": mode,
            "size": self.size,
            "sha256": self.sha256,
            "target": self.target,
        }
        return {key: value for key, value in facts.items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    """Every path of an image. It has no dates and knows no layers: the same tree, the same digest."""

    entries: Mapping[str, Entry]
    """By absolute path in the image."""
    kept: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The contents of files that were asked for, as far as they are there."""

    @cached_property
    def content(self) -> bytes:
        """tree.json: sorted, one entry a line, ASCII; bytes that are not UTF-8 are surrogate escapes."""
        lines = ",\n".join(_compact(self.entries[path].to_json(path)) for path in sorted(self.entries))
        return f'{{"entries":[\n{lines}\n],"format":{FORMAT}}}\n'.encode()

    @cached_property
    def digest(self) -> str:
        """The tree digest: SHA-256 of tree.json, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def sha256(self, path: str) -> str:
        """The digest of the file at `path`; BuildError where the image has none."""
        entry = self.entries.get(path)
        if entry is None or entry.sha256 is None:
            raise BuildError(f"the image has no file {printable(path)}", "is it one that sandbox-build made?")
        return entry.sha256


def read_manifest(path: Path, keep: Collection[str] = ()) -> Manifest:
    """The manifest of the image archive at `path`, whose layers are read once and never stored.

    `keep` are paths of small files whose contents are wanted, too. BuildError for a damaged archive, for what
    sandbox-build never writes (an owner that is not root, extended attributes, devices, deletions), and for
    more than any image has.
    """
    with open_archive(path) as archive:
        try:
            return manifest_of(archive, keep)
        except (*DAMAGE, OSError) as error:
            raise BuildError(f"{path}: a layer is damaged: {error}", "build the image again") from None


def manifest_of(archive: Archive, keep: Collection[str] = ()) -> Manifest:
    """The same of an open archive; BuildError, or one of archive.DAMAGE."""
    return manifest_of_layers((partial(archive.layer, layer) for layer in archive.layers), keep)


def manifest_of_layers(layers: Iterable[Callable[[], IO[bytes]]], keep: Collection[str] = ()) -> Manifest:
    """The same of layers, the lowest first, each as a tar that is opened when its turn comes."""
    reader = _Reader(keep)
    left = _MOST_BYTES
    for layer in layers:
        with layer() as plain:
            bounded = _Bounded(plain, left)
            # The names of a tar are UTF-8 wherever we run.
            with tarfile.open(
                fileobj=cast("IO[bytes]", bounded), mode="r|", tarinfo=BoundedInfo, encoding="utf-8"
            ) as tar:
                for entry in tar:
                    tar.members = []  # type: ignore[attr-defined]  # tarfile keeps all that it has seen
                    reader.add(tar, entry)
            left = bounded.left
    return Manifest(reader.entries, reader.kept)


class _Reader:
    """Lays layers over each other, as LayerUnpacker does on disk."""

    def __init__(self, keep: Collection[str]) -> None:
        self.entries: dict[str, Entry] = {}
        self.kept: dict[str, bytes] = {}
        self._keep = keep
        self._words = 0

    def add(self, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        path = _checked(entry, entry.name)
        if entry.uid or entry.gid:
            raise _refused(entry, f"belongs to {entry.uid}:{entry.gid}, not to root")
        if attribute := next((key for key in entry.pax_headers if "xattr" in key.lower()), None):
            raise _refused(entry, f"has the extended attribute {printable(attribute[:100])}")
        self._add_parents(entry, path)
        before = self.entries.get(path)
        if before is not None and before.type == "directory" and not entry.isdir():
            raise _refused(entry, "takes the place of a folder")
        if before is not None and before.type != "directory" and entry.isdir():
            raise _refused(entry, "is a folder in place of a file")
        self.kept.pop(path, None)
        self._set(path, self._entry(tar, entry, path))

    def _entry(self, tar: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> Entry:
        mode = entry.mode & 0o7777
        if entry.isdir():
            return Entry("directory", mode)
        if entry.issym():
            if len(entry.linkname) > _MOST_NAME:
                raise _refused(entry, f"is a link to {len(entry.linkname)} characters")
            return Entry("symlink", target=entry.linkname)
        if entry.islnk():
            other = self.entries.get(_checked(entry, entry.linkname))
            if other is None or other.type != "file":
                raise _refused(entry, "is a hard link to what is no file")
            return other
        if not entry.isreg() or entry.issparse():
            raise _refused(entry, "is neither a file, a folder nor a link")
        content = tar.extractfile(entry)
        assert content is not None  # noqa: S101 - None is for what is no file
        if path in self._keep and entry.size <= _MOST_KEPT_BYTES:
            self.kept[path] = content.read()
            return Entry("file", mode, entry.size, hashlib.sha256(self.kept[path]).hexdigest())
        digest = hashlib.file_digest(content, "sha256")  # type: ignore[arg-type]  # it reads, and that is all
        return Entry("file", mode, entry.size, digest.hexdigest())

    def _add_parents(self, entry: tarfile.TarInfo, path: str) -> None:
        """Folders that the layer left out are made, as every unpacker does."""
        folder = posixpath.dirname(path)
        missing = []
        while folder != "/" and folder not in self.entries:
            missing.append(folder)
            folder = posixpath.dirname(folder)
        if folder != "/" and self.entries[folder].type != "directory":
            raise _refused(entry, f"lies below {printable(folder)}, which is no folder")
        for one in missing:
            self._set(one, Entry("directory", 0o755))

    def _set(self, path: str, entry: Entry) -> None:
        self._words += len(path) + len(entry.target or "")
        if len(self.entries) >= _MOST_ENTRIES or self._words > _MOST_WORDS_BYTES:
            raise BuildError("an image with more files, or longer names, than sandbox-build writes")
        self.entries[path] = entry


def _checked(entry: tarfile.TarInfo, name: str) -> str:
    """`name` as an absolute path in the image."""
    if name.startswith("/") or ".." in name.split("/"):
        raise _refused(entry, "leads out of the image")
    if len(name) > _MOST_NAME:
        raise _refused(entry, f"has a name of {len(name)} characters")
    path = posixpath.normpath(f"/{name}")
    if posixpath.basename(path).startswith(".wh."):
        raise _refused(entry, "deletes what a layer below it holds")
    return path


class _Bounded:
    """A stream that ends with an error where it goes on for too long."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self.left = most

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self.left -= len(piece)
        if self.left < 0:
            raise BuildError(f"the layers have more than {_MOST_BYTES} bytes")
        return piece


def _refused(entry: tarfile.TarInfo, why: str) -> BuildError:
    return BuildError(f"layer entry {printable(entry.name[:200])!r} {why}: sandbox-build never writes such")


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
