"""Events: which of them are HTTP requests, what is in them, and who vouches for the sender."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.lambdaevent import HttpEvent, Malformed, error_body, http_answer, http_event, time_left_s

URL: dict[str, Any] = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/v1/sandbox/run",
    "rawQueryString": "",
    "headers": {
        "content-type": "application/json",
        "x-api-key": "k",
        "host": "x.lambda-url.eu-central-1.on.aws",
    },
    "requestContext": {
        "accountId": "anonymous",
        "domainName": "x.lambda-url.eu-central-1.on.aws",
        "http": {
            "method": "POST",
            "path": "/v1/sandbox/run",
            "protocol": "HTTP/1.1",
            "sourceIp": "192.0.2.1",
        },
        "stage": "$default",
    },
    "body": '{"language": "python3"}',
    "isBase64Encoded": False,
}
"""A function URL's, without authentication; API Gateway's format 2.0 is the same."""
REST: dict[str, Any] = {
    "version": "1.0",
    "resource": "/run",
    "path": "/run",
    "httpMethod": "POST",
    "headers": {"Content-Type": "application/json", "X-Api-Key": "k"},
    "multiValueHeaders": {"Content-Type": ["application/json"], "X-Api-Key": ["k"]},
    "requestContext": {
        "authorizer": {"claims": None, "scopes": None},
        "identity": {"sourceIp": "192.0.2.1", "userArn": None, "apiKeyId": None},
        "stage": "prod",
    },
    "body": "eyJsYW5ndWFnZSI6ICJweXRob24zIn0=",
    "isBase64Encoded": True,
}
"""API Gateway's format 1.0."""
BALANCER: dict[str, Any] = {
    "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:x:1:targetgroup/a/b"}},
    "httpMethod": "POST",
    "path": "/run",
    "multiValueHeaders": {"content-type": ["application/json"], "x-api-key": ["k"]},
    "body": '{"language": "python3"}',
    "isBase64Encoded": False,
}
"""A load balancer's, whose target group has multi-value headers on."""


def read(event: dict[str, Any]) -> HttpEvent:
    found = http_event(event)
    assert found is not None
    return found


@pytest.mark.parametrize("event", [URL, REST, BALANCER])
def test_every_front_wraps_the_same_request(event: dict[str, Any]) -> None:
    """Method, key, type and body, from three kinds of events."""
    request = read(event)
    assert request.method == "POST"
    assert request.header("x-api-key") == "k"
    assert request.header("content-type") == "application/json"
    assert request.body() == b'{"language": "python3"}'
    assert not request.vouched_for()


@pytest.mark.parametrize(
    "event", [{"language": "python3", "code": "1"}, [], "text", None, 3, {"requestContext": 1}]
)
def test_what_no_front_has_wrapped_is_the_request_itself(event: object) -> None:
    """Nothing but requestContext tells."""
    assert http_event(event) is None


@pytest.mark.parametrize(
    "context",
    [
        {"authorizer": {"iam": {"userArn": "arn:aws:iam::1:user/a"}}},
        {"authorizer": {"jwt": {"claims": {"sub": "a"}}}},
        {"authorizer": {"claims": {"sub": "a"}, "scopes": None}},
        {"identity": {"userArn": "arn:aws:iam::1:user/a"}},
        {"identity": {"apiKeyId": "abc"}},
    ],
)
def test_a_sender_that_aws_has_checked(context: dict[str, Any]) -> None:
    """By IAM, an authorizer, Cognito or a usage plan's key."""
    assert read(URL | {"requestContext": context}).vouched_for()


def test_a_header_that_comes_twice_is_one_text() -> None:
    """So two keys are never one of them."""
    assert read(BALANCER | {"multiValueHeaders": {"X-Api-Key": ["a", "b"]}}).header("x-api-key") == "a,b"
    assert read(URL | {"headers": {"X-Api-Key": "a", "x-api-key": "b"}}).header("x-api-key") == "a,b"


@pytest.mark.parametrize(
    "headers", [None, [], "x", {"x-api-key": None}, {"x-api-key": {"a": 1}}, {"x-api-key": 7}]
)
def test_odd_headers_are_none(headers: object) -> None:
    """What is no text is not there."""
    assert read(URL | {"headers": headers, "multiValueHeaders": headers}).header("x-api-key") == ""


@pytest.mark.parametrize(
    "odd",
    [{"body": {"language": "python3"}}, {"body": "@@@"}, {"body": "YQ"}, {"body": "YQ==YQ=="}, {"body": "ä"}],
)
def test_a_body_that_cannot_be_read_is_said(odd: dict[str, Any]) -> None:
    """No guess is made."""
    with pytest.raises(Malformed):
        read(URL | {"isBase64Encoded": True} | odd).body()


def test_no_body_is_an_empty_one() -> None:
    """As a GET has it."""
    assert read(URL | {"body": None}).body() == b""


def test_odd_methods_are_none() -> None:
    """A message of a WebSocket has no method at all."""
    assert read(URL | {"requestContext": {"eventType": "MESSAGE"}}).method == ""
    assert read(REST | {"httpMethod": ["POST"]}).method == ""


def test_an_http_answer_carries_the_body_as_text() -> None:
    """Whatever is in it."""
    body = json.dumps({"stdout": 'ä"\\\n\x00\u2028'}, ensure_ascii=False).encode()
    answer = json.loads(http_answer(405, body, {"allow": "POST"}))
    assert answer["body"].encode() == body
    del answer["body"]
    assert answer == {
        "statusCode": 405,
        "headers": {"content-type": "application/json; charset=utf-8", "allow": "POST"},
        "isBase64Encoded": False,
    }


def test_an_error_is_json_whatever_it_says() -> None:
    """A reason may quote what is not even text."""
    body = json.loads(error_body("Runtime.No", 'a "b"\n\udcff'))
    assert body == {"errorMessage": 'a "b"\n?', "errorType": "Runtime.No", "stackTrace": []}


def test_the_time_that_is_left() -> None:
    """The lesser of the configured time and the deadline's; a clock that jumped does not lengthen it."""
    assert time_left_s(None, 1e12, 0.1, 5.0) == 5.0
    assert time_left_s(1_000_003_000, 1_000_000_000, 0.1, 5.0) == pytest.approx(2.9)
    assert time_left_s(1_000_003_000, 1_000_000_000, 0.1, 2.0) == 2.0
    assert time_left_s(1_000_003_000, 900_000_000, 0.1, 5.0) == 5.0
    assert time_left_s(1_000_003_000, 1_000_004_000, 0.1, 5.0) < 0
