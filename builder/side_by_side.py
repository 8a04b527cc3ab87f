"""Work for several architectures at the same time: each in a process of its own, whose news are told here."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from builder.errors import BuildError, SandboxError
from builder.progress import Lanes, Progress
from builder.signals import hear_nothing, interrupt_once

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
            with suppress(BrokenPipeError):  # we may be cleaning up, with nobody left to tell
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
            ends[ours] = name
            child = _FORK.Process(target=_do, args=(one, theirs, list(ends), progress.verbose))
            child.start()
            children.append(child)
            theirs.close()
        with progress.lanes(list(work)) as lanes:
            while ends:
                for ready in wait(list(ends)):
                    assert isinstance(ready, Connection)  # noqa: S101 - nothing else is waited for
                    _hear(ready, ends, lanes, results, failures)
    finally:
        for child in children:
            child.terminate()
        for end in ends:  # of those that we no longer hear: none of them waits for us to
            end.close()
        for child in children:
            child.join()
    if failures:
        first, *others = (name for name in work if name in failures)
        for name in others:
            if str(failures[name]) != str(failures[first]):
                failure = failures[name]
                told = failure.line if isinstance(failure, SandboxError) else failure
                progress.warn(f"{name} failed too: {told}")
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
    except (EOFError, OSError):  # OSError: in the midst of a message
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


def _do(
    work: Callable[[Progress], Any], connection: Connection, not_ours: Iterable[Connection], verbose: bool
) -> None:
    """The child: does its work, and tells what came of it.

    `not_ours` are the ends of pipes that the parent reads from. As long as a child had them too, one whose
    parent is gone would wait for ever for somebody to read what it says.
    """
    for end in not_ours:
        end.close()
    # A terminal's Ctrl-C reaches us as it does our parent, who tells us too: by this signal.
    interrupt_once(signal.SIGTERM)
    # Whoever waits for us may be gone: there is nobody left to tell then.
    with suppress(KeyboardInterrupt, BrokenPipeError):
        message = _outcome(work, _News(connection, verbose))
        hear_nothing()  # on our way out
        connection.send(message)


def _outcome(work: Callable[[Progress], Any], progress: Progress) -> tuple[str, Any]:
    """What came of `work`, as it is told: an error that another process can raise as it is, or in words."""
    try:
        return "done", work(progress)
    except SandboxError as error:
        return "failed", error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            return "failed", OSError(error.errno, error.strerror, error.filename)
        return "failed", RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
