"""The formats' own validators: a document that these take is one that the field's tools take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from packageurl import PackageURL
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document


def check_cyclonedx(content: bytes) -> dict[str, Any]:
    """The document, once its schema and its own model have taken it, references and all."""
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode())
    assert problem is None, problem
    document: dict[str, Any] = json.loads(content)
    bom = Bom.from_json(document)  # type: ignore[attr-defined]  # added by a decorator
    assert bom.validate()
    refs = [one["bom-ref"] for one in components(document)]
    assert len(refs) == len(set(refs))
    for one in document["dependencies"]:
        assert {one["ref"], *one["dependsOn"]} <= {*refs, document["metadata"]["component"]["bom-ref"]}
    check_purls(one["purl"] for one in components(document) if "purl" in one)
    return document


def check_spdx(content: bytes, scratch: Path) -> dict[str, Any]:
    """The document, once SPDX's own tools have parsed it and found nothing wrong."""
    path = scratch / "sbom.spdx.json"
    path.write_bytes(content)
    assert validate_full_spdx_document(parse_file(str(path))) == []
    document: dict[str, Any] = json.loads(content)
    return document


def check_provenance(content: bytes) -> dict[str, Any]:
    """The statement, once both schemas, which know no other field, have taken it."""
    document: dict[str, Any] = json.loads(content)
    Statement.copy_from_pb(json_format.ParseDict(document, statement_pb2.Statement())).validate()
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    predicate = json_format.ParseDict(document["predicate"], provenance_pb2.Provenance())
    definition, details = predicate.build_definition, predicate.run_details
    assert definition.build_type
    assert details.builder.id
    assert not details.HasField("metadata"), "a time, or who started it: no two builds would be the same"
    for one in (*definition.resolved_dependencies, *details.byproducts):
        ResourceDescriptor.copy_from_pb(one).validate()
    check_purls(one.uri for one in definition.resolved_dependencies if one.uri)
    return document


def components(document: dict[str, Any]) -> list[dict[str, Any]]:
    """All components of a CycloneDX document, those inside of others included."""
    found = []
    pending = list(document["components"])
    while pending:
        found.append(pending.pop())
        pending += found[-1].get("components", [])
    return found


def check_purls(purls: Any) -> None:
    """Each is written as its own specification's library writes it."""
    for one in purls:
        assert PackageURL.from_string(one).to_string() == one
