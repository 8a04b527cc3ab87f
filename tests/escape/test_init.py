"""The image's first process: what it is told, it passes on; and the run does not outlive it."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import replace

import pytest

from runtime import failure
from tests.escape.conftest import Entrypoint


def test_the_run_ends_with_init(entrypoint: Entrypoint) -> None:
    """Somebody kills init: the code does not go on without it."""
    process = entrypoint.begin("print(1, flush=True)\nimport time; time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    process.kill()
    assert process.communicate()[0] == b""  # the end of file comes when the code's process is gone


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_signals_reach_the_code(entrypoint: Entrypoint, name: str) -> None:
    """What init is sent, the code's own handler gets; init does not end before the code does."""
    code = f"""
import signal, sys, time
signal.signal(signal.{name}, lambda *_: sys.exit(9))
print(1, flush=True)
time.sleep(60)
"""
    process = entrypoint.begin(code)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    process.send_signal(signal.Signals[name])
    assert process.wait(20) == 9
    process.communicate()


@pytest.mark.parametrize(("code", "exit_code"), [("raise SystemExit(7)", 7), ("import os; os.abort()", 134)])
def test_the_exit_code_is_passed_on(entrypoint: Entrypoint, code: str, exit_code: int) -> None:
    """As a shell has it: 128 + N for signal N."""
    assert entrypoint.run(code).exit_code == exit_code


def test_an_orphan_is_no_child_of_the_code(entrypoint: Entrypoint) -> None:
    """A grandchild that lost its parent is init's to reap where init is process 1, and never the code's."""
    entrypoint.set_policy(groups=["processes"])
    code = """
import os, time
if os.fork() == 0:
    os.fork()
    os._exit(0)
os.wait()
time.sleep(0.1)
try: os.wait()
except ChildProcessError: print("none")
"""
    ended = entrypoint.run(code)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "none\n", "")


def test_init_wants_its_command(entrypoint: Entrypoint) -> None:
    """Fewer words than a command has, or an interpreter that is not there: a line, and a code of ours."""
    short = replace(entrypoint, init=(*entrypoint.init, "/nonexistent"))
    ended = short.start("-c", "print('EXECUTED')")
    assert (ended.exit_code, ended.stdout) == (failure.INTERNAL, "")
    assert ended.stderr.startswith("sandbox: error: init: /nonexistent: No such file")


def test_a_parent_that_ignores_its_children_does_not_matter(entrypoint: Entrypoint) -> None:
    """SIGCHLD ignored is inherited, and children are then reaped by nobody: init sets it right."""
    careless = replace(entrypoint, before_exec=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert careless.run("raise SystemExit(7)", timeout_s=20).exit_code == 7


def test_the_run_ends_with_init_even_where_nothing_can_be_named(entrypoint: Entrypoint) -> None:
    """No channel, for want of a descriptor beyond the limit: the code does not outlive init all the same."""
    limit = entrypoint.settings["limits"]["open_files"]
    limited = replace(
        entrypoint, before_exec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    )
    process = limited.begin("print(1, flush=True)\nimport time; time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    process.kill()
    assert process.communicate()[0] == b""


def test_init_holds_nothing_of_its_caller(entrypoint: Entrypoint) -> None:
    """Neither stdin and stdout, nor a descriptor that the caller left open: who waits for an end gets it."""
    read, write = os.pipe()
    process = replace(entrypoint, pass_fds=(write,)).begin("import os, time\nos.close(1)\ntime.sleep(60)")
    os.close(write)
    assert process.stdout is not None
    assert process.stdout.read() == b""
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b""
    assert process.poll() is None
    process.kill()
    process.communicate()
