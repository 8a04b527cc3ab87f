"""`sandbox-build run`: where the code comes from, how the run ends, and what is left when it does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.arch import host_arch
from tests.conftest import Result, result_of, sandbox_build

PRINTS = "import sys\nprint(sys.argv)\n"
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class RunOf:
    """`sandbox-build run` of one image."""

    image: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "builder", "run", "--image", str(self.image), *arguments]

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return result_of(self.command(*arguments), stdin, 60)

    @contextmanager
    def started(self, *arguments: str, first: str = "ready\n") -> Iterator[subprocess.Popen[str]]:
        """A run that has printed the line `first`."""
        command = self.command(*arguments)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as it:
            assert it.stdout is not None
            try:
                assert it.stdout.readline() == first
                yield it
            finally:
                it.kill()


@pytest.fixture
def run(image: Path) -> RunOf:
    """`sandbox-build run` of the shipped config's image."""
    return RunOf(image)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """The same where a run may print 200 MiB."""
    folder = tmp_path_factory.mktemp("talkative")
    (folder / "config.yaml").write_text("limits: {output: 200MiB}\nworker_timeout: 1\n")
    built = sandbox_build("--driver=oci", "--config", str(folder / "config.yaml"), "--output", str(folder))
    assert built.exit_code == 0, built.stderr
    return RunOf(folder / host_arch().name / "image.tar")


def processes(marker: str) -> list[int]:
    """The processes that have `marker` in their command line: what a run left."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def nothing_left(marker: str) -> bool:
    """Whether within 3 seconds no process has `marker` in its command line."""
    deadline = time.monotonic() + 3
    while processes(marker):
        if time.monotonic() > deadline:
            for stray in processes(marker):
                os.kill(stray, signal.SIGKILL)
            return False
        time.sleep(0.05)
    return True


# Where the code comes from


@pytest.mark.parametrize(
    ("arguments", "stdin", "argv"),
    [
        (["SCRIPT"], "", ["-"]),
        (["SCRIPT", "a", "-c", "--status", "--", ""], "", ["-", "a", "-c", "--status", "--", ""]),
        ([], PRINTS, ["-"]),
        (["-"], PRINTS, ["-"]),
        (["-", "a", "-c", "b"], PRINTS, ["-", "a", "-c", "b"]),
        (["-c", PRINTS], "", ["-c"]),
        (["-c", PRINTS, "a", "-c", "--timeout"], "", ["-c", "a", "-c", "--timeout"]),
        (["-c", PRINTS, "--", "--status"], "", ["-c", "--status"]),
    ],
)
def test_code(arguments: list[str], stdin: str, argv: list[str], run: RunOf, tmp_path: Path) -> None:
    """A script, stdin and -c all run; what follows them is the code's, whatever it looks like."""
    (tmp_path / "script.py").write_text(PRINTS)
    given = [str(tmp_path / "script.py") if argument == "SCRIPT" else argument for argument in arguments]
    assert run(*given, stdin=stdin) == Result(0, f"{argv}\n", "")


def test_stdin_streams(run: RunOf, tmp_path: Path) -> None:
    """A script answers each line of its stdin before the next one comes."""
    script = tmp_path / "script.py"
    script.write_text("print('ready', flush=True)\nwhile True: print(input().upper(), flush=True)\n")
    with run.started(str(script)) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        for word in ("one", "two"):
            started.stdin.write(f"{word}\n")
            started.stdin.flush()
            assert started.stdout.readline() == f"{word.upper()}\n"
        _, stderr = started.communicate()
        assert "EOFError" in stderr
        assert started.returncode == 1


def test_default_image(image: Path, tmp_path: Path) -> None:
    """Without --image, it is this machine's architecture's image below --output."""
    folder = tmp_path / "built" / host_arch().name
    folder.mkdir(parents=True)
    (folder / "image.tar").symlink_to(image)
    assert sandbox_build("run", "--output", str(tmp_path / "built"), "-c", "print(1)").stdout == "1\n"


# How it ends


