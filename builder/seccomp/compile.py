"""Policy to classic BPF, for either architecture on either: libseccomp's, behind a few lines of ours."""

from __future__ import annotations

import errno
import struct
import tempfile
from collections.abc import Callable
from typing import IO, Any

from builder.arch import Arch
from builder.errors import BuildError
from builder.seccomp.policy import Policy, for_landlock
from builder.seccomp.syscalls import libseccomp, number, token

MAX_INSTRUCTIONS = 4096 - 4
"""BPF_MAXINSNS (linux/bpf_common.h), beyond which the kernel refuses a program, less what named() adds."""

INSTRUCTION = struct.Struct("<HBBI")
"""struct sock_filter (linux/filter.h), little endian: code, jump if true, jump if false, constant."""

X32_BIT = 0x4000_0000
"""Set in the number of each call of amd64's x32 ABI, which shares amd64's AUDIT_ARCH; in no number else."""

# linux/seccomp.h
_KILL_PROCESS, _ERRNO_EPERM, _USER_NOTIF, _ALLOW = 0x8000_0000, 0x0005_0001, 0x7FC0_0000, 0x7FFF_0000
PREFIX_INSTRUCTIONS = 7
"""What stands before libseccomp's program: foreign ABIs and calls newer than the policy."""
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_GREATER, _JUMP_IF_GREATER_OR_EQUAL, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_FIRST = 255
_BY_PRIORITY = 1
"""SCMP_FLTATR_CTL_OPTIMIZE. Not 2, the binary tree: there libseccomp 2.5 shares blocks between conditions
that compare different arguments, and lets calls through that the rules deny."""


NAMED = " named"
"""What the program of a level for supervised runs is called, behind the level."""


def compile_policy(policy: Policy, arch: Arch) -> bytes:
    """The policy as an array of struct sock_filter; the same policy and libseccomp give the same bytes.

    BuildError when it is longer than the kernel loads. ToolMissing without libseccomp.
    """
    program = _newer_calls(policy, arch) + _libseccomp_program(policy, arch)
    instructions = len(program) // INSTRUCTION.size
    if instructions > MAX_INSTRUCTIONS:
        raise BuildError(
            f"the system-call policy for {arch.name} has {instructions} instructions, and the kernel loads at"
            f" most {MAX_INSTRUCTIONS}",
            "take calls with many conditions out of syscalls: {groups, allow}",
        )
    return program


def named(program: bytes, arch: Arch, channel: int) -> bytes:
    """The same filter for a run with a supervisor, which is asked about each call that would get EPERM.

    What is killed stays killed, and what gets ENOSYS gets it without anybody's help. sendmsg(2) is let
    through on descriptor `channel`, on which the runtime sends away the filter's listener: the number is at
    the limit of open descriptors, so the code can have none with it.
    """
    instructions = _denying(program, _USER_NOTIF)
    # The prefix has loaded the number, and libseccomp's program loads what it needs anew.
    opened: list[tuple[int, ...]] = [
        (_JUMP_IF_EQUAL, 0, 3, number("sendmsg", arch) or 0),  # both architectures have it
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_EQUAL, 0, 1, channel),
        (_RETURN, 0, 0, _ALLOW),
    ]
    instructions[PREFIX_INSTRUCTIONS:PREFIX_INSTRUCTIONS] = opened
    return b"".join(INSTRUCTION.pack(*one) for one in instructions)


def _denying(program: bytes, action: int) -> list[tuple[int, ...]]:
    """`program`, with `action` where it answers EPERM."""
    return [
        (code, yes, no, action if (code, constant) == (_RETURN, _ERRNO_EPERM) else constant)
        for code, yes, no, constant in INSTRUCTION.iter_unpack(program)
    ]


