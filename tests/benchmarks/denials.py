"""What the filter costs: calls that it allows, and calls that it denies and somebody names."""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from builder.arch import host_arch
from builder.dockerfile import entrypoint
from builder.seccomp.check import split
from builder.seccomp.compile import NAMED
from builder.seccomp.syscalls import number
from builder.tree.spec import SANDBOX_PATH
from tests import bpf
from tests.benchmarks.place import in_root, settings

CALLS, TURNS = 20_000, 400
RUNS, NAMES = 40, 40

_DENIED = """
import ctypes, json, time
call = ctypes.CDLL(None).syscall
def timed(number):
    started = time.perf_counter_ns()
    answer = call(number, 0, 0, 0, 0, 0, 0)
    took_ns = time.perf_counter_ns() - started
    assert answer == -1
    return took_ns
first, *others = json.loads({numbers!r})
print(json.dumps({{
    "first": timed(first),
    "others": [timed(one) for one in others],
    "again": [timed(first) for _ in range(1000)],
}}))
"""


def allowed_calls(root: Path) -> dict[str, float]:
    """getpid(2) in a loop under the filter of supervised runs, over the same without any filter.

    Forks of this interpreter on one processor, in turn. One more has no filter either: what its ratio differs
    from 1 is the error of the measure.
    """
    policy = (root / SANDBOX_PATH.lstrip("/") / "policy.bpf").read_bytes()
    named = split(policy, settings(root)["policy_instructions"])[f"chroot{NAMED}"]
    loops = {"bare": _Loop(None), "again": _Loop(None), "filtered": _Loop(named)}
    samples: dict[str, list[int]] = {name: [] for name in loops}
    for turn in range(TURNS):
        for name in (loops, reversed(loops))[turn % 2]:
            samples[name].append(loops[name].turn_ns())
    for loop in loops.values():
        loop.end()

    def over_bare(name: str) -> float:
        return statistics.median(
            mine / bare for mine, bare in zip(samples[name], samples["bare"], strict=True)
        )

    return {
        "getpid in a loop, ns a call": round(statistics.median(samples["bare"]) / CALLS, 1),
        "the same under the filter, over without": round(over_bare("filtered"), 4),
        "the same without it once more, over without": round(over_bare("again"), 4),
    }


class _Loop:
    """A fork of this process that makes CALLS calls at each turn."""

    def __init__(self, program: bytes | None) -> None:
        read, self._turn = os.pipe()
        self._took, write = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._turn)
            try:
                _serve(read, write, program)
            finally:
                os._exit(1)
        os.close(read)
        os.close(write)

    def turn_ns(self) -> int:
        """How long one turn takes."""
        os.write(self._turn, b".")
        return int.from_bytes(os.read(self._took, 8), "little")

    def end(self) -> None:
        os.close(self._turn)
        os.waitpid(self._child, 0)


def _serve(turns: int, took: int, program: bytes | None) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    call, getpid = ctypes.CDLL(None).syscall, ctypes.c_long(number("getpid", host_arch()) or 0)
    if program is not None:
        bpf.load(program)
    while os.read(turns, 1):
        started = time.perf_counter_ns()
        for _ in range(CALLS):
            call(getpid)
        os.write(took, (time.perf_counter_ns() - started).to_bytes(8, "little"))


def denied_calls(root: Path) -> dict[str, float]:
    """Milliseconds until a denied call returns: the first of a run, the first of a name, and any other."""
    python = settings(root)["python"]
    known = json.loads((root / SANDBOX_PATH.lstrip("/") / "calls.json").read_bytes())["calls"]
    # Those that no group opens: they are denied whatever their arguments, at every level.
    alone = [
        int(one)
        for one, call in known.items()
        if call["ways"] == [[f"syscalls: {{allow: [{call['name']}]}}", []]] and "danger" not in call
    ]
    code = _DENIED.format(numbers=json.dumps(alone[:NAMES]))
    return in_root(root, partial(_measure_denied, [*entrypoint(python), "-c", code]), container=True)


def _measure_denied(command: Sequence[str]) -> dict[str, float]:
    runs = []
    for _ in range(RUNS):
        done = subprocess.run(command, capture_output=True, check=True)
        if (named := done.stderr.count(b"sandbox: denied ")) != NAMES:
            raise ValueError(f"{named} calls were named, and not {NAMES}")
        runs.append(json.loads(done.stdout))

    def middle_ms(took_ns: Iterable[int]) -> float:
        return round(statistics.median(took_ns) / 1e6, 3)

    return {
        "a denied call, the first of a run, ms": middle_ms(run["first"] for run in runs),
        "a denied call, the first of its name, ms": middle_ms(one for run in runs for one in run["others"]),
        "a denied call, again, ms": middle_ms(one for run in runs for one in run["again"]),
    }
