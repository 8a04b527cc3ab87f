"""What the tests of manifests share: configs, what is rendered of them, and the platforms' own schemas."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from builder.arch import ARCHES
from builder.config import Config, load_config
from builder.deploy import LEVELS, TARGETS, Request, render_manifest

Document = dict[str, Any]

DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.example/team/sandbox@{DIGEST}"
IMAGES = {"lambda": f"123456789012.dkr.ecr.eu-central-1.amazonaws.com/sandbox@{DIGEST}"}

CONFIGS = {
    "off": "",
    "on": (
        "enable_network: true\n"
        "network: {allow: ['pypi.org:443', '*.example.com:443', '10.1.0.0/16:5432', '[2001:db8::7]:*']}\n"
        "proxy: {https: 'http://proxy.example:3128'}\n"
    ),
    "anywhere": "enable_network: true\n",
}
"""config.yaml by what it says of the network."""

POSSIBLE = [
    (target, level, network)
    for target, level, network in product(TARGETS, LEVELS, CONFIGS)
    if (target, level) != ("lambda", "chroot") and (target, network) != ("lambda", "anywhere")
]


def config_of(text: str, tmp_path: Path) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path, {})[0]


def request_of(target: str, level: str | None = None, **asked: Any) -> Request:
    return Request(target, level, **{"image": IMAGES.get(target, IMAGE), "arch": ARCHES["amd64"], **asked})


def rendered(tmp_path: Path, target: str, level: str | None = None, text: str = "", **asked: Any) -> str:
    return render_manifest(config_of(text, tmp_path), request_of(target, level, **asked))[0]


KUBERNETES_VERSIONS = ("1.30", "1.37")
"""The oldest that our manifests say they are for, and the newest that there are schemas of."""
CFN_LINT = Path(sys.executable).with_name("cfn-lint")


class _Template(yaml.SafeLoader):
    """Reads CloudFormation's short forms as their long ones."""


def _long_form(name: str) -> None:
    def construct(loader: _Template, node: yaml.ScalarNode) -> Document:
        return {name: loader.construct_scalar(node)}

    _Template.add_constructor(f"!{name.removeprefix('Fn::')}", construct)


_long_form("Ref")
_long_form("Fn::GetAtt")


def documents(text: str) -> list[Document]:
    """Every document of a manifest."""
    return list(yaml.load_all(text, _Template))


def problems(target: str, text: str) -> list[str]:
    """What the platform's schema says is wrong."""
    if target == "lambda":
        command = [str(CFN_LINT), "--format", "parseable"]
        found = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        return found.stdout.splitlines() + found.stderr.splitlines()
    return [one for document in documents(text) for one in _of_document(target, document)]


def _of_document(target: str, document: Document) -> Iterator[str]:
    if target == "compose":
        yield from _errors(compose_schema(), document)
    elif target == "cloudrun":
        yield from _errors(cloud_run_schema(), document)
    elif document["apiVersion"] == "serving.knative.dev/v1":
        yield from _errors(knative_schema(), document)
    else:
        for version in KUBERNETES_VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"Kubernetes {version}: {error.message}"


def _errors(schema: Document, document: Document) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    pending = list(validator.iter_errors(document))
    found = []
    while pending:
        error = pending.pop()
        found.append(f"{error.json_path}: {error.message}")
        pending += error.context or []  # of what has several forms, why each of them does not fit
    return found


def _package_file(package: str, path: str) -> Document:
    # Not imported: these packages import much, and nothing of it is asked for.
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    return dict(json.loads((Path(found.submodule_search_locations[0]) / path).read_text()))


@cache
def compose_schema() -> Document:
    """The Compose specification's."""
    return _package_file("check_jsonschema", "builtin_schemas/vendor/compose-spec.json")


@cache
def knative_schema() -> Document:
    """Knative's; what it does not know is an error, as it is to the API server, but for x-...-preserve."""
    path = Path(__file__).with_name("schemas") / "knative-service.json"
    schema: Document = _closed(json.loads(path.read_text()))
    for name in ("apiVersion", "kind", "metadata"):
        schema["properties"][name] = {}
    return schema


@cache
def cloud_run_schema() -> Document:
    """Cloud Run's, out of its API's discovery document; what is marked as not supported is left out of it."""
    api = _package_file("googleapiclient", "discovery_cache/documents/run.v1.json")
    definitions = {name: _of_discovery(schema) for name, schema in api["schemas"].items()}
    return {"$ref": "#/definitions/Service", "definitions": definitions}


def _of_discovery(node: Any) -> Any:
    """A schema of Google's discovery format as a JSON schema."""
    if isinstance(node, list):
        return [_of_discovery(one) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": f"#/definitions/{node['$ref']}"}
    kept = {name: value for name, value in node.items() if name in ("type", "enum", "items", "pattern")}
    schema = {name: _of_discovery(value) for name, value in kept.items()}
    if "properties" in node:
        schema["properties"] = {
            name: _of_discovery(value)
            for name, value in node["properties"].items()
            if not value.get("description", "").startswith("Not supported by Cloud Run")
        }
        schema["additionalProperties"] = False
    elif "additionalProperties" in node:
        schema["additionalProperties"] = _of_discovery(node["additionalProperties"])
    return schema


def _closed(node: Any) -> Any:
    """The same schema, in which an object has no properties but those that are named."""
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    schema = {name: _closed(value) for name, value in node.items()}
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if node.get("x-kubernetes-int-or-string"):
        schema["type"] = ["integer", "string"]
        schema.pop("anyOf", None)
    return schema


def changed(text: str, path: str, value: object) -> str:
    """The manifest with `value` at `path` (keys and numbers, parted by /) of its first document."""
    first, *rest = documents(text)
    at: Any = first
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in parents:
        at = at[key]
    at[last] = value
    return yaml.safe_dump_all([first, *rest])


def pod_of(text: str) -> Document:
    spec: Document = documents(text)[0]["spec"]["template"]["spec"]
    return spec
