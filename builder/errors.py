"""Every error that a user can meet, each with its exit code and its hint."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def printable(text: str) -> str:
    """Text of a stranger in one line that moves no terminal's cursor: what is not printable is escaped."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def printable_lines(text: str) -> str:
    """The same for text that may be several lines."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(char: str) -> str:
    code = ord(char)
    # The bytes of a name that is not UTF-8.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(char)[1:-1]


class SandboxError(Exception):
    """A failure that is told to the user as `error: MESSAGE` and `hint: HINT`, without a traceback.

    `message` says what and where; `hint` says what to do next (None where there is nothing to say).
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def line(self) -> str:
        """Both, for a warning."""
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors go from one process to another whole, whatever their own __init__ takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[SandboxError], arguments: tuple[Any, ...], state: dict[str, Any]) -> SandboxError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class BuildError(SandboxError):
    """The build failed."""

    exit_code = 1


def room_hint(error: OSError) -> str | None:
    """What to do about a full disk; None for any other failure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there, or name another folder with --output"
    return None


@dataclass(frozen=True)
class MissingLibrary:
    """A shared library that a file of the tree needs, and that is not where the loader looks."""

    soname: str
    chain: tuple[str, ...]
    """Jail paths from the file that was asked about to the one that needs the library."""
    version: str | None = None
    """The version of its symbols that is needed, as GLIBC_2.38, where the library is there without it."""
    places: tuple[str, ...] = ()
    """Where else in the base a library of this name lies."""

    def __str__(self) -> str:
        lack = "not found" if self.version is None else f"found, but without {self.version}"
        # A file's own words: they must not look like lines of ours.
        return printable(" -> ".join((*self.chain, self.soname)) + f" ({lack})")


class LibrariesMissing(BuildError):
    """Shared libraries that the base does not have."""

    def __init__(self, missing: Sequence[MissingLibrary], base: str, hint: str | None = None) -> None:
        lines = "".join(f"\n  {one}" for one in missing)
        super().__init__(f"shared libraries that {base} does not have:{lines}", hint)
        self.missing = tuple(missing)
        self.base = base


class UsageError(SandboxError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class ConfigError(SandboxError):
    """config.yaml or the environment is wrong.

    `problems` holds one (message, hint) pair for each thing that is wrong: all of them at once.
    """

    exit_code = 2

    def __init__(self, problems: list[tuple[str, str | None]]) -> None:
        super().__init__("\n".join(message for message, _ in problems))
        self.problems = problems


class ToolMissing(SandboxError):
    """A program, service or kernel feature that the chosen way of building needs is not there."""

    exit_code = 3


class VerificationFailed(SandboxError):
    """The finished image does not do what its config promises."""

    exit_code = 4


class RegistryError(SandboxError):
    """A registry could not be reached, refused, or asked for credentials that were not found."""

    exit_code = 1
