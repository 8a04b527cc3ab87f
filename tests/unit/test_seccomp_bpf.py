"""The compiled filter, evaluated instruction by instruction for both architectures."""

import errno
import itertools
from collections.abc import Iterator

import pytest

from builder.arch import ARCHES, Arch
from builder.errors import BuildError
from builder.seccomp import Call, Policy, Request, compile_policy, effective_policy, load_groups
from builder.seccomp.bpf import ALLOW, KILL_PROCESS, errno_action, evaluate, trace
from builder.seccomp.catalog import Line, load_catalog
from builder.seccomp.compile import INSTRUCTION, MAX_INSTRUCTIONS, newest_number
from builder.seccomp.syscalls import known_names, number

EPERM, ENOSYS = errno_action(errno.EPERM), errno_action(errno.ENOSYS)
NULL, POINTER, GARBAGE = 0, 0x7F00_0000_1000, 0xDEAD_BEEF_0000_0000
CATALOG = load_catalog()


def call(name: str, *when: str) -> Call:
    return Call(name, tuple(CATALOG.line(name, text) for text in when))


REQUESTS = {
    "bare": Request(("core",), replace=True),
    "default": Request(),
    "every-group": Request(tuple(load_groups()), network=True),
    "edited": Request(
        groups=("threads",),
        allow=(
            call("socket", "family == AF_UNIX and type == 1", "family == AF_UNIX and protocol & 0xff == 0"),
            *(call("mlock"), call("openat2"), call("mbind", "arg5 & 0xffffffffffffffff == 0x100000001")),
        ),
        deny=(call("ioctl"), call("fcntl", "cmd & 3 == 3")),
        unsafe=("ptrace", "io_uring_setup"),
        numbers=(41, 203, 9999, "mount"),
    ),
}


DENIALS = [
    ((), ("mode == 5",)),
    ((), ("mode & 6 == 2", "mode & 6 == 4", "flags == 1")),
    ((), ("mode == 1 and flags & 3 == 2",)),
    ((), ("arg0 & 0xffffffffffffffff == 0x100000001", "arg0 == NULL")),
    (("mode == 1", "mode == 2 and flags & 2 == 0"), ("flags & 1 == 0", "mode == 1 and flags == 3")),
    (("mode & 0xf0 == 0",), ("mode == 0", "mode == 1", "mode == 2 and arg0 == NULL")),
]
"""Conditions of mbind in allow (none: allowed in whole), and in deny."""


def made(name: str, arch: Arch) -> Policy:
    return effective_policy(REQUESTS[name], arch)


both_arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
every_policy = pytest.mark.parametrize("policy", REQUESTS)


def answer(policy: str, arch: Arch, name: str, *arguments: int) -> int:
    found = number(name, arch)
    assert found is not None, f"{name} is no call of {arch.name}"
    return evaluate(compile_policy(made(policy, arch), arch), arch.audit_arch, found, arguments)


def near_misses(lines: tuple[Line, ...]) -> Iterator[list[int]]:
    """Arguments that meet a line or nearly do: each value that a line names, with each bit turned."""
    if not lines:
        yield from ([0] * 6, [2**64 - 1] * 6)
        return
    conditions = [condition for line in lines for condition in line.conditions]
    used = sorted({condition.argument for condition in conditions})
    values = [sorted({one.value for one in conditions if one.argument == index}) for index in used]
    for chosen in itertools.product(*values):
        arguments = [0] * 6
        for index, value in zip(used, chosen, strict=True):
            arguments[index] = value
        yield arguments
        for index, bit in itertools.product(used, range(64)):
            yield [value ^ (1 << bit) if at == index else value for at, value in enumerate(arguments)]


@both_arches
@every_policy
def test_the_filter_does_what_the_policy_says_over_the_whole_table(policy: str, arch: Arch) -> None:
    """Each number, with arguments on both sides of each condition, gets the answer that the policy has."""
    has = made(policy, arch)
    program = compile_policy(has, arch)
    by_number = {number(name, arch): name for name in known_names()}
    allowed, newest = has.allowed(), newest_number(has, arch)
    killed, absent = {rule.name for rule in has.kill}, {rule.name for rule in has.enosys}
    for candidate in range(newest + 1):
        name = by_number.get(candidate, "")
        for arguments in near_misses(allowed.get(name, ())):
            lines = allowed.get(name)
            if name in killed:
                expected = KILL_PROCESS
            elif name in absent:
                expected = ENOSYS
            elif lines is not None and (not lines or any(line.holds(arguments) for line in lines)):
                expected = ALLOW
            else:
                expected = EPERM
            assert evaluate(program, arch.audit_arch, candidate, arguments) == expected, (name, arguments)


