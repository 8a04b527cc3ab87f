"""The test of a compiled policy: it passes what is right, and finds what is wrong, here and in the kernel."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from builder.arch import ARCHES, Arch, host_arch
from builder.errors import ToolMissing, VerificationFailed
from builder.seccomp import Call, Request, effective_policy, kernel, load_groups
from builder.seccomp.bpf import ALLOW, KILL_PROCESS, USER_NOTIF, decode, errno_action, evaluate
from builder.seccomp.catalog import load_catalog
from builder.seccomp.check import Report, check, near_misses, numbers, split
from builder.seccomp.compile import INSTRUCTION, compile_levels, compile_policy
from builder.seccomp.conditions import Condition
from builder.seccomp.snapshot import Snapshot
from builder.seccomp.syscalls import number
from builder.seccomp.vectors import Vector, our_vectors

HOST = host_arch()
CHANNEL = 1024
CATALOG = load_catalog()
RETURN = 0x06
REQUESTS = {
    "default": Request(),
    "core": Request(("core",), replace=True),
    "every-group": Request(tuple(load_groups()), network=True),
    "edited": Request(
        ("numeric",),
        (Call("mlock"), Call("socket", (CATALOG.line("socket", "family == AF_UNIX and type == 1"),))),
        (Call("uname"), Call("madvise", (CATALOG.line("madvise", "advice == MADV_HUGEPAGE"),))),
        unsafe=("ptrace", "io_uring_setup"),
        on_denied="kill",
    ),
}

both_arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)


def tried(
    programs: dict[str, bytes], policy: Snapshot, vectors: Sequence[Vector] = (), *, on_kernel: bool = True
) -> Report:
    return check(programs, policy, vectors, channel=CHANNEL, on_kernel=on_kernel)


def made(name: str, arch: Arch = HOST) -> tuple[dict[str, bytes], Snapshot]:
    policy = effective_policy(REQUESTS[name], arch)
    return compile_levels(policy, arch, CHANNEL), Snapshot.of(policy, arch)


@both_arches
@pytest.mark.parametrize("name", REQUESTS)
def test_what_we_compile_agrees(name: str, arch: Arch) -> None:
    """Every program of every policy agrees with it, in the interpreter, and on this machine's architecture
    in the kernel, call by call over the whole table."""
    programs, policy = made(name, arch)
    report = tried(programs, policy, our_vectors())
    assert report.disagreements == []
    assert report.programs == len(programs) == 4
    assert report.table > 4 * 2 * policy.newest
    assert report.vectors > 250
    if arch == HOST:
        unseen = sum(1 for of, _ in kernel.UNFILTERED if of == arch.name)
        assert report.kernel > (report.table + report.vectors) * 0.98 - 8 * unseen
    else:
        assert report.kernel == 0
        assert report.not_tried == [f"{arch.name}: this machine's kernel is {HOST.name}'s"]


def test_without_the_kernel_only_the_interpreter_answers() -> None:
    """--no-kernel asks it nothing, and has nothing to excuse."""
    report = tried(*made("default"), on_kernel=False)
    assert (report.kernel, report.not_tried, report.disagreements) == (0, [], [])


Change = Callable[[list[tuple[int, int, int, int]]], None]


def spoiled(program: bytes, change: Change) -> bytes:
    instructions = list(decode(program))
    change(instructions)
    assert tuple(instructions) != decode(program)
    return b"".join(INSTRUCTION.pack(*one) for one in instructions)


def allow_what_is_killed(instructions: list[tuple[int, int, int, int]]) -> None:
    index = max(at for at, one in enumerate(instructions) if one[0] == RETURN and one[3] == KILL_PROCESS)
    instructions[index] = (RETURN, 0, 0, ALLOW)


def deny_nothing(instructions: list[tuple[int, int, int, int]]) -> None:
    for at, one in enumerate(instructions):
        if one[0] == RETURN and one[3] == errno_action(1):
            instructions[at] = (RETURN, 0, 0, ALLOW)


def take_every_abi(instructions: list[tuple[int, int, int, int]]) -> None:
    code, yes, _, constant = instructions[3]  # the comparison with the x32 bit
    instructions[3] = (code, yes + 1, 1, constant)


def shift_a_number(instructions: list[tuple[int, int, int, int]]) -> None:
    mine = number("openat", HOST)
    at = next(at for at, one in enumerate(instructions) if one[0] == 0x15 and one[3] == mine)
    code, yes, no, constant = instructions[at]
    instructions[at] = (code, yes, no, constant + 1)


def look_at_fewer_bits(instructions: list[tuple[int, int, int, int]]) -> None:
    at = next(at for at, one in enumerate(instructions) if one[0] == 0x54 and one[3] == 0x243)
    instructions[at] = (0x54, 0, 0, 0x203)  # WRITE_FLAGS without O_CREAT


@pytest.mark.parametrize(
    "change", [allow_what_is_killed, deny_nothing, take_every_abi, shift_a_number, look_at_fewer_bits]
)
def test_a_filter_that_is_wrong_is_found(change: Change) -> None:
    """One changed instruction is found by the interpreter and by the kernel, in the program that has it."""
    programs, policy = made("core")
    programs["chroot"] = spoiled(programs["chroot"], change)
    found = tried(programs, policy).disagreements
    assert {one.program for one in found} == {"chroot"}
    assert {one.who for one in found} == {"interpreter", "kernel"}
    unseen = tuple(f"call ({number})" for _, number in kernel.UNFILTERED)
    calls = {who: {one.call for one in found if one.who == who} for who in ("interpreter", "kernel")}
    assert {one for one in calls["interpreter"] if not one.startswith(unseen)} == calls["kernel"]


@pytest.mark.parametrize(
    ("change", "call"),
    [
        # The listener's way out, on a descriptor more or none.
        (lambda ins: ins.__setitem__(9, (0x15, 0, 1, CHANNEL + 1)), "sendmsg"),
        (lambda ins: ins.__setitem__(9, (0x35, 0, 1, CHANNEL)), "sendmsg"),
        (lambda ins: ins.__setitem__(10, (RETURN, 0, 0, USER_NOTIF)), "sendmsg"),
    ],
)
def test_the_listeners_way_out_is_tested(change: Change, call: str) -> None:
    """sendmsg on the channel's descriptor and no other passes the program that asks the supervisor."""
    programs, policy = made("default")
    programs["chroot named"] = spoiled(programs["chroot named"], change)
    found = tried(programs, policy).disagreements
    assert {one.call.split()[0] for one in found} == {call}
    assert {one.program for one in found} == {"chroot named"}


