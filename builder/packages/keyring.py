"""Runs at the head of a confined build, on this machine: leaves our session keyring, and becomes a program.

    keyring.py NUMBER PROGRAM ARGUMENT...

NUMBER is that of keyctl(2). Whoever has a session keyring may read what is in it, whatever his uid; a new one
is empty. A program of its own, because a forked process that has threads can do little before it execs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_JOIN_SESSION_KEYRING = 1


def main(number: str, *command: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    joined = libc.syscall(ctypes.c_long(int(number)), ctypes.c_long(_JOIN_SESSION_KEYRING), ctypes.c_void_p())
    # A kernel without keys, or a container that refuses keyctl(2) to us and so to the build, too.
    if joined == -1 and ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        sys.exit(f"keyctl: {os.strerror(ctypes.get_errno())}")
    os.execvp(command[0], command)  # noqa: S606 - the command is ours


if __name__ == "__main__":
    main(*sys.argv[1:])
