"""The one door to other programs: echoes a command, captures its output, quotes its last lines on failure."""

from __future__ import annotations

import codecs
import io
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from builder.errors import BuildError, ToolMissing

_LAST_LINES = 15
_LINE_CHARS = 64 << 10
_CHUNK_BYTES = 64 << 10
_OUTPUT_BYTES = 256 << 20


class OutOfTime(BuildError):
    """A program ran longer than it may, and was killed."""


class TooMuchOutput(BuildError):
    """A program printed more than it may, and was killed."""


def run(
    command: Sequence[str],
    *,
    missing: str = "",
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    echo: Callable[[str], None] | None = None,
    keep: bool = True,
    limit_bytes: int = _OUTPUT_BYTES,
    timeout_s: float | None = None,
) -> str:
    """Runs `command` to its end and returns its stdout.

    stderr and stdout are merged into `on_line`, line by line, where that is given (then the return value is
    the merged text); of a longer line it gets the first 65536 characters. Without `keep` nothing is returned,
    and nothing but the last lines stays in memory. ToolMissing when the program is not on PATH (`missing` is
    its hint: what to install). BuildError when it exits with anything but 0: the message has the quoted
    command, the exit code and the last lines of what it printed. The program is killed, with all that it has
    started, when we are interrupted, when it prints more than `limit_bytes` (TooMuchOutput), and after
    `timeout_s` (OutOfTime).
    """
    quoted = shlex.join(command)
    if echo is not None:
        echo(f"> {quoted}")
    try:
        process = subprocess.Popen(  # noqa: S603 - a list, never a shell; callers build it from config values
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if on_line else subprocess.PIPE,
            env=dict(env) if env is not None else None,
            bufsize=0,
        )
    except FileNotFoundError:
        raise ToolMissing(f"{command[0]} is not installed", missing or None) from None
    except PermissionError:
        raise ToolMissing(f"{command[0]} may not be executed", missing or None) from None
    stdout, stderr = _Stream(keep, on_line), _Stream(keep=False)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        _read([(process.stdout, stdout), (process.stderr, stderr)], limit_bytes, deadline)
        process.wait(_left(deadline))
    except BaseException as error:
        _kill_family(process.pid)
        process.wait()
        if isinstance(error, TimeoutError | subprocess.TimeoutExpired):
            raise OutOfTime(f"{quoted}: it took longer than {timeout_s} s") from None
        if isinstance(error, _Full):
            raise TooMuchOutput(f"{quoted}: it printed more than {limit_bytes >> 20} MiB") from None
        raise
    finally:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if process.returncode != 0:
        shown = "".join(f"\n  < {line}" for line in stderr.tail or stdout.tail)
        raise BuildError(f"{quoted}: exit code {process.returncode}{shown}")
    return stdout.text if on_line is None else stdout.text.removesuffix("\n")


def _kill_family(pid: int) -> None:
    """Kills a process that nobody has waited for yet, and all that it has started, as /proc lists them.

    Not by a process group or session of its own: what ends ours as a group is to end these, too.
    """
    found = [pid]
    for one in found:
        with suppress(OSError):  # gone, or another user's
            os.kill(one, signal.SIGSTOP)  # it starts nothing more
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    for one in found:
        with suppress(OSError):
            os.kill(one, signal.SIGKILL)


class _Full(Exception):
    pass


class _Stream:
    """Lines of bounded length, made of what a program prints."""

    def __init__(self, keep: bool, on_line: Callable[[str], None] | None = None) -> None:
        self.tail: deque[str] = deque(maxlen=_LAST_LINES)
        self._kept: list[str] | None = [] if keep else None
        self._on_line = on_line
        self._line = ""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)

    @property
    def text(self) -> str:
        return "".join(self._kept or ())

    def feed(self, chunk: bytes) -> None:
        """Takes what comes next; nothing at the end."""
        text = self._decoder.decode(chunk, final=not chunk)
        if self._kept is not None:
            self._kept.append(text)
        *lines, rest = text.split("\n")
        for line in lines:
            self._add(line)
            self._end_line()
        self._add(rest)
        if not chunk and self._line:
            self._end_line()

    def _add(self, text: str) -> None:
        self._line += text[: _LINE_CHARS - len(self._line)]

    def _end_line(self) -> None:
        line, self._line = self._line, ""
        self.tail.append(line)
        if self._on_line is not None:
            self._on_line(line)


def _read(
    streams: Sequence[tuple[IO[bytes] | None, _Stream]], limit_bytes: int, deadline: float | None
) -> None:
    """Feeds each stream from its pipe, until all are at their end."""
    total = 0
    with selectors.DefaultSelector() as selector:
        for pipe, stream in streams:
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, stream)
        while selector.get_map():
            for key, _ in selector.select(_left(deadline)):
                chunk = os.read(key.fd, _CHUNK_BYTES)
                key.data.feed(chunk)
                total += len(chunk)
                if total > limit_bytes:
                    raise _Full
                if not chunk:
                    selector.unregister(key.fileobj)


def _left(deadline: float | None) -> float | None:
    """Seconds; TimeoutError where there are none."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
