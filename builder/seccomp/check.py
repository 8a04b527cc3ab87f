"""Tries a compiled policy: the whole system-call table, and vectors, in the interpreter and in the kernel."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from math import gcd

from builder.arch import Arch, host_arch
from builder.seccomp import kernel
from builder.seccomp.bpf import ALLOW as RET_ALLOW
from builder.seccomp.bpf import KILL_PROCESS, USER_NOTIF, errno_action, evaluate
from builder.seccomp.compile import INSTRUCTION, NAMED, X32_BIT
from builder.seccomp.conditions import Condition
from builder.seccomp.snapshot import ALLOW, DENY, ENOSYS, KILL, Conditions, Snapshot
from builder.seccomp.syscalls import table
from builder.seccomp.vectors import ABIS, LEVELS, Vector

PLAIN = {
    ALLOW: RET_ALLOW,
    DENY: errno_action(errno.EPERM),
    ENOSYS: errno_action(errno.ENOSYS),
    KILL: KILL_PROCESS,
}
"""SECCOMP_RET_* for each answer."""

_DENIALS = {"errno": PLAIN[DENY], "kill": KILL_PROCESS, "log": PLAIN[DENY]}
"""For each on_denied, what the plain programs have for DENY; those for supervised runs ask."""

_BEYOND = (16, 64, 200)
"""Numbers past the newest that are tried: the next ones, and some far off."""
_FAR = (1023, 4095, 0xFFFF, X32_BIT - 1)
_CROSSED = 512
"""How many combinations of the values that a call's lines name are tried, beside those of each line."""
_TURNED = 8192
"""From how many on not every single bit of every line is turned."""


@dataclass(frozen=True)
class Disagreement:
    """A call that a program does not answer as the policy says."""

    program: str
    who: str
    """interpreter or kernel."""
    call: str
    wanted: str
    got: str
    where: str = ""
    """The vector's place, where it is one of a file."""


@dataclass
class Report:
    """What was tried, and what came out."""

    programs: int = 0
    table: int = 0
    """Calls of the whole table that were evaluated, over all programs."""
    vectors: int = 0
    kernel: int = 0
    """How many of both the kernel was asked about too."""
    set_aside: list[str] = field(default_factory=list)
    """Vectors that the config overrules."""
    not_tried: list[str] = field(default_factory=list)
    """What the kernel could not be asked, and why."""
    disagreements: list[Disagreement] = field(default_factory=list)


def split(file: bytes, instructions: Mapping[str, int]) -> dict[str, bytes]:
    """The programs in a policy.bpf; `instructions` is what runtime.json has for each, in the file's order."""
    found, position = {}, 0
    for name, length in instructions.items():
        found[name] = file[position : position + length * INSTRUCTION.size]
        position += length * INSTRUCTION.size
    return found


def check(
    programs: Mapping[str, bytes],
    policy: Snapshot,
    vectors: Sequence[Vector],
    *,
    channel: int,
    on_kernel: bool,
) -> Report:
    """Tries every program in the interpreter, and on the kernel where that is asked for.

    `programs` are compile_levels()' for `channel`.
    """
    report = Report(programs=len(programs))
    for name, program in programs.items():
        level = name.removesuffix(NAMED)
        at_level = policy if level == LEVELS[0] else policy.at_landlock()
        answers = PLAIN | {DENY: _DENIALS[policy.on_denied] if name == level else USER_NOTIF}
        trials = [*_table_trials(at_level, answers, channel)]
        report.table += len(trials)
        chosen = [*_vector_trials(vectors, policy, level, answers, report)]
        report.vectors += len(chosen)
        _try(name, program, [*trials, *chosen], policy.arch, report, on_kernel=on_kernel)
    report.set_aside = [*dict.fromkeys(report.set_aside)]
    report.not_tried = [*dict.fromkeys(report.not_tried)]
    return report


@dataclass(frozen=True)
class _Trial:
    audit_arch: int
    number: int
    arguments: Sequence[int]
    wanted: int
    label: str
    where: str = ""


def _table_trials(policy: Snapshot, answers: Mapping[str, int], channel: int) -> Iterator[_Trial]:
    arch = policy.arch
    on_channel = (Condition(0, 0xFFFF_FFFF, channel),)
    for number in numbers(policy):
        name = table(arch).get(number, "")
        lines = policy.allow.get(name, ())
        for arguments in near_misses([*lines, on_channel] if name == "sendmsg" else lines):
            wanted = answers[policy.answer(number, arguments)]
            asking = answers[DENY] == USER_NOTIF
            if name == "sendmsg" and asking and on_channel[0].holds(arguments):
                wanted = RET_ALLOW  # the listener goes this way
            yield _Trial(arch.audit_arch, number, arguments, wanted, _text(name, number, arguments))


def numbers(policy: Snapshot) -> Iterator[int]:
    """The whole table, what is beyond it, all of it in the x32 ABI's numbering, and negative numbers."""
    near, *further = (policy.newest + beyond for beyond in _BEYOND)
    native = [*range(near), *further, *_FAR]
    yield from native
    yield from sorted({X32_BIT | number for number in native})
    yield from (-1, -2, -4095, -(1 << 31))


