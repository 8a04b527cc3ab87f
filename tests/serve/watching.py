"""What an operator sees of a server: its log and its metrics."""

from __future__ import annotations

import json
import time
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.serve.conftest import Server

PATIENCE_S = 20


def lines(server: Server) -> list[dict[str, Any]]:
    """Everything that it has written so far: no line of it is anything else than an object."""
    found = [json.loads(line) for line in server.logs().splitlines()]
    assert all(list(line)[:3] == ["time", "level", "event"] for line in found)
    return found


def wait_for(server: Server, event: str, count: int = 1, **facts: Any) -> list[dict[str, Any]]:
    """The first `count` lines of `event` that have `facts`, as soon as there are so many."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        found = [
            line
            for line in lines(server)
            if line["event"] == event and facts.items() <= {name: line.get(name) for name in facts}.items()
        ]
        if len(found) >= count:
            return found[:count]
        assert time.monotonic() < ends, server.logs()
        time.sleep(0.05)


def status_with(server: Server, key: str) -> int:
    return server.request("GET", "/v1/sandbox/info", None, {"X-Api-Key": key})[0]


def metrics(server: Server) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels."""
    status, headers, body = server.request("GET", "/metrics")
    assert status == 200
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def until(server: Server, name: str, value: float = 1) -> dict[tuple[str, ...], float]:
    """Every sample, as soon as that of `name` is `value`."""
    ends = time.monotonic() + PATIENCE_S
    while (seen := metrics(server))[(name,)] != value:
        assert time.monotonic() < ends, seen
        time.sleep(0.02)
    return seen