@both_arches
@every_policy
def test_a_call_newer_than_the_policy_gets_enosys(policy: str, arch: Arch) -> None:
    """Above the newest number that the policy names the answer is a kernel's that has no such call."""
    has = made(policy, arch)
    program = compile_policy(has, arch)
    for candidate in (newest_number(has, arch) + 1, 600, 1000, 0x3FFF_FFFF):
        assert evaluate(program, arch.audit_arch, candidate) == ENOSYS


@both_arches
@pytest.mark.parametrize("call", [0, 39, 59, 231, 999])
def test_another_abi_is_killed_whatever_it_asks(arch: Arch, call: int) -> None:
    """x32 numbers, negative ones, i386, 32-bit Arm and the other architecture end the process."""
    program = compile_policy(made("every-group", arch), arch)
    assert evaluate(program, arch.audit_arch, 0x4000_0000 | call) == KILL_PROCESS
    assert evaluate(program, arch.audit_arch, -1 - call) == KILL_PROCESS
    foreign = {0x4000_0003, 0x4000_0028, 0xC000_003E, 0xC000_00B7, 0} - {arch.audit_arch}
    for audit_arch in foreign:
        assert evaluate(program, audit_arch, call) == KILL_PROCESS
        # libseccomp's part, behind our seven instructions, holds by itself.
        assert evaluate(program[7 * INSTRUCTION.size :], audit_arch, call) == KILL_PROCESS


@both_arches
@pytest.mark.parametrize("name", ["exit", "exit_group"])
def test_the_runtimes_own_exit_codes_cannot_be_produced(arch: Arch, name: str) -> None:
    """Of all codes, whatever stands above the low 8 bits, exactly 208 to 223 are refused."""
    for code, high in itertools.product(range(256), (0, 0x100, 0xFFFF_FF00, GARBAGE)):
        expected = EPERM if 208 <= code <= 223 else ALLOW
        assert answer("bare", arch, name, high | code) == expected


