"""The attacks of tests/escape on arm64's own kernel: outside they get through, in the jail they do not."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping

import pytest

from tests.escape.attacks import outcomes, program
from tests.escape.test_environment import VARIABLES
from tests.escape.test_exec import REPLACING
from tests.escape.test_exit_codes import CHILD, CODES, WRITTEN_OTHERWISE, calls
from tests.machine.comparing import judge
from tests.machine.conftest import Machines
from tests.machine.expected import due
from tests.machine.groups import GROUPS, Group, killed
from tests.machine.machine import Inside, Machine

JAILS = {"chroot": "docker", "landlock": "restricted"}
"""The places that are jails, and what tests/escape calls them."""

UNPRIVILEGED = ("paths", "namespaces", "other processes", "root")
"""Groups that are tried in a user namespace as well."""


def made(machine: Machine, group: Group, place: str) -> dict[str, str]:
    """What becomes of each attack of the group there."""
    inside = Inside(
        machine,
        place,
        jailed=place != group.control,
        scratch=group.scratch and place != group.control,
        env=VARIABLES if group.secrets else {},
    )
    return outcomes(inside, {name: attack.lines for name, attack in group.attacks.items()})


@pytest.mark.parametrize("name", GROUPS)
def test_outside_the_attack_is_not_what_it_is_in_the_jail(name: str, machines: Machines) -> None:
    """The control: each does its work, or reaches the kernel, on both architectures in the same way."""
    group = GROUPS[name]
    amd64, arm64 = machines.each(lambda machine: made(machine, group, group.control))
    judge(f"{name} at {group.control}", amd64, arm64)
    for found in (amd64, arm64):
        assert {one for one, attack in group.attacks.items() if found[one] == attack.inside} == set()


@pytest.mark.parametrize("place", JAILS)
@pytest.mark.parametrize("name", GROUPS)
def test_in_the_jail_the_attack_fails(name: str, place: str, machines: Machines) -> None:
    """With the answer that it has in a container on amd64; denied calls are named, with arm64's numbers."""
    group = GROUPS[name]
    amd64, arm64 = machines.each(lambda machine: made(machine, group, place))
    case = f"{name} at {place}"
    judge(case, amd64, arm64)
    wanted = {one: getattr(attack, JAILS[place]) or attack.inside for one, attack in group.attacks.items()}
    assert amd64 == wanted
    assert arm64 == wanted | due(case)


@pytest.mark.parametrize("name", UNPRIVILEGED)
def test_in_a_user_namespace_the_attack_fails(name: str, machines: Machines) -> None:
    """An ordinary user's chroot has the answers of root's, or those of Landlock, which is there too."""
    group = GROUPS[name]
    amd64, arm64 = machines.each(lambda machine: made(machine, group, "userns"))
    judge(f"{name} at userns", amd64, arm64)
    for one, attack in group.attacks.items():
        assert arm64[one] in (attack.docker or attack.inside, attack.restricted or attack.inside), one


def test_what_only_an_attack_would_call_ends_the_run(machines: Machines) -> None:
    """SIGSYS, before it is answered; outside, the control, each comes back.

    (test_arm64_policy.py tries the filters of both levels with these numbers.)
    """

    def outside(machine: Machine) -> dict[str, str]:
        lines = {name: attack.lines for name, attack in killed(machine.arch).items()}
        return outcomes(Inside(machine, "outside", jailed=False), lines)

    def inside(machine: Machine) -> dict[str, tuple[int, str]]:
        jail = Inside(machine, "chroot", jailed=True)
        attacks = killed(machine.arch).items()
        results = {name: jail.run(program({name: attack.lines}, machine.arch)) for name, attack in attacks}
        return {name: (result.exit_code, result.stdout) for name, result in results.items()}

    for machine, reached in zip((machines.amd64, machines.arm64), machines.each(outside), strict=True):
        assert reached.keys() == killed(machine.arch).keys()
    for ended in machines.each(inside):
        assert ended == dict.fromkeys(ended, (128 + signal.SIGSYS, ""))


def test_no_way_to_execute_works(machines: Machines) -> None:
    """Each of them makes another program of the process outside, and is EPERM in both jails."""

    def replaced(machine: Machine) -> Mapping[str, str]:
        place = Inside(machine, "outside", jailed=False)
        return {
            name: place.run(program({name: lines}, machine.arch)).stdout for name, lines in REPLACING.items()
        }

    def denied(machine: Machine) -> list[dict[str, str]]:
        return [outcomes(Inside(machine, place, jailed=True), REPLACING) for place in JAILS]

    assert machines.each(replaced) == (dict.fromkeys(REPLACING, "replaced\n"),) * 2
    assert machines.each(denied) == ([dict.fromkeys(REPLACING, "EPERM")] * 2,) * 2


def test_no_exit_code_of_the_runtimes_is_to_be_had(machines: Machines) -> None:
    """exit and exit_group with each of them, however written: EPERM, where the kernel would take them."""
    numbers = (*CODES, *WRITTEN_OTHERWISE)
    plain = {f"{call}({code})": str(code & 0xFF) for call in ("exit", "exit_group") for code in numbers}
    attempts = calls("call({call!r}, {code})")

    def outside(machine: Machine) -> dict[str, str]:
        return outcomes(Inside(machine, "outside", jailed=False), calls(CHILD))

    def inside(machine: Machine) -> dict[str, str]:
        return outcomes(Inside(machine, "chroot", jailed=True), attempts)

    assert machines.each(outside) == (plain, plain)
    assert machines.each(inside) == (dict.fromkeys(attempts, "EPERM"),) * 2


def test_runs_are_not_root(machines: Machines) -> None:
    """The status says as whom, and is right: a uid of the range at chroot, the container's at landlock."""
    code = "import json, os; print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups()]))"

    def identity(machine: Machine) -> list[bool]:
        found = []
        for place in ("chroot", "userns", "landlock"):
            one = machine.execute(place, "-c", code, status=True)
            uid = json.loads(one.status.splitlines()[0])["uid"]
            expected = [[uid] * 3, [uid] * 3, []]
            found += [json.loads(one.stdout) == expected, (uid == 1000) == (place == "landlock")]
        return found

    assert machines.each(identity) == ([True] * 6, [True] * 6)
