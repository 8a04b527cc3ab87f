"""Two image archives: where they differ, and what of AFTER a registry that has BEFORE lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from builder.archive import DAMAGE, Archive, Descriptor, open_archive
from builder.compare.contents import changed_keys
from builder.compare.entries import (
    Difference,
    Layer,
    compare_layers,
    only_in,
    read_layer,
    with_moves,
)
from builder.compression import compression_of
from builder.errors import BuildError, UsageError
from builder.output import archives_at


@dataclass(frozen=True)
class Image:
    """One side of a comparison."""

    path: Path
    digest: str
    """Of its manifest: sha256:HEX."""


@dataclass(frozen=True)
class Sent:
    """A blob that a registry which has BEFORE lacks of AFTER."""

    what: str
    """`layer NAME`, `config` or `manifest`."""
    size: int
    """In bytes, compressed."""


@dataclass(frozen=True)
class Compared:
    """Two images of one architecture."""

    arch: str
    before: Image
    after: Image
    differences: tuple[Difference, ...]
    sent: tuple[Sent, ...]
    total_bytes: int
    """Of all of AFTER's blobs."""

    @property
    def same(self) -> bool:
        return not self.differences


def pairs(before: Path, after: Path) -> Iterator[tuple[str, Path, Path]]:
    """(architecture, archive, archive) of what is to be compared.

    An archive that was named is compared with another that was, or else with the one of its architecture.
    UsageError where they do not pair.
    """
    named = archives_at(before), archives_at(after)
    if None in named[0] and None in named[1]:
        yield _arch_of(named[0][None]), named[0][None], named[1][None]
        return
    ours, theirs = ({arch or _arch_of(path): path for arch, path in side.items()} for side in named)
    if None in named[0]:
        theirs = {arch: path for arch, path in theirs.items() if arch in ours}
    elif None in named[1]:
        ours = {arch: path for arch, path in ours.items() if arch in theirs}
    if alone := sorted({*ours} ^ {*theirs}):
        one, other = (before, after) if alone[0] in ours else (after, before)
        raise UsageError(f"{one} has an image for {alone[0]}, and {other} has none", "name the images")
    for arch in sorted(ours):
        yield arch, ours[arch], theirs[arch]


def _arch_of(path: Path) -> str:
    with open_archive(path) as archive:
        return str(archive.image_config.get("architecture"))


def compare(arch: str, before: Path, after: Path) -> Compared:
    """Compares two archives; BuildError for one that is damaged, or that no sandbox-build wrote."""
    with _opened(before) as ours, _opened(after) as theirs:
        differences = [] if ours.digest == theirs.digest else _differences(ours, theirs)
        there = {blob.digest for blob in ours.blobs.values()}
        return Compared(
            arch,
            before=Image(before, ours.digest),
            after=Image(after, theirs.digest),
            differences=tuple(differences),
            sent=tuple(Sent(name, one.size) for name, one in theirs.blobs.items() if one.digest not in there),
            total_bytes=sum(blob.size for blob in theirs.blobs.values()),
        )


@dataclass(frozen=True)
class _Side:
    """An open archive, of which every blob is what its digest says."""

    path: Path
    archive: Archive
    manifest: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.archive.image_config

    @property
    def digest(self) -> str:
        return self.archive.descriptor.digest

    @property
    def layers(self) -> dict[str, Descriptor]:
        return self.archive.named_layers

    @property
    def blobs(self) -> dict[str, Descriptor]:
        layers = {f"layer {name}": layer for name, layer in self.layers.items()}
        return {"manifest": self.archive.descriptor, "config": self.archive.config, **layers}

    def read(self, layer: Descriptor) -> Layer:
        with _blaming(self.path), self.archive.layer(layer) as tar:
            return read_layer(tar)


def _differences(before: _Side, after: _Side) -> list[Difference]:
    with _blaming(f"{before.path} or {after.path}"):
        found = [
            Difference(where, key, "", one, other)
            for where, ours, theirs in (
                ("config", _without_layers(before.config), _without_layers(after.config)),
                ("manifest", _without_blobs(before.manifest), _without_blobs(after.manifest)),
            )
            for key, one, other in changed_keys(ours, theirs)
        ]
    found += _layer_differences(before, after)
    if not found:
        reason = "other digests of the same layers, or the same JSON in other bytes"
        found.append(Difference("config", "", "how it is written", why=reason))
    return found


def _without_layers(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the digests of the layers, which are compared themselves."""
    return {**config, "rootfs": {key: value for key, value in config["rootfs"].items() if key != "diff_ids"}}


def _without_blobs(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in ("config", "layers")}


def _layer_differences(before: _Side, after: _Side) -> list[Difference]:
    ours, theirs = before.layers, after.layers
    if ours.keys().isdisjoint(theirs):
        ours, theirs = (
            {str(number): layer for number, layer in enumerate(side.archive.layers)}
            for side in (before, after)
        )
    both = [name for name in ours if name in theirs]
    order = [name for name in theirs if name in ours]
    found = []
    if both != order:
        found.append(Difference("layers", "", "order", ", ".join(both), ", ".join(order)))
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in theirs:
            found += only_in("BEFORE", name, before.read(ours[name]))
        elif name not in ours:
            found += only_in("AFTER", name, after.read(theirs[name]))
        elif ours[name] != theirs[name]:
            found += _compare_layer(name, (before, ours[name]), (after, theirs[name]))
    return with_moves(found)


def _compare_layer(
    name: str, before: tuple[_Side, Descriptor], after: tuple[_Side, Descriptor]
) -> list[Difference]:
    ours, theirs = (side.read(layer) for side, layer in (before, after))
    if ours.digest != theirs.digest:
        tars = partial(before[0].archive.layer, before[1]), partial(after[0].archive.layer, after[1])
        return compare_layers(name, ours, theirs, tars)
    packed = [f"{compression_of(layer.media_type).name}, {layer.size} bytes" for _, layer in (before, after)]
    return [Difference(f"layer {name}", "", "compression", packed[0], packed[1], "the tar is the same")]


@contextmanager
def _opened(path: Path) -> Iterator[_Side]:
    with open_archive(path) as archive:
        with _blaming(path):
            for blob in (archive.config, *archive.layers):
                archive.blob(blob).close()
            side = _Side(path, archive, json.loads(archive.manifest))
            _ = side.blobs, side.config["rootfs"]
        yield side


@contextmanager
def _blaming(what: Path | str) -> Iterator[None]:
    """BuildError for whatever reading `what`, or what is in it, comes to."""
    try:
        yield
    except (*DAMAGE, AttributeError, RecursionError) as error:
        message = f"{what}: not an image archive of ours, or damaged: {error}"
        raise BuildError(message, "build the image again") from error
