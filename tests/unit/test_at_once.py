"""Several things at once: all of them, no more than so many, and the first failure ends the rest."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial

import pytest

from builder.at_once import at_once
from tests.conftest import REPOSITORY

PATIENCE_S = 60

INTERRUPTED = """
import threading, time
from builder.at_once import at_once
work = {"quick": lambda: None, "silent": lambda: time.sleep(600)}
for key, _ in at_once(work, threading.Event(), 2):
    print(key, flush=True)
    raise KeyboardInterrupt
"""


def test_everything_is_done_and_told() -> None:
    told: list[str] = []
    work = {number: partial(pow, number, 2) for number in range(20)}
    found = dict(at_once(work, threading.Event(), 3, told.append))
    assert found == {number: number**2 for number in range(20)}
    assert [text.partition(":")[0] for text in told] == [f"{number} of 20" for number in range(1, 21)]


def test_so_many_at_a_time() -> None:
    """Three meet, and a fourth is never with them."""
    lock, meeting = threading.Lock(), threading.Barrier(3, timeout=PATIENCE_S)
    under_way, most = 0, 0

    def work() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        meeting.wait()
        with lock:
            under_way -= 1

    assert len(list(at_once(dict.fromkeys(range(9), work), threading.Event(), 3))) == 9
    assert most == 3


def test_the_first_failure_ends_the_others() -> None:
    """Who is under way hears of it, and is waited for; what waits is not begun."""
    stop, begun, ended = threading.Event(), threading.Event(), threading.Event()
    late: list[None] = []

    def long() -> None:
        begun.set()
        assert stop.wait(PATIENCE_S)
        ended.set()

    def fail() -> None:
        assert begun.wait(PATIENCE_S)
        raise ValueError("no")

    def waiting() -> None:
        assert stop.wait(PATIENCE_S)
        late.append(None)

    work = {"long": long, "fail": fail, "held": waiting} | dict.fromkeys(range(50), waiting)
    with pytest.raises(ValueError, match="no"):
        list(at_once(work, stop, 2))
    assert ended.is_set()
    assert len(late) <= 2  # what a thread had taken before the failure was heard of


def test_who_interrupts_does_not_wait() -> None:
    """For what no answer comes: the program ends."""
    command = [sys.executable, "-c", INTERRUPTED]
    ended = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (ended.returncode, ended.stdout) == (-2, "quick\n"), ended.stderr