def compile_levels(policy: Policy, arch: Arch, channel: int) -> dict[str, bytes]:
    """The programs of policy.bpf, sorted: for each level the plain one, and the one for a supervised run."""
    programs: dict[str, bytes] = {}
    for level, at_level in (("chroot", policy), ("landlock", for_landlock(policy))):
        plain = compile_policy(at_level, arch)
        programs[f"{level}{NAMED}"] = named(plain, arch, channel)
        if policy.on_denied == "kill":
            plain = b"".join(INSTRUCTION.pack(*one) for one in _denying(plain, _KILL_PROCESS))
        programs[level] = plain
    return dict(sorted(programs.items()))


def newest_number(policy: Policy, arch: Arch) -> int:
    """The highest number of a call that the policy names; higher ones are answered with ENOSYS.

    As runc does: a program made for a kernel newer than the policy falls back on older calls when it meets
    ENOSYS, as it would on an older kernel, and gives up when it meets EPERM.
    """
    names = [*policy.allowed(), *(rule.name for rule in (*policy.enosys, *policy.kill))]
    return max(found for name in names if (found := number(name, arch)) is not None)


def _newer_calls(policy: Policy, arch: Arch) -> bytes:
    """Kills foreign ABIs, answers ENOSYS to calls newer than the policy, falls through for the rest.

    libseccomp can only say what it has a name for. Jumps are relative, so its program may stand behind this.
    """
    seccomp = libseccomp()
    return b"".join(
        INSTRUCTION.pack(code, if_true, if_false, constant)
        for code, if_true, if_false, constant in (
            (_LOAD, 0, 0, _ARCH),
            (_JUMP_IF_EQUAL, 0, 2, arch.audit_arch),
            (_LOAD, 0, 0, _NUMBER),
            (_JUMP_IF_GREATER_OR_EQUAL, 0, 1, X32_BIT),
            (_RETURN, 0, 0, seccomp.KILL_PROCESS),
            (_JUMP_IF_GREATER, 0, 1, newest_number(policy, arch)),
            (_RETURN, 0, 0, seccomp.ERRNO(errno.ENOSYS)),
        )
    )


def pseudo_code(policy: Policy, arch: Arch) -> str:
    """libseccomp's part of the program, as it tells it to people: PFC."""
    return _exported(_libseccomp_filter(policy, arch).export_pfc).decode()


def _libseccomp_program(policy: Policy, arch: Arch) -> bytes:
    return _exported(_libseccomp_filter(policy, arch).export_bpf)


def _exported(export: Callable[[IO[bytes]], None]) -> bytes:
    with tempfile.TemporaryFile() as file:
        export(file)
        file.seek(0)
        return file.read()


def _libseccomp_filter(policy: Policy, arch: Arch) -> Any:  # the binding has no types
    seccomp = libseccomp()
    program = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    # Ours have killed these before; libseccomp by itself would kill one thread of the process.
    program.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    program.set_attr(seccomp.Attr.CTL_OPTIMIZE, _BY_PRIORITY)
    if seccomp.system_arch() != token(arch):
        program.add_arch(token(arch))
        program.remove_arch(seccomp.system_arch())

    def add(action: int, name: str, *arguments: object) -> None:
        # By name, always: a number would be taken for the build machine's own numbering.
        if number(name, arch) is not None:
            program.add_rule_exactly(action, name, *arguments)

    for rule in policy.kill:
        add(seccomp.KILL_PROCESS, rule.name)
    for rule in policy.enosys:
        add(seccomp.ERRNO(errno.ENOSYS), rule.name)
    for name, lines in policy.allowed().items():
        for line in lines:
            add(
                seccomp.ALLOW,
                name,
                *(
                    seccomp.Arg(one.argument, seccomp.MASKED_EQ, one.mask, one.value)
                    for one in line.conditions
                ),
            )
        if not lines:
            add(seccomp.ALLOW, name)
        elif number(name, arch) is not None:
            # First: the kernel keeps the answer for calls without conditions, and runs no filter for them.
            program.syscall_priority(name, _FIRST)
    return program
