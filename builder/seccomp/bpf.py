"""Evaluates classic BPF as the kernel's seccomp does, for any architecture on any."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from builder.seccomp.compile import INSTRUCTION

ALLOW, LOG, USER_NOTIF, KILL_PROCESS = 0x7FFF0000, 0x7FFC0000, 0x7FC00000, 0x80000000  # linux/seccomp.h

RETURN = 0x06
"""The code of the instruction that ends a program with a constant."""

_DATA = struct.Struct("<IIQ6Q")
"""struct seccomp_data (linux/seccomp.h): number, AUDIT_ARCH_*, instruction pointer, six arguments."""

_ALL_BITS = 0xFFFF_FFFF_FFFF_FFFF


def errno_action(number: int) -> int:
    """SECCOMP_RET_ERRNO with this errno."""
    return 0x00050000 | number


def evaluate(program: bytes, arch: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What the filter answers to one call: SECCOMP_RET_* with its data."""
    return trace(program, arch, number, arguments)[0]


def trace(program: bytes, arch: int, number: int, arguments: Sequence[int] = ()) -> tuple[int, int]:
    """The filter's answer, and how many instructions it took to give it.

    `arch` is an AUDIT_ARCH_*. ValueError for an instruction that libseccomp does not write, and for a program
    that does not end: the kernel would not load it.
    """
    padded = [argument & _ALL_BITS for argument in (*arguments, *[0] * (6 - len(arguments)))]
    data = _DATA.pack(number & 0xFFFF_FFFF, arch, 0, *padded)
    instructions = decode(program)
    accumulator = position = steps = 0
    while position < len(instructions):
        code, if_true, if_false, constant = instructions[position]
        position += 1
        steps += 1
        match code:
            case 0x20:  # load a word of the data
                accumulator = int.from_bytes(data[constant : constant + 4], "little")
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
    raise ValueError("the program ends without an answer")


@lru_cache(maxsize=16)
def decode(program: bytes) -> tuple[tuple[int, int, int, int], ...]:
    """The instructions: code, jump if true, jump if false, constant."""
    return tuple(INSTRUCTION.iter_unpack(program))
