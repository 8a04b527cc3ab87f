"""An image in a registry: its manifest, its config, its smallest layer, and what is attached to it."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import IO, Any

from builder.archive import DAMAGE, Descriptor, layer_names
from builder.attest import ATTACHED, DOCUMENTS, manifest_of_layers
from builder.compression import COMPRESSIONS, compression_of
from builder.errors import RegistryError
from builder.inspection.facts import CONFIG_LAYER, KEPT, Attached, Inspected, Parts, told
from builder.registry import (
    Manifest,
    Referrer,
    Repository,
    find_referrers,
    get_config,
    get_document,
    get_images,
    open_image,
)

_MOST_LAYER_BYTES = 64 << 20
_MOST_DOCUMENT_BYTES = 256 << 20

_SIGNATURES = (
    "application/vnd.dev.cosign.",
    "application/vnd.dev.sigstore.bundle",
    "application/vnd.cncf.notary.signature",
)
"""How the artifact types of signatures begin: cosign's old and new ones, Notary Project's."""

_KINDS = {kind.artifact_type: kind for kind in DOCUMENTS}


def inspect_remote(reference: str) -> list[Inspected]:
    """Each image behind `reference`, a single one or those of an index.

    No layer is fetched but the small one that says what the image is. UsageError for what names no
    registry, RegistryError where that does not answer as it should, BuildError for a damaged image.
    """
    repository, name = open_image(reference)
    try:
        top = repository.get_manifest(name)
        images = get_images(repository, top.descriptor.digest)
        # BuildKit lists its attestations among the images, as of an unknown platform.
        found = [manifest for platform, manifest in images if platform.get("os") != "unknown"]
        is_index = [top.descriptor.digest] != [one.descriptor.digest for one in found]
        above = find_referrers(repository, top.descriptor.digest) if is_index else ()
        return [_inspect(repository, one, reference, above) for one in found]
    except (*DAMAGE, AttributeError, RecursionError) as error:
        raise RegistryError(f"{reference}: no image that can be read: {error}") from None


def _inspect(repository: Repository, manifest: Manifest, name: str, above: Collection[Referrer]) -> Inspected:
    """One image; `above` is attached to the index that lists it."""
    layers = [Descriptor.from_json(one) for one in manifest.parsed["layers"]]
    config = get_config(repository, manifest)
    subject = manifest.descriptor.digest
    documents: dict[str, bytes] = {}
    rest: list[Referrer] = []
    for one in find_referrers(repository, subject):
        content = _document(repository, one, subject, documents)
        if content is None:
            rest.append(one)
        else:
            documents[_KINDS[one.artifact_type].name] = content
    rest += [one for one in above if one not in rest]
    parts = Parts(
        name=name,
        manifest=manifest.descriptor,
        layers=layers,
        config=config,
        files=_files(repository, config, layers),
        documents=documents,
        policy_digest=None,
        tree_digest=None,
        expected=ATTACHED,
        signatures=tuple(_shown(one) for one in rest if one.artifact_type.startswith(_SIGNATURES)),
        others=tuple(_shown(one) for one in rest if not one.artifact_type.startswith(_SIGNATURES)),
    )
    return told(parts)


def _files(
    repository: Repository, config: Mapping[str, Any], layers: list[Descriptor]
) -> Mapping[str, bytes]:
    """The image's own files about itself; none of an image that is not ours."""
    named = dict(zip(layer_names(config, len(layers)), layers, strict=True))
    layer = named.get(CONFIG_LAYER)
    if layer is None or layer.media_type not in {one.media_type for one in COMPRESSIONS.values()}:
        return {}
    unpack = compression_of(layer.media_type).unpack
    content = io.BytesIO(repository.get_blob(layer, _MOST_LAYER_BYTES))

    def opened() -> IO[bytes]:
        return unpack(content)

    return manifest_of_layers([opened], keep=KEPT).kept


def _document(repository: Repository, one: Referrer, subject: str, known: Collection[str]) -> bytes | None:
    """The content of a document of ours; None for what is another's, or there already."""
    kind = _KINDS.get(one.artifact_type)
    if kind is None or kind.name in known:
        return None
    found = get_document(repository, one, subject, _MOST_DOCUMENT_BYTES)
    # An SBOM that somebody else made has the same type.
    return found.content if found.file_name == kind.name else None


def _shown(one: Referrer) -> Attached:
    return Attached(one.artifact_type, one.descriptor.digest)
