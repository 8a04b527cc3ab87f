"""Work for several architectures at the same time: each in a process of its own, whose news are told here."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, TypeVar

from builder.errors import BuildError, SandboxError
from builder.progress import Lanes, Progress

_T = TypeVar("_T")

# As it is now, a child has all that the work needs: nothing but news and results must be sent.
_FORK = multiprocessing.get_context("fork")


class _News(Progress):
    """The progress of a child, told to the process that shows it."""

    def __init__(self, connection: Connection, verbose: bool) -> None:
        super().__init__(verbose=verbose)
        self._connection = connection

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._tell("begin", title)
        try:
            yield
        finally:
            self._tell("end", "")

    def detail(self, text: str) -> None:
        self._tell("detail", text)

    def note(self, text: str) -> None:
        self._tell("note", text)

    def command(self, text: str) -> None:
        self._tell("command", text)

    def warn(self, text: str) -> None:
        self._tell("warn", text)

    def _tell(self, what: str, text: str) -> None:
        self._connection.send((what, text))


def side_by_side(work: Mapping[str, Callable[[Progress], _T]], progress: Progress) -> list[_T]:
    """What each piece of `work` returns, in order; with more than one, each is done in a process of its own.

    All are done to their end, so that a user learns of every failure at once: of these the first is raised,
    and the others are warnings. When we are interrupted, so are they, and nothing of them is left.
    """
    if len(work) == 1:
        return [one(progress) for one in work.values()]
    ends: dict[Connection, str] = {}
    children = []
    results: dict[str, _T] = {}
    failures: dict[str, Exception] = {}
    try:
        # Before anything is shown: a thread draws live lines, and its locks would be forked too.
        for name, one in work.items():
            ours, theirs = _FORK.Pipe(duplex=False)
            child = _FORK.Process(target=_do, args=(one, theirs, progress.verbose))
            child.start()
            children.append(child)
            theirs.close()
            ends[ours] = name
        with progress.lanes(list(work)) as lanes:
            while ends:
                for ready in wait(list(ends)):
                    assert isinstance(ready, Connection)  # noqa: S101 - nothing else is waited for
                    _hear(ready, ends, lanes, results, failures)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.join()
    if failures:
        first, *others = (name for name in work if name in failures)
        for name in others:
            if str(failures[name]) != str(failures[first]):
                progress.warn(f"{name} failed too: {failures[name]}")
        raise failures[first]
    return [results[name] for name in work]


def _hear(
    connection: Connection,
    ends: dict[Connection, str],
    lanes: Lanes,
    results: dict[str, Any],
    failures: dict[str, Exception],
) -> None:
    """Takes one message of a child; the last one is its result, or why there is none."""
    name = ends[connection]
    try:
        what, content = connection.recv()
    except EOFError:
        what, content = "failed", BuildError(f"{name}: the process that built it was killed")
    if what == "done":
        results[name] = content
    elif what == "failed":
        failures[name] = content
    else:
        lanes.hear(name, what, content)
        return
    lanes.leave(name)
    del ends[connection]
    connection.close()


def _do(work: Callable[[Progress], Any], connection: Connection, verbose: bool) -> None:
    """The child: does its work, and tells what came of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    # Whoever waits for us may be gone: there is nobody left to tell then.
    with suppress(KeyboardInterrupt, BrokenPipeError):
        try:
            message = ("done", work(_News(connection, verbose)))
        except SandboxError as error:
            message = ("failed", error)
        except OSError as error:
            message = ("failed", OSError(error.errno, error.strerror, error.filename))
        except Exception as error:
            message = ("failed", RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
        connection.send(message)


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    # A terminal's Ctrl-C reaches us as it does our parent, who tells us too: we clean up uninterrupted.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
