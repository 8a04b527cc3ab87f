"""Every error that a user can meet, each with its exit code and its hint."""

from __future__ import annotations

import errno


class SandboxError(Exception):
    """A failure that is told to the user as `error: MESSAGE` and `hint: HINT`, without a traceback.

    `message` says what and where; `hint` says what to do next (None where there is nothing to say).
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BuildError(SandboxError):
    """The build failed."""

    exit_code = 1


def room_hint(error: OSError) -> str | None:
    """What to do about a full disk; None for any other failure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there, or name another folder with --output"
    return None


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
