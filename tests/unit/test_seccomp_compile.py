"""The programs of policy.bpf: what a supervised run's has in common with the plain one, and what not."""

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest

from builder.arch import ARCHES, Arch
from builder.seccomp import Policy, Request, compile_policy, effective_policy, load_groups
from builder.seccomp.bpf import ALLOW, KILL_PROCESS, RETURN, USER_NOTIF, decode, errno_action, evaluate
from builder.seccomp.catalog import load_catalog
from builder.seccomp.check import near_misses
from builder.seccomp.compile import (
    MAX_INSTRUCTIONS,
    PREFIX_INSTRUCTIONS,
    X32_BIT,
    compile_levels,
    named,
    newest_number,
)
from builder.seccomp.policy import for_landlock
from builder.seccomp.syscalls import number, table

BPF_MAXINSNS = 4096  # linux/bpf_common.h
CHANNEL = 1024
EPERM, ENOSYS = errno_action(errno.EPERM), errno_action(errno.ENOSYS)
REQUESTS = {
    "default": Request(),
    "core": Request(("core",), replace=True),
    "every-group": Request(tuple(load_groups()), network=True),
}

both_arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
every_policy = pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)

Question = tuple[int, int, list[int]]
"""(AUDIT_ARCH_*, number, arguments)."""


def questions(policy: Policy, arch: Arch) -> Iterator[Question]:
    """The whole table and what is beyond it, on both sides of each condition; and by every other ABI."""
    newest, allowed = newest_number(policy, arch), policy.allowed()
    for call in (*range(newest + 20), 1023, X32_BIT - 1):
        lines = allowed.get(table(arch).get(call, ""), ())
        for arguments in near_misses([line.conditions for line in lines]):
            yield arch.audit_arch, call, arguments
        yield arch.audit_arch, call, [CHANNEL, 0, 0, 0, 0, 0]
        yield arch.audit_arch, X32_BIT | call, [0] * 6
        for foreign in {0x40000003, *(other.audit_arch for other in ARCHES.values())} - {arch.audit_arch}:
            yield foreign, call, [0] * 6


def is_channel(question: Question, arch: Arch, channel: int = CHANNEL) -> bool:
    audit_arch, call, arguments = question
    # The kernel takes a descriptor as an int.
    is_sendmsg = (audit_arch, call) == (arch.audit_arch, number("sendmsg", arch))
    return is_sendmsg and arguments[0] & 0xFFFF_FFFF == channel


@both_arches
@every_policy
def test_a_supervised_run_is_asked_about_what_is_denied(request_: Request, arch: Arch) -> None:
    """EPERM becomes the question, and nothing else changes, but for sendmsg(2) on the channel."""
    policy = effective_policy(request_, arch)
    plain = compile_policy(policy, arch)
    supervised = named(plain, arch, CHANNEL)
    seen: dict[int, set[int]] = {}
    for question in questions(policy, arch):
        before, after = evaluate(plain, *question), evaluate(supervised, *question)
        wanted = ALLOW if is_channel(question, arch) else USER_NOTIF if before == EPERM else before
        assert after == wanted, (question, hex(before), hex(after))
        if not is_channel(question, arch):
            seen.setdefault(before, set()).add(after)
    assert seen == {
        ALLOW: {ALLOW},
        EPERM: {USER_NOTIF},
        ENOSYS: {ENOSYS},
        KILL_PROCESS: {KILL_PROCESS},
    }


@both_arches
@pytest.mark.parametrize("channel", [16, 1024, 0x7FFF_FFFF])
def test_the_channel_is_one_descriptor(channel: int, arch: Arch) -> None:
    """Neither its neighbours nor another call on it; the upper half of the argument is none of the number."""
    supervised = named(compile_policy(effective_policy(Request(), arch), arch), arch, channel)
    sendmsg, sendmmsg = number("sendmsg", arch) or 0, number("sendmmsg", arch) or 0

    def answer(call: int, descriptor: int) -> int:
        return evaluate(supervised, arch.audit_arch, call, [descriptor, 5, 0])

    assert answer(sendmsg, channel) == answer(sendmsg, channel | 0xDEAD << 32) == ALLOW
    for other in (0, channel - 1, channel + 1, channel ^ 0x8000_0000, channel << 32, 0xFFFF_FFFF):
        assert answer(sendmsg, other) == USER_NOTIF
    assert answer(sendmmsg, channel) == USER_NOTIF


