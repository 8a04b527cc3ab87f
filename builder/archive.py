"""The image as one .tar: an OCI layout that also carries the manifest.json which `docker load` reads.

Both indexes name the same blobs, so that nothing is stored twice. Newer engines write the same form with
`docker save`. https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import zstandard

from builder.compression import COMPRESSIONS, Compression, compression_of
from builder.errors import BuildError, room_hint
from builder.files_by_hash import sha256_of
from builder.layers import BoundedInfo, LayerUnpacker
from builder.reference import parse_reference
from builder.shelf import Shelf

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"

_BLOB = "blob"
_DIGEST = "digest"
"""The files of a compressed layer in the cache."""

DAMAGE = (
    tarfile.TarError,
    zlib.error,
    gzip.BadGzipFile,
    zstandard.ZstdError,
    EOFError,
    RecursionError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
)
"""What reading a file that is no archive, or half of one, raises."""


LAYER_HISTORY = "sandbox-build: layer "
"""What the image config's history says of a layer, with the layer's name behind it."""

_MOST_DOCUMENT_BYTES = 8 << 20
"""Of a manifest, and of an image's config."""


@dataclass(frozen=True)
class BuiltImage:
    """What a driver makes."""

    config: bytes
    """The OCI image config, byte for byte: its digest is the image's ID."""
    layers: tuple[Path, ...]
    """Uncompressed layer tars, the lowest first: the ones whose digests stand in the config."""


@dataclass(frozen=True)
class Descriptor:
    """A blob, as OCI describes it."""

    media_type: str
    digest: str
    size: int

    @property
    def member(self) -> str:
        """The blob's path in the archive."""
        return "blobs/" + self.digest.replace(":", "/")

    def to_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Descriptor:
        return cls(raw["mediaType"], raw["digest"], raw["size"])

    @classmethod
    def of(cls, media_type: str, content: bytes) -> Descriptor:
        return cls(media_type, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


def write_archive(
    image: BuiltImage, path: Path, reference: str, *, compression: str = "gzip", shelf: Shelf | None = None
) -> str:
    """Writes `image`, called `reference`, to `path`, whole or not at all; returns its manifest's digest.

    `compression` is one of COMPRESSIONS; a layer that `shelf` of the cache has is not compressed again. The
    same image and reference, the same bytes. BuildError where the disk is full or may not be written, and for
    layers that are not the config's.
    """
    try:
        # Beside the target, for a rename that cannot fail half-way.
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
            blobs: dict[str, bytes | Path] = {}
            config = Descriptor.of(_CONFIG_TYPE, image.config)
            blobs[config.member] = image.config
            layers, diff_ids = [], []
            pack = partial(_packed, scratch=Path(scratch), compression=COMPRESSIONS[compression], shelf=shelf)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                found = list(pool.map(pack, image.layers))
            for packed, layer, diff_id in found:
                blobs[layer.member] = packed
                layers.append(layer)
                diff_ids.append(diff_id)
            if json.loads(image.config)["rootfs"]["diff_ids"] != diff_ids:
                raise BuildError(f"the layers for {path} are not those that the image's config names")
            content = to_bytes(
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST_TYPE,
                    "config": config.to_json(),
                    "layers": [layer.to_json() for layer in layers],
                }
            )
            manifest = Descriptor.of(MANIFEST_TYPE, content)
            blobs[manifest.member] = content
            whole = Path(scratch) / "whole"
            with tarfile.open(whole, "w") as tar:
                for name, value in _indexes(reference, manifest, config, layers).items():
                    _add(tar, name, to_bytes(value))
                for name, blob in blobs.items():
                    _add(tar, name, blob)
            whole.replace(path)
    except OSError as error:
        raise BuildError(f"{path}: not written: {error.strerror}", room_hint(error)) from error
    return manifest.digest


def _indexes(
    reference: str, manifest: Descriptor, config: Descriptor, layers: Sequence[Descriptor]
) -> dict[str, object]:
    """The files by which readers find the image: the OCI layout's two, and Docker's."""
    parsed = parse_reference(reference)
    annotations = {
        # What podman and skopeo call the image, and what containerd does.
        "org.opencontainers.image.ref.name": str(parsed),
        "io.containerd.image.name": parsed.full_name,
    }
    return {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [manifest.to_json() | {"annotations": annotations}],
        },
        "manifest.json": [
            {
                "Config": config.member,
                "RepoTags": [str(parsed)],
                "Layers": [layer.member for layer in layers],
            }
        ],
    }


def _packed(
    source: Path, scratch: Path, compression: Compression, shelf: Shelf | None
) -> tuple[Path, Descriptor, str]:
    """The compressed layer that the tar `source` becomes, its descriptor, and the digest of the tar."""
    diff_id = f"sha256:{sha256_of(source)}"

    def fill(work: Path) -> None:
        digest = hashlib.sha256()
        with (work / _BLOB).open("wb") as blob:
            for piece in compression.pack(source):
                digest.update(piece)
                blob.write(piece)
        (work / _DIGEST).write_text(f"sha256:{digest.hexdigest()}")

    if shelf is None:
        entry = Path(tempfile.mkdtemp(dir=scratch))
        fill(entry)
    else:
        key = hashlib.sha256(f"{diff_id} {compression.name} {compression.version}".encode()).hexdigest()
        entry = shelf.open(key, fill, _is_whole)
    blob = entry / _BLOB
    descriptor = Descriptor(compression.media_type, (entry / _DIGEST).read_text(), blob.stat().st_size)
    return blob, descriptor, diff_id


