"""What an image is made of and how it was built, in the formats that others read: tree, SBOMs, provenance."""

from __future__ import annotations

from builder.attest.attest import Attestations, attest
from builder.attest.documents import DOCUMENTS, TREE, Document
from builder.attest.facts import BuildFacts, Wheel, image_parameters
from builder.attest.manifest import Manifest, manifest_of, manifest_of_layers, read_manifest
from builder.attest.provenance import Claims, read_claims

__all__ = [
    "DOCUMENTS",
    "TREE",
    "Attestations",
    "BuildFacts",
    "Claims",
    "Document",
    "Manifest",
    "Wheel",
    "attest",
    "image_parameters",
    "manifest_of",
    "manifest_of_layers",
    "read_claims",
    "read_manifest",
]