@both_arches
def test_where_the_programs_differ(arch: Arch) -> None:
    """Four instructions behind the prefix, and the constant of each return that denies; no jump changes."""
    plain = decode(compile_policy(effective_policy(Request(), arch), arch))
    supervised = decode(named(compile_policy(effective_policy(Request(), arch), arch), arch, CHANNEL))
    added = len(supervised) - len(plain)
    assert added == BPF_MAXINSNS - MAX_INSTRUCTIONS == 4
    assert supervised[:PREFIX_INSTRUCTIONS] == plain[:PREFIX_INSTRUCTIONS]
    pairs = zip(plain[PREFIX_INSTRUCTIONS:], supervised[PREFIX_INSTRUCTIONS + added :], strict=True)
    differing = {(one, other) for one, other in pairs if one != other}
    assert differing == {((RETURN, 0, 0, EPERM), (RETURN, 0, 0, USER_NOTIF))}


@both_arches
def test_each_level_has_both_programs(arch: Arch) -> None:
    """In the order of policy.bpf; at landlock, what Landlock does not govern is denied besides."""
    policy = effective_policy(Request(), arch)
    programs = compile_levels(policy, arch, CHANNEL)
    assert [*programs] == ["chroot", "chroot named", "landlock", "landlock named"]
    assert programs["chroot"] == compile_policy(policy, arch)
    assert programs["landlock"] == compile_policy(for_landlock(policy), arch)
    for level in ("chroot", "landlock"):
        assert programs[f"{level} named"] == named(programs[level], arch, CHANNEL)
    ungoverned = {call for call, name in table(arch).items() if name in load_catalog().landlock}
    assert len(ungoverned) >= 3
    for call in table(arch):
        answers = {name: evaluate(one, arch.audit_arch, call) for name, one in programs.items()}
        if call in ungoverned:
            assert list(answers.values()) == [ALLOW, ALLOW, EPERM, USER_NOTIF]
        else:
            assert answers["chroot"] == answers["landlock"]
            assert answers["chroot named"] == answers["landlock named"]


@both_arches
def test_the_channel_is_the_one_that_was_asked_for(arch: Arch) -> None:
    """In the programs for supervised runs, and in those alone."""
    sendmsg = number("sendmsg", arch) or 0
    for channel in (64, 4096):
        programs = compile_levels(effective_policy(Request(), arch), arch, channel)
        answers = {name: evaluate(one, arch.audit_arch, sendmsg, [channel]) for name, one in programs.items()}
        assert answers == {
            "chroot": EPERM,
            "chroot named": ALLOW,
            "landlock": EPERM,
            "landlock named": ALLOW,
        }


@both_arches
def test_on_denied(arch: Arch) -> None:
    """kill: the plain programs end the process where they would deny; log: they deny, since nobody is told.

    A supervised run is asked in every mode, and its programs are the same.
    """
    policy = effective_policy(Request(), arch)
    usual = compile_levels(policy, arch, CHANNEL)
    assert compile_levels(replace(policy, on_denied="log"), arch, CHANNEL) == usual
    killing = compile_levels(replace(policy, on_denied="kill"), arch, CHANNEL)
    for name in ("chroot named", "landlock named"):
        assert killing[name] == usual[name]
    for name in ("chroot", "landlock"):
        changes = set()
        for question in questions(policy, arch):
            before, after = evaluate(usual[name], *question), evaluate(killing[name], *question)
            assert after == (KILL_PROCESS if before == EPERM else before), question
            changes.add(before)
        assert changes == {ALLOW, EPERM, ENOSYS, KILL_PROCESS}
