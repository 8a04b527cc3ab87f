"""Pushing finished images: everything that a tag will stand for first, the tag last."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from builder.arch import ARCHES
from builder.archive import INDEX_TYPE, Descriptor, open_archive, to_bytes
from builder.errors import RegistryError
from builder.progress import Progress
from builder.registry.referrers import EMPTY, EMPTY_CONTENT, Attachment, attach
from builder.registry.repository import Repository, reach
from builder.registry.transfer import Blob, readable, send_blobs


@dataclass(frozen=True)
class Image:
    """An image that is to be pushed."""

    archive: Path
    attachments: Sequence[Attachment] = ()


@dataclass(frozen=True)
class Pushed:
    """What a push came to."""

    digest: str
    """What the tag names now: the image's manifest, or the index over several."""
    sent_bytes: int
    """Of blobs; manifests, which are small, are not counted."""
    skipped_bytes: int
    """Of blobs that the registry had."""


@dataclass(frozen=True)
class _Content:
    """What an archive holds, with what is attached to it."""

    manifest: Descriptor
    content: bytes
    platform: dict[str, str]
    blobs: tuple[Blob, ...]
    attachments: Sequence[Attachment]


def push(images: Sequence[Image], reference: str, progress: Progress, *, if_absent: bool = False) -> Pushed:
    """Pushes `images`, which are for different architectures, as `reference`, which names its registry.

    The order: the blobs that the registry does not have, the images' manifests, what is attached to them;
    with the tag the index over them, where they are several. A push that fails leaves the tag where it was,
    and no index. With `if_absent` a tag that names something else is never moved: it is looked at before
    anything is sent, and again before it is set; one that names these very images already is left as it is,
    and so is what is attached to them.

    RegistryError says what the registry refused; BuildError which archive cannot be read; UsageError that
    `reference` names no registry.
    """
    contents = [_read(image) for image in images]
    target, repository = reach(reference)
    top, content = _top(contents)
    if if_absent and _is_there(repository, target.tag, top.digest):
        progress.note(f"{reference} is there already, as {top.digest}")
        return Pushed(top.digest, 0, sum(blob.descriptor.size for one in contents for blob in one.blobs))
    names = [one.platform["architecture"] for one in contents]
    with progress.lanes(names) as lanes:
        for name in names:
            lanes.hear(name, "begin", f"pushing {reference}")
        blobs = [blob for one in contents for blob in one.blobs]
        transferred = send_blobs(repository, blobs, lambda name, text: lanes.hear(name, "detail", text))
        for name in names:
            lanes.hear(name, "end", "")
    for one in contents:
        if one.attachments or one.manifest != top:
            repository.put_manifest(one.manifest.digest, one.manifest, one.content)
    for one in contents:
        attach(repository, one.manifest, one.attachments)
    if not (if_absent and _is_there(repository, target.tag, top.digest)):
        repository.put_manifest(target.tag, top, content)
    return Pushed(top.digest, transferred.sent_bytes, transferred.skipped_bytes)


def index_over(images: Sequence[tuple[Descriptor, dict[str, str]]]) -> bytes:
    """The index over images, each with its platform: the same images in the same order, the same bytes."""
    entries = [manifest.to_json() | {"platform": platform} for manifest, platform in images]
    return to_bytes({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})


def _top(contents: Sequence[_Content]) -> tuple[Descriptor, bytes]:
    """What the tag will name."""
    if len(contents) == 1:
        return contents[0].manifest, contents[0].content
    index = index_over([(one.manifest, one.platform) for one in contents])
    return Descriptor.of(INDEX_TYPE, index), index


def _is_there(repository: Repository, tag: str, digest: str) -> bool:
    """Whether `tag` names `digest`; RegistryError where it names anything else."""
    found = repository.find_digest(tag)
    if found not in (None, digest):
        raise RegistryError(
            f"{repository}:{tag} is there already: it names {found}, and this is {digest}",
            "push it under another tag; without --if-absent the tag is moved",
        )
    return found is not None


def _read(image: Image) -> _Content:
    with readable(str(image.archive)), open_archive(image.archive) as archive:
        platform = archive.platform
        if (arch := ARCHES.get(platform["architecture"])) is not None and arch.variant is not None:
            platform = {**platform, "variant": arch.variant}
        lane = platform["architecture"]
        blobs = [
            Blob(blob, lane, partial(_from_archive, image.archive, blob), str(image.archive))
            for blob in (archive.config, *archive.layers)
        ]
        if image.attachments:
            blobs.append(Blob(EMPTY, lane, partial(io.BytesIO, EMPTY_CONTENT), "an empty config"))
        for one in image.attachments:
            blobs.append(Blob(one.blob, lane, partial(io.BytesIO, one.content), one.file_name))
        return _Content(archive.descriptor, archive.manifest, platform, tuple(blobs), image.attachments)


@contextmanager
def _from_archive(path: Path, blob: Descriptor) -> Iterator[IO[bytes]]:
    """A blob, whose digest is right, of an archive that is opened for it alone: a file has one position."""
    with ExitStack() as stack:
        with readable(str(path)):
            archive = stack.enter_context(open_archive(path))
            content = archive.blob(blob)
        yield content
