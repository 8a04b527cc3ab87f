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
"""What was seen in one case: each line by the name of what it is a line of."""

_CALL = re.compile(r"\b(?P<call>\w+) \((?P<number>\d+), (?P<arch>\w+)\)")
"""How a sentence names a system call."""

_LINE = re.compile(r" at line \d+ of the code")
"""What a thread has to say within 20 ms (docs/lockdown.md), which an emulated one does not always do."""

_NUMBERS = {"socket": 3, "kill": 2, "clone": 1, "memfd_create": 0, "prctl": 1}
"""How many of a call's arguments are numbers; behind them are addresses, and what is left in registers."""


def judge(case: str, amd64: Lines, arm64: Lines) -> None:
    """The two are the same but for what expected.py has of `case`, all of which must be there."""
    names = dict.fromkeys((*amd64, *arm64))
    found = {name: (amd64.get(name), arm64.get(name)) for name in names if amd64.get(name) != arm64.get(name)}
    due = {one.what: (one.amd64, one.arm64) for one in EXPECTED if one.case == case}
    assert found == due, case


def seen(ended: Ended, arch: Arch) -> dict[str, str]:
    """How a run ended, without numbers of calls, which must be the architecture's, and of lines of code."""
    found = {"exit code": str(ended.exit_code)}
    found |= _numbered("stdout", ended.stdout)
    said = _LINE.sub("", _CALL.sub(lambda match: _checked(match, arch), ended.stderr))
    found |= _numbered("stderr", said)
    denials = 0
    for line in ended.status.splitlines():
        told = json.loads(line)
        if "denied" in told:
            denials += 1
            found |= {f"denied {denials}, {key}": text for key, text in _plain(told["denied"], arch).items()}
        elif "counts" in told:
            found |= {f"count of {call}: {allow}": str(count) for call, allow, count in told["counts"]}
        else:
            found |= {key: json.dumps(value) for key, value in told.items() if key != "uid"}
    return found


def _numbered(name: str, text: str) -> dict[str, str]:
    return {f"{name} {at}": line for at, line in enumerate(text.splitlines(keepends=True), 1)}


def _checked(match: re.Match[str], arch: Arch) -> str:
    assert (number(match["call"], arch), arch.name) == (int(match["number"]), match["arch"])
    return match["call"]


def _plain(denied: dict[str, Any], arch: Arch) -> dict[str, str]:
    assert denied["number"] == number(denied["call"], arch), denied
    facts = {key: value for key, value in denied.items() if key not in ("number", "line", "stack")}
    facts["arguments"] = facts["arguments"][: _NUMBERS.get(denied["call"], 0)]
    return {key: json.dumps(value) for key, value in facts.items()}
