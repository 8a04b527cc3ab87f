"""What an image is made of and how it was built, in the formats that others read: tree, SBOMs, provenance."""

from __future__ import annotations

from builder.attest.attest import Attestations, attest
from builder.attest.documents import ATTACHED, DOCUMENTS, Document, Kind
from builder.attest.facts import BuildFacts, Wheel, image_parameters
from builder.attest.manifest import Manifest, manifest_of, manifest_of_layers, read_manifest
from builder.attest.provenance import Claims, read_claims

__all__ = [
    "ATTACHED",
    "DOCUMENTS",
    "Attestations",
    "BuildFacts",
    "Claims",
    "Document",
    "Kind",
    "Manifest",
    "Wheel",
    "attest",
    "image_parameters",
    "manifest_of",
    "manifest_of_layers",
    "read_claims",
    "read_manifest",
]
