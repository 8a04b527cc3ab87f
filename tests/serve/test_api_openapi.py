"""The OpenAPI document, and the server held to it: schemathesis sends what it allows, and more."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode
from schemathesis.checks import negative_data_rejection

from tests.serve.conftest import Server

EXAMPLES = 40
DOCUMENT = yaml.safe_load((resources.files("images") / "serve" / "openapi.yaml").read_text(encoding="utf-8"))

schema = schemathesis.openapi.from_dict(DOCUMENT)
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    """As the server hands it out."""
    status, headers, body = server.request("GET", "/openapi.json")
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    return json.loads(body)


def test_it_is_the_document_of_the_sources(document: Any) -> None:
    """images/serve/openapi.yaml, every word of it."""
    assert document == DOCUMENT


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_server_does_as_the_document_says(case: Any, server: Server) -> None:
    """Status, headers and form of every answer, to good requests and bad ones, with the key or without.

    What is bad is not always refused by status: dify-sandbox answers a malformed field with HTTP 200 and a
    code of its own, and so do we.
    """
    case.call_and_validate(
        server.url,
        headers={"X-Api-Key": server.key},
        excluded_checks=[negative_data_rejection],
        timeout=60,
    )
