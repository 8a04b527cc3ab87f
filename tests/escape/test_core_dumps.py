"""A core dump: the run's memory, written by the kernel where the host wants it, past each limit."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence

from tests.conftest import Outside, Place, interpreter
from tests.escape.attacks import Attack, judge
from tests.escape.conftest import Entrypoint

CRASH = "import ctypes; ctypes.string_at(0)"


def crash(command: Sequence[str], enter: Callable[[], object] = lambda: None) -> tuple[int, bool]:
    """By which signal the command ended that may dump as much as it likes, and whether it did."""

    def unlimited() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        enter()

    with subprocess.Popen(command, preexec_fn=unlimited) as process:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_status, ended.si_code == os.CLD_DUMPED


def test_a_crash_leaves_no_core_file(writable: Outside, entrypoint: Entrypoint) -> None:
    """The same crash from the same caller, who allows core files: there is one of the control alone."""
    plain = ["chroot", str(writable.root), *interpreter(writable.root), "-I", "-S", "-c", CRASH]
    assert crash(plain) == (signal.SIGSEGV, True)
    assert crash(entrypoint.command("-c", CRASH), entrypoint.enter) == (128 + signal.SIGSEGV, False)


ATTACKS = {
    "a limit of its own": Attack('call("setrlimit", 4, (ctypes.c_uint64 * 2)(0, 0))', "OK", "EPERM"),
    "dumpable": Attack('call("prctl", 4, 1)', "OK", "EPERM"),
    "is dumpable": Attack('found = call("prctl", 3)', "1", "0"),
}


def test_core_files_stay_off(outside: Place, jail: Place, where: str) -> None:
    """The limit is 0 and cannot be raised; and the process is not dumpable, which no limit can change."""
    judge(ATTACKS, outside, jail, where)
