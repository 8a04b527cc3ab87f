"""How an attack is written down, made in a place, and judged."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from builder.arch import Arch, host_arch
from builder.config import load_config
from builder.plan import make_plan
from builder.seccomp.catalog import load_catalog
from builder.seccomp.policy import Policy
from builder.seccomp.syscalls import number
from tests.conftest import REPOSITORY, Bare, Container, Place, Result

NAMED = re.compile(
    r"sandbox: denied (?P<call>\w+) \((?P<number>\d+), (?P<arch>\w+)\)(?: at line \d+ of the code)?"
    r"(?:, which ends its process)?(?:; dangerous: [^\n]+)?(?:; (?:to allow it: |nothing allows it)[^\n]+)?\n"
)
"""What the supervisor says of a denied call."""

LANDLOCK = load_catalog().landlock.keys()
"""Calls that are denied at one privilege level alone."""

ABSENT = ("ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT")
"""What a kernel says of a call, an address family, a protocol that it was built without."""

REFUSED_EXIT = {"amd64": signal.SIGSEGV, "arm64": signal.SIGTRAP}
"""How glibc's _exit ends a process that is refused the call: by an instruction, hlt or brk."""

NOBODY = 2**30
"""A process id that no process has: pid_max is 2**22 at most."""


@cache
def shipped_policy() -> Policy:
    """The policy of the jails that attacks are tried in."""
    return make_plan(load_config(REPOSITORY / "config.yaml", {})[0], host_arch()).policy


@dataclass(frozen=True)
class Attack:
    """A few lines of Python, and what becomes of them.

    An outcome is "OK"; the text of `found`, where the lines set it; the name of an errno; the name of another
    exception; or the name of the signal that ends the whole run. What the lines have besides the builtins is
    in PROGRAM: `call("name", *arguments)` is the raw system call.
    """

    lines: str
    outside: str
    inside: str
    """In every jail that has no answer of its own below."""
    bare: str = ""
    docker: str = ""
    restricted: str = ""

    def __post_init__(self) -> None:
        if self.outside in (self.inside, self.bare, self.docker, self.restricted):
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
        if ctypes.get_errno() == errno.EPERM:
            denied.add(name)
        raise OSError(ctypes.get_errno(), name)
    return result

outcomes = {{}}
denied = set()
for name, lines in attacks.items():
    scope = dict(call=call, number=numbers.get, ctypes=ctypes, libc=libc, os=os, sys=sys)
    try:
        exec(lines, scope)
        outcomes[name] = str(scope.get("found", "OK"))
    except OSError as error:
        outcomes[name] = errno.errorcode.get(error.errno, repr(error))
    except BaseException as error:
        outcomes[name] = type(error).__name__
print(json.dumps(outcomes))
"""

REFUSED = """
import ctypes, errno, json
libc = ctypes.CDLL(None, use_errno=True)
numbers = json.loads({data!r})
refused = []
for name, number in numbers.items():
    libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
    if ctypes.get_errno() == errno.EPERM:
        refused.append(name)
print(json.dumps(refused))
"""


def arch_of(place: Place) -> Arch:
    """The architecture of the kernel there: this machine's, unless the place has one of its own."""
    found: Arch = getattr(place, "arch", None) or host_arch()
    return found


def program(lines_by_name: Mapping[str, str], arch: Arch | None = None) -> str:
    """One program that makes all the attacks, one after the other, and prints the outcomes as JSON."""
    called = set(re.findall(r'(?:call|number)\("(\w+)"', "\n".join(lines_by_name.values())))
    numbers = {name: number(name, arch or host_arch()) for name in called}
    return PROGRAM.format(data=json.dumps([numbers, dict(lines_by_name)]))


def outcomes(place: Place, lines_by_name: Mapping[str, str]) -> dict[str, str]:
    """What became of each attack in `place`; the program that made them must have run to its end."""
    ended = place.run(program(lines_by_name, arch_of(place)) + "print(json.dumps(sorted(denied)))")
    told, _, denied = ended.stdout.partition("\n")
    if isinstance(place, Bare | Container) and ended.exit_code == 0:
        judge_names(place, json.loads(denied), ended.stderr)
    return read(Result(ended.exit_code, told, ended.stderr))


def read(result: Result) -> dict[str, str]:
    """The outcomes that the program printed; on stderr are names of denied calls at most."""
    assert (result.exit_code, NAMED.sub("", result.stderr)) == (0, "")
    return dict(json.loads(result.stdout))


def judge_names(place: Place, denied: Sequence[str], stderr: str) -> None:
    """Every call that the policy denied is named, with its number, and none that it allows."""
    arch = arch_of(place)
    named = {match["call"]: (int(match["number"]), match["arch"]) for match in NAMED.finditer(stderr)}
    assert named == {name: (number(name, arch), arch.name) for name in named}
    allowed = shipped_policy().allowed()
    assert {name for name in named if allowed.get(name) == ()} - LANDLOCK == set()
    unnamed = {name for name in denied if name not in allowed} - named.keys()
    assert unnamed - refused_by_engine(place, unnamed) == set()


def refused_by_engine(place: Place, names: Collection[str]) -> set[str]:
    """Those of `names` that are EPERM in such a container without our filter: its engine outranks ours."""
    if not names or not isinstance(place, Container):
        return set()
    numbers = {name: number(name, host_arch()) for name in names}
    bare = replace(place, options=(*place.options, "--entrypoint=/usr/bin/python3.13"))
    ended = bare.run(REFUSED.format(data=json.dumps(numbers)))
    assert (ended.exit_code, ended.stderr) == (0, "")
    return set(json.loads(ended.stdout))


def judge(attacks: Mapping[str, Attack], outside: Place, jail: Place, where: str) -> None:
    """Every attack ends as it says, in the control and then in the jail, which is the one named `where`."""
    judge_control(attacks, outside)
    ended = outcomes(jail, {name: attack.lines for name, attack in attacks.items()})
    due = {name: getattr(attack, where, "") or attack.inside for name, attack in attacks.items()}
    assert differences(ended, due) == {}


def judge_control(attacks: Mapping[str, Attack], outside: Place) -> None:
    """Every attack ends in `outside` as it says, or for want of a part that this kernel was built without."""
    ended = outcomes(outside, {name: attack.lines for name, attack in attacks.items()})
    # As good a control as the other, where the jail's answer is not the same.
    absent = {name for name, answer in ended.items() if answer in ABSENT and answer != attacks[name].inside}
    due = {name: attack.outside for name, attack in attacks.items() if name not in absent}
    assert differences(ended, due) == {}


def differences(ended: Mapping[str, str], due: Mapping[str, str]) -> dict[str, str]:
    """The attacks that ended otherwise than they had to."""
    return {name: f"{ended[name]}, not {due[name]}" for name in due if ended[name] != due[name]}


def judge_killed(attack: Attack, jail: Place) -> None:
    """The attack ends the run by its signal, before it gets an answer; a call that does it is named."""
    ended = jail.run(program({"attack": attack.lines}, arch_of(jail)))
    signal_number = signal.Signals[attack.inside]
    assert (ended.exit_code, ended.stdout) == (128 + signal_number, "")
