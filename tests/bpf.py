"""Evaluates classic BPF as the kernel's seccomp does, for any architecture; and has the real kernel do it."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from builder.arch import host_arch
from builder.seccomp.compile import INSTRUCTION
from builder.seccomp.syscalls import number as number_of

ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000  # linux/seccomp.h
PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 38, 1, 1


def errno_action(number: int) -> int:
    """SECCOMP_RET_ERRNO with this errno."""
    return 0x00050000 | number


def evaluate(program: bytes, arch: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What the filter answers to one call: SECCOMP_RET_* with its data."""
    return trace(program, arch, number, arguments)[0]


def trace(program: bytes, arch: int, number: int, arguments: Sequence[int] = ()) -> tuple[int, int]:
    """The filter's answer, and how many instructions it took to give it.

    `arch` is an AUDIT_ARCH_*. ValueError for an instruction that libseccomp does not write. The data are
    struct seccomp_data of linux/seccomp.h.
    """
    padded = [argument & 0xFFFF_FFFF_FFFF_FFFF for argument in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number & 0xFFFF_FFFF, arch, 0, *padded)
    instructions = list(INSTRUCTION.iter_unpack(program))
    accumulator = position = steps = 0
    while True:
        code, if_true, if_false, constant = instructions[position]
        position += 1
        steps += 1
        match code:
            case 0x20:  # load a word of the data
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x54:
                accumulator &= constant
            case 0x05:
                position += constant
            case 0x15:
                position += if_true if accumulator == constant else if_false
            case 0x25:
                position += if_true if accumulator > constant else if_false
            case 0x35:
                position += if_true if accumulator >= constant else if_false
            case 0x45:
                position += if_true if accumulator & constant else if_false
            case 0x06:
                return constant, steps
            case _:
                raise ValueError(f"instruction {position - 1} has the code {code:#x}")


def load(program: bytes) -> None:
    """Puts the calling process under the filter for good, as the runtime does."""
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(program, len(program))
    sock_fprog = struct.pack("@HP", len(program) // INSTRUCTION.size, ctypes.addressof(instructions))
    seccomp = number_of("seccomp", host_arch())
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc.syscall(
        seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, sock_fprog
    ):
        raise OSError(ctypes.get_errno(), "the filter was not loaded")
