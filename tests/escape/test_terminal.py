"""The caller's terminal, where it is the run's stdin."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import Place, interpreter
from tests.escape.attacks import Attack, judge, program

ATTACKS = {
    name: Attack(f'call("ioctl", 0, {request}, 0)', outside, "EPERM")
    for name, (request, outside) in {
        "TIOCSTI": ("0x5412", "ENOTTY"),
        "TIOCSTI, with high bits": ("1 << 32 | 0x5412", "ENOTTY"),
        "TIOCLINUX": ("0x541C", "ENOTTY"),
        "TIOCSCTTY": ("0x540E", "ENOTTY"),
        "TIOCNOTTY": ("0x5422", "ENOTTY"),
        "TIOCSPGRP": ("0x5410", "ENOTTY"),
        "TIOCCONS": ("0x541D", "ENOTTY"),
        "TIOCSETD": ("0x5423", "ENOTTY"),
        "TIOCSWINSZ": ("0x5414", "ENOTTY"),
        "TCSETS": ("0x5402", "ENOTTY"),
        "TCFLSH": ("0x540B", "ENOTTY"),
        "FIOASYNC": ("0x5452", "EFAULT"),
        "FIOQSIZE": ("0x5460", "ENOTTY"),
        "FS_IOC_SETFLAGS": ("0x40086602", "EFAULT"),
        "LOOP_SET_FD": ("0x4C00", "ENOTTY"),
        "a request of no driver": ("0x7FFFFFFF", "ENOTTY"),
    }.items()
}


def test_no_request_that_changes_something_is_open(outside: Place, jail: Place, where: str) -> None:
    """EPERM for each, where /dev/null says that it is no terminal."""
    judge(ATTACKS, outside, jail, where)


TYPE = program({"type": r'call("ioctl", 0, 0x5412, b"\n")'})


def typed(command: Sequence[str]) -> tuple[str, int]:
    """What the command printed, run on a terminal of its own, and how many bytes wait there to be read."""
    leader, terminal = pty.openpty()
    try:
        done = subprocess.run(
            command,
            stdin=terminal,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            check=True,
        )
        waiting = int.from_bytes(fcntl.ioctl(terminal, termios.FIONREAD, bytes(4)), sys.byteorder)
    finally:
        os.close(leader)
        os.close(terminal)
    return done.stdout.decode(), waiting


def test_nothing_is_typed_into_the_callers_terminal(root: Path, image: Path) -> None:
    """TIOCSTI: outside, the caller's shell would read a line that it never typed; the run gets EPERM."""
    plain = ["chroot", str(root), *interpreter(root), "-I", "-S", "-c", TYPE]
    assert typed(plain) == ('{"type": "OK"}\n', 1)
    jailed = [sys.executable, "-m", "builder", "run", "--image", str(image), "-c", TYPE]
    assert typed(jailed) == ('{"type": "EPERM"}\n', 0)
