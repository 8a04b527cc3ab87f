"""How an attack is written down, made in a place, and judged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from builder.arch import host_arch
from builder.seccomp.syscalls import number
from tests.conftest import Place, Result

NOBODY = 2**30
"""A process id that no process has: pid_max is 2**22 at most."""


@dataclass(frozen=True)
class Attack:
    """A few lines of Python, and what becomes of them.

    An outcome is "OK"; the text of `found`, where the lines set it; the name of an errno; or the name of
    another exception. The lines have `call("name", *arguments)`, the raw system call.
    """

    lines: str
    outside: str
    inside: str
    """At level chroot, and at level landlock too unless `landlock` says otherwise."""
    landlock: str = ""

    def __post_init__(self) -> None:
        if self.outside in (self.inside, self.landlock):
            raise ValueError(f"the control proves nothing: {self.outside} outside and inside")


PROGRAM = """
import ctypes, errno, json, os, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
numbers, attacks = json.loads({data!r})

def call(name, *arguments):
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = libc.syscall(ctypes.c_long(numbers[name]), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result

outcomes = {{}}
for name, lines in attacks.items():
    scope = dict(call=call, ctypes=ctypes, libc=libc, os=os, sys=sys)
    try:
        exec(lines, scope)
        outcomes[name] = str(scope.get("found", "OK"))
    except OSError as error:
        outcomes[name] = errno.errorcode.get(error.errno, repr(error))
    except BaseException as error:
        outcomes[name] = type(error).__name__
print(json.dumps(outcomes))
"""


def program(lines_by_name: Mapping[str, str]) -> str:
    """One program that makes all the attacks, one after the other, and prints the outcomes as JSON."""
    called = set(re.findall(r'call\("(\w+)"', "\n".join(lines_by_name.values())))
    numbers = {name: number(name, host_arch()) for name in called}
    return PROGRAM.format(data=json.dumps([numbers, dict(lines_by_name)]))


def outcomes(place: Place, lines_by_name: Mapping[str, str]) -> dict[str, str]:
    """What became of each attack in `place`; the program that made them must have run to its end."""
    return read(place.run(program(lines_by_name)))


def read(result: Result) -> dict[str, str]:
    """The outcomes that the program printed."""
    assert (result.exit_code, result.stderr) == (0, "")
    return dict(json.loads(result.stdout))


def expected(attacks: Mapping[str, Attack], level: str) -> dict[str, str]:
    """The outcomes that the jail must give at `level`."""
    return {
        name: attack.landlock if attack.landlock and level == "landlock" else attack.inside
        for name, attack in attacks.items()
    }


def judge(attacks: Mapping[str, Attack], outside: Place, jail: Place, level: str) -> None:
    """Every attack ends as it says, in the control and then in the jail."""
    lines_by_name = {name: attack.lines for name, attack in attacks.items()}
    control = outcomes(outside, lines_by_name)
    # A call that this machine's kernel was built without is as good a control: the jail must not say ENOSYS too.
    absent = {name for name, answer in control.items() if answer == "ENOSYS" != attacks[name].inside}
    assert control == {
        name: "ENOSYS" if name in absent else attack.outside for name, attack in attacks.items()
    }
    assert outcomes(jail, lines_by_name) == expected(attacks, level)
