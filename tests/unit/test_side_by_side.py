"""Several builds at once: results, failures, news, and what an interruption leaves."""

from __future__ import annotations

import fcntl
import gzip
import multiprocessing.util
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from builder.errors import BuildError, ConfigError, LibrariesMissing, MissingLibrary, SandboxError
from builder.progress import Progress
from builder.side_by_side import side_by_side
from tests.integration.servers import wait_for

QUIET = Progress(quiet=True)
ROOT = Path(__file__).parents[2]


def meet(folder: Path, mine: str, other: str, _progress: Progress) -> tuple[str, int]:
    """Goes on only once the other is there as well."""
    (folder / mine).touch()
    for _ in range(3000):
        if (folder / other).exists():
            return mine, os.getpid()
        time.sleep(0.01)
    raise BuildError(f"{other} never came")


Work = dict[str, Callable[[Progress], object]]


def fail(error: Exception, _progress: Progress) -> object:
    raise error


def ends_slowly(_progress: Progress) -> object:
    multiprocessing.util.Finalize(None, time.sleep, args=(0.5,), exitpriority=0)
    return "done"


def succeed(progress: Progress) -> str:
    with progress.step("at work"):
        progress.detail("half")
    progress.note("well")
    progress.warn("but")
    return "done"


def test_at_the_same_time(tmp_path: Path) -> None:
    """Each in a process of its own, results in the order of the work."""
    work: dict[str, Callable[[Progress], tuple[str, int]]] = {
        "b": partial(meet, tmp_path, "b", "a"),
        "a": partial(meet, tmp_path, "a", "b"),
    }
    found = side_by_side(work, QUIET)
    assert [name for name, _ in found] == ["b", "a"]
    assert len({os.getpid(), *(pid for _, pid in found)}) == 3


def test_one_alone_stays_here() -> None:
    """One piece of work needs no process of its own."""
    assert side_by_side({"a": lambda _progress: os.getpid()}, QUIET) == [os.getpid()]


def test_news(capsys: pytest.CaptureFixture[str]) -> None:
    """What each says is told here, with its name where it does not say it itself."""
    assert side_by_side({"amd64": succeed, "arm64": succeed}, Progress(verbose=True)) == ["done", "done"]
    said = capsys.readouterr().err.splitlines()
    for arch in ("amd64", "arm64"):
        mine = [line for line in said if arch in line]
        assert mine == [f"* {arch}: at work", f"< {arch}: half", f"  {arch}: well", f"warning: {arch}: but"]


