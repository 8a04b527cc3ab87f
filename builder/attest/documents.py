"""The documents that accompany an image: what they are called, and what their bytes are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Document:
    """One document."""

    name: str
    """Of its file in dist/ARCH/."""
    media_type: str
    artifact_type: str
    """Of the OCI artifact that carries it."""
    content: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """In hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Kind:
    """What every document of its kind has."""

    name: str
    media_type: str

    @property
    def artifact_type(self) -> str:
        """One file, one artifact: its type says what the file is."""
        return self.media_type

    def of(self, content: bytes) -> Document:
        return Document(self.name, self.media_type, self.artifact_type, content)


TREE = Kind("tree.json", "application/vnd.sandbox-build.tree.v1+json")
CYCLONEDX = Kind("sbom.cdx.json", "application/vnd.cyclonedx+json")
SPDX = Kind("sbom.spdx.json", "application/spdx+json")
PROVENANCE = Kind("provenance.json", "application/vnd.in-toto+json")

DOCUMENTS = (TREE, CYCLONEDX, SPDX, PROVENANCE)
ATTACHED = (CYCLONEDX, SPDX, PROVENANCE)
"""Those that a registry gets: the tree's manifest the image itself says, and the provenance has the digest
of; it is large, and a changed line of the config would send all of it again."""


def to_bytes(value: object) -> bytes:
    """JSON for people and machines: the same value, the same bytes, all of them ASCII."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
