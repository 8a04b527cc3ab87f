"""The program: a command line, and every way in which it can fail as lines on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from builder.cli import commands
from builder.errors import BuildError, ConfigError, SandboxError, printable_lines
from builder.signals import interrupt_once

INTERRUPTED = 130
"""128 + SIGINT, as a shell has it."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; every failure becomes lines on stderr and the exit code that belongs to it."""
    if arguments is None:
        _start_in_utf8()
        interrupt_once()
        arguments = sys.argv[1:]
    _open_standard_streams()
    try:
        code = _guarded(lambda: commands.main(arguments, "sandbox-build", standalone_mode=False))
    except Exception as error:
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exc()
        _complain(f"{type(error).__name__}: {error}", "this is a bug in sandbox-build: --verbose shows where")
        code = 1
    sys.exit(code)


def _start_in_utf8() -> None:
    """Starts this program anew where the locale has another encoding than UTF-8 for the names of files.

    Python goes by it from its first moment on, and a name must be the same bytes in every image.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - ourselves


def _open_standard_streams() -> None:
    """A stream that we were started without becomes /dev/null, not the next file that is opened."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _guarded(call: Callable[[], Any]) -> int:
    try:
        result = call()
    except ConfigError as error:
        for message, hint in error.problems:
            _complain(message, hint)
        return error.exit_code
    except SandboxError as error:
        _complain(error.message, error.hint)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        asked = f"{error.ctx.command_path} --help" if error.ctx else "sandbox-build --help"
        _complain(error.format_message(), f"`{asked}` says what there is")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted; no half-made image was left behind", None)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our stdout has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}", None)
        return BuildError.exit_code
    return result if isinstance(result, int) else 0


def _complain(message: str, hint: str | None) -> None:
    click.echo(f"error: {printable_lines(message)}", err=True)
    if hint:
        click.echo(f"hint: {printable_lines(hint)}", err=True)
