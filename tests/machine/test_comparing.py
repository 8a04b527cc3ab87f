"""What is found where two machines differ, and where they do not and should."""

from __future__ import annotations

import json

import pytest

from builder.arch import ARCHES
from tests.machine.comparing import judge, seen
from tests.machine.expected import EXPECTED
from tests.machine.groups import GROUPS
from tests.machine.machine import Ended
from tests.machine.programs import PROGRAMS

ARM64 = ARCHES["arm64"]
CASE = "prctl at outside"
LISTED = "PR_SET_SYSCALL_USER_DISPATCH"
SAID = "sandbox: denied kill ({number}, {arch}) at line 3 of the code\n"
DENIED = {
    "call": "kill",
    "number": 129,
    "line": 3,
    "stack": [["main.py", 3]],
    "arguments": [1, 9, 5, 5, 5, 5],
}


def test_what_is_the_same_passes_and_what_is_not_does_not() -> None:
    """A line that is another, and one that only one of the two has."""
    judge("a case", {"exit code": "0"}, {"exit code": "0"})
    for amd64, arm64 in (({"a": "1"}, {"a": "2"}), ({"a": "1"}, {}), ({}, {"a": "1"})):
        with pytest.raises(AssertionError, match="a case"):
            judge("a case", amd64, arm64)


def test_a_difference_that_is_listed_must_be_there() -> None:
    """As it is listed: not gone, and not another one."""
    judge(CASE, {LISTED: "OK", "b": "1"}, {LISTED: "EINVAL", "b": "1"})
    for amd64, arm64 in (("OK", "OK"), ("OK", "EPERM"), ("EINVAL", "OK")):
        with pytest.raises(AssertionError, match=CASE):
            judge(CASE, {LISTED: amd64}, {LISTED: arm64})


def test_each_listed_difference_is_one_of_a_case_that_is_compared() -> None:
    """Else nobody would miss it."""
    cases = {f"{name} at {place}" for name, program in PROGRAMS.items() for place in program.places}
    for name, group in GROUPS.items():
        cases |= {f"{name} at {place}" for place in (group.control, "chroot", "landlock")}
    assert {one.case for one in EXPECTED} <= cases
    assert [one for one in EXPECTED if not one.why] == []


def test_the_numbers_of_calls_are_checked_and_left_out() -> None:
    """129 is arm64's number of kill, 62 amd64's: neither stays, and the wrong one fails."""
    status = json.dumps({"denied": DENIED})
    found = seen(Ended(0, "", SAID.format(number=129, arch="arm64"), status), ARM64)
    assert found["stderr 1"] == "sandbox: denied kill\n"
    assert found["denied 1, arguments"] == "[1, 9]"
    for said, told in (
        (SAID.format(number=62, arch="arm64"), status),
        (SAID.format(number=129, arch="amd64"), status),
        ("", json.dumps({"denied": DENIED | {"number": 62}})),
    ):
        with pytest.raises(AssertionError):
            seen(Ended(0, "", said, told), ARM64)