def _is_whole(entry: Path) -> bool:
    """Whether a compressed layer of the cache is what it was when it was written."""
    return (entry / _DIGEST).read_text() == f"sha256:{sha256_of(entry / _BLOB)}"


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)  # owner 0:0, mode 0644, dated 1970: nothing of this machine
    if isinstance(content, Path):
        entry.size = content.stat().st_size
        with content.open("rb") as file:
            tar.addfile(entry, file)
    else:
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


def to_bytes(value: object) -> bytes:
    """JSON whose bytes depend on the value alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Archive:
    """An open archive: its manifest, and its blobs by descriptor."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path = path
        self._tar = tar
        index = json.loads(self._member("index.json").read())
        if len(index["manifests"]) != 1:
            raise BuildError(f"{path}: holds {len(index['manifests'])} images, not one")
        self.descriptor = Descriptor.from_json(index["manifests"][0])
        """The manifest's own descriptor."""
        annotations = index["manifests"][0].get("annotations", {})
        self.name: str | None = annotations.get("org.opencontainers.image.ref.name")
        """What the image is called: NAME:TAG."""
        self.manifest = self._document(self.descriptor)
        parsed = json.loads(self.manifest)
        self.config = Descriptor.from_json(parsed["config"])
        self.image_config: dict[str, Any] = json.loads(self._document(self.config))
        """What `config` describes: what runs, on what, and what its layers are called."""
        if not isinstance(self.image_config, dict):
            raise TypeError("its config is no object")
        self.layers = tuple(Descriptor.from_json(layer) for layer in parsed["layers"])

    @property
    def platform(self) -> dict[str, str]:
        """What the image runs on, as OCI has it: os and architecture."""
        return {name: self.image_config[name] for name in ("architecture", "os")}

    @property
    def named_layers(self) -> dict[str, Descriptor]:
        """The layers by their names, the lowest first."""
        return dict(zip(layer_names(self.image_config, len(self.layers)), self.layers, strict=True))

    def blob(self, descriptor: Descriptor) -> IO[bytes]:
        """The blob, as a seekable file; BuildError where it is not what its digest says."""
        file = self._member(descriptor.member)
        found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"  # type: ignore[arg-type]
        if found != descriptor.digest:
            raise BuildError(f"{self._path}: {descriptor.member} is damaged", "build the image again")
        file.seek(0)
        return file

    def layer(self, descriptor: Descriptor) -> IO[bytes]:
        """A layer's tar, decompressed as it is read, from its beginning to its end.

        BuildError where the blob is not what its digest says, or compressed as we never do.
        """
        return compression_of(descriptor.media_type).unpack(self.blob(descriptor))

    def _document(self, descriptor: Descriptor) -> bytes:
        content = self.blob(descriptor).read(_MOST_DOCUMENT_BYTES + 1)
        if len(content) > _MOST_DOCUMENT_BYTES:
            raise ValueError(f"{descriptor.member} has more than {_MOST_DOCUMENT_BYTES >> 20} MiB")
        return content

    def _member(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(name)
        if file is None:
            raise KeyError(name)
        return file


def layer_names(config: Mapping[str, Any], count: int) -> list[str]:
    """The names of the layers, the lowest first; their numbers, where the config does not name each."""
    names = [str(one.get("created_by", "")) for one in config.get("history") or ()]
    if len(set(names)) != count or not all(name.startswith(LAYER_HISTORY) for name in names):
        return [str(number) for number in range(count)]
    return [name.removeprefix(LAYER_HISTORY) for name in names]


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The archive at `path`; BuildError where it cannot be read or was not written by write_archive."""
    with ExitStack() as stack:
        try:
            archive = Archive(path, stack.enter_context(tarfile.open(path, "r:", tarinfo=BoundedInfo)))
        except OSError as error:
            raise BuildError(f"{path}: cannot be read: {error.strerror}") from error
        except DAMAGE as error:
            raise _damaged(path, error) from error
        yield archive


def unpack_archive(path: Path, root: Path) -> None:
    """Unpacks the image in the archive at `path` into `root`, a folder that must not exist yet.

    Needs no privilege: an ordinary user owns what is unpacked. Nothing is written outside `root`; BuildError
    for an archive that would (see LayerUnpacker), and for a damaged one.
    """
    with open_archive(path) as archive:
        try:
            unpacker = LayerUnpacker(root)
            for layer in archive.layers:
                with archive.layer(layer) as tar:
                    unpacker.unpack(tar)
            unpacker.finish()
        except DAMAGE as error:
            raise _damaged(path, error) from error
        except OSError as error:
            raise BuildError(f"{root}: {path.name} cannot be unpacked: {error.strerror}") from error


def _damaged(path: Path, error: Exception) -> BuildError:
    is_tar = path.stat().st_size > 0 and tarfile.is_tarfile(path)  # which takes an empty file for one
    hint = "build the image again" if is_tar else "name an image.tar that `sandbox-build` made"
    return BuildError(f"{path}: not an image archive of ours, or damaged: {error}", hint)
