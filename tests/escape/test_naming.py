"""A denied call names itself: which it was, where it was made, and what allows it."""

from __future__ import annotations

import errno
import re
import resource
import signal
from dataclasses import replace

import pytest

from tests.escape.conftest import Entrypoint
from tests.escape.status import KILL, NUMBER, SENTENCE, run


def test_a_denied_call_is_named_once_and_counted(entrypoint: Entrypoint) -> None:
    """One sentence with name, number, line and remedy; in the status, who called whom, and how often."""
    ended = run(entrypoint, KILL + "print([denied() for _ in range(3)])")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, f"{[errno.EPERM] * 3}\n", SENTENCE)
    (one,) = ended.denied
    assert one["arguments"][:2] == [1, 0]
    del one["arguments"]
    assert one == {
        "call": "kill",
        "number": NUMBER,
        "line": 3,
        "stack": [["main.py", 3], ["main.py", 5], ["main.py", 5]][: len(one["stack"])],
        "allow": "syscalls: {groups: [signals]}",
        "danger": "",
        "passed": False,
    }
    assert ended.counts == {"kill": 3}
    assert ended.status[0]["naming"] is True


def test_a_run_that_is_denied_nothing_has_no_supervisor(entrypoint: Entrypoint) -> None:
    """No word on stderr, one line of status."""
    ended = run(entrypoint, "import json, threading, tempfile; print(json.dumps(1))")
    assert (ended.exit_code, ended.stdout, ended.stderr, len(ended.status)) == (0, "1\n", "", 1)


@pytest.mark.parametrize(
    ("lines", "call", "remedy"),
    [
        ("socket.socket()", "socket", "enable_network: true"),
        (
            "socket.socket(16, 3, 0)",
            "socket",
            "enable_network: true and syscalls: {allow: [{socket: {when: "
            '["family == 0x10 and type == 0x80003 and protocol == 0x0"]}}]}',
        ),
        (
            "fcntl.ioctl(0, 0x5414, b'x')",
            "ioctl",
            'syscalls: {allow: [{ioctl: {when: ["request == 0x5414"]}}]}',
        ),
        ("fcntl.ioctl(0, 0x5412, b'x')", "ioctl", "nothing allows it: it types into the terminal"),
        ("os.fork()", "clone", "syscalls: {groups: [processes]}"),
        ("os.setuid(0)", "setuid", "syscalls: {unsafe: [setuid]}"),
        ("os.sync()", "sync", "syscalls: {allow: [sync]}"),
        ("os._exit(210)", "exit_group", "nothing allows it: the codes 208 to 223 are the runtime's own"),
        ("os.memfd_create('x')", "memfd_create", "syscalls: {groups: [memfd]}"),
    ],
)
def test_the_remedy_fits_the_arguments(entrypoint: Entrypoint, lines: str, call: str, remedy: str) -> None:
    """A group where one opens these arguments, else the call alone, with a condition where it can be told."""
    ended = run(entrypoint, f"import fcntl, os, socket\n{lines}")
    assert [(one["call"], one["line"], one["allow"]) for one in ended.denied][:1] == [(call, 2, remedy)]
    # A thread that has blocked signals, as fork(3) does, says where it is after its call.
    assert any(line.startswith("sandbox: ") and line.endswith(remedy) for line in ended.stderr.splitlines())


def test_what_every_program_probes_for_is_denied_without_a_word(entrypoint: Entrypoint) -> None:
    """glibc's search for nscd: EPERM, and no sentence; the same family as Python asks for it has one."""
    nscd = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
    nscd += "print(libc.socket(1, {}, 0), ctypes.get_errno())"
    ended = run(entrypoint, nscd.format(0x80801))
    assert (ended.stdout, ended.stderr, ended.denied) == (f"-1 {errno.EPERM}\n", "", [])
    assert [one["call"] for one in run(entrypoint, nscd.format(0x80001)).denied] == ["socket"]


def test_a_call_of_an_attack_ends_the_run(entrypoint: Entrypoint) -> None:
    """The kernel ends the run, which nobody is asked about; init says why."""
    ended = run(entrypoint, "import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)\nprint('on')")
    assert (ended.exit_code, ended.stdout, ended.denied) == (128 + signal.SIGSYS, "", [])
    assert ended.stderr.startswith("sandbox: error: the run was ended by SIGSYS, ")


