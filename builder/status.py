"""What a run's status descriptor says: what is in force, and which calls the policy denied."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

_KEPT_BYTES = 1 << 20
"""So much of one run's stream is read; the runtime bounds what it writes to far less."""

Frame = tuple[str, int]
"""A file's path in the jail, or main.py for the code itself, and a line."""


@dataclass(frozen=True)
class Denied:
    """A system call that the policy denies, for one reason, however often it was made."""

    call: str
    number: int
    arguments: tuple[int, ...]
    """Those of the first such call."""
    line: int | None
    """The innermost line of the code itself."""
    stack: tuple[Frame, ...]
    """Where the first such call was made, innermost first. The code may have forged it, and nothing else."""
    allow: str
    """What allows it: lines of config.yaml, or words where no line does; empty where nothing is known."""
    danger: str
    """Why no program in a sandbox should make the call; empty where some may."""
    passed: bool
    """Whether it was let through."""
    count: int = 1


class StatusStream:
    """Reads the stream piece by piece; keeps what its whole lines say, up to the first broken one."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        """What was in force; empty where the lock-down was never reached."""
        self.whole = True
        """Whether every line so far could be read."""
        self._denied: dict[tuple[str, str], Denied] = {}
        self._rest = b""
        self._size = 0

    @property
    def denied(self) -> tuple[Denied, ...]:
        """Each call that was denied, in the order in which they came."""
        return tuple(self._denied.values())

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._size += len(data)
        if self._size > _KEPT_BYTES:
            self.whole = False
        if not self.whole:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError):
                self.whole = False
                return

    def end(self) -> None:
        """There is no more: half a line is a broken one."""
        self.whole = self.whole and not self._rest

    def _take(self, line: Any) -> None:
        if not isinstance(line, dict):
            raise TypeError("a line is an object")
        if "denied" in line:
            one = _denied(line["denied"])
            self._denied.setdefault((one.call, one.allow), one)
        elif "counts" in line:
            for call, allow, count in line["counts"]:
                self._denied[call, allow] = replace(self._denied[call, allow], count=int(count))
        else:
            self.facts = line


def _denied(record: dict[str, Any]) -> Denied:
    line = record["line"]
    return Denied(
        call=str(record["call"]),
        number=int(record["number"]),
        arguments=tuple(int(argument) for argument in record["arguments"]),
        line=None if line is None else int(line),
        stack=tuple((str(path), int(at)) for path, at in record["stack"]),
        allow=str(record["allow"]),
        danger=str(record["danger"]),
        passed=bool(record["passed"]),
    )
