"""A bill as SPDX 2.3: https://spdx.github.io/spdx-spec/v2.3/.

A single file is a package with the purpose FILE: SPDX's own files must have a SHA-1 and no purl.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from builder.attest.bill import Bill, Component, properties

_DOCUMENT = "SPDXRef-DOCUMENT"
_UNKNOWN = "NOASSERTION"

_PURPOSES = {
    "image": "CONTAINER",
    "deb": "LIBRARY",
    "apk": "LIBRARY",
    "python": "LIBRARY",
    "interpreter": "APPLICATION",
    "runtime": "APPLICATION",
    "file": "FILE",
    "folder": "OTHER",
    "system": "OPERATING-SYSTEM",
}


def render_spdx(bill: Bill) -> dict[str, Any]:
    """The document as plain data."""
    everything = (bill.image, *bill.components)
    held = {key for one in bill.components for key in one.holds}
    relations = [(_DOCUMENT, "DESCRIBES", _id(bill.image.key))]
    for one in bill.components:
        if one.key not in held:
            relations.append((_id(bill.image.key), "CONTAINS", _id(one.key)))
    for one in everything:
        relations += [(_id(one.key), "CONTAINS", _id(key)) for key in one.holds]
        relations += [(_id(one.key), "DEPENDS_ON", _id(key)) for key in one.needs]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": f"{bill.image.name}@{bill.image.version}",
        # What the specification proposes to those that have no place of their own (6.5).
        "documentNamespace": f"https://spdx.org/spdxdocs/sandbox-build-{bill.serial}",
        "creationInfo": {
            "created": bill.created,
            "creators": [f"Tool: sandbox-build-{bill.tool_version}"],
        },
        "packages": [_package(one) for one in everything],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in relations
        ],
    }


def _package(component: Component) -> dict[str, Any]:
    references = [("PACKAGE-MANAGER", "purl", component.purl), ("SECURITY", "cpe23Type", component.cpe)]
    about = properties(component)
    shown: dict[str, Any] = {
        "SPDXID": _id(component.key),
        "name": component.name,
        "versionInfo": component.version,
        "primaryPackagePurpose": _PURPOSES[component.kind],
        "downloadLocation": _UNKNOWN,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
        "supplier": _UNKNOWN,
        "checksums": component.sha256 and [{"algorithm": "SHA256", "checksumValue": component.sha256}],
        "externalRefs": [
            {"referenceCategory": category, "referenceType": kind, "referenceLocator": value}
            for category, kind, value in references
            if value
        ],
        "sourceInfo": component.source and f"built from source package {component.source}",
        "comment": about.get("origin"),
    }
    return {key: value for key, value in shown.items() if value} | {"filesAnalyzed": False}


def _id(key: str) -> str:
    """An SPDX identifier, of letters, digits, dots and dashes: a hash tells apart what these cannot."""
    plain = re.sub("[^A-Za-z0-9.]+", "-", key).strip("-")[:100]
    return f"SPDXRef-{plain}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
