"""Has this machine's kernel run a filter on real system calls, none of which is executed.

Only the constants that the filter answers with are replaced, each by an errno of its own: so every call comes
back at once, whatever its arguments, and says which answer it met. Needs no privilege.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import signal
import struct
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from builder.arch import host_arch
from builder.errors import ToolMissing, VerificationFailed
from builder.seccomp.bpf import RETURN, decode, errno_action
from builder.seccomp.compile import INSTRUCTION
from builder.seccomp.syscalls import number

Call = tuple[int, Sequence[int]]
"""Number, and up to six arguments."""

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER = 1, 38, 1  # linux/prctl.h, linux/seccomp.h

_FIRST_MARK = 3000
"""Errnos that no kernel gives; the filter may answer with any up to 4095."""

_TIMEOUT_S = 60.0
_HEADER = struct.Struct("ii")
"""How many calls were made, and the errno with which the filter was refused."""
_UNDER_WAY = -1

UNFILTERED = {("amd64", 335): "uretprobe", ("amd64", 336): "uprobe"}
"""Calls that newer kernels (seen on 6.18) show to no filter: only the trampoline of a probe may make them.

Anybody else's process is ended (SIGILL), so they cannot be tried.
"""

_ENTRIES = {
    # push rbx, rbp; eax = the argument; ebx, ecx, edx, esi, edi, ebp = 0; int 0x80; pop rbp, rbx; ret
    ("amd64", "i386"): bytes.fromhex("535589f831db31c931d231f631ff31edcd805d5bc3"),
}
"""Machine code for this architecture that makes a call of another ABI: int f(int number)."""


def load(program: bytes) -> None:
    """Puts the calling thread under the filter for good; OSError where the kernel refuses it."""
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(program, len(program))
    sock_fprog = struct.pack("@HP", len(program) // INSTRUCTION.size, ctypes.addressof(instructions))
    seccomp = number("seccomp", host_arch())
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        seccomp, SECCOMP_SET_MODE_FILTER, 0, sock_fprog
    ):
        raise OSError(ctypes.get_errno(), "the filter was not loaded")


def mark(program: bytes) -> tuple[bytes, dict[int, int]]:
    """The program with an errno for each of its answers; and the answer (SECCOMP_RET_*) behind each errno."""
    instructions = decode(program)
    answers = dict.fromkeys(constant for code, _, _, constant in instructions if code == RETURN)
    marks = {answer: _FIRST_MARK + index for index, answer in enumerate(answers)}
    marked = b"".join(
        INSTRUCTION.pack(code, yes, no, errno_action(marks[constant]) if code == RETURN else constant)
        for code, yes, no, constant in instructions
    )
    return marked, {errno: answer for answer, errno in marks.items()}


def answers(program: bytes, calls: Sequence[Call]) -> list[int]:
    """What the kernel, running `program`, answers to each call: SECCOMP_RET_* with its data."""
    return _answers(program, calls, _native)


def foreign_answers(program: bytes, abi: str, numbers: Sequence[int]) -> list[int] | None:
    """The same for calls by another ABI, without arguments; None where this machine cannot make them."""
    code = _ENTRIES.get((host_arch().name, abi))
    if code is None:
        return None
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    enter = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    if not _survives(lambda: enter(-1)):  # a kernel without CONFIG_IA32_EMULATION, or with ia32_emulation=off
        return None
    return _answers(program, [(one, ()) for one in numbers], lambda: lambda call, _: -enter(call))


def _native() -> Callable[[int, Sequence[int]], int]:
    """A function that makes one call and returns its errno, 0 where it has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.argtypes = [ctypes.c_long] * 7
    libc.syscall.restype = ctypes.c_long

    def make(call: int, arguments: Sequence[int]) -> int:
        return ctypes.get_errno() if libc.syscall(call, *arguments) == -1 else 0

    return make


def _answers(
    program: bytes, calls: Sequence[Call], prepare: Callable[[], Callable[[int, Sequence[int]], int]]
) -> list[int]:
    marked, meanings = mark(program)
    padded = [(call, (*arguments, *[0] * (6 - len(arguments)))) for call, arguments in calls]
    with mmap.mmap(-1, _HEADER.size + 4 * (len(calls) + 1)) as shared:
        _HEADER.pack_into(shared, 0, 0, _UNDER_WAY)
        child = os.fork()
        if child == 0:
            _make_calls(marked, padded, shared, prepare)
        try:
            made, refused = _wait(child, shared, len(calls))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if refused > 0:
            raise ToolMissing(
                f"the kernel does not load the filter: {os.strerror(refused)}",
                "it needs CONFIG_SECCOMP_FILTER, and no emulator between; --no-kernel leaves the kernel out",
            )
        errnos = struct.unpack_from(f"{made}i", shared, _HEADER.size)
    if made < len(calls):
        call, arguments = calls[made]
        raise VerificationFailed(
            f"the process that tries calls ended, or hung, at call {call} with {list(arguments)}",
            "it should have come back at once: please report it with this kernel's version",
        )
    # An errno that is none of ours: the call was executed, or another filter stands before this one.
    return [meanings.get(errno, errno_action(errno)) for errno in errnos]


def _make_calls(
    marked: bytes,
    calls: Sequence[Call],
    shared: mmap.mmap,
    prepare: Callable[[], Callable[[int, Sequence[int]], int]],
) -> NoReturn:
    """The child's part. Once the filter is loaded no call of its own is executed either, exit included."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for fault in (signal.SIGSEGV, signal.SIGILL, signal.SIGBUS):
            signal.signal(fault, signal.SIG_DFL)  # no handler could return
        # It cannot sleep: where its parent should be stopped, it does not spin for good.
        resource.setrlimit(resource.RLIMIT_CPU, (int(_TIMEOUT_S), int(_TIMEOUT_S)))
        make = prepare()
        numbers = (ctypes.c_int * (2 + len(calls))).from_buffer(shared)
        gc.disable()
        try:
            load(marked)
        except OSError as error:
            numbers[1] = error.errno or 1
            os._exit(1)
        numbers[1] = 0
        for index, (call, arguments) in enumerate(calls):
            numbers[2 + index] = make(call, arguments)
            numbers[0] = index + 1
        while True:  # until the parent has read them
            pass
    finally:
        os._exit(1)


def _wait(child: int, shared: mmap.mmap, wanted: int) -> tuple[int, int]:
    """How many calls the child has made once it is done, has ended or takes too long; and its errno."""
    end = time.monotonic() + _TIMEOUT_S
    while True:
        made, refused = _HEADER.unpack_from(shared)
        # WNOWAIT: it is reaped where it is killed, so its id cannot become another process's between.
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if (made == wanted and refused == 0) or refused > 0 or ended or time.monotonic() > end:
            made, refused = _HEADER.unpack_from(shared)
            return made, refused
        time.sleep(0.001)


def _survives(act: Callable[[], object]) -> bool:
    """Whether a process that does `act` lives on."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0