@pytest.mark.parametrize("exit_code", [0, 1, 2, 124, 207, 255])
def test_exit_code(exit_code: int, run: RunOf) -> None:
    """The exit code is the code's own."""
    assert run("-c", f"import sys; sys.exit({exit_code})").exit_code == exit_code


def test_streams_apart(run: RunOf) -> None:
    """stdout and stderr of the code are ours, byte for byte, and we add nothing."""
    code = "import sys; a = bytes(range(256)); sys.stdout.buffer.write(a); sys.stderr.buffer.write(a[::-1])"
    done = subprocess.run(run.command("-c", code), capture_output=True, check=True, timeout=60)
    assert done.stdout == bytes(range(256))
    assert done.stderr == bytes(range(255, -1, -1))


@pytest.mark.parametrize(
    "waits",
    [
        "time.sleep(99)",
        "[threading.Thread(target=time.sleep, args=(99,)).start() for _ in range(5)]",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)",
        "os.close(1); os.close(2); time.sleep(99)",
    ],
)
@pytest.mark.parametrize("may_mount", [True, False])
def test_timeout(waits: str, may_mount: bool, run: RunOf) -> None:
    """Past --timeout, 124: the code has printed what it had printed, one line says why, and it is gone.

    Also where namespaces cannot be had: as root in a container, who may not mount.
    """
    marker = f"timeout-{os.getpid()}"
    code = f"import os, signal, sys, threading, time; print('{marker}', flush=True); {waits}"
    before = [] if may_mount else ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    started = time.monotonic()
    try:
        done = subprocess.run(
            [*before, *run.command("--timeout", "1", "-c", code)],
            capture_output=True,
            text=True,
            timeout=8,
            check=False,
        )
    finally:
        left = not nothing_left(marker)
    assert (done.returncode, done.stdout, done.stderr) == (124, f"{marker}\n", "sandbox: error: timeout\n")
    assert 1 <= time.monotonic() - started < 4
    assert not left


def test_timeout_of_the_config(talkative: RunOf) -> None:
    """Without --timeout, the config's worker_timeout counts."""
    assert talkative("-c", "import time; time.sleep(99)") == Result(124, "", "sandbox: error: timeout\n")


def test_timeout_in_a_flood(talkative: RunOf) -> None:
    """The time-out comes also where there is always more output to pass on."""
    code = (
        "import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)\nwhile True: os.write(1, b'x' * 65536)"
    )
    done = talkative("--timeout", "0.1", "-c", code)
    assert (done.exit_code, done.stderr) == (124, "sandbox: error: timeout\n")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_limit(stream: str, run: RunOf) -> None:
    """Output beyond the config's limit is cut at exactly the limit, and the run ends with 125."""
    done = run("-c", f"import sys\nwhile True: sys.{stream}.write('x' * 100_000)")
    assert done.exit_code == 125
    said = f"sandbox: error: more than {10 * MEBIBYTE} bytes of output\n"
    assert (done.stdout + done.stderr).replace(said, "") == "x" * 10 * MEBIBYTE
    assert said in done.stderr


def test_output_at_the_limit(run: RunOf) -> None:
    """Output of just the limit's size is no fault."""
    done = run("-c", f"import sys; sys.stdout.write('x' * {10 * MEBIBYTE})")
    assert (done.exit_code, len(done.stdout), done.stderr) == (0, 10 * MEBIBYTE, "")


def test_memory(talkative: RunOf) -> None:
    """100 MiB of output pass through us without staying in our memory."""

    def peak_kib(mebibytes: int) -> int:
        code = f"import sys\nfor _ in range({mebibytes}): sys.stdout.write('x' * {MEBIBYTE})"
        command = talkative.command("--timeout", "30", "-c", code)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            size = 0
            while part := process.stdout.read(MEBIBYTE):
                size += len(part)
            assert size == mebibytes * MEBIBYTE
            # Of the process and of all that it waited for.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss

    assert peak_kib(100) - peak_kib(1) < 8 * 1024


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: int, run: RunOf) -> None:
    """Ctrl-C and SIGTERM end the run with 130, and nothing of it lives on."""
    marker = f"interrupted-{os.getpid()}"
    with run.started("-c", f"import time; print('ready', flush=True); time.sleep(99)  # {marker}") as started:
        started.send_signal(number)
        stdout, stderr = started.communicate(timeout=10)
    assert (started.returncode, stdout) == (130, "")
    assert "error: interrupted" in stderr
    assert nothing_left(marker)