def near_misses(lines: Sequence[Conditions]) -> Iterator[list[int]]:
    """Arguments on both sides of every condition: what a line names, and that with each single bit turned."""
    yield [0] * 6
    yield [(1 << 64) - 1] * 6
    used = sorted({one.argument for line in lines for one in line})
    values = [sorted({one.value for line in lines for one in line if one.argument == at}) for at in used]
    crossed = (dict(zip(used, chosen, strict=True)) for chosen in product(*values))
    exact = [*islice(crossed, _CROSSED)] if used else []
    exact += [_meeting(line) for line in lines]
    met = [[known.get(at, 0) for at in range(6)] for known in exact]
    yield from met
    turned = product(met, used, range(64))
    # Of very many lines not each with each bit; all bits of all arguments are come by all the same.
    step = 1 + len(met) * len(used) * 64 // _TURNED
    while gcd(step, len(used) * 64) > 1:
        step += 1
    for arguments, at, bit in islice(turned, 0, None, step):
        yield [value ^ (1 << bit) if index == at else value for index, value in enumerate(arguments)]


def _meeting(line: Conditions) -> dict[int, int]:
    """Arguments that meet `line`."""
    found: dict[int, int] = {}
    for one in line:
        found[one.argument] = found.get(one.argument, 0) | one.value
    return found


def _vector_trials(
    vectors: Sequence[Vector], policy: Snapshot, level: str, answers: Mapping[str, int], report: Report
) -> Iterator[_Trial]:
    for vector in vectors:
        entry = vector.entry(policy.arch)
        if entry is None or not vector.concerns(policy, level):
            continue
        if vector.overruled(policy):
            report.set_aside.append(f"{vector.where}: {vector.call}: {vector.expect}")
            continue
        audit_arch, number = entry
        foreign = audit_arch != policy.arch.audit_arch or number >= X32_BIT
        name = (
            vector.call
            if isinstance(vector.call, str)
            else ""
            if foreign
            else table(policy.arch).get(number, "")
        )
        label = _text(name, number, vector.arguments) + (f" by {vector.abi}" if vector.abi else "")
        yield _Trial(audit_arch, number, vector.arguments, answers[vector.expect], label, vector.where)


def _try(
    name: str, program: bytes, trials: Sequence[_Trial], arch: Arch, report: Report, *, on_kernel: bool
) -> None:
    got = [evaluate(program, one.audit_arch, one.number, one.arguments) for one in trials]
    _compare(name, "interpreter", trials, got, report)
    if not on_kernel:
        return
    if arch != host_arch():
        report.not_tried.append(f"{arch.name}: this machine's kernel is {host_arch().name}'s")
        return
    native = [one for one in trials if one.audit_arch == arch.audit_arch]
    for unseen in {number for of, number in kernel.UNFILTERED if of == arch.name}:
        label = f"{kernel.UNFILTERED[arch.name, unseen]} ({unseen}): newer kernels show it to no filter"
        report.not_tried.append(label)
        native = [one for one in native if one.number != unseen]
    _compare(
        name,
        "kernel",
        native,
        kernel.answers(program, [(one.number, one.arguments) for one in native]),
        report,
    )
    report.kernel += len(native)
    for abi, audit_arch in ABIS.items():
        foreign = [one for one in trials if one.audit_arch == audit_arch != arch.audit_arch]
        if not foreign:
            continue
        found = kernel.foreign_answers(program, abi, [one.number for one in foreign])
        if found is None:
            report.not_tried.append(f"{abi}: programs of this machine cannot enter the kernel that way")
            continue
        _compare(name, "kernel", foreign, found, report)
        report.kernel += len(foreign)


def _compare(program: str, who: str, trials: Sequence[_Trial], got: Sequence[int], report: Report) -> None:
    for one, answer in zip(trials, got, strict=True):
        if answer != one.wanted:
            report.disagreements.append(
                Disagreement(program, who, one.label, _spoken(one.wanted), _spoken(answer), one.where)
            )


def _spoken(answer: int) -> str:
    """SECCOMP_RET_* in the words of the vectors."""
    words = {RET_ALLOW: ALLOW, KILL_PROCESS: KILL, USER_NOTIF: "asks the supervisor"} | {
        PLAIN[DENY]: "deny (EPERM)",
        PLAIN[ENOSYS]: ENOSYS,
    }
    known = errno.errorcode.get(answer & 0xFFFF, "") if answer >> 16 == 5 else ""
    return words.get(answer) or known or f"{answer:#x}"


def _text(name: str, number: int, arguments: Sequence[int]) -> str:
    shown = [f"{value:#x}" if value > 9 else str(value) for value in arguments]
    while shown and shown[-1] == "0":
        shown.pop()
    return f"{name or 'call'} ({number if number < X32_BIT else hex(number)}) with [{', '.join(shown)}]"
