"""Good programs on arm64's own kernel do what they do on amd64's."""

from __future__ import annotations

import json

import pytest

from tests.machine.comparing import Lines, judge, seen
from tests.machine.conftest import Machines
from tests.machine.machine import Machine
from tests.machine.programs import PROGRAMS, Program

CASES = [(name, place) for name, program in PROGRAMS.items() for place in program.places]
LEVELS = {"chroot": "chroot", "userns": "chroot", "landlock": "landlock"}
"""The privilege level that the runtime reaches in a place."""


def run(machine: Machine, program: Program, place: str) -> dict[str, str]:
    """How the program ends there: exit code, output, what was in force, what was denied."""
    code = ("-",) if program.by_stdin else ("-c", program.code)
    ended = machine.execute(
        *(place, *code, *program.arguments),
        stdin=program.code.encode() if program.by_stdin else program.stdin,
        status=True,
        scratch=program.scratch,
    )
    return seen(ended, machine.arch)


def printed(lines: Lines) -> str:
    """What a run wrote to stdout."""
    return "".join(line for name, line in lines.items() if name.startswith("stdout "))


@pytest.mark.parametrize(("name", "place"), CASES)
def test_a_good_program_ends_as_on_amd64(name: str, place: str, machines: Machines) -> None:
    """With the exit code and the output that are known, and line by line the same where they are not."""
    program = PROGRAMS[name]
    amd64, arm64 = machines.each(lambda machine: run(machine, program, place))
    judge(f"{name} at {place}", amd64, arm64)
    assert program.exit_code is None or amd64["exit code"] == str(program.exit_code), amd64
    assert program.prints is None or printed(amd64) == program.prints
    assert (amd64["level"], amd64["naming"]) == (f'"{LEVELS[place]}"', "true")


def test_every_module_that_is_there_was_imported(machines: Machines) -> None:
    """What "every module" says is missing are modules of other systems, and what Debian puts elsewhere."""
    _, arm64 = machines.each(lambda machine: run(machine, PROGRAMS["every module"], "chroot"))
    missing = {line.split()[0] for line in printed(arm64).splitlines()}
    assert not missing & {"ssl", "sqlite3", "ctypes", "decimal", "asyncio", "lzma", "bz2", "zoneinfo", "json"}


LINES = """
import os
for number in range(1, 9):
    try: os.setpriority(number, 0, 0)
    except OSError: pass
try: os.sync()
except OSError: pass
try: os.setuid(0)
except OSError: pass
try: os.setgid(0)
except OSError: pass
try: os.memfd_create("x")
except OSError: pass
"""


def test_a_denied_call_knows_its_line(machines: Machines) -> None:
    """Where the thread answers in time, which an emulated one does more often than not."""

    def lines(machine: Machine) -> set[tuple[str, int | None]]:
        ended = machine.execute("chroot", "-c", LINES, status=True)
        told = [json.loads(line) for line in ended.status.splitlines()]
        return {(one["denied"]["call"], one["denied"]["line"]) for one in told if "denied" in one}

    right = {("setpriority", 4), ("sync", 6), ("setuid", 8), ("setgid", 10), ("memfd_create", 12)}
    for found in machines.each(lines):
        assert found & right
        assert {call for call, line in found if line is None} == {call for call, _ in found - right}


def test_both_run_one_version_of_the_kernel(machines: Machines) -> None:
    """Debian's, and each for its own architecture: otherwise the kernels would be what is compared."""
    assert machines.amd64.release.endswith("-amd64")
    assert machines.arm64.release == machines.amd64.release.removesuffix("-amd64") + "-arm64"
