"""The HTTP service and its control groups on real kernels, cgroup2 with the controllers memory and pids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builder.arch import Arch
from tests.machine.comparing import judge
from tests.machine.conftest import Machines
from tests.machine.machine import GUEST, Machine

TOLD: dict[str, dict[str, object]] = {
    "hello": {"stdout": "42\n"},
    "fresh": {"stdout": "42\n"},
    "threads": {"stdout": "can't start new thread True\n"},
    "beyond memory": {"stdout": "", "exit_code": 137, "ended_by": "memory"},
    "too long": {"exit_code": -1, "ended_by": "timeout"},
    "while the clock goes forth": {"stdout": "True\n"},
    "after it went forth": {"stdout": "1\n"},
    "while the clock goes back": {"stdout": "True\n"},
    "after it went back": {"stdout": "1\n"},
    "too long after that": {"exit_code": -1, "ended_by": "timeout"},
    "too much processor time": {"exit_code": 137, "ended_by": "cpu"},
}
"""How the runs of guest/service.py end, where that is not with 0 and nothing to say."""
PLAIN: dict[str, object] = {"stdout": "", "exit_code": 0, "ended_by": ""}


def ran(machine: Machine, program: str, *arguments: str, **options: Any) -> dict[str, Any]:
    """What one of guest/'s programs prints, in a container that may divide its control group."""
    command = [*machine.interpreter, "-c", (GUEST / program).read_text(), *arguments]
    ended = machine.run("delegated", command, **options)
    assert ended.exit_code == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


@pytest.fixture(scope="module")
def services(machines: Machines) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the service said on amd64 and on arm64."""
    return machines.each(
        lambda machine: ran(
            machine, "service.py", *machine.entrypoint, network=True, scratch=True, timeout_s=180
        )
    )


def test_groups_bound_memory_and_processes_and_end_all_at_once(machines: Machines) -> None:
    """runtime/cgroup.py: what no rlimit of root's counts ends at the group's bounds, and nothing is left."""
    due = {
        "controllers": ["memory", "pids"],
        "again": ["memory", "pids"],
        "files": {"memory.max": str(32 << 20), "memory.oom.group": "1", "pids.max": "8"},
        "within": [0, str(8 << 20), False],
        "beyond": [-9, "", True],
        "many": [0, "7", False],
        "left": [],
    }
    assert machines.each(lambda machine: ran(machine, "cgroups.py")) == (due, due)


def test_the_service_answers_as_on_amd64(services: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Each run, warm and fresh, with files, denied, too long, too large; while the clock is set as well."""
    amd64, arm64 = ({name: one[name] for name in (*TOLD, "denied", "files")} for one in services)
    judge(
        "the service", *({name: json.dumps(value) for name, value in one.items()} for one in (amd64, arm64))
    )
    for name, due in TOLD.items():
        assert {key: arm64[name][key] for key in PLAIN} == PLAIN | due, name
    assert arm64["denied"]["denied"] == [["clone", "syscalls: {groups: [processes]}", 1]]
    assert arm64["files"] == {"out": "dGV4dHRleHQ="}


def test_each_run_has_a_control_group(services: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Memory and processes are the group's to bound, and the service says so; the next finds none left."""
    for told in services:
        facts = told["info"]["data"]
        assert facts["cgroup"] == {"controllers": ["memory", "pids"]}
        assert {facts["limits"][name]["by"] for name in ("memory_bytes", "processes")} == {
            "cgroup and rlimit"
        }
        assert (facts["level"], facts["landlock_abi"], facts["naming"]) == ("chroot", 6, True)
        assert told["groups"] == facts["spares"]["wanted"]
        assert told["groups left"] == []


def test_the_clock_sets_no_time_out_off(services: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """An hour forth, two back: a run of a second takes about one, and stopping is as orderly as ever."""
    for told in services:
        assert told["in time"] is True
        assert told["metrics"] is True
        assert told["ended"] == 0


def test_the_machine_is_what_the_image_is_for(machines: Machines) -> None:
    """Runs of the service see their own architecture's kernel."""

    def machine_of(machine: Machine) -> tuple[Arch, str]:
        ended = machine.execute("chroot", "-c", "import os; print(os.uname().machine)")
        return machine.arch, ended.stdout.strip()

    for arch, found in machines.each(machine_of):
        assert found == arch.machine
