"""The one door to other programs: echoes a command, captures its output, quotes its last lines on failure."""

from __future__ import annotations

import shlex
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from builder.errors import BuildError, ToolMissing

_LAST_LINES = 15


def run(
    command: Sequence[str],
    *,
    missing: str = "",
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    echo: Callable[[str], None] | None = None,
) -> str:
    """Runs `command` to its end and returns its stdout.

    stderr and stdout are merged into `on_line`, line by line, where that is given (then the return value is
    the merged text). ToolMissing when the program is not on PATH (`missing` is its hint: what to install).
    BuildError when it exits with anything but 0: the message has the quoted command, the exit code and the
    last lines of what it printed. The program is killed when we are interrupted.
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
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise ToolMissing(f"{command[0]} is not installed", missing or None) from None
    except PermissionError:
        raise ToolMissing(f"{command[0]} may not be executed", missing or None) from None
    try:
        if on_line is None:
            stdout, stderr = process.communicate()
            last = stderr.splitlines()[-_LAST_LINES:] or stdout.splitlines()[-_LAST_LINES:]
        else:
            tail: deque[str] = deque(maxlen=_LAST_LINES)
            lines = []
            assert process.stdout is not None  # noqa: S101 - PIPE was asked for
            with process.stdout:
                for raw in process.stdout:
                    line = raw.rstrip("\n")
                    lines.append(line)
                    tail.append(line)
                    on_line(line)
            process.wait()
            stdout, last = "\n".join(lines), list(tail)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        shown = "".join(f"\n  < {line}" for line in last)
        raise BuildError(f"{quoted}: exit code {process.returncode}{shown}")
    return stdout