def test_libraries_are_told_from_the_code(entrypoint: Entrypoint) -> None:
    """The stack goes down into the library; the line is the code's own, the import or call that led there."""
    ended = run(entrypoint, "import subprocess\nsubprocess.run(['/bin/true'])")
    assert (ended.denied[0]["call"], ended.denied[0]["line"]) == (
        "clone" if "clone" in ended.stderr else "vfork",
        2,
    )
    assert ended.denied[0]["stack"][0][0].endswith("/subprocess.py")


def test_threads_are_all_answered(entrypoint: Entrypoint) -> None:
    """200 threads at once: each gets EPERM, the call is named once, the count is exact."""
    entrypoint.set(limits=entrypoint.settings["limits"] | {"processes": 300, "memory_bytes": 4 << 30})
    code = f"""{KILL}
import threading
threading.stack_size(1 << 18)
barrier = threading.Barrier(200)
answers = []
def work():
    barrier.wait()
    answers.append(denied())
threads = [threading.Thread(target=work) for _ in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(answers == [1] * 200)
"""
    ended = run(entrypoint, code)
    assert (ended.exit_code, ended.stdout, ended.stderr, ended.counts) == (
        0,
        "True\n",
        SENTENCE,
        {"kill": 200},
    )


def test_a_child_is_named_too(entrypoint_with_processes: Entrypoint) -> None:
    """What a forked child is denied counts with the rest, and the code's own wait() finds no stranger."""
    code = f"""{KILL}
child = os.fork()
if child == 0:
    denied(); os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
try: os.wait()
except ChildProcessError: print("none")
denied()
"""
    ended = run(entrypoint_with_processes, code)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "7\nnone\n", SENTENCE)
    assert ended.counts == {"kill": 2}


@pytest.fixture
def entrypoint_with_processes(entrypoint: Entrypoint) -> Entrypoint:
    """An entrypoint whose policy has the group `processes`."""
    entrypoint.set_policy(groups=["processes"])
    return entrypoint


@pytest.mark.parametrize(("mode", "exit_code", "word"), [("kill", 137, "denied"), ("log", 0, "let through")])
def test_on_denied(entrypoint: Entrypoint, mode: str, exit_code: int, word: str) -> None:
    """kill: the first denied call ends the run. log: it is made, and told; a dangerous one is denied."""
    entrypoint.set(on_denied=mode)
    code = "import os\nos.sync()\nprint('on')\ntry: os.setuid(0)\nexcept OSError: print('no')"
    ended = run(entrypoint, code)
    assert ended.exit_code == exit_code
    assert ended.stderr.startswith(f"sandbox: {word} sync (")
    assert ended.stdout == ("" if mode == "kill" else "on\nno\n")


def test_a_trace_lets_through_and_says_nothing(entrypoint: Entrypoint) -> None:
    """--trace: harmless calls succeed, dangerous ones and guarded arguments do not, and the status tells."""
    code = """
import fcntl, os
os.sync()
for call in (lambda: os.setuid(os.getuid()), lambda: fcntl.ioctl(0, 0x5412, b"x"), lambda: os._exit(210)):
    try: call()
    except OSError as error: print(error.errno, flush=True)
"""
    ended = run(entrypoint, code, "--trace")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (139, f"{errno.EPERM}\n{errno.EPERM}\n", "")
    passed = [(one["call"], one["passed"]) for one in ended.denied]
    assert passed == [("sync", True), ("setuid", False), ("ioctl", False), ("exit_group", False)]


def test_where_calls_cannot_be_named_that_is_said_once(entrypoint: Entrypoint) -> None:
    """Without init, or with no descriptor beyond the limit: EPERM all the same, and one note."""
    without_init = replace(entrypoint, init=())
    ended = run(without_init, KILL + "print(denied(), denied())")
    assert (ended.exit_code, ended.stdout, ended.status[0]["naming"]) == (0, "1 1\n", False)
    assert re.fullmatch(r"sandbox: note: denied calls cannot be named here, [^\n]+\n", ended.stderr)

    hard = entrypoint.settings["limits"]["open_files"]
    limited = replace(
        entrypoint, before_exec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    )
    said = limited.run(KILL + "print(denied())")
    assert (said.exit_code, said.stdout, said.stderr) == (0, "1\n", ended.stderr)
