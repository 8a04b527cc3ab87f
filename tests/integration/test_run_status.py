"""`sandbox-build run --status`: what was in force, and what was denied, from outside the jail."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Result, result_of

Run = Callable[..., tuple[Result, dict[str, Any]]]


@pytest.fixture
def run(image: Path) -> Run:
    """`sandbox-build run --status` of the shipped config's image: how it ended, and its status."""

    def run(*arguments: str) -> tuple[Result, dict[str, Any]]:
        command = [sys.executable, "-m", "builder", "run", "--image", str(image), "--status", *arguments]
        done = result_of(command, None, 60)
        return done, json.loads(done.stderr.splitlines()[-1])

    return run


def test_facts(run: Run) -> None:
    """What was in force, and that we did not end the run, nor denied it anything."""
    done, status = run("-c", "import os, sys; print(os.getuid()); sys.exit(3)")
    facts = {"level", "uid", "landlock_abi", "namespaces", "scratch", "naming"}
    assert set(status) == {*facts, "stopped", "denied"}
    assert (status["stopped"], status["denied"]) == (None, [])
    assert (done.exit_code, done.stdout) == (3, f"{status['uid']}\n")


def test_denied_to_the_very_end(run: Run) -> None:
    """Each denied call has its count, however soon after the last one the code ends."""
    code = "import os\nfor _ in range(5000):\n    try: os.nice(0)\n    except OSError: pass\nos._exit(0)"
    _, status = run("-c", code)
    (denied,) = status["denied"]
    assert (denied["call"], denied["count"], denied["line"]) == ("setpriority", 5000, 3)
    assert (denied["allow"], denied["passed"]) == ("syscalls: {allow: [setpriority]}", False)


def test_denied_before_a_stop(run: Run) -> None:
    """What was denied before a time-out is known."""
    code = "import os, time\ntry: os.nice(0)\nexcept OSError: time.sleep(99)"
    _, status = run("--timeout", "1", "-c", code)
    assert [(one["call"], one["count"]) for one in status["denied"]] == [("setpriority", 1)]
    assert status["stopped"] == "timeout"


def test_denied_and_dangerous(run: Run) -> None:
    """A dangerous call is denied and named, with the reason why it is dangerous."""
    done, status = run("-c", "import os; os.chroot('/')")
    assert done.exit_code == 1
    assert [(one["call"], one["danger"]) for one in status["denied"]] == [
        ("chroot", "a second chroot is the way out of the first")
    ]
