"""The default policy under the kernel of this machine: what it must stop.

Each act is done twice, in a child without the filter (the control: the kernel itself would have answered
otherwise) and in a child with it. All acts are harmless: their arguments are such that the kernel refuses
them, or nothing comes of it.
"""

import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Callable, Sequence

import pytest

from builder.arch import host_arch
from builder.seccomp import Request, compile_policy, effective_policy, load_groups
from builder.seccomp.syscalls import number
from tests import bpf

ARCH = host_arch()
LIBC = ctypes.CDLL(None, use_errno=True)
POLICY = effective_policy(Request(), ARCH)
DEFAULT = compile_policy(POLICY, ARCH)
EVERY_GROUP = compile_policy(effective_policy(Request(tuple(load_groups()), network=True), ARCH), ARCH)

Act = Callable[[], int]
Outcome = tuple[str, int]
"""("signal", number), ("exit", code), or ("errno", number), which is 0 where the call succeeded."""


def outcome(act: Act, program: bytes | None) -> Outcome:
    """What becomes of `act`, which returns an errno, in a child under `program`, or under no filter."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if program is not None:
                bpf.load(program)
            os.write(writer, str(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "signal", os.WTERMSIG(status)
    return ("errno", int(said)) if said else ("exit", os.waitstatus_to_exitcode(status))


def raw(call: int, arguments: Sequence[int]) -> int:
    result = LIBC.syscall(ctypes.c_long(call), *(ctypes.c_long(argument) for argument in arguments))
    return ctypes.get_errno() if result == -1 else 0


def call(name: str, *arguments: int) -> Act:
    found = number(name, ARCH)
    assert found is not None
    return lambda: raw(found, arguments)


def on_this_machine(calls: dict[str, tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, arguments) for name, arguments in calls.items() if number(name, ARCH) is not None]


KILLED = {
    "ptrace": (-1, -1, 0, 0),
    "process_vm_readv": (-1, 0, 0, 0, 0, -1),
    "process_vm_writev": (-1, 0, 0, 0, 0, -1),
    "pidfd_getfd": (-1, -1, -1),
    "bpf": (-1, 0, 0),
    "userfaultfd": (-1,),
    "init_module": (0, 0, 0),
    "finit_module": (-1, 0, -1),
    "delete_module": (0, 0),
    "kexec_load": (0, -1, 0, -1),
    "kexec_file_load": (-1, -1, 0, 0, -1),
    "open_by_handle_at": (-1, 0, 0),
    "pivot_root": (0, 0),
    "iopl": (-1,),
    "ioperm": (-1, -1, 1),
}


def test_every_killed_call_is_tried() -> None:
    """The list of this test is the catalog's own."""
    assert set(KILLED) == {rule.name for rule in POLICY.kill}


@pytest.mark.parametrize(("name", "arguments"), on_this_machine(KILLED))
def test_an_attack_ends_the_process(name: str, arguments: tuple[int, ...]) -> None:
    """The call that the kernel would merely refuse ends the process with SIGSYS, whatever groups are open."""
    assert outcome(call(name, *arguments), None)[0] == "errno"
    assert outcome(call(name, *arguments), DEFAULT) == ("signal", signal.SIGSYS)
    assert outcome(call(name, *arguments), EVERY_GROUP) == ("signal", signal.SIGSYS)