def test_programs_that_were_swapped_are_found() -> None:
    """The plain program in place of the asking one, or the wrong level's, is not what it should be."""
    programs, policy = made("default")
    for one, other in (("chroot", "chroot named"), ("chroot", "landlock")):
        swapped = programs | {one: programs[other], other: programs[one]}
        assert {each.program for each in tried(swapped, policy).disagreements} == {one, other}


def test_a_vector_that_is_not_met_is_told_with_its_place() -> None:
    """The place of the vector, the call in words, what is wanted, and who says what instead."""
    programs, policy = made("default")
    vector = Vector("mine.yaml:3", "connect", "allow", (3, 0x1000))
    found = tried({"chroot": programs["chroot"]}, policy, [vector]).disagreements
    connect = number("connect", HOST)
    assert [(one.where, one.call, one.wanted, one.got, one.who) for one in found] == [
        ("mine.yaml:3", f"connect ({connect}) with [3, 0x1000]", "allow", "deny (EPERM)", who)
        for who in ("interpreter", "kernel")
    ]


def test_ours_are_set_aside_where_the_config_says_otherwise() -> None:
    """They are counted out by name; a user's vector for the same call is not."""
    programs, policy = made("edited")
    report = tried(programs, policy, our_vectors())
    assert report.disagreements == []
    assert [one.split(": ", 1)[1] for one in report.set_aside] == [
        *("socket: deny", "io_uring_setup: enosys", "ptrace: kill"),
    ]
    mine = [Vector("mine.yaml:1", "ptrace", "kill")]
    assert {one.where for one in tried(programs, policy, mine).disagreements} == {"mine.yaml:1"}


