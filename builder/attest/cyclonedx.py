"""A bill as CycloneDX 1.6: https://cyclonedx.org/docs/1.6/json/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.attest.bill import Bill, Component, properties

_TYPES = {
    "image": "container",
    "deb": "library",
    "apk": "library",
    "python": "library",
    "interpreter": "platform",
    "runtime": "application",
    "file": "file",
    "folder": "data",
    "system": "operating-system",
}


def render_cyclonedx(bill: Bill) -> dict[str, Any]:
    """The document as plain data."""
    by_key = {one.key: one for one in bill.components}
    held = {key for one in bill.components for key in one.holds}
    everything = (bill.image, *bill.components)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{bill.serial}",
        "version": 1,
        "metadata": {
            "timestamp": bill.created,
            "tools": {
                "components": [{"type": "application", "name": "sandbox-build", "version": bill.tool_version}]
            },
            "component": _component(bill.image, by_key),
        },
        "components": [_component(one, by_key) for one in bill.components if one.key not in held],
        "dependencies": [{"ref": one.key, "dependsOn": list(one.needs)} for one in everything],
    }


def _component(component: Component, by_key: Mapping[str, Component]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": _TYPES[component.kind],
        "bom-ref": component.key,
        "name": component.name,
        "version": component.version,
        "purl": component.purl,
        "cpe": component.cpe,
        "hashes": component.sha256 and [{"alg": "SHA-256", "content": component.sha256}],
        "properties": [
            {"name": f"sandbox-build:{name}", "value": value}
            for name, value in sorted(properties(component).items())
        ],
        "components": [_component(by_key[key], by_key) for key in component.holds],
    }
    return {key: value for key, value in shown.items() if value}