def test_killed(run: RunOf) -> None:
    """When we are killed, or the terminal closes, the run does not live on without us."""
    marker = f"killed-{os.getpid()}"
    with run.started("-c", f"import time; print('ready', flush=True); time.sleep(99)  # {marker}") as started:
        started.kill()
        started.communicate(timeout=10)
    assert nothing_left(marker)


def test_reader_goes_away(run: RunOf) -> None:
    """When nobody reads our output any more, the run ends, with neither a traceback nor a message."""
    marker = f"reader-{os.getpid()}"
    with run.started(
        "-c", f"print('ready', flush=True)\nwhile True: print('x' * 9999)  # {marker}"
    ) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert started.wait(timeout=10) != 0
        assert started.stderr.read() == ""
    assert nothing_left(marker)


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_closed_stream(closed: str, run: RunOf) -> None:
    """Started without a stdout or a stderr, the run is as with /dev/null there."""
    redirection = {"stdout": ">&-", "stderr": "2>&-"}[closed]
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *run.command("-c", code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        (7, "", "err\n") if closed == "stdout" else (7, "out\n", "")
    )


# What is said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--image", "/none/image.tar", "-c", "1"],
            r"error: /none/image\.tar: no such image\nhint: build one .*\n",
        ),
        (["--output", "/none", "-c", "1"], r"error: /none/\w+/image\.tar: no such image\nhint: .*\n"),
        (["/none/script.py"], r"error: /none/script\.py: No such file or directory\nhint: .*\n"),
        (["/"], r"error: /: Is a directory\nhint: .*\n"),
        (["--statsu"], r"error: no such option: --statsu\nhint: .*\n"),
        (["--timeout", "0", "-c", "1"], r"(?s).*--timeout.*0"),
        (["-c"], r"(?s).*'-c' requires an argument"),
    ],
)
def test_wrong_call(arguments: Sequence[str], message: str, image: Path) -> None:
    """What cannot be run is a usage error that names it."""
    default = [] if {"--image", "--output"} & set(arguments) else ["--image", str(image)]
    done = sandbox_build("run", *default, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.match(message, done.stderr), done.stderr


def _cut(archive: bytes) -> bytes:
    return archive[: len(archive) // 3]


def _flip(archive: bytes) -> bytes:
    middle = len(archive) // 2
    return (
        archive[:middle] + bytes(byte ^ 0xFF for byte in archive[middle : middle + 4]) + archive[middle + 4 :]
    )


@pytest.mark.parametrize(
    ("damage", "hint"),
    [
        (_cut, "build the image again"),
        (_flip, "build the image again"),
        (lambda _: b"", "name an image.tar that `sandbox-build` made"),
        (lambda _: b"text\n" * 9999, "name an image.tar that `sandbox-build` made"),
    ],
    ids=["cut", "flipped", "empty", "text"],
)
def test_damaged_image(damage: Callable[[bytes], bytes], hint: str, image: Path, tmp_path: Path) -> None:
    """A damaged archive is told apart from a good one before anything of it is run or kept."""
    damaged = tmp_path / "image.tar"
    damaged.write_bytes(damage(image.read_bytes()))
    done = sandbox_build(
        "run", "--image", str(damaged), "-c", "print('ran')", env={"XDG_CACHE_HOME": str(tmp_path / "cache")}
    )
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: {damaged}: .*damaged.*\nhint: {hint}\n", done.stderr)
    assert not list((tmp_path / "cache").glob("sandbox-build/roots/*"))
