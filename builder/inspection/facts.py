"""What is told of an image, and whether what is said about it holds: pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.archive import Descriptor, layer_names
from builder.attest import DOCUMENTS, Kind, read_claims
from builder.errors import BuildError
from builder.report import Report
from builder.seccomp.snapshot import DIGEST_LABEL
from builder.tree.spec import REPORT_PATH, SANDBOX_PATH

RUNTIME_PATH = f"{SANDBOX_PATH}/runtime.json"
KEPT = (REPORT_PATH, RUNTIME_PATH)
"""What is read of an image's own files."""
CONFIG_LAYER = "config"
"""The layer that has them."""

_TREE, _, _, _PROVENANCE = (kind.name for kind in DOCUMENTS)


@dataclass(frozen=True)
class Layer:
    name: str
    digest: str
    size: int
    """In bytes, compressed."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str


@dataclass(frozen=True)
class Attached:
    """A document or a signature that accompanies an image."""

    name: str
    """Of the document; of anything else its artifact type."""
    digest: str
    """Of its bytes; of anything else that of its manifest."""


@dataclass(frozen=True)
class Check:
    """One thing that provenance.json says, compared with what is there."""

    what: str
    said: str
    found: str | None
    """None where it was not there to compare with."""

    @property
    def holds(self) -> bool:
        return self.found in (None, self.said)


@dataclass(frozen=True)
class Inspected:
    """One image of one platform."""

    name: str | None
    digest: str
    """Of its manifest: sha256:HEX."""
    platform: str
    created: str | None
    labels: Mapping[str, str]
    layers: tuple[Layer, ...]
    level: str | None
    policy_digest: str | None
    """sha256:HEX."""
    tree_digest: str | None
    """sha256:HEX; of an image in a registry what its provenance says."""
    python: str | None
    packages: tuple[Package, ...]
    debian: tuple[Package, ...]
    documents: tuple[Attached, ...]
    missing: tuple[str, ...]
    """Names of documents that it should have."""
    signatures: tuple[Attached, ...]
    others: tuple[Attached, ...]
    """What else is attached to it."""
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Parts:
    """What was read of an image."""

    name: str | None
    manifest: Descriptor
    layers: Sequence[Descriptor]
    config: Mapping[str, Any]
    files: Mapping[str, bytes]
    """Those of KEPT that it has."""
    documents: Mapping[str, bytes]
    """By file name."""
    policy_digest: str | None
    """SHA-256 of the policy that is in it, in hexadecimal; None where its layers were not read."""
    tree_digest: str | None
    expected: Sequence[Kind] = DOCUMENTS
    """The documents that it should have, where it lies."""
    signatures: tuple[Attached, ...] = ()
    others: tuple[Attached, ...] = ()


def told(parts: Parts) -> Inspected:
    """What `parts` come to. BuildError for a report.json or a provenance.json that is none of ours."""
    labels = {str(k): str(v) for k, v in (parts.config.get("config", {}).get("Labels") or {}).items()}
    label = labels.get(DIGEST_LABEL)
    policy = f"sha256:{parts.policy_digest}" if parts.policy_digest else label
    checks = tuple(_checks(parts, label))
    claimed = next((f"sha256:{one.said}" for one in checks if one.what == "tree"), None)
    report = _report(parts.files)
    names = layer_names(parts.config, len(parts.layers))
    return Inspected(
        name=parts.name,
        digest=parts.manifest.digest,
        platform="/".join(str(parts.config.get(key)) for key in ("os", "architecture")),
        created=parts.config.get("created"),
        labels=labels,
        layers=tuple(
            Layer(name, one.digest, one.size) for name, one in zip(names, parts.layers, strict=True)
        ),
        level=_level(parts.files),
        policy_digest=policy,
        tree_digest=f"sha256:{parts.tree_digest}" if parts.tree_digest else claimed,
        python=str(report.python.get("release") or report.python["version"]) if report else None,
        packages=tuple(Package(one.name, one.version) for one in report.distributions) if report else (),
        debian=tuple(Package(one.name, one.version) for one in report.debian) if report else (),
        documents=tuple(
            Attached(kind.name, f"sha256:{_sha256(parts.documents[kind.name])}")
            for kind in DOCUMENTS
            if kind.name in parts.documents
        ),
        missing=tuple(kind.name for kind in parts.expected if kind.name not in parts.documents),
        signatures=parts.signatures,
        others=parts.others,
        checks=checks,
    )


def _checks(parts: Parts, label: str | None) -> Iterator[Check]:
    """Everything that provenance.json says of the image and its documents; nothing where there is none."""
    if parts.policy_digest is not None and label is not None:
        yield Check("policy's label", label.removeprefix("sha256:"), parts.policy_digest)
    tree = parts.documents.get(_TREE)
    tree_digest = parts.tree_digest or (_sha256(tree) if tree is not None else None)
    if tree is not None and parts.tree_digest is not None:
        yield Check(_TREE, _sha256(tree), parts.tree_digest)
    if _PROVENANCE in parts.documents:
        claims = read_claims(parts.documents[_PROVENANCE])
        policy = parts.policy_digest or (label and label.removeprefix("sha256:"))
        yield Check("image", claims.image, parts.manifest.digest.removeprefix("sha256:"))
        yield Check("policy", claims.policy, policy)
        yield Check("tree", claims.tree, tree_digest)
        for name, said in sorted(claims.documents.items()):
            content = parts.documents.get(name)
            yield Check(name, said, None if content is None else _sha256(content))


def _report(files: Mapping[str, bytes]) -> Report | None:
    return Report(_json(files[REPORT_PATH], REPORT_PATH)) if REPORT_PATH in files else None


def _level(files: Mapping[str, bytes]) -> str | None:
    if RUNTIME_PATH not in files:
        return None
    settings = _json(files[RUNTIME_PATH], RUNTIME_PATH)
    return str(settings.get("level")) if isinstance(settings, dict) else None


def _json(content: bytes, path: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise BuildError(f"{path} of the image is not JSON", "build the image again") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
