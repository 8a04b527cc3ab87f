"""A hundred thousand mixed runs on one service, 16 at once: none is lost, mixed up or fails for nothing.

    python -m tests.benchmarks.soak_service [RUNS [AT_ONCE]]

Each request is one of several programs, with what belongs to it. All answers to one program must be alike:
exit code, what it printed, what it was denied and how often, what ended it. In between some connections are
closed while their run goes on. Server and zygote may not grow. Ends with 1 where any of it is not so.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.benchmarks.client import Asked, ask, message
from tests.benchmarks.service import KEY, Service, resident_kib, serving, wait_until_healthy
from tests.benchmarks.soak import PROGRAMS
from tests.suite.shelf import built_root

RUNS, AT_ONCE = 100_000, 16
MOST_GROWTH_MB = 2.0
CLOSED_EVERY = 500
WARM_UP = 0.1
"""The share of all runs after which memory must not grow any more."""

Seen = tuple[int, str, str, str]

REQUESTS: dict[str, dict[str, Any]] = {
    **{name: {"code": code} for name, code in PROGRAMS.items()},
    "time is over": {"code": "import time; time.sleep(60)", "timeout_s": 0.2},
    "a long line": {"code": "print('x' * 100_000)"},
    "too much output": {"code": "for _ in range(50): print('x' * 10_000)", "limits": {"output": 100_000}},
    "too much memory": {"code": "bytearray(1 << 34)"},
    "stdin": {"code": "import sys; print(sys.stdin.read()[::-1])", "stdin": "abc"},
    "files": {
        "code": "open('out', 'w').write(open('in/a').read() * 2)",
        "files": {"in/a": "dGV4dA=="},
        "outputs": ["out", "none"],
    },
    "leaves files": {"code": "import os\nfor n in range(50): os.makedirs(f'{n}/a/b')"},
    "fresh": {"code": "print(1)", "fresh": True},
    "lower limits": {"code": "bytearray(64 << 20)", "limits": {"memory": 50 << 20}},
    "a crash": {"code": "import ctypes; ctypes.string_at(0)"},
}


def main(runs: int = RUNS, at_once: int = AT_ONCE) -> None:
    """Makes the runs, and compares."""
    if os.geteuid() != 0:
        sys.exit("error: the soak runs as root: it uses chroot")
    names = list(REQUESTS)
    messages = {name: _message(content) for name, content in REQUESTS.items()}
    seen: dict[str, Counter[Seen]] = {name: Counter() for name in names}
    memory: list[dict[str, int]] = []
    took_s = 0.0
    with serving(built_root(), MAX_WORKERS="8") as service:
        wait_until_healthy(service)

        def asked(number: int) -> bytes:
            if number % CLOSED_EVERY == 0:
                _close_early(service)
            return messages[names[number % len(names)]]

        def answered(one: Asked) -> None:
            seen[names[one.number % len(names)]][_seen(one.data)] += 1

        warm_up = int(runs * WARM_UP)
        for part in (warm_up, runs - warm_up):
            took_s += ask(service.address, at_once, part, asked, answered)
            time.sleep(1)
            memory.append(_memory(service))
    for name, ways in seen.items():
        (exit_code, _, denied, ended_by), count = ways.most_common(1)[0]
        ended = f", ended by {ended_by}" if ended_by else ""
        told = f"exit code {exit_code:4}{ended}, denied: {denied or 'nothing'}"
        print(f"{name:24} {told} ({count} of {ways.total()})")
    differing = [(name, way) for name, ways in seen.items() for way, _ in ways.most_common()[1:]]
    for name, way in differing[:20]:
        print(f"DIFFERS  {name}: {way}")
    before, after = memory
    growth = {name: (after[name] - before[name]) / 1024 for name in after}
    print(f"{runs} runs, {at_once} at once, took {took_s:.0f} s: {runs / took_s:.0f} a second")
    print(", ".join(f"the {name} grew by {megabytes:.2f} MB" for name, megabytes in growth.items()))
    if differing or any(megabytes > MOST_GROWTH_MB for megabytes in growth.values()):
        sys.exit("error: answers to one program differ, or memory grows")


def _message(content: Mapping[str, Any]) -> bytes:
    return message("localhost", KEY, {"language": "python3", **content})


def _seen(data: Mapping[str, Any]) -> Seen:
    """What of an answer must be the same each time."""
    denied = ", ".join(sorted(f"{one['call']} {one['count']}" for one in data["denied"]))
    printed = f"{data['stdout'][:200]} ({len(data['stdout'])}) {json.dumps(data['outputs'])}"
    return data["exit_code"], printed, denied, data["ended_by"]


def _close_early(service: Service) -> None:
    """A client that goes away while its run sleeps."""
    with socket.create_connection(service.address) as connection:
        connection.sendall(_message({"code": "import time; time.sleep(60)"}))


def _memory(service: Service) -> dict[str, int]:
    return {name: resident_kib(pid) for name, pid in service.processes().items()}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
