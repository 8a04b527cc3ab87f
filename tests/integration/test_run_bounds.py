"""`sandbox-build run`: ways past its limits and its word, each of which is closed."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.arch import host_arch
from tests.conftest import result_of, sandbox_build

RUN = (sys.executable, "-m", "builder", "run", "--image")


WITHOUT_NAMESPACES = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


@pytest.fixture(scope="module")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose code may fork."""
    folder = tmp_path_factory.mktemp("forking")
    (folder / "config.yaml").write_text("syscalls: {groups: [processes]}\n")
    built = sandbox_build("--driver=oci", "--config", str(folder / "config.yaml"), "--output", str(folder))
    assert built.exit_code == 0, built.stderr
    return folder / host_arch().name / "image.tar"


@pytest.mark.parametrize("prefix", [(), WITHOUT_NAMESPACES])
def test_a_fork_does_not_outlive_the_run(prefix: tuple[str, ...], forking: Path) -> None:
    """A child that lets go of the output ends with its parent, with a PID namespace and without one."""
    marker = f"child-of-{os.getpid()}-{len(prefix)}"
    code = (
        "import os, time\n"
        f"if os.fork() == 0:\n    [os.close(n) for n in (0, 1, 2)]\n    time.sleep(60)\n# {marker}"
    )
    ended = result_of([*prefix, *RUN, str(forking), "-c", code], None, 30)
    assert (ended.exit_code, ended.stderr) == (0, "")
    time.sleep(0.2)
    alive = [path for path in Path("/proc").glob("[0-9]*/cmdline") if marker.encode() in _read(path)]
    assert alive == []


@pytest.mark.parametrize("prefix", [(), WITHOUT_NAMESPACES])
def test_a_fork_that_holds_the_output_does_not_delay_the_end(prefix: tuple[str, ...], forking: Path) -> None:
    """The run ends with its first process, and a child that could still print ends with it."""
    marker = f"holder-of-{os.getpid()}-{len(prefix)}"
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n    time.sleep(60)\n"
        f"print('x' * 50_000, flush=True)\nos._exit(7)\n# {marker}"
    )
    started = time.monotonic()
    ended = result_of([*prefix, *RUN, str(forking), "--timeout", "20", "-c", code], None, 30)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (7, "x" * 50_000 + "\n", "")
    assert time.monotonic() - started < 10
    time.sleep(0.2)
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if marker.encode() in _read(path)] == []


def test_all_output_arrives(image: Path) -> None:
    """What the code has written arrives, also where it ended with a large pipe full, long before."""
    code = (
        "import fcntl, os\n"
        "size = fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)\n"
        "os.write(1, b'x' * size)\nos._exit(0)"
    )
    with subprocess.Popen([*RUN, str(image), "-c", code], stdout=subprocess.PIPE) as started:
        time.sleep(1)
        stdout, _ = started.communicate(timeout=30)
    assert (started.returncode, len(stdout)) == (0, 1 << 20)


def test_a_refused_run_ends_at_once(image: Path, tmp_path: Path) -> None:
    """A run that never comes to its code has no more to say, and is not waited for."""
    (tmp_path / "large.py").write_bytes(b"#" * (17 << 20))
    started = time.monotonic()
    ended = result_of([*RUN, str(image), "--timeout", "20", "--status", str(tmp_path / "large.py")], None, 30)
    status = json.loads(ended.stderr.splitlines()[-1])
    assert (ended.exit_code, status["refused"], status["denied"]) == (210, 210, [])
    assert time.monotonic() - started < 10


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_terminal_is_for_reading_alone(image: Path) -> None:
    """What the code writes to its stdin does not reach the terminal; outside, the same write does."""
    code = "import os\ntry: print(os.isatty(0), os.write(0, b'spoof'))\nexcept OSError as e: print(e.errno)"
    outside, inside = (_on_terminal(command) for command in ([sys.executable], [*RUN, str(image)]))
    assert outside(code) == ("True 5\n", b"spoof")
    assert inside(code) == ("9\n", b"")


def _on_terminal(command: list[str]):  # type: ignore[no-untyped-def]  # a closure for two lines above
    def run(code: str) -> tuple[str, bytes]:
        ours, theirs = pty.openpty()
        os.set_blocking(ours, False)
        done = subprocess.run(
            [*command, "-c", code], stdin=theirs, capture_output=True, text=True, timeout=30, check=True
        )
        try:
            shown = os.read(ours, 100)
        except BlockingIOError:
            shown = b""
        os.close(ours)
        os.close(theirs)
        return done.stdout, shown

    return run


def test_a_stop_cannot_be_forged(image: Path) -> None:
    """Code that ends and prints as a run that was stopped is told apart by --status."""
    forged = "import sys; sys.stderr.write('sandbox: error: timeout'); sys.exit(124)"
    real = "import time; time.sleep(60)"
    ends = []
    for code in (forged, real):
        ended = result_of([*RUN, str(image), "--timeout", "1", "--status", "-c", code], None, 30)
        ends.append((ended.exit_code, json.loads(ended.stderr.splitlines()[-1])["stopped"]))
    assert ends == [(124, None), (124, "timeout")]


def test_sigterm_ends_a_run_that_a_script_started_in_the_background(image: Path) -> None:
    """A shell starts `command &` with SIGINT ignored: SIGTERM must not be ignored with it."""
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [*RUN, str(image), "--timeout", "60", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        started.terminate()
        assert started.wait(timeout=20) == 130