@both_arches
@pytest.mark.parametrize(
    ("name", "arguments", "in_default", "in_every_group"),
    [
        # What glibc passes for a thread, and musl; a fork; vfork and posix_spawn.
        ("clone", (0x003D0F00, POINTER), ALLOW, ALLOW),
        ("clone", (0x007D0F00, POINTER), ALLOW, ALLOW),
        ("clone", (0x01200011, NULL), EPERM, ALLOW),
        ("clone", (0x00004111, NULL), EPERM, ALLOW),
        # Threads and forks with CLONE_NEWUSER, NEWNS, NEWNET, NEWPID, NEWCGROUP; CLONE_PARENT; CLONE_PTRACE.
        ("clone", (0x103D0F00, POINTER), EPERM, EPERM),
        *(
            ("clone", (0x11 | flag, NULL), EPERM, EPERM)
            for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x02000000, 0x00008000, 0x00002000)
        ),
        # The high half of an int is not looked at, as the kernel does not.
        ("ioctl", (1, 0x5413), ALLOW, ALLOW),
        ("ioctl", (1, GARBAGE | 0x5413), ALLOW, ALLOW),
        ("ioctl", (1, 0x5412), EPERM, EPERM),  # TIOCSTI
        ("ioctl", (1, GARBAGE | 0x5412), EPERM, EPERM),
        ("fcntl", (3, 4), ALLOW, ALLOW),
        ("fcntl", (3, 8), EPERM, EPERM),  # F_SETOWN
        ("fcntl", (3, 15), EPERM, EPERM),  # F_SETOWN_EX
        ("fcntl", (3, 10), EPERM, EPERM),  # F_SETSIG
        ("fcntl", (3, 1033), EPERM, ALLOW),  # F_ADD_SEALS
        ("prctl", (15, POINTER), ALLOW, ALLOW),  # PR_SET_NAME
        ("prctl", (39,), ALLOW, ALLOW),  # PR_GET_NO_NEW_PRIVS
        *(("prctl", (option,), EPERM, EPERM) for option in (1, 4, 8, 22, 24, 28, 38, 47, 0x59616D61)),
        ("prlimit64", (0, 7, NULL, POINTER), ALLOW, ALLOW),
        ("prlimit64", (0, 7, POINTER, NULL), EPERM, EPERM),
        ("prlimit64", (0, 7, 1 << 32, NULL), EPERM, EPERM),
        ("prlimit64", (1, 7, NULL, POINTER), EPERM, EPERM),
        ("tgkill", (2, 2, 6), ALLOW, ALLOW),
        ("tgkill", (2, 2, 9), EPERM, ALLOW),
        # AF_UNIX stream pairs, for asyncio; no datagram pair, no other family, no address.
        ("socketpair", (1, 0x80801, 0, POINTER), ALLOW, ALLOW),
        ("socketpair", (1, 2, 0, POINTER), EPERM, EPERM),
        ("socketpair", (30, 1, 0, POINTER), EPERM, EPERM),
        ("sendto", (3, POINTER, 1, 0, NULL, 0), ALLOW, ALLOW),
        ("sendto", (3, POINTER, 1, 0, POINTER, 16), EPERM, ALLOW),
        ("sendmsg", (3, POINTER, 0), EPERM, ALLOW),
        # TCP and UDP over IPv4 and IPv6, with the group network alone.
        *(
            ("socket", arguments, EPERM, ALLOW)
            for arguments in ((2, 0x80001, 6), (2, 1, 0), (10, 0x80802, 17), (10, 2, 0), (GARBAGE | 2, 1, 6))
        ),
        # Raw, SOCK_PACKET, unix, netlink, packet, alg, vsock, xdp; SCTP, MPTCP, ICMP.
        *(
            ("socket", arguments, EPERM, EPERM)
            for arguments in (
                *((2, 3, 1), (2, 10, 768), (1, 1, 0), (16, 3, 0), (17, 3, 0), (38, 5, 0), (40, 1, 0)),
                *((44, 3, 0), (2, 1, 132), (2, 1, 262), (2, 2, 1), (10, 2, 58), (2, 1, 17), (2, 2, 6)),
            )
        ),
        ("setsockopt", (3, 6, 1), EPERM, ALLOW),
        ("setsockopt", (3, 282, 1), EPERM, EPERM),  # SOL_TLS
        ("sched_setaffinity", (0, 8, POINTER), EPERM, ALLOW),
        ("sched_setaffinity", (1, 8, POINTER), EPERM, EPERM),
        ("openat", (3, POINTER, 0o101, 0o600), ALLOW, ALLOW),
        ("mmap", (NULL, 4096, 5, 2, 3, 0), ALLOW, ALLOW),
        ("execve", (POINTER, POINTER, POINTER), EPERM, ALLOW),
        ("kill", (1, 9), EPERM, ALLOW),
        ("memfd_create", (POINTER, 1), EPERM, ALLOW),
        *(
            (name, (), EPERM, EPERM)
            for name in (
                *("setuid", "setgid", "setgroups", "setresuid", "setfsuid", "capset", "chroot", "unshare"),
                *("setns", "mount", "umount2", "seccomp", "landlock_restrict_self", "execveat", "setrlimit"),
                *("personality", "rt_sigqueueinfo", "perf_event_open", "keyctl", "mknodat", "setsid"),
                *("setpgid", "fchownat", "sync", "vmsplice", "shmget", "mq_open"),
            )
        ),
        *((name, (), ENOSYS, ENOSYS) for name in ("clone3", "openat2", "io_uring_setup", "futex_waitv")),
        *((name, (), KILL_PROCESS, KILL_PROCESS) for name in ("ptrace", "process_vm_writev", "bpf")),
    ],
)
def test_what_must_and_must_not_pass(
    arch: Arch, name: str, arguments: tuple[int, ...], in_default: int, in_every_group: int
) -> None:
    """Calls with numbers written out by hand, not taken from the catalog, get the answer that is meant."""
    assert answer("default", arch, name, *arguments) == in_default
    assert answer("every-group", arch, name, *arguments) == in_every_group


