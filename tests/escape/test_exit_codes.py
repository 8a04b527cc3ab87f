"""Forging an exit code of the runtime's own, 208 to 223, by which a run is taken for one that never was."""

import pytest

from builder.arch import host_arch
from runtime import failure
from tests.conftest import Place
from tests.escape.attacks import REFUSED_EXIT, outcomes

CODES = list(failure.RESERVED)
OTHERS = (CODES[0] - 1, CODES[-1] + 1)
# The kernel keeps the low 8 bits, so that many a number means the same.
WRITTEN_OTHERWISE = (CODES[0] + 256, CODES[-1] - 256, 0x7FFF_FFD5, 1 << 32 | CODES[0])

CHILD = """
child = os.fork()
if child == 0:
    call({call!r}, {code})
    os.abort()
found = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def calls(lines: str) -> dict[str, str]:
    # Named as the program of `attacks` looks for them: call("exit", ...).
    return {
        f"{name}({code})": lines.replace("{call!r}", f'"{name}"').replace("{code}", str(code))
        for name in ("exit", "exit_group")
        for code in (*CODES, *WRITTEN_OTHERWISE)
    }


def test_outside_every_number_ends_a_process(outside: Place) -> None:
    """The control: the low 8 bits of what is asked for."""
    due = {
        f"{name}({code})": str(code & 0xFF)
        for name in ("exit", "exit_group")
        for code in (*CODES, *WRITTEN_OTHERWISE)
    }
    assert outcomes(outside, calls(CHILD)) == due


def test_the_call_refuses_the_runtimes_numbers(jail: Place) -> None:
    """EPERM for each, by whichever call and however it is written: the process lives on, and ends with 0."""
    attempts = calls("call({call!r}, {code})")
    assert outcomes(jail, attempts) == dict.fromkeys(attempts, "EPERM")


@pytest.mark.parametrize("code", OTHERS)
def test_the_neighbours_are_the_codes_own(code: int, bare: Place) -> None:
    """207 and 224 are passed on, as exit codes and as machine code has them."""
    assert bare.run(f"import os; os._exit({code})").exit_code == code
    assert bare.run(f"import sys; sys.exit({code})").exit_code == code


def test_os_exit_ends_the_process_otherwise(outside: Place, jail: Place) -> None:
    """glibc's _exit, refused its call, executes an instruction that user code may not."""
    attack = f"import os; os._exit({CODES[2]})"
    assert outside.run(attack).exit_code == CODES[2]
    assert jail.run(attack).exit_code == 128 + REFUSED_EXIT[host_arch().name]


PYTHON_EXITS = {
    "sys.exit": "import sys; sys.exit(210)",
    "SystemExit": "raise SystemExit(223)",
    "exit": "import builtins, sys; getattr(builtins, 'exit', sys.exit)(208)",
    "above 8 bits": "raise SystemExit(210 + 256)",
    "below 0": "raise SystemExit(210 - 256)",
    "a kind of int": "class Code(int): ...\nraise SystemExit(Code(210))",
    "a kind of SystemExit": "class Exit(SystemExit): ...\nraise Exit(210)",
}


@pytest.mark.parametrize("name", PYTHON_EXITS)
def test_sys_exit_is_told(name: str, outside: Place, bare: Place) -> None:
    """1, and a line on stderr that says why, in place of the number."""
    assert outside.run(PYTHON_EXITS[name]).exit_code in CODES
    ended = bare.run(PYTHON_EXITS[name])
    assert ended.exit_code == 1
    assert ended.stderr.endswith("is the sandbox's own (208 to 223): 1 is used\n")


ROUNDABOUT_EXITS = {
    "after the end": "import atexit, os; atexit.register(os._exit, 210)",
    "from a thread": "import os, threading; threading.Thread(target=os._exit, args=(210,)).start()",
    "from C": "import ctypes; ctypes.CDLL(None).exit(210)",
    "from C, at once": "import ctypes; ctypes.CDLL(None).quick_exit(210)",
    "from a signal handler": (
        "import os, signal\n"
        "signal.signal(signal.SIGALRM, lambda *_: os._exit(210))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()"
    ),
    "from the exception hook": "import os, sys; sys.excepthook = lambda *_: os._exit(210); 1 / 0",
    "the hook's SystemExit": (
        "import sys\ndef hook(*_): raise SystemExit(210)\nsys.excepthook = sys.exit = hook\n1 / 0"
    ),
    "as the last thread": (
        "import ctypes, threading, time\n"
        "libc = ctypes.CDLL(None)\n"
        "threading.Thread(target=time.sleep, args=(0.2,)).start()\n"
        "libc.syscall(60 if __import__('os').uname().machine == 'x86_64' else 93, 210)\n"
        "raise SystemExit(3)"
    ),
}


@pytest.mark.parametrize("name", ROUNDABOUT_EXITS)
def test_no_roundabout_way_ends_with_one(name: str, bare: Place) -> None:
    """Whatever the run ends with, it is none of the runtime's codes."""
    ended = bare.run(ROUNDABOUT_EXITS[name])
    assert ended.exit_code not in CODES
    assert ended.exit_code in (1, 3, 128 + REFUSED_EXIT[host_arch().name])
