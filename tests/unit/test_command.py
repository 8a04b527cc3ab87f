"""Other programs: what they print, how much of it, and for how long."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.command import OutOfTime, TooMuchOutput, run
from builder.errors import BuildError, ToolMissing
from tests.conftest import REPOSITORY
from tests.integration.servers import wait_for


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_stdout_is_returned_and_stderr_is_not() -> None:
    assert run(python("import sys; print('a\\r\\nb\\n'); print('err', file=sys.stderr)")) == "a\nb\n\n"


def test_lines_are_given_as_they_come() -> None:
    """stdout and stderr in one; the last line may have no end."""
    lines: list[str] = []
    text = run(["sh", "-c", "echo a; echo b >&2; printf 'c\\377'"], on_line=lines.append)
    assert (text, lines) == ("a\nb\nc\ufffd", ["a", "b", "c\ufffd"])


def test_a_failure_has_the_last_lines() -> None:
    with pytest.raises(BuildError, match=r"exit code 3\n  < 6\n") as caught:
        run(["sh", "-c", "seq 20 >&2; exit 3"])
    assert caught.value.message.endswith("  < 20")
    with pytest.raises(ToolMissing):
        run(["no-such-program"])


def test_a_line_of_any_length_is_cut() -> None:
    """And the line behind it is whole."""
    lines: list[str] = []
    run(python("print('x' * (9 << 20)); print('next')"), on_line=lines.append, keep=False)
    assert [len(line) for line in lines] == [65536, 4]


def test_what_is_not_kept_takes_no_memory() -> None:
    """Hundreds of megabytes pass by; kept, they would be in memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    command = ["sh", "-c", "yes 0123456789abcdef | head -c 150000000"]
    assert run(command, on_line=lambda _: None, keep=False) == ""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("code", ["yes", "yes >&2", "cat /dev/zero"])
def test_a_program_that_prints_without_end_is_killed(code: str) -> None:
    with pytest.raises(TooMuchOutput, match="it printed more than 2 MiB"):
        run(["sh", "-c", f"exec {code}"], limit_bytes=2 << 20)


def test_what_a_killed_program_has_started_is_killed_too(tmp_path: Path) -> None:
    """It would go on with what nobody waits for any more."""
    code = f"sleep 600 & echo $! > {shlex.quote(str(tmp_path / 'pid'))}; wait"
    with pytest.raises(OutOfTime):
        run(["sh", "-c", code], timeout_s=0.5)
    watched = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(watched))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_kills_our_group_kills_what_we_started(tmp_path: Path) -> None:
    """As a CI service does, with a signal that nobody can hear: nothing goes on writing into the cache."""
    code = f"echo $$ > {shlex.quote(str(tmp_path / 'pid'))}; exec sleep 600"
    ours = f"from builder.command import run; run(['sh', '-c', {code!r}])"
    process = subprocess.Popen([sys.executable, "-c", ours], cwd=REPOSITORY, start_new_session=True)
    wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text() != "")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    watched = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(watched))


@pytest.mark.parametrize("code", ["exec sleep 60", "exec >&- 2>&-; sleep 60", "exec yes"])
def test_a_program_that_does_not_end_is_killed(code: str) -> None:
    """Silent, with its pipes closed, or talking all the time."""
    started = time.monotonic()
    with pytest.raises(OutOfTime, match=r"it took longer than 0\.5 s"):
        run(["sh", "-c", code], timeout_s=0.5, on_line=lambda _: None, keep=False, limit_bytes=1 << 50)
    assert time.monotonic() - started < 20