def test_a_policy_bpf_comes_apart_as_it_was_put_together() -> None:
    """In the order of runtime.json."""
    programs, _ = made("default")
    lengths = {name: len(program) // 8 for name, program in programs.items()}
    assert split(b"".join(programs.values()), lengths) == programs


def test_the_table_goes_beyond_every_call() -> None:
    """All numbers to past the newest, some far off, each with the x32 bit too, and negative ones."""
    _, policy = made("default")
    tried_numbers = [*numbers(policy)]
    assert set(range(policy.newest + 10)) <= set(tried_numbers)
    assert {0x3FFF_FFFF, 0x4000_0000, 0x4000_0000 | policy.newest, -1} <= set(tried_numbers)


def test_arguments_are_tried_on_both_sides_of_each_condition() -> None:
    """For each line there are arguments that meet it, and for each of its bits some that miss it by that."""
    lines = [
        (Condition(0, 0xFFFF_FFFF, 2), Condition(1, 0xF, 1)),
        (Condition(0, 0xFFFF_FFFF, 10), Condition(2, 1 << 63, 1 << 63)),
    ]
    found = [*near_misses(lines)]
    for line in lines:
        assert any(all(one.holds(arguments) for one in line) for arguments in found)
        for one in line:
            others = [other for other in line if other != one]
            bits = {
                arguments[one.argument] & one.mask ^ one.value
                for arguments in found
                if all(other.holds(arguments) for other in others)
            }
            assert {1 << bit for bit in range(64) if one.mask >> bit & 1} <= bits
    # Values of one line with those of another: AF_INET with what is for AF_INET6 alone.
    assert [2, 0, 1 << 63, 0, 0, 0] in found


def test_very_many_lines_are_tried_in_time() -> None:
    """Of hundreds of lines each is met once, and each bit of each argument is turned somewhere."""
    for used, count in (((1,), 1000), ((0, 1, 2), 1000), ((0, 1, 2), 300)):
        lines = [
            tuple(Condition(at, 0xFFFF_FFFF, 1000 * at + value) for at in used) for value in range(count)
        ]
        found = [*near_misses(lines)]
        assert len(found) < 12_000
        met = {tuple(arguments) for arguments in found}
        assert all(any(all(one.holds(each) for one in line) for each in met) for line in lines[::100])
        high = {
            (at, bit)
            for arguments in found[2:]  # behind the one with every bit
            for at in used
            for bit in range(32, 64)
            if arguments[at] >> bit & 1
        }
        assert high == {(at, bit) for at in used for bit in range(32, 64)}


# The kernel


def call(name: str) -> int:
    found = number(name, HOST)
    assert found is not None
    return found


ALLOW_ALL = INSTRUCTION.pack(RETURN, 0, 0, ALLOW)


def test_no_call_is_executed() -> None:
    """Calls that would end the child or us come back, with the answer that they met."""
    calls = [
        (call("exit_group"), (0,)),
        (call("kill"), (os.getpid(), signal.SIGKILL)),
        (call("exit"), (0,)),
        (call("execve"), (0, 0, 0)),
        (call("rt_sigreturn"), ()),
    ]
    assert kernel.answers(ALLOW_ALL, calls) == [ALLOW] * 5


def test_each_answer_is_told_apart() -> None:
    """ALLOW, two errnos, the supervisor and the end of the process, for five calls in turn."""
    numbers_ = [call(name) for name in ("read", "write", "close", "lseek")]
    answers = [ALLOW, errno_action(1), errno_action(38), USER_NOTIF]
    program = [(0x20, 0, 0, 0)]
    for one, answer in zip(numbers_, answers, strict=True):
        program += [(0x15, 0, 1, one), (RETURN, 0, 0, answer)]
    program.append((RETURN, 0, 0, KILL_PROCESS))
    packed = b"".join(INSTRUCTION.pack(*one) for one in program)
    made_calls = [(one, ()) for one in (*numbers_, call("getpid"))]
    assert kernel.answers(packed, made_calls) == [*answers, KILL_PROCESS]
    assert [evaluate(packed, 0, one) for one, _ in made_calls] == [*answers, KILL_PROCESS]


def test_all_64_bits_of_all_six_arguments_arrive() -> None:
    """The kernel's filter sees what was asked for, not the half of it."""
    for argument in range(6):
        for bit in (0, 31, 32, 63):
            line = (Condition(argument, 1 << bit, 1 << bit),)
            offset = 16 + 8 * argument + bit // 32 * 4
            program = b"".join(
                INSTRUCTION.pack(*one)
                for one in (
                    *((0x20, 0, 0, offset), (0x54, 0, 0, 1 << bit % 32), (0x15, 1, 0, 1 << bit % 32)),
                    *((RETURN, 0, 0, errno_action(1)), (RETURN, 0, 0, ALLOW)),
                )
            )
            values = [0] * 6
            values[argument] = 1 << bit
            assert line[0].holds(values)
            assert kernel.answers(program, [(call("getpid"), values), (call("getpid"), [0] * 6)]) == [
                *(ALLOW, errno_action(1)),
            ]


def test_a_program_that_the_kernel_refuses_is_a_lack_of_the_machine() -> None:
    """Exit code 3, with the kernel's own word, and the way round."""
    beyond = INSTRUCTION.pack(0x05, 0, 0, 7) + ALLOW_ALL
    with pytest.raises(ToolMissing, match="the kernel does not load the filter: Invalid argument") as caught:
        kernel.answers(beyond, [(call("getpid"), ())])
    assert "--no-kernel" in str(caught.value.hint)


def test_a_child_that_dies_is_told_with_its_call() -> None:
    """What ends the process that makes the calls is named: the filter has not held there."""

    def prepare() -> Callable[[int, Sequence[int]], int]:
        return lambda number, _: 3000 if number == 1 else ctypes.string_at(0)[0]

    started = time.monotonic()
    with pytest.raises(VerificationFailed, match=r"ended, or hung, at call 2 with \[5\]"):
        kernel._answers(ALLOW_ALL, [(1, ()), (2, (5,)), (3, ())], prepare)
    assert time.monotonic() - started < 30  # pytest's handler of such faults, inherited, would not return


def test_a_call_that_is_executed_is_no_answer() -> None:
    """Should a call come back with an errno of the kernel's own, it does not pass for the filter's."""
    policy = effective_policy(Request(), HOST)
    program = compile_policy(policy, HOST)
    marked, meanings = kernel.mark(program)
    assert set(meanings.values()) == {ALLOW, KILL_PROCESS, errno_action(1), errno_action(38)}
    assert all(errno >= 3000 for errno in meanings)
    constants = {constant for code, _, _, constant in decode(marked) if code == RETURN}
    assert constants == {errno_action(errno) for errno in meanings}
    nothing = kernel._answers(ALLOW_ALL, [(1, ())], lambda: lambda *_: 9)
    assert nothing == [errno_action(9)]


def test_another_abi_is_asked_where_the_machine_can() -> None:
    """Numbers of i386 come to the filter as such on amd64; an ABI that nothing here speaks is not tried."""
    programs, policy = made("default")
    found = kernel.foreign_answers(programs["chroot"], "i386", [20, 11, -1])
    assert found in (None, [KILL_PROCESS] * 3)
    by_abi = b"".join(
        INSTRUCTION.pack(*one)
        for one in (
            *((0x20, 0, 0, 4), (0x15, 0, 1, 0x40000003), (RETURN, 0, 0, errno_action(5))),
            (RETURN, 0, 0, ALLOW),
        )
    )
    assert kernel.foreign_answers(by_abi, "i386", [20]) in (None, [errno_action(5)])
    assert kernel.foreign_answers(by_abi, "arm", [20]) is None
    assert (found is None) == (HOST.name != "amd64") or "i386" in str(tried(programs, policy).not_tried)


def test_policies_that_differ_are_not_confused() -> None:
    """A program is tried against its own policy: another's account of it disagrees."""
    programs, policy = made("default")
    other = replace(policy, enosys=())
    found = tried({"chroot": programs["chroot"]}, other, on_kernel=False).disagreements
    assert {one.call.split()[0] for one in found} == {rule.name for rule in CATALOG.enosys}
