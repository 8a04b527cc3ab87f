"""One attempt at what was promised of a jail: a module imported there, or a snippet run, and how that went.

What decides is what the attempt's own program says at its end, behind a word that is new with each attempt,
and that the interpreter then ends with exit code 0. A module that ends the interpreter while it is imported
never gets there. A module that wants to does: it runs in that program's own process, and finds the word as we
do. So this is no defence against a package that pretends to work, which hurts nobody but its users.
"""

from __future__ import annotations

import io
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from builder import jailrun
from builder.jailrun import Outcome

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

KEPT_BYTES = 16 * 1024
"""As much of what a program prints is kept."""

PROGRAM = """\
def attempt():
    import sys
    from posix import _exit, dup, dup2, write
    from time import perf_counter
    word, name, *sys_path = sys.argv[1:]
    del sys.argv[1:], sys.orig_argv[1:]
    if sys_path:
        sys.path[:] = sys_path
    try:
        told = dup(1)
        dup2(2, 1)
    except OSError:
        told = 1
    def tell(*fields):
        line = " ".join(field[:4000].encode("utf-8", "backslashreplace").hex() or "-" for field in fields)
        write(told, f"\\n{word} {line}\\n".encode())
    def chain(error):
        for _ in range(4):
            if error is None:
                return
            try:
                yield type(error).__name__, str(error), str(getattr(error, "name", None) or "")
            except BaseException:
                yield type(error).__name__, "", ""
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    started = perf_counter()
    try:
        __import__(name)
    except BaseException as error:
        tell("failed", *(field for one in chain(error) for field in one))
        _exit(1)
    tell("imported", str(perf_counter() - started))
attempt()
"""
"""Imports the module that its second argument names; further ones are sys.path. No name is ever text of it.

What the module prints on stdout goes to stderr: stdout is ours, except for a module that looks for it.
"""

_EXECUTE = """\
import sys
code, *sys.path[:] = sys.argv[1:]
sys.argv[:] = ["-"]
exec(compile(code, "main.py", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
"""
"""Runs its first argument with the others as sys.path, where no entrypoint of ours does that."""


@dataclass(frozen=True)
class Raised:
    """One exception of those that led to a failed import."""

    kind: str
    """The name of its class."""
    text: str
    name: str = ""
    """What an ImportError is about."""


@dataclass(frozen=True)
class Attempt:
    """How an attempt went. All texts are the package's own, and may be anything."""

    outcome: Outcome
    seconds: float | None = None
    """What the import took; None where the program did not say that it is done."""
    raised: tuple[Raised, ...] = ()
    """The exception that ended the import, then what it was raised from."""
    stdout: bytes = b""
    """Its beginning."""
    stderr: str = ""
    """Its end."""

    @property
    def imported(self) -> bool:
        """Whether the module was imported, and the interpreter came to its end as it should."""
        return self.seconds is not None and self.outcome.exit_code == 0 and self.outcome.stopped is None


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    outcome: Outcome
    stderr: str
    """Its end."""


class Runner(Protocol):
    """Where attempts are made. Threads may call at the same time, each with another uid."""

    @property
    def sys_path(self) -> Sequence[str]:
        """What PROGRAM must set; empty where the interpreter has it already."""

    @property
    def timeout_s(self) -> float:
        """How long a program may take."""

    def program(
        self, text: str, arguments: Sequence[str], stdout: BinaryIO, uid: int, cancel: int | None
    ) -> Ran:
        """Runs `text`, which is ours, with `arguments` as sys.argv[1:]."""

    def snippet(self, code: str, stdout: BinaryIO, uid: int, cancel: int | None) -> Ran:
        """Runs `code`, which is the user's."""