@pytest.mark.parametrize(
    ("name", "arguments"),
    on_this_machine(
        {
            "chroot": (0,),
            "unshare": (0,),
            "setns": (-1, 0),
            "mount": (0, 0, 0, 0, 0),
            "umount2": (0, -1),
            "setuid": (os.getuid(),),
            "setgid": (os.getgid(),),
            "setresuid": (-1, -1, -1),
            "setresgid": (-1, -1, -1),
            "capset": (0, 0),
            "seccomp": (-1, -1, 0),
            "landlock_create_ruleset": (0, 0, -1),
            "execveat": (-1, 0, 0, 0, 0),
            "personality": (0xFFFFFFFF,),
            "keyctl": (-1,),
            "perf_event_open": (0, 0, 0, 0, 0),
            "mknodat": (-1, 0, 0o20600, 0),
            "setrlimit": (-1, 0),
            "rt_sigqueueinfo": (-1, 0, 0),
        }
    ),
)
def test_no_group_opens_set_up_calls(name: str, arguments: tuple[int, ...]) -> None:
    """EPERM where the kernel gives another answer, with the default groups and with all of them."""
    assert outcome(call(name, *arguments), None) not in (("errno", errno.EPERM), ("signal", signal.SIGSYS))
    assert outcome(call(name, *arguments), DEFAULT) == ("errno", errno.EPERM)
    assert outcome(call(name, *arguments), EVERY_GROUP) == ("errno", errno.EPERM)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("execve", (0, 0, 0)),
        ("kill", (0, 0)),
        ("tgkill", (0, 0, signal.SIGKILL)),
        ("memfd_create", (0, 0)),
        ("ioctl", (-1, 0x5412, 0)),  # TIOCSTI
        ("fcntl", (-1, 8, 0)),  # F_SETOWN
        ("prctl", (38, 1, 0, 0, 0)),  # PR_SET_NO_NEW_PRIVS
        ("prctl", (4, 1, 0, 0, 0)),  # PR_SET_DUMPABLE
        ("prlimit64", (0, 7, -1, 0)),
        ("clone", (0x00000800, 0, 0, 0, 0)),  # CLONE_SIGHAND without CLONE_VM
        ("clone", (0x10000200, 0, 0, 0, 0)),  # CLONE_NEWUSER | CLONE_FS
        ("socket", (2, 1, 0)),  # AF_INET
        ("socket", (1, 1, 0)),  # AF_UNIX
        ("socket", (16, 3, 0)),  # AF_NETLINK
        ("socket", (38, 5, 0)),  # AF_ALG
        ("socket", (40, 1, 0)),  # AF_VSOCK
        ("socketpair", (1, 2, 0, 0)),  # AF_UNIX, datagrams
        ("sendto", (-1, 0, 0, 0, 1, 16)),
    ],
)
def test_the_default_groups_deny_the_arguments_that_reach_out(name: str, arguments: tuple[int, ...]) -> None:
    """EPERM where the kernel gives another answer."""
    assert outcome(call(name, *arguments), None) != ("errno", errno.EPERM)
    assert outcome(call(name, *arguments), DEFAULT) == ("errno", errno.EPERM)


@pytest.mark.parametrize("name", ["clone3", "openat2", "futex_waitv"])
def test_callers_that_fall_back_get_enosys(name: str) -> None:
    """The kernel has the call, and under the filter it seems not to."""
    assert outcome(call(name, -1, 0, 0, 0, 0), None) not in (("errno", errno.ENOSYS), ("errno", errno.EPERM))
    assert outcome(call(name, -1, 0, 0, 0, 0), DEFAULT) == ("errno", errno.ENOSYS)


def test_a_call_that_nobody_knows_yet_gets_enosys() -> None:
    """The filter answers a number of the future as the kernel does."""
    assert outcome(lambda: raw(999, ()), None) == ("errno", errno.ENOSYS)
    assert outcome(lambda: raw(999, ()), DEFAULT) == ("errno", errno.ENOSYS)


def test_a_number_with_the_x32_bit_ends_the_process() -> None:
    """getpid in the numbering of amd64's x32 ABI; a number of no call on arm64."""
    getpid = number("getpid", ARCH)
    assert getpid is not None
    assert outcome(lambda: raw(0x4000_0000 | getpid, ()), None)[0] == "errno"
    assert outcome(lambda: raw(0x4000_0000 | getpid, ()), DEFAULT) == ("signal", signal.SIGSYS)


@pytest.mark.parametrize(
    "code",
    # mov eax, 20 (getpid of i386); int 0x80; ret
    [bytes.fromhex("b814000000cd80c3")] if ARCH.name == "amd64" else [],
)
def test_the_abi_of_i386_ends_the_process(code: bytes) -> None:
    """Machine code that enters the kernel through int 0x80 is killed, where the control comes back."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    enter = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    assert outcome(lambda: 0 if enter() else errno.EINVAL, None) != ("signal", signal.SIGSYS)
    assert outcome(lambda: 0 if enter() else errno.EINVAL, DEFAULT) == ("signal", signal.SIGSYS)


@pytest.mark.parametrize("name", ["exit", "exit_group"])
def test_machine_code_cannot_exit_as_the_runtime_does(name: str) -> None:
    """Codes 208 to 223 get EPERM and the process lives on; their neighbours end it."""
    for code in (0, 3, 207, 224, 255):
        assert outcome(call(name, code), DEFAULT) == ("exit", code)
    for code in (208, 210, 223):
        assert outcome(call(name, code), None) == ("exit", code)
        assert outcome(call(name, code), DEFAULT) == ("errno", errno.EPERM)
