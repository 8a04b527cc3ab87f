"""What a registry has of an image: its manifest or index, its config, and what is attached to it."""

from __future__ import annotations

from typing import Any

from builder.archive import Descriptor
from builder.errors import RegistryError, UsageError
from builder.reference import DIGEST
from builder.registry.repository import Manifest, Repository, entries_of, open_registry

_CONFIG_BYTES = 4 << 20
"""What a config may have: our own have some kilobytes."""


def open_image(text: str) -> tuple[Repository, str]:
    """The repository that `text` names, and its tag or digest there: HOST[:PORT]/NAME[:TAG][@DIGEST].

    Nothing is asked of the image yet. UsageError where `text` is no such name; errors as open_registry()'s.
    """
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise UsageError(f"{digest!r} is not a digest", "HOST[:PORT]/NAME@sha256:HEX")
    target, repository = open_registry(rest, read_only=True)
    return repository, digest or target.tag


def get_images(repository: Repository, name: str) -> list[tuple[dict[str, str], Manifest]]:
    """The images behind a tag or digest, each with its platform: one, or those of an index, in its order.

    A single image's platform is empty: its config has it. RegistryError where there is none.
    """
    top = repository.get_manifest(name)
    if "manifests" not in top.parsed:
        return [({}, top)]
    return [
        (_platform_of(entry), repository.get_manifest(entry["digest"])) for entry in entries_of(top.parsed)
    ]


def get_image(repository: Repository, name: str, architecture: str) -> Manifest:
    """The image behind a tag or digest; of several in an index the one for `architecture`."""
    top = repository.get_manifest(name)
    if "manifests" not in top.parsed:
        return top
    for entry in entries_of(top.parsed):
        if _platform_of(entry).get("architecture") == architecture:
            return repository.get_manifest(entry["digest"])
    raise RegistryError(f"{repository}: {name} has no image for {architecture}")


def get_config(repository: Repository, image: Manifest) -> dict[str, Any]:
    """An image's config; RegistryError where it has none, or what comes is not what its digest says."""
    try:
        config = Descriptor.from_json(image.parsed["config"])
        return repository.get_json(config, _CONFIG_BYTES)
    except (KeyError, TypeError) as error:
        raise RegistryError(f"{repository}: {image.descriptor.digest} is no image") from error


def _platform_of(entry: dict[str, Any]) -> dict[str, str]:
    found = entry.get("platform")
    return {name: str(found[name]) for name in found} if isinstance(found, dict) else {}
