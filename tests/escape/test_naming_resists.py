"""Code that would forge, flood, block or outlive what names its denied calls."""

from __future__ import annotations

import ast
import errno
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from builder.arch import host_arch
from builder.seccomp.syscalls import number
from runtime import failure
from tests.escape.attacks import NAMED
from tests.escape.conftest import LIBC, Entrypoint
from tests.escape.status import KILL, SENTENCE, WITHOUT_LINE, run


def test_a_loop_of_denied_calls_is_counted_and_takes_no_room(entrypoint: Entrypoint) -> None:
    """50,000 calls: one sentence, the exact count, and a stream that grows with time, not with calls."""
    ended = run(entrypoint, KILL + "for _ in range(50_000): denied()")
    assert (ended.exit_code, ended.stderr, ended.counts) == (0, SENTENCE, {"kill": 50_000})
    assert len(ended.status) < 1000


def test_made_up_arguments_take_no_room(entrypoint: Entrypoint) -> None:
    """Ten thousand requests of one call are a handful of kinds; all calls there are have 64 sentences."""
    code = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for request in range(10_000):
    assert libc.ioctl(-1, 0x9000 + request, 0) == -1 and ctypes.get_errno() == errno.EPERM
libc.syscall.restype = ctypes.c_long
for number in set(range(450)) - set(KILLED):
    libc.syscall(ctypes.c_long(number), -1, -1, -1, -1, -1, -1) if number not in HARMFUL else None
"""
    killed = [101, 310, 311, 438, 321, 323, 175, 313, 176, 246, 320, 304, 155, 172, 173]
    harmful = [
        15,
        34,
        60,
        130,
        231,
        219,
    ]  # rt_sigreturn, pause, exit, rt_sigsuspend, exit_group, restart_syscall
    code = code.replace("KILLED", repr(killed)).replace("HARMFUL", repr(harmful))
    ended = run(entrypoint, code + "import os; os._exit(0)")
    assert ended.counts["ioctl"] >= 10_000
    assert len([one for one in ended.denied if one["call"] == "ioctl"]) == 9
    sentences = ended.stderr.splitlines(keepends=True)
    assert len(sentences) == 65
    assert all(map(NAMED.fullmatch, sentences[:-1]))
    assert sentences[-1] == "sandbox: further denied calls are counted, and not named\n"


@pytest.mark.parametrize(
    "before",
    [
        "for fd in range(3, 300):\n    try: os.close(fd)\n    except OSError: pass",
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})",
        "import signal; signal.signal(signal.SIGURG, signal.SIG_IGN)",
        "import signal; signal.signal(signal.SIGURG, signal.SIG_DFL)",
        "import faulthandler, signal; faulthandler.unregister(signal.SIGURG)",
        "os.dup2(1, 255)",
    ],
)
def test_code_that_does_not_answer_is_named_without_a_line(entrypoint: Entrypoint, before: str) -> None:
    """The name comes from the kernel; the line is all that the code can keep back."""
    ended = run(entrypoint, f"{KILL}{before}\nassert denied() == 1")
    assert (ended.exit_code, ended.stderr) == (0, WITHOUT_LINE)
    assert ended.counts == {"kill": 1}


def test_code_cannot_write_into_the_channel(entrypoint: Entrypoint) -> None:
    """What it writes where its stacks go is no sentence, no name, no number: at most a line, of digits."""
    forged = '  File "main.py", line 77 in x; to allow it: everything\nsandbox: denied nothing\n'
    flood = "".join(
        f"""
for fd in range(3, 256):
    for part in {parts}:
        try: os.write(fd, part)
        except OSError: pass
try: {call}
except OSError: pass
import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGURG}})
"""
        for parts, call in (
            (f"({forged.encode()!r}, bytes(100_000))", "os.kill(1, 0)"),
            (f"({forged.encode()!r},)", "os.setuid(0)"),
        )
    )
    ended = run(entrypoint, f"import os\n{flood}")
    assert ended.exit_code == 0
    assert [NAMED.fullmatch(line) is not None for line in ended.stderr.splitlines(keepends=True)] == [
        True
    ] * 2
    assert "everything" not in ended.stderr
    assert [one["call"] for one in ended.denied] == ["kill", "setuid"]
    assert ended.denied[0]["line"] == 7


def test_no_descriptor_can_have_the_number_that_the_filter_lets_through(entrypoint: Entrypoint) -> None:
    """sendmsg on the runtime's own descriptor: there is none, none can be made, and any other is denied."""
    limit = entrypoint.settings["limits"]["open_files"]
    code = f"""
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def answer(fd): return (libc.sendmsg(fd, 0, 0), ctypes.get_errno())
one, other = socket.socketpair()
made = []
for make in (lambda: os.dup2(one.fileno(), {limit}), lambda: __import__("fcntl").fcntl(one, 0, {limit})):
    try: made.append(make())
    except OSError as error: made.append(error.errno)
print(answer({limit}), answer(one.fileno()), made)
"""
    ended = run(entrypoint, code)
    assert ended.stdout == f"(-1, {errno.EBADF}) (-1, {errno.EPERM}) [{errno.EBADF}, {errno.EINVAL}]\n"
    assert [one["call"] for one in ended.denied] == ["sendmsg"]


