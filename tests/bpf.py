"""Puts a process under a filter, as the runtime does."""

from __future__ import annotations

import ctypes
import struct

from builder.arch import host_arch
from builder.seccomp.compile import INSTRUCTION
from builder.seccomp.syscalls import number as number_of

PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 38, 1, 1  # linux/seccomp.h


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