@both_arches
def test_the_bare_core_reads_files_and_does_not_write(arch: Arch) -> None:
    """Without the group files, no flag that writes, creates or truncates gets through openat."""
    for flags in (0, 0o2000000, 0o2200000, 0o10000000):  # O_RDONLY, O_CLOEXEC, with O_DIRECTORY, O_PATH
        assert answer("bare", arch, "openat", 3, POINTER, flags) == ALLOW
    for flags in (1, 2, 3, 0o100, 0o1000, 0o20000001):  # O_WRONLY, O_RDWR, both, O_CREAT, O_TRUNC, O_TMPFILE
        assert answer("bare", arch, "openat", 3, POINTER, flags) == EPERM


@both_arches
def test_the_same_policy_gives_the_same_bytes(arch: Arch) -> None:
    """A policy compiled twice, from names in another order, is the same file."""
    one = effective_policy(Request(("processes", "exec"), (Call("mlock"), Call("kill"))), arch)
    other = effective_policy(Request(("exec", "processes"), (Call("kill"), Call("mlock"))), arch)
    assert compile_policy(one, arch) == compile_policy(other, arch)


@both_arches
def test_no_filtered_call_takes_more_than_a_few_dozen_instructions(arch: Arch) -> None:
    """Calls with conditions come first: of all allowed ones, the kernel runs the filter for them alone."""
    policy = made("default", arch)
    program = compile_policy(policy, arch)
    conditional = [name for name, lines in policy.allowed().items() if lines]
    assert len(conditional) > 8
    for name in conditional:
        if (found := number(name, arch)) is not None:
            assert trace(program, arch.audit_arch, found)[1] <= 40


@both_arches
@pytest.mark.parametrize(("allowed", "denied"), DENIALS)
def test_denied_arguments_and_no_others_are_taken_out(
    arch: Arch, allowed: tuple[str, ...], denied: tuple[str, ...]
) -> None:
    """A call with conditions in deny passes exactly where allow has it and none of deny's conditions hold."""
    have, taken = call("mbind", *allowed), call("mbind", *denied)
    program = compile_policy(effective_policy(Request(allow=(have,), deny=(taken,)), arch), arch)
    found = number("mbind", arch)
    assert found is not None
    answers = set()
    few = itertools.product((0, 1, 1 << 32, 1 << 32 | 1), [0], range(8), [0], [0], range(4))
    for arguments in [*near_misses(have.lines + taken.lines), *few]:
        passes = not have.lines or any(line.holds(arguments) for line in have.lines)
        passes = passes and not any(line.holds(arguments) for line in taken.lines)
        assert evaluate(program, arch.audit_arch, found, arguments) == (ALLOW if passes else EPERM), arguments
        answers.add(passes)
    assert answers == {True, False}


@both_arches
def test_a_thousand_conditions_are_loaded_whole(arch: Arch) -> None:
    """Each of 1,000 conditions of one call is in the filter, and what lies between them is not."""
    many = call("ioctl", *(f"request == {value}" for value in range(0, 20000, 20)))
    program = compile_policy(effective_policy(Request(allow=(many,)), arch), arch)
    ioctl = number("ioctl", arch)
    assert ioctl is not None
    assert len(program) / INSTRUCTION.size <= MAX_INSTRUCTIONS
    assert all(evaluate(program, arch.audit_arch, ioctl, (0, at)) == ALLOW for at in range(0, 20000, 20))
    assert all(evaluate(program, arch.audit_arch, ioctl, (0, at)) == EPERM for at in range(1, 20000, 20))


@both_arches
def test_a_policy_longer_than_the_kernel_loads_is_refused(arch: Arch) -> None:
    """5,000 conditions make more instructions than the kernel takes: the build ends, and nothing is cut."""
    many = tuple(
        call(name, *(f"arg1 == {value}" for value in range(first, first + 1000)))
        for first, name in enumerate(("ioctl", "mbind", "mlock", "tee", "splice"), start=30000)
    )
    with pytest.raises(BuildError, match=rf"instructions, and the kernel loads at most {MAX_INSTRUCTIONS}"):
        compile_policy(effective_policy(Request(allow=many), arch), arch)
