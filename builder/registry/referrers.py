"""What is attached to an image: artifacts whose `subject` it is, and where to find them.

A registry that knows of referrers lists them itself, and says so when one is stored. For any other we keep
the list: an index under the tag `sha256-HEX`, which clients look for.
https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-manifests-with-subject
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from builder.archive import INDEX_TYPE, MANIFEST_TYPE, Descriptor, to_bytes
from builder.errors import RegistryError
from builder.registry.repository import Manifest, Repository, entries_of
from builder.registry.tags import rewrite

EMPTY_CONTENT = b"{}"
EMPTY = Descriptor.of("application/vnd.oci.empty.v1+json", EMPTY_CONTENT)
"""The config of what has none (OCI image specification, manifest.md, "Guidance for an Empty Descriptor")."""

FILE_NAME = "org.opencontainers.image.title"
"""The annotation that is a layer's file name, by which `oras pull` writes it."""

_OURS = "sandbox-build.attachment"
"""The annotation that tells an attachment of ours, and which of them it is, from those of others."""


@dataclass(frozen=True)
class Attachment:
    """A document about an image."""

    artifact_type: str
    """What it is, as a media type: clients ask for referrers by it."""
    media_type: str
    """Of the content."""
    content: bytes
    file_name: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Of its manifest; the list of referrers repeats them."""

    @property
    def blob(self) -> Descriptor:
        """The content."""
        return Descriptor.of(self.media_type, self.content)

    def manifest(self, subject: Descriptor) -> bytes:
        """The artifact's manifest, in form an image's; same attachment, same subject, same bytes."""
        return to_bytes(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "artifactType": self.artifact_type,
                "config": EMPTY.to_json(),
                "layers": [self.blob.to_json() | {"annotations": {FILE_NAME: self.file_name}}],
                "subject": subject.to_json(),
                "annotations": self._annotations,
            }
        )

    def entry(self, subject: Descriptor) -> dict[str, Any]:
        """What the list of the subject's referrers says of it."""
        about = {"artifactType": self.artifact_type, "annotations": self._annotations}
        return Descriptor.of(MANIFEST_TYPE, self.manifest(subject)).to_json() | about

    @property
    def _annotations(self) -> dict[str, str]:
        return {**self.annotations, _OURS: self.file_name}


@dataclass(frozen=True)
class Referrer:
    """Something that is attached to an image, by us or by anybody who may push there."""

    descriptor: Descriptor
    artifact_type: str
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Document:
    """What a referrer holds."""

    media_type: str
    file_name: str | None
    content: bytes


def attach(repository: Repository, subject: Descriptor, attachments: Sequence[Attachment]) -> None:
    """Stores the manifests of `attachments`, whose blobs are there, as referrers of `subject`."""
    unlisted = []
    for one in attachments:
        content = one.manifest(subject)
        manifest = Descriptor.of(MANIFEST_TYPE, content)
        if not repository.put_manifest(manifest.digest, manifest, content):
            unlisted.append(one.entry(subject))
    if unlisted:
        rewrite(repository, _fallback_tag(subject.digest), INDEX_TYPE, partial(_with, unlisted))


def find_referrers(
    repository: Repository, digest: str, artifact_type: str | None = None
) -> tuple[Referrer, ...]:
    """What is attached to the manifest or index with this digest; of one type, or all."""
    entries = repository.find_referrers(digest)
    if entries is None:
        index = repository.find_manifest(_fallback_tag(digest))
        entries = entries_of(index.parsed) if index is not None else []
    found = (_referrer(entry) for entry in entries)
    return tuple(one for one in found if artifact_type in (None, one.artifact_type))


def get_document(repository: Repository, referrer: Referrer, subject: str, limit_bytes: int) -> Document:
    """The document of a referrer of the digest `subject`, of at most `limit_bytes`.

    RegistryError where it is larger, not what its digest says, or about something else.
    """
    manifest = repository.get_manifest(referrer.descriptor.digest).parsed
    try:
        if manifest["subject"]["digest"] != subject:
            raise RegistryError(f"{repository}: {referrer.descriptor.digest} is not about {subject}")
        layer = manifest["layers"][0]
        blob = Descriptor(str(layer["mediaType"]), str(layer["digest"]), int(layer["size"]))
        file_name = (layer.get("annotations") or {}).get(FILE_NAME)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        message = f"{repository}: {referrer.descriptor.digest} is no artifact with a document"
        raise RegistryError(message) from error
    content = repository.get_blob(blob, limit_bytes)
    return Document(blob.media_type, str(file_name) if file_name is not None else None, content)


def merged(entries: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A list of referrers with `ours`, in place of what we had attached of the same kind before."""
    replaced = {_kind(entry) for entry in ours}
    digests = {entry["digest"] for entry in ours}
    kept = [entry for entry in entries if entry["digest"] not in digests and _kind(entry) not in replaced]
    return [*kept, *ours]


def _with(ours: Sequence[dict[str, Any]], found: Manifest | None, written: bool) -> bytes | None:
    """The list that we keep, with `ours` on it; None where they are."""
    entries = entries_of(found.parsed) if found is not None else []
    # Of two who attach the same kind at the same time the later one stays: they do not fight over it.
    if written and set(map(_kind, ours)) <= set(map(_kind, entries)):
        return None
    wanted = merged(entries, ours)
    if _digests(wanted) == _digests(entries):
        return None
    return to_bytes({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": wanted})


def _fallback_tag(digest: str) -> str:
    """The tag that the specification gives to the list of a digest's referrers."""
    algorithm, _, value = digest.partition(":")
    return f"{algorithm[:32]}-{value[:64]}"


def _kind(entry: dict[str, Any]) -> tuple[str, str | None]:
    """Which attachment an entry is: the second is None where it is not one of ours."""
    return _type_of(entry), _annotations_of(entry).get(_OURS)


def _digests(entries: Sequence[dict[str, Any]]) -> set[str]:
    return {entry["digest"] for entry in entries}


def _referrer(entry: dict[str, Any]) -> Referrer:
    descriptor = Descriptor(entry["mediaType"], entry["digest"], entry["size"])
    return Referrer(descriptor, _type_of(entry), _annotations_of(entry))


def _type_of(entry: dict[str, Any]) -> str:
    return str(entry.get("artifactType") or "")


def _annotations_of(entry: dict[str, Any]) -> dict[str, str]:
    found = entry.get("annotations")
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