@dataclass(frozen=True)
class Jailed:
    """The finished jail: the image's own entrypoint, policy, limits and user."""

    root: Path
    """The image's root, unpacked."""
    timeout_s: float
    sys_path: Sequence[str] = field(default=(), init=False)

    def program(
        self, text: str, arguments: Sequence[str], stdout: BinaryIO, uid: int, cancel: int | None
    ) -> Ran:
        return self._run(["-c", text, *arguments], None, stdout, uid, cancel)

    def snippet(self, code: str, stdout: BinaryIO, uid: int, cancel: int | None) -> Ran:
        with tempfile.TemporaryFile() as file:
            file.write(code.encode("utf-8", "surrogateescape"))
            file.seek(0)
            return self._run([], file, stdout, uid, cancel)

    def _run(
        self, arguments: Sequence[str], code: BinaryIO | None, stdout: BinaryIO, uid: int, cancel: int | None
    ) -> Ran:
        stderr = End()
        outcome = jailrun.run(
            *(self.root, arguments),
            code=code,
            stdin=subprocess.DEVNULL,
            timeout_s=self.timeout_s,
            stdout=stdout,
            stderr=stderr,
            uid=uid,
            cancel=cancel,
            env={},
        )
        return Ran(outcome, stderr.text)


@dataclass(frozen=True)
class Emulated:
    """The finished tree, whose interpreter an emulator runs; nothing of the runtime is in it."""

    command: Callable[[int], Sequence[str]]
    """What enters the tree with a uid, up to the interpreter and its flags."""
    sys_path: Sequence[str]
    timeout_s: float
    limit_bytes: int

    def program(
        self, text: str, arguments: Sequence[str], stdout: BinaryIO, uid: int, cancel: int | None
    ) -> Ran:
        stderr = End()
        exit_code, stopped = jailrun.supervise(
            [*self.command(uid), "-c", text, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            timeout_s=self.timeout_s,
            limit_bytes=self.limit_bytes,
            env={},
            cancel=cancel,
        )
        return Ran(Outcome(exit_code, {}, stopped), stderr.text)

    def snippet(self, code: str, stdout: BinaryIO, uid: int, cancel: int | None) -> Ran:
        return self.program(_EXECUTE, [code, *self.sys_path], stdout, uid, cancel)


def try_import(runner: Runner, name: str, uid: int, cancel: int | None = None) -> Attempt:
    """Imports the module `name` in an interpreter of its own."""
    word = secrets.token_hex(16)
    stdout = End()
    ran = runner.program(PROGRAM, [word, name, *runner.sys_path], stdout, uid, cancel)
    verb, *fields = _told(stdout.getvalue(), word)
    if verb == "imported":
        return Attempt(ran.outcome, seconds=_seconds(fields), stderr=ran.stderr)
    triples = zip(fields[0::3], fields[1::3], fields[2::3], strict=False)
    return Attempt(ran.outcome, raised=tuple(Raised(*one) for one in triples), stderr=ran.stderr)


def try_snippet(
    runner: Runner, code: str, expected: str | None, uid: int, cancel: int | None = None
) -> Attempt:
    """Runs `code` in an interpreter of its own; keeps enough of its output to compare it with `expected`."""
    stdout = Beginning(max(KEPT_BYTES, len((expected or "").encode("utf-8", "surrogateescape")) + 1))
    ran = runner.snippet(code, stdout, uid, cancel)
    return Attempt(ran.outcome, stdout=stdout.getvalue(), stderr=ran.stderr)


def _told(stdout: bytes, word: str) -> list[str]:
    """The fields of the last whole line that begins with `word`; one empty field where there is none."""
    for line in reversed(stdout.split(b"\n")):
        first, *rest = line.decode(errors="replace").split(" ")
        if first == word and rest:
            try:
                return [bytes.fromhex(one.strip("-")).decode(errors="replace") for one in rest]
            except ValueError:
                break
    return [""]


def _seconds(fields: Sequence[str]) -> float | None:
    try:
        return max(float(fields[0]), 0.0)
    except (ValueError, IndexError):
        return None


class Beginning(io.BytesIO):
    """Keeps the first `most` bytes that are written to it."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        super().__init__()
        self._most = most

    def write(self, data: ReadableBuffer, /) -> int:
        piece = bytes(data)
        super().write(piece[: self._most - self.tell()])
        return len(piece)


class End(io.BytesIO):
    """Keeps the last KEPT_BYTES that are written to it."""

    def write(self, data: ReadableBuffer, /) -> int:
        piece = bytes(data)
        kept = (self.getvalue() + piece)[-KEPT_BYTES:]
        self.seek(0)
        self.truncate()
        super().write(kept)
        return len(piece)

    @property
    def text(self) -> str:
        return self.getvalue().decode(errors="replace")
