"""Files that are known by their SHA-256, kept in a registry: a CI machine's own cache is empty each time.

A registry knows its blobs by the same name. So that its garbage collection leaves them, one artifact's
manifest under a tag names all of them. Whoever may write there can put nothing else in the place of a file:
what comes back has the digest that was asked for, or is refused.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from builder.archive import MANIFEST_TYPE, Descriptor, to_bytes
from builder.errors import RegistryError
from builder.registry.referrers import EMPTY, EMPTY_CONTENT, FILE_NAME
from builder.registry.repository import Manifest, Repository, entries_of, reach
from builder.registry.tags import rewrite
from builder.registry.transfer import Blob, Transferred, readable, send_blobs

_ARTIFACT_TYPE = "application/vnd.sandbox-build.cache.v1+json"
_FILE_TYPE = "application/octet-stream"

_MOST_FILES = 8000
"""So many fit into a manifest of 4 MiB; the ones that were put there first go first."""


_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!~%-]{0,254}")
"""A file's name that leads nowhere, and does nothing to a terminal."""


class Listed(NamedTuple):
    """What the manifest says of a file."""

    name: str
    size: int
    """In bytes."""


class RegistryCache:
    """The files behind one tag of one repository."""

    def __init__(self, repository: Repository, tag: str) -> None:
        self._repository = repository
        self._tag = tag

    @property
    def stopped(self) -> threading.Event:
        """Once it is set, every request gives up."""
        return self._repository.stopped

    def files(self) -> dict[str, Listed]:
        """The files that are there, by their SHA-256 in hexadecimal: those alone that have a plain name.

        RegistryError where the tag is another thing's.
        """
        found = self._repository.find_manifest(self._tag)
        listed = {}
        for layer in self._layers(found):
            algorithm, _, sha256 = layer["digest"].partition(":")
            annotations = layer.get("annotations")
            name = annotations.get(FILE_NAME) if isinstance(annotations, dict) else None
            if algorithm == "sha256" and isinstance(name, str) and _PLAIN_NAME.fullmatch(name):
                listed[sha256] = Listed(name, layer["size"])
        return listed

    def get(self, sha256: str, limit_bytes: int) -> bytes | None:
        """The file with this SHA-256, in hexadecimal; None where it is not there.

        RegistryError where it is larger than `limit_bytes`, or another one comes.
        """
        return self._repository.find_blob(f"sha256:{sha256}", limit_bytes)

    def put(self, files: Mapping[str, Path]) -> Transferred:
        """Keeps `files`, by their SHA-256 in hexadecimal; those that are there are not sent again."""
        if not files:
            return Transferred(0, 0)
        layers = {f"sha256:{sha256}": _layer(sha256, path) for sha256, path in files.items()}
        blobs = [
            Blob(Descriptor.from_json(layers[f"sha256:{sha256}"]), "", partial(_opened, path), str(path))
            for sha256, path in files.items()
        ]
        blobs.append(Blob(EMPTY, "", partial(io.BytesIO, EMPTY_CONTENT), "an empty config"))
        sent = send_blobs(self._repository, blobs, lambda _lane, _text: None)
        rewrite(self._repository, self._tag, MANIFEST_TYPE, partial(self._with, layers))
        return sent

    def _with(
        self, layers: Mapping[str, dict[str, Any]], found: Manifest | None, _written: bool
    ) -> bytes | None:
        """The manifest with `layers` in it, the newest last; None where it has them."""
        kept = self._layers(found)
        there = {layer["digest"]: layer for layer in kept}
        if all(there.get(digest) == layer for digest, layer in layers.items()):
            return None
        kept = [layer for layer in kept if layer["digest"] not in layers]
        return manifest_over([*kept, *layers.values()][-_MOST_FILES:])

    def _layers(self, found: Manifest | None) -> list[dict[str, Any]]:
        if found is None:
            return []
        if found.parsed.get("artifactType") != _ARTIFACT_TYPE:
            # An image, say: it must not be written over.
            raise RegistryError(
                f"{self._repository}: the tag {self._tag} is of no cache of ours",
                "name one that nothing else has, such as :cache",
            )
        return entries_of(found.parsed, "layers")


def open_cache(reference: str) -> RegistryCache:
    """The cache that `reference` names, HOST[:PORT]/NAME:TAG; errors as open_registry()'s."""
    target, repository = reach(reference)
    return RegistryCache(repository, target.tag)


def manifest_over(layers: Sequence[dict[str, Any]]) -> bytes:
    """The artifact that names the files."""
    return to_bytes(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": _ARTIFACT_TYPE,
            "config": EMPTY.to_json(),
            "layers": list(layers),
        }
    )


def _layer(sha256: str, path: Path) -> dict[str, Any]:
    with readable(str(path)):
        descriptor = Descriptor(_FILE_TYPE, f"sha256:{sha256}", path.stat().st_size)
    return descriptor.to_json() | {"annotations": {FILE_NAME: path.name}}


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with readable(str(path)):
        file = path.open("rb")
    with file:
        yield file
