"""`sandbox-build trace`: in the real jail, what code needs is found, named, explained and written."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.arch import host_arch
from tests.conftest import Result, result_of, sandbox_build

TRACE = (sys.executable, "-m", "builder", "trace", "--image")
NICE = "import os\nos.nice(0)\n"
SETPRIORITY = "syscalls:\n  allow: [setpriority]\n"

Trace = Callable[..., Result]

# Beyond the policy: sockets of an import, calls of threads, a child and its own, dangerous ones; it fails.
MIXED = """\
import os, sys, threading
import socket

def work():
    os.nice(0)
    os.sched_setaffinity(0, os.sched_getaffinity(0))

threads = [threading.Thread(target=work) for _ in range(50)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
socket.socket()
child = os.fork()
if child == 0:
    os.memfd_create("x")
    os._exit(0)
os.waitpid(child, 0)
try:
    os.chroot("/")
except PermissionError:
    print("no chroot")
print("error", file=sys.stderr)
sys.exit(3)
"""
MIXED_CONFIG = {
    "enable_network": True,
    "syscalls": {"groups": ["memfd", "numeric", "processes"], "allow": ["setpriority"]},
}


@pytest.fixture
def trace(image: Path) -> Trace:
    """`sandbox-build trace` of the shipped config's image."""

    def trace(*arguments: str, stdin: str | None = None) -> Result:
        return result_of([*TRACE, str(image), *arguments], stdin, 60)

    return trace


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A script that needs something of everything."""
    path = tmp_path / "mixed.py"
    path.write_text(MIXED)
    return path


def calls(done: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout)["calls"]
    return found


# What is found


def test_everything(trace: Trace, mixed: Path) -> None:
    """Calls of imports, threads and children: counted, with their place, riskiest first, with one config."""
    done = trace("--json", str(mixed))
    assert done.exit_code == 0
    found = {one["call"]: (one["count"], one["where"], one["led_by"], one["passed"]) for one in calls(done)}
    assert list(found) == [
        *("chroot", "setpriority", "socket", "clone", "wait4", "memfd_create", "sched_setaffinity")
    ]
    lines = [line.strip() for line in MIXED.splitlines()]
    for call, count, text, passed in (
        ("chroot", 1, 'os.chroot("/")', False),
        ("setpriority", 50, "os.nice(0)", True),
        ("memfd_create", 1, 'os.memfd_create("x")', True),
    ):
        assert found[call] == (count, f"{mixed}:{lines.index(text) + 1}: {text}", None, passed)
    count, where, led_by, _ = found["socket"]
    assert (count, led_by) == (1, f"{mixed}:{lines.index('socket.socket()') + 1}: socket.socket()")
    assert re.match(r"/usr/lib/python3[.0-9]*/socket\.py:[0-9]+$", where)
    data = json.loads(done.stdout)
    assert yaml.safe_load(data["config"]) == MIXED_CONFIG
    assert yaml.safe_load(data["unsafe_config"]) == {"syscalls": {"unsafe": ["chroot"]}}
    assert (data["ended"], data["whole"], data["runs"]) == ("exit code 3", True, 1)


def test_streams(trace: Trace, mixed: Path) -> None:
    """stdout has the result alone, the same bytes each time; what the code prints is on stderr."""
    first, second = trace(str(mixed)), trace(str(mixed))
    assert first.stdout == second.stdout
    assert "no chroot\n" in first.stderr
    assert "error\n" in first.stderr
    assert "warning: the code ended with exit code 3" in first.stderr
    assert yaml.safe_load(first.stdout.partition("config.yaml:\n")[2]) == MIXED_CONFIG


def test_nothing_beyond(trace: Trace) -> None:
    """Code that the policy suffices for: one line, and exit code 0."""
    done = trace("-c", "print('fine')")
    assert (done.exit_code, done.stderr) == (0, "fine\n")
    assert done.stdout.startswith("Nothing beyond the policy of ")


# Where the code comes from


@pytest.mark.parametrize(
    ("arguments", "stdin", "where"),
    [
        (["-c", NICE, "a"], None, "-c:2: os.nice(0)"),
        ([], NICE, "stdin:2: os.nice(0)"),
        (["-", "a"], NICE, "stdin:2: os.nice(0)"),
        (["-m", "timeit", "-n1", "-r1", NICE], None, "<timeit-src>:"),
    ],
)
def test_code(arguments: list[str], stdin: str | None, where: str, trace: Trace) -> None:
    """-c, stdin and -m are traced as a script is, each with its own name."""
    (found,) = calls(trace("--json", *arguments, stdin=stdin))
    assert (found["call"], found["where"][: len(where)]) == ("setpriority", where)


def test_arguments(trace: Trace, tmp_path: Path) -> None:
    """Arguments and stdin are the code's own, and the name of a module is only a name."""
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(sys.argv[1:], input())\n")
    assert trace(str(script), "a", "--json", stdin="line\n").stderr == "['a', '--json'] line\n"
    done = trace("-m", "os; print('injected')")
    assert "injected'" not in done.stderr.splitlines()
    assert "No module named os; print('injected')" in done.stderr


@pytest.mark.parametrize(
    ("code", "options", "ended"),
    [
        (f"{NICE}1 / 0", [], "exit code 1"),
        (f"{NICE}os.abort()", [], "exit code 134, as of SIGABRT"),
        (f"{NICE}import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)", [], "exit code 159, as of SIGSYS"),
        (f"{NICE}import ctypes; ctypes.string_at(0)", [], "exit code 139, as of SIGSEGV"),
        (f"{NICE}while True: pass", ["--timeout", "1"], "a time-out"),
        (f"{NICE}input()", ["--timeout", "1"], "exit code 1"),
        (f"{NICE}while True: print('x' * 100_000)", ["--timeout", "30"], "too much output"),
        ("import os\nos.close(0)\nos.closerange(3, 256)\nos.nice(0)\nos._exit(9)", [], "exit code 9"),
    ],
)
def test_code_that_fails(code: str, options: list[str], ended: str, trace: Trace) -> None:
    """However the code ends, what it needed until then is known, and its end is told."""
    done = trace(*options, "-c", code)
    assert done.exit_code == 0
    assert SETPRIORITY in done.stdout
    assert f"warning: the code ended with {ended}: " in done.stderr


def test_flood(trace: Trace) -> None:
    """A flood of calls beyond the policy is counted to the last one."""
    code = "import os\nfor _ in range(50_000): os.nice(0)"
    done = trace("--json", "--timeout", "60", "-c", code)
    assert [(one["call"], one["count"]) for one in calls(done)] == [("setpriority", 50_000)]


def test_waits_for_input(image: Path) -> None:
    """Code that waits for input gets it while it is traced."""
    code = f"{NICE}print('ready', flush=True)\nprint(input())"
    with subprocess.Popen(
        [*TRACE, str(image), "--timeout", "30", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stderr is not None
        assert started.stderr.readline() == "ready\n"
        stdout, stderr = started.communicate("line\n", timeout=30)
    assert stderr == "line\n"
    assert SETPRIORITY in stdout


def test_interrupted(image: Path) -> None:
    """Ctrl-C ends the run and the trace."""
    code = "import time; print('ready', flush=True); time.sleep(99)"
    command = [*TRACE, str(image), "--timeout", "60", "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        assert started.stderr.readline() == "ready\n"
        started.send_signal(signal.SIGINT)
        assert started.wait(timeout=10) == 130


# Several runs

COUNTS_RUNS = """\
import os
seen = os.pread(0, 1, 0)
os.pwrite(0, bytes([seen[0] + 1]), 0)
{b"0": lambda: os.nice(0), b"1": os.setsid}.get(seen, int)()
"""


@pytest.mark.parametrize(
    ("most", "said", "allowed"),
    [
        (1, "in 1 run:", ["setpriority"]),
        (2, "in 2 runs, the last of which still added something:", ["setpriority", "setsid"]),
        (9, "in 3 runs, the last of which added nothing:", ["setpriority", "setsid"]),
    ],
)
def test_runs(most: int, said: str, allowed: list[str], image: Path, tmp_path: Path) -> None:
    """Runs go on until one adds nothing; what any of them needed is in the result."""
    (tmp_path / "input").write_text("0")
    command = [*TRACE, str(image), "--runs", str(most), "-c", COUNTS_RUNS]
    with (tmp_path / "input").open("r+b") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.partition("\n")[0].endswith(said)
    assert f"  allow: [{', '.join(allowed)}]\n" in done.stdout
    assert ("try more with --runs" in done.stderr) == (most == 2)


@pytest.mark.parametrize(
    ("code", "printed"), [(["-"], "text\n"), (["-c", "print(input())"], "print('text')\n")]
)
def test_stdin_of_several_runs(code: list[str], printed: str, image: Path, tmp_path: Path) -> None:
    """A file on stdin is read anew by each run; of the code on stdin, each run gets the whole."""
    (tmp_path / "input").write_text("print('text')\n")
    command = [*TRACE, str(image), "--runs", "2", *code]
    with (tmp_path / "input").open() as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == printed * 2


def test_pipe_for_several_runs(trace: Trace) -> None:
    """A pipe can be read once: each run gets nothing, and that is told; the code itself may come by one."""
    assert trace("--runs", "2", stdin="print(1)").stderr == "1\n1\n"
    done = trace("--runs", "2", "-c", "import sys; print([sys.stdin.read()])", stdin="text")
    assert done.stderr == (
        "warning: with --runs, stdin must be a file: each run gets an empty one\n['']\n['']\n"
    )


# Another architecture


def test_other_architecture(trace: Trace) -> None:
    """The code runs here, and the names are the other architecture's, which is said."""
    here, other = ("amd64", "arm64") if host_arch().name == "amd64" else ("arm64", "amd64")
    done = trace("--arch", other, "-c", "import os\nos.nice(0)\nif os.fork() == 0: os._exit(0)\nos.wait()")
    assert f"The code ran on {here}, and the names are translated to {other}:" in done.stdout
    assert yaml.safe_load(done.stdout.partition("config.yaml:\n")[2]) == {
        "syscalls": {"groups": ["processes"], "allow": ["setpriority"]}
    }
    (first, *_) = calls(trace("--json", "--arch", other, "-c", NICE))
    assert first["number"] == {"amd64": 141, "arm64": 140}[other]


# --write


def test_write_build_run(trace: Trace, mixed: Path, tmp_path: Path) -> None:
    """Written, built, run: what was denied succeeds; what is dangerous is written with --unsafe alone."""
    config = tmp_path / "config.yaml"
    config.write_text("# ours\nlimits: {cpu_s: 9}  # kept\n")
    written = trace("--write", "--config", str(config), str(mixed))
    assert written.exit_code == 0
    assert "# ours\nlimits: {cpu_s: 9}  # kept\n" in config.read_text()
    assert yaml.safe_load(config.read_text()) == {"limits": {"cpu_s": 9}, **MIXED_CONFIG}
    assert "+enable_network: true\n" in written.stderr
    assert "build the image again" in written.stderr
    assert f"not written to {config}, since it is dangerous: chroot; --unsafe writes it too" in written.stderr
    unchanged = config.stat().st_mtime_ns
    again = trace("--write", "--config", str(config), str(mixed))
    assert "allows all this already: build the image again" in again.stderr
    assert config.stat().st_mtime_ns == unchanged

    trace("--write", "--unsafe", "--config", str(config), str(mixed))
    assert yaml.safe_load(config.read_text())["syscalls"]["unsafe"] == ["chroot"]
    built = sandbox_build("--driver=oci", "--config", str(config), "--output", str(tmp_path))
    assert built.exit_code == 0, built.stderr
    image = tmp_path / host_arch().name / "image.tar"
    run = sandbox_build("run", "--image", str(image), str(mixed))
    assert (run.exit_code, run.stderr) == (3, "error\n")
    left = sandbox_build("trace", "--image", str(image), str(mixed))
    assert left.stdout == f"Nothing beyond the policy of {image} in 1 run.\n"


def test_nothing_to_write(trace: Trace, tmp_path: Path) -> None:
    """A config is not even read where the policy suffices."""
    done = trace("--write", "--config", str(tmp_path / "none.yaml"), "-c", "1")
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("syscalls: {allow: [", "this is not YAML"),
        ("x-y: &a [sync]\n", "there is no such key"),
        ("python_lib_path: &a [/usr]\nsyscalls: {allow: *a}\n", "is not the name of a system call"),
    ],
)
def test_config_that_cannot_be_written(text: str | None, message: str, trace: Trace, tmp_path: Path) -> None:
    """The trace is printed all the same, and the config is as it was."""
    config = tmp_path / "config.yaml"
    if text is not None:
        config.write_text(text)
    done = trace("--write", "--config", str(config), "-c", NICE)
    assert done.exit_code == 2
    assert SETPRIORITY in done.stdout
    assert f"error: {config}" in done.stderr
    assert message in done.stderr
    assert (config.read_text() if config.exists() else None) == text


# Wrong calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/none.py"], "error: /none.py: No such file or directory\nhint: name a script, a module with -m"),
        (["/"], "error: /: Is a directory\nhint: "),
        (["--writ", "x.py"], "error: no such option: --writ\nhint: "),
        (["-c", "1", "-m", "x"], "error: -c and -m are both given\nhint: "),
        (["--runs", "0", "-c", "1"], "--runs"),
        (["--arch", "x86_64", "-c", "1"], "hint: did you mean amd64?"),
        (["--image", "/none.tar", "-c", "1"], "error: /none.tar: no such image\nhint: build one"),
    ],
)
def test_wrong_call(arguments: list[str], message: str, trace: Trace) -> None:
    """What cannot be traced is a usage error that says how to mend it."""
    done = trace(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_refused(trace: Trace, tmp_path: Path) -> None:
    """Where the runtime refuses to run the code, nothing was traced."""
    (tmp_path / "large.py").write_bytes(b"#" * (17 << 20))
    done = trace(str(tmp_path / "large.py"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "error: the lock-down was refused (exit code 210; its own message is above)\nhint: " in done.stderr