ERRORS: dict[str, SandboxError] = {
    "config": ConfigError([("no such key", "another"), ("nor this", None)]),
    "libraries": LibrariesMissing([MissingLibrary("liba.so", ("/x",))], "debian:trixie", "a hint"),
    "build": BuildError("broken", "mend it"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_errors_come_whole(error: SandboxError) -> None:
    """With all that they say, as what they are; the other's result is of no use then."""
    work: Work = {"amd64": succeed, "arm64": partial(fail, error)}
    with pytest.raises(type(error)) as raised:
        side_by_side(work, QUIET)
    assert vars(raised.value) == vars(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_every_failure_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The first in the order of the work is raised, another one is a warning."""
    work = {name: partial(fail, BuildError(f"no wheel for {name}")) for name in ("amd64", "arm64")}
    with pytest.raises(BuildError, match="no wheel for amd64"):
        side_by_side(work, QUIET)
    assert capsys.readouterr().err == "warning: arm64 failed too: no wheel for arm64\n"


def test_the_same_failure_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with the config is wrong for both."""
    work = {name: partial(fail, BuildError("no such folder")) for name in ("amd64", "arm64")}
    with pytest.raises(BuildError, match="no such folder"):
        side_by_side(work, QUIET)
    assert capsys.readouterr().err == ""


def test_a_bug_is_a_bug() -> None:
    """With the place where it is."""
    work: Work = {"a": succeed, "b": partial(fail, ZeroDivisionError("x"))}
    with pytest.raises(RuntimeError, match=r"(?s)ZeroDivisionError.*test_side_by_side"):
        side_by_side(work, QUIET)


def test_an_operating_systems_error() -> None:
    """Its number and its file stay."""
    work: Work = {"a": succeed, "b": partial(fail, OSError(28, "No space left", "/x"))}
    with pytest.raises(OSError, match="No space") as raised:
        side_by_side(work, QUIET)
    assert (raised.value.errno, raised.value.filename) == (28, "/x")


def is_killed(_progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_killed_in_a_message(progress: Progress) -> None:
    connection = vars(progress)["_connection"]
    os.write(connection.fileno(), struct.pack("!i", 5000) + b"not all of it")
    is_killed(progress)


@pytest.mark.parametrize("end", [is_killed, is_killed_in_a_message])
def test_a_killed_child(end: Callable[[Progress], None]) -> None:
    """Is a failure by its name, not a wait without end."""
    with pytest.raises(BuildError, match="b: the process that built it was killed"):
        side_by_side({"a": succeed, "b": end}, QUIET)


SCRIPT = """
import os, signal, sys, tempfile
from builder.progress import Progress
from builder.side_by_side import side_by_side

def work(progress):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]), progress.step("at work"):  # whose end is news, too
        progress.note(f"ready {os.getpid()}")
        while sys.argv[2:]:
            progress.note("much to say")
        signal.pause()

side_by_side({"a": work, "b": work}, Progress())
"""


@pytest.mark.parametrize("talk", [[], ["talk"]], ids=["silent", "full of news"])
@pytest.mark.parametrize("whole_group", [True, False], ids=["Ctrl-C", "SIGINT to the parent alone"])
def test_interrupted(tmp_path: Path, whole_group: bool, talk: list[str]) -> None:
    """Both end, having cleaned up, whether or not the signal reached them too, and without a word."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *talk],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stderr is not None
    with process.stderr:
        pids: list[int] = []
        while len(pids) < 2:
            line = process.stderr.readline()
            if "ready" in line:
                pids.append(int(line.split()[-1]))
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "ignored due to race condition" not in said
    assert said.count("Traceback") <= 1, said  # the parent's own: the script does not catch it
    assert list(tmp_path.iterdir()) == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_interrupted_where_the_starter_ignored_sigterm(tmp_path: Path) -> None:
    """It is how the parent tells its children: they hear it all the same."""
    command = ["sh", "-c", "trap '' TERM; exec \"$@\"", "sh", sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    assert process.stderr is not None
    with process.stderr:
        ready = 0
        while ready < 2:
            ready += "ready" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_parent_takes_its_children_along(tmp_path: Path) -> None:
    """Nobody hears them any more: at the next thing that they have to say they end, and hold no lock."""
    (tmp_path / "work").mkdir()
    with (tmp_path / "said").open("w") as said, (tmp_path / "held").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "work"), "talk"],
            stderr=said,
            cwd=ROOT,
            pass_fds=(held.fileno(),),
            start_new_session=True,
        )
    try:  # the processes alone hold the lock now
        wait_for(lambda: (tmp_path / "said").read_text().count("ready") == 2)
        process.kill()
        process.wait(timeout=30)
        with (tmp_path / "held").open("w") as held:
            wait_for(lambda: is_free(held))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def is_free(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_signal_that_comes_late_is_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    """A child that has told its result, and is still on its way out, says nothing of being ended."""
    work: Work = {"a": ends_slowly, "b": ends_slowly}
    assert side_by_side(work, QUIET) == ["done", "done"]
    assert capfd.readouterr().err == ""


def test_an_error_of_the_system_without_a_number() -> None:
    """Is told as what it is."""
    work: Work = {"a": succeed, "b": partial(fail, gzip.BadGzipFile("not gzipped"))}
    with pytest.raises(RuntimeError, match="BadGzipFile: not gzipped"):
        side_by_side(work, QUIET)


def test_the_other_failures_hint_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """What mends it is as good to know."""
    work = {name: partial(fail, BuildError(f"no {name}", f"mend {name}")) for name in ("amd64", "arm64")}
    with pytest.raises(BuildError, match="no amd64"):
        side_by_side(work, QUIET)
    assert capsys.readouterr().err == "warning: arm64 failed too: no arm64 (mend arm64)\n"