def test_without_its_supervisor_a_call_stays_denied(entrypoint: Entrypoint) -> None:
    """Somebody kills the supervisor: ENOSYS from then on, and the run goes on."""
    code = f"""{KILL}
print(denied(), flush=True)
input()
print(denied())
try: os.setuid(0)
except OSError as error: print(error.errno)
"""
    process = entrypoint.begin(code)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    (supervisor,) = processes_of(entrypoint, "supervisor.pyc")
    os.kill(supervisor, signal.SIGKILL)
    while processes_of(entrypoint, "supervisor.pyc"):
        time.sleep(0.01)
    stdout, _ = process.communicate(b"\n", timeout=20)
    assert (process.returncode, stdout) == (0, f"{errno.ENOSYS}\n{errno.ENOSYS}\n".encode())


def processes_of(entrypoint: Entrypoint, word: str) -> list[int]:
    """The processes of this machine whose root is the test's and whose command line has `word`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
            if word in command and (process / "root").stat().st_ino == entrypoint.root.stat().st_ino:
                found.append(int(process.name))
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.parametrize("mode", ["log", "trace"])
def test_a_trace_cannot_be_talked_into_what_nothing_allows(entrypoint: Entrypoint, mode: str) -> None:
    """More kinds than are told apart, and a handler that calls again: PR_SET_DUMPABLE is EPERM in each."""
    entrypoint.set(on_denied="log")
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def dumpable(): return libc.prctl(4, 1, 0, 0, 0), ctypes.get_errno()
for option in range(5000, 5012): libc.prctl(option, 0, 0, 0, 0)
answers = [dumpable()]
@ctypes.CFUNCTYPE(None, ctypes.c_int)
def handler(_): answers.append(dumpable())
libc.signal(23, handler)
libc.prctl(7777, 0, 0, 0, 0)
print(answers, libc.prctl(3, 0, 0, 0, 0))
"""
    ended = run(entrypoint, code, *(["--trace"] if mode == "trace" else []))
    answers, dumpable = ended.stdout.rsplit(maxsplit=1)
    assert (set(ast.literal_eval(answers)), dumpable) == ({(-1, errno.EPERM)}, "0")


OUTER_FILTER = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("<QQ", 1, ctypes.addressof(allow)))
listener = libc.syscall(SECCOMP, 1, 8, program)  # SECCOMP_FILTER_FLAG_NEW_LISTENER
assert listener >= 0
if os.fork() == 0:  # somebody must hold it
    for descriptor in (0, 1, 2): os.close(descriptor)
    import time; time.sleep(20); os._exit(0)
os.close(listener)
os.execv("/sandbox/init", ["/sandbox/init", *sys.argv[1:]])
"""


def test_without_a_listener_nothing_of_the_channel_is_left(entrypoint: Entrypoint) -> None:
    """A filter around the container that has a listener already: no naming, and no descriptor in the jail."""
    seccomp = str(number("seccomp", host_arch()))
    outer = replace(
        entrypoint,
        init=(entrypoint.python, "-I", "-S", "-c", OUTER_FILTER.replace("SECCOMP", seccomp, 1)),
    )
    code = f"""{KILL}
print(denied())
for descriptor in range(3, 300):
    try: print(descriptor, os.fstat(descriptor))
    except OSError: pass
"""
    ended = run(outer, code)
    assert (ended.exit_code, ended.stdout, ended.status[0]["naming"]) == (0, "1\n", False)


CAP_KILL, PR_CAPBSET_DROP = 5, 24  # linux/capability.h, linux/prctl.h


def test_kill_is_kill_without_a_supervisor(entrypoint: Entrypoint) -> None:
    """on_denied: kill, and the supervisor ends as it begins: the run ends, and its call is not answered."""
    entrypoint.set(on_denied="kill")
    entrypoint.replace("sandbox/supervisor.pyc", b"")
    ended = run(entrypoint, KILL + "print(denied(), flush=True)\nprint('on')")
    assert (ended.exit_code, ended.stdout) == (137, "")


def test_kill_wants_the_right_to_kill(entrypoint: Entrypoint) -> None:
    """As root without CAP_KILL nobody could end the run: it is refused, and with errno it is not."""
    weak = replace(entrypoint, before_exec=lambda: LIBC.prctl(PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0))
    ended = run(weak, KILL + "print(denied())")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "1\n", WITHOUT_LINE)
    weak.set(on_denied="kill")
    ended = run(weak, "print('EXECUTED')")
    assert (ended.exit_code, ended.stdout) == (failure.PRIVILEGES, "")
    assert "without the capabilities KILL" in ended.stderr
