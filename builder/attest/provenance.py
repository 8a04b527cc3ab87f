"""How an image was built: an in-toto Statement v1 with the predicate SLSA Provenance v1.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/spec/v1.0/provenance
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.attest.documents import Document
from builder.attest.facts import BuildFacts
from builder.attest.purl import deb_purl, purl, pypi_purl
from builder.errors import BuildError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "pkg:generic/sandbox-build#image/v1"
"""Names what externalParameters mean: docs/attestations.md."""
BUILDER_ID = "pkg:generic/sandbox-build"

POLICY = "/sandbox/policy.bpf"
TREE = "tree.json"
"""The names of the further subjects."""


@dataclass(frozen=True)
class Claims:
    """What a provenance is about: SHA-256 in hexadecimal."""

    image: str
    policy: str
    tree: str
    documents: Mapping[str, str] = field(default_factory=dict)
    """Those that were made with the image, by file name."""


def render_provenance(
    facts: BuildFacts, claims: Claims, *, arch: str, os_release: Mapping[str, str], made: Iterable[Document]
) -> dict[str, Any]:
    """The statement as plain data; `made` are the documents that were made with the image."""
    image = str(facts.config["image"]["repository"])
    subjects = {image: claims.image, POLICY: claims.policy, TREE: claims.tree}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_resource(name, digest) for name, digest in subjects.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "arch": arch,
                    "config": dict(facts.config),
                    "source_date_epoch": facts.epoch,
                },
                "resolvedDependencies": _dependencies(facts, os_release),
            },
            "runDetails": {
                "builder": {"id": BUILDER_ID, "version": {"sandbox-build": facts.builder_version}},
                # A signature over the statement is one over these, too.
                "byproducts": [
                    _resource(one.name, one.sha256) | {"mediaType": one.media_type} for one in made
                ],
            },
        },
    }


def read_claims(content: bytes) -> Claims:
    """What the provenance.json in `content` is about; BuildError where it is none of ours."""
    try:
        statement = json.loads(content)
        if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != PREDICATE_TYPE:
            raise ValueError("another kind of statement")
        image, *others = statement["subject"]
        named = _digests(others)
        made = _digests(statement["predicate"]["runDetails"].get("byproducts", ()))
        return Claims(str(image["digest"]["sha256"]), named[POLICY], named[TREE], made)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BuildError(f"provenance.json is not one of sandbox-build: {error}") from None


def _digests(resources: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {str(one["name"]): str(one["digest"]["sha256"]) for one in resources}


def _dependencies(facts: BuildFacts, os_release: Mapping[str, str]) -> list[dict[str, Any]]:
    found = []
    if facts.base_digest:
        base = str(facts.config["base"])
        algorithm, _, digest = facts.base_digest.partition(":")
        address = purl("oci", _last(base), version=facts.base_digest)
        found.append({"name": base, "uri": address, "digest": {algorithm: digest}})
    if facts.lock_sha256:
        found.append(_resource("config.lock", facts.lock_sha256))
    for deb in sorted(facts.debs):
        address = deb_purl(deb.name, deb.version, deb.architecture, deb.source, os_release)
        found.append(_resource(deb.name, deb.sha256) | {"uri": address})
    for wheel in sorted(facts.wheels):
        found.append(_resource(wheel.name, wheel.sha256) | {"uri": pypi_purl(wheel.name, wheel.version)})
    return found


def _last(image: str) -> str:
    """The last part of an image's name, without tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def _resource(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}
