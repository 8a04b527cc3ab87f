"""What the filter costs: calls that it allows, and calls that it denies and somebody names."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from builder.arch import host_arch
from builder.dockerfile import entrypoint
from builder.seccomp.bpf import ALLOW, RETURN
from builder.seccomp.check import split
from builder.seccomp.compile import INSTRUCTION, NAMED
from builder.seccomp.syscalls import number
from builder.tree.spec import SANDBOX_PATH
from tests import bpf
from tests.benchmarks.place import in_root, settings

CALLS, TURNS, FORKS = 20_000, 150, 4
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
    """getpid(2) in a loop under the filter of supervised runs, over the same under others and under none.

    Forks of this interpreter on one processor, in turn; several of each kind, as no two are equally fast. One
    kind more has no filter: what its ratio differs from 1 is the error of the measure. The filter that allows
    everything shows what the kernel takes for having any; it is as long as ours, so that all heaps are alike.
    """
    policy = (root / SANDBOX_PATH.lstrip("/") / "policy.bpf").read_bytes()
    programs = split(policy, settings(root)["policy_instructions"])
    allow = INSTRUCTION.pack(RETURN, 0, 0, ALLOW)
    kinds = {
        "none": None,
        "none again": None,
        "everything": allow * (len(programs["chroot"]) // len(allow)),
        "plain": programs["chroot"],
        "named": programs[f"chroot{NAMED}"],
    }
    loops = [(name, _Loop(kinds[name])) for _ in range(FORKS) for name in kinds]
    samples = {name: [0] * TURNS for name in kinds}
    for turn in range(TURNS):
        for name, loop in (loops, reversed(loops))[turn % 2]:
            samples[name][turn] += loop.turn_ns()
    for _, loop in loops:
        loop.end()
    bare_ns = statistics.median(samples["none"]) / FORKS / CALLS

    def over(mine: str, other: str) -> float:
        pairs = zip(samples[mine], samples[other], strict=True)
        return round(statistics.median(one / two for one, two in pairs), 3)

    return {
        "getpid in a loop without a filter, ns a call": round(bare_ns, 1),
        "getpid under the filter that names, over the plain filter": over("named", "plain"),
        "getpid under the filter that names, over one that allows everything": over("named", "everything"),
        "getpid under the filter that names, over no filter": over("named", "none"),
        "getpid under a filter that allows everything, over no filter": over("everything", "none"),
        "getpid under no filter, over no filter (the error)": over("none again", "none"),
    }


class _Loop:
    """A fork of this process that makes CALLS calls at each turn."""

    def __init__(self, program: bytes | None) -> None:
        read, self._turn = os.pipe()
        self._took, write = os.pipe()
        self._child = os.fork()
        if self._child == 0:
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
        os.kill(self._child, signal.SIGKILL)  # a later fork holds our end of its pipe too
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
    # Those that no group opens are denied whatever their arguments.
    alone = [
        int(one)
        for one, call in known.items()
        if call["ways"] == [[f"syscalls: {{allow: [{call['name']}]}}", []]]
        and not call.keys() & {"danger", "kept"}
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
