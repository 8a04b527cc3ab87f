"""The signals that end a program in order: the first interrupts it, and its cleaning up is not disturbed."""

from __future__ import annotations

import signal
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a service manager, a terminal that is closed."""


def interrupt_once(*always: signal.Signals) -> None:
    """From now on the first of these signals raises KeyboardInterrupt, and no further one is heard.

    One that whoever started us had ignored, as nohup(1) does, stays so, unless it is one of `always`.
    """
    for number in _ENDING:
        if number in always or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def hear_nothing() -> None:
    """From now on none of these signals is heard."""
    for number in _ENDING:
        # Not SIG_IGN: of a signal that had come already Python would then print a traceback.
        signal.signal(number, _nothing)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    hear_nothing()
    raise KeyboardInterrupt


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass
