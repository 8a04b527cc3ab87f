"""Several things at once, in threads: for what waits for the network."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TypeVar

_Key = TypeVar("_Key")
_Result = TypeVar("_Result")

_PATIENCE_S = 300.0
_GRACE_S = 5.0
"""What the others get to end, after a failure and after an interruption."""


def at_once(
    work: Mapping[_Key, Callable[[], _Result]],
    stop: threading.Event,
    most: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[_Key, _Result]]:
    """What each piece of `work` returns, as it comes, `most` of them at a time; `tell` hears how many came.

    The first that fails sets `stop`, which the others are to look out for, and is raised when they have
    ended. The threads do not outlive the program: who interrupts it need not wait for others' answers.
    """
    waiting: queue.SimpleQueue[_Key] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[_Key, Callable[[], _Result]]] = queue.SimpleQueue()
    for key in work:
        waiting.put(key)

    def labour() -> None:
        with suppress(queue.Empty):
            while True:
                key = waiting.get_nowait()
                done.put((key, _outcome(work[key])))

    started: list[threading.Thread] = []
    try:
        for _ in range(min(most, len(work))):
            thread = threading.Thread(target=labour, daemon=True)
            thread.start()
            started.append(thread)
        for number in range(1, len(work) + 1):
            key, result = done.get()
            tell(f"{number} of {len(work)}: {key}")
            yield key, result()
    except BaseException as error:
        stop.set()
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        # An interruption waits for who can hear of it, and clean up, not for who is kept waiting himself.
        ends = time.monotonic() + (_PATIENCE_S if isinstance(error, Exception) else _GRACE_S)
        for thread in started:
            thread.join(max(0, ends - time.monotonic()))
        raise


def _outcome(work: Callable[[], _Result]) -> Callable[[], _Result]:
    """Does `work`; the function that is returned returns what it returned, or raises what it raised."""
    try:
        result = work()
    except BaseException as error:
        failure = error

        def fail() -> _Result:
            raise failure

        return fail
    return lambda: result
