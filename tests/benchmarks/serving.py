"""What the HTTP service costs: its start, a run, many at once, its memory."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.client import Asked, ask, message
from tests.benchmarks.place import in_root, settings, timed
from tests.benchmarks.service import (
    KEY,
    Service,
    proportional_kib,
    resident_kib,
    serving,
    wait_until_healthy,
)

STARTS = 10
ONE_BY_ONE = 3000
AT_ONCE, MANY = 16, 6000
STEADY = 10_000
LIBRARIES = "import numpy, pandas\nprint(pandas.DataFrame({'a': numpy.arange(3)})['a'].sum())"


def serving_figures(root: Path) -> dict[str, float]:
    """Of the shipped config's image, as in a default container: standard library alone."""
    figures = {**_bare(root), **_starts(root)}
    with serving(root) as service:
        wait_until_healthy(service)
        one = _latencies(service, 1, ONE_BY_ONE, _print)
        figures["`print(1)`, 1 client, p50, ms"] = _percentile(one, 50)
        figures["`print(1)`, 1 client, p99, ms"] = _percentile(one, 99)
        figures["the same, p50 over bare python3 -I -S -c pass"] = round(
            _percentile(one, 50) / figures["bare python3 -I -S -c pass, beside the service, ms"], 2
        )
        began = time.monotonic()
        _latencies(service, AT_ONCE, MANY, _print)
        figures[f"runs a second, {AT_ONCE} clients"] = round(MANY / (time.monotonic() - began))
        figures |= _memory(service)
    return figures


def library_figures(root: Path) -> dict[str, float]:
    """Of an image with numpy and pandas in `warm:`."""
    with serving(root) as service:
        wait_until_healthy(service)
        warm = _latencies(service, 1, 300, lambda _: {"code": LIBRARIES})
        fresh = _latencies(service, 1, 20, lambda _: {"code": LIBRARIES, "fresh": True})
        return {
            "numpy and pandas, warm, p50, ms": _percentile(warm, 50),
            "the same in a fresh interpreter, p50, ms": _percentile(fresh, 50),
            "fresh over warm": round(_percentile(fresh, 50) / _percentile(warm, 50), 1),
        }


def _bare(root: Path) -> dict[str, float]:
    """What a new interpreter, and what a fork of one with nothing done in it, costs."""
    python = settings(root)["python"]

    def measure() -> dict[str, float]:
        bare = [timed([python, "-I", "-S", "-c", "pass"]) for _ in range(100)]
        fork = (
            "import posix, time\n"
            "def one():\n"
            " began = time.monotonic()\n"
            " pid = posix.fork()\n"
            " if not pid: posix._exit(0)\n"
            " posix.waitpid(pid, 0)\n"
            " return time.monotonic() - began\n"
            "print(sorted(one() for _ in range(500))[250] * 1000)\n"
        )
        read, write = os.pipe()
        if os.fork() == 0:
            os.dup2(write, 1)
            os.execv(python, [python, "-I", "-S", "-c", fork])
        os.close(write)
        forked = float(os.read(read, 64))
        return {
            "bare python3 -I -S -c pass, beside the service, ms": round(statistics.median(bare), 2),
            "bare fork of an interpreter, ms": round(forked, 2),
        }

    return in_root(root, measure, container=True)


def _starts(root: Path) -> dict[str, float]:
    """Milliseconds from the start of init to the first answered run."""
    took = []
    for _ in range(STARTS):
        with serving(root) as service:
            took.append(_first_answer(service) * 1000)
    return {"start of the process to the first answered run, ms": round(statistics.median(took), 1)}


def _first_answer(service: Service) -> float:
    while True:
        try:
            ask(service.address, 1, 1, partial(_message, {"code": "print(1)"}), _expect(b"1\n"))
        except OSError:
            time.sleep(0.001)  # it does not listen yet
        else:
            return time.monotonic() - service.started


def _latencies(
    service: Service, connections: int, requests: int, content: Callable[[int], Mapping[str, Any]]
) -> list[float]:
    """Milliseconds of each request; each must print what its program prints, and nobody else's."""
    took: list[float] = []

    def answered(one: Asked) -> None:
        expected = str(one.number) if "print(" + str(one.number) in content(one.number)["code"] else None
        if one.data["exit_code"] or (expected is not None and one.data["stdout"].strip() != expected):
            raise SystemExit(f"error: request {one.number} was answered {dict(one.data)}")
        took.append(one.took_s * 1000)

    ask(service.address, connections, requests, lambda number: _message(content(number), number), answered)
    return took


def _memory(service: Service) -> dict[str, float]:
    """What server and zygote grow by in STEADY runs, and what a spare takes for itself."""
    processes = service.processes()
    before = {name: resident_kib(pid) for name, pid in processes.items()}
    _latencies(service, AT_ONCE, STEADY, _print)
    time.sleep(1)
    figures: dict[str, float] = {
        f"the {name} grows in {STEADY} runs, MB": round((resident_kib(pid) - before[name]) / 1024, 2)
        for name, pid in processes.items()
    }
    spares = [proportional_kib(pid) for pid in service.spares()]
    return {**figures, "a spare's proportional memory, MB": round(statistics.mean(spares) / 1024, 2)}


def _print(number: int) -> Mapping[str, Any]:
    return {"code": f"print({number})"}


def _message(content: Mapping[str, Any], _: int) -> bytes:
    return message("localhost", KEY, {"language": "python3", **content})


def _expect(stdout: bytes) -> Callable[[Asked], None]:
    def check(one: Asked) -> None:
        if one.data["stdout"].encode() != stdout:
            raise SystemExit(f"error: answered {json.loads(one.body)}")

    return check


def _percentile(values: list[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 2)
