"""What two machines do, line by line: each difference is in a table with its reason, or it is a fault."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from builder.arch import Arch
from builder.seccomp.syscalls import number
from tests.machine.expected import EXPECTED
from tests.machine.machine import Ended

Lines = Mapping[str, str]
"""What was seen in one case, each part by its name."""

_CALL = re.compile(r"\b(?P<call>\w+) \((?P<number>\d+), (?P<arch>\w+)\)")
"""How a sentence names a system call."""
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_SMALL = 1 << 16
_NEGATIVE = (1 << 32) - _SMALL
"""An argument from here on is a negative number, of 32 bits or of 64; one between is an address, or anything."""


def judge(case: str, amd64: Lines, arm64: Lines) -> None:
    """The two are the same but for what expected.py has of `case`, all of which must be there."""
    names = dict.fromkeys((*amd64, *arm64))
    found = {
        name: (amd64.get(name), arm64.get(name)) for name in names if amd64.get(name) != arm64.get(name)
    }
    due = {one.what: (one.amd64, one.arm64) for one in EXPECTED if one.case == case}
    assert found == due, case


def seen(ended: Ended, arch: Arch) -> dict[str, str]:
    """How a run ended, without what tells architectures apart: numbers of calls, which must be right."""
    found = {
        "exit code": str(ended.exit_code),
        "stdout": ended.stdout,
        "stderr": _ADDRESS.sub("ADDRESS", _CALL.sub(lambda match: _checked(match, arch), ended.stderr)),
    }
    for line in ended.status.splitlines():
        told = json.loads(line)
        if "denied" in told:
            denied = _plain(told["denied"], arch)
            found.setdefault("denied", "")
            found["denied"] += f"{denied}\n"
        elif "counts" in told:
            found["counts"] = str(told["counts"])
        else:
            found["in force"] = str({key: value for key, value in told.items() if key != "uid"})
    return found


def _checked(match: re.Match[str], arch: Arch) -> str:
    assert (number(match["call"], arch), arch.name) == (int(match["number"]), match["arch"])
    return match["call"]


def _plain(denied: dict[str, Any], arch: Arch) -> dict[str, Any]:
    assert denied["number"] == number(denied["call"], arch), denied
    numbers = [_number(value) for value in denied["arguments"]]
    return {key: value for key, value in denied.items() if key not in ("number", "arguments")} | {
        # What a call does not have is whatever was in the registers.
        "arguments": numbers[: _USED.get(denied["call"], 0)]
    }


_USED = {"socket": 3, "kill": 2, "execve": 0, "clone": 1, "memfd_create": 0, "sched_setaffinity": 2, "prctl": 1}
"""How many of a call's arguments are numbers that both architectures give."""


def _number(value: int) -> int | str:
    if value < _SMALL or value >= 1 << 63 or _NEGATIVE <= value < 1 << 32:
        return value
    return "large"
