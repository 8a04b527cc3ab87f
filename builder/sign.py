"""Signing of what was pushed, by a command that the config names."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence

from builder.command import run
from builder.errors import BuildError, ToolMissing
from builder.progress import Progress

IMAGE = "{image}"
"""Stands for NAME@DIGEST in the words of a command."""

_TIMEOUT_S = 600
"""A signer that asks somebody for something asks in vain: it has no terminal."""


def signing_command(command: Sequence[str], image: str) -> list[str]:
    """`command` with `image` in the place of each {image}; as its last word where there is none.

    Other braces stay as they are.
    """
    words = [word.replace(IMAGE, image) for word in command]
    return words if any(IMAGE in word for word in command) else [*words, image]


def find_signer(command: Sequence[str]) -> None:
    """ToolMissing where the program of `command` is not there: a long build need not end unsigned."""
    if shutil.which(command[0]) is None:
        raise ToolMissing(f"image.sign: {command[0]} is not installed", _hint(command))


def sign(command: Sequence[str], image: str, progress: Progress) -> None:
    """Runs `command`, without a shell, for the image NAME@DIGEST that was just pushed.

    ToolMissing where its program is not there, BuildError where it fails: both say that the image is in the
    registry, and not signed. So does a warning where we are interrupted.
    """
    words = signing_command(command, image)
    try:
        with progress.step(f"signing {image}"):
            run(words, on_line=progress.detail, echo=progress.command, keep=False, timeout_s=_TIMEOUT_S)
    except ToolMissing as error:
        raise ToolMissing(_unsigned(image, error.message), _hint(command)) from error
    except BuildError as error:
        raise _failure(image, words, error.message) from error
    except OSError as error:  # it is there, and is no program
        raise _failure(image, words, f"{words[0]}: {error.strerror}") from error
    except KeyboardInterrupt:
        progress.warn(_failure(image, words, "interrupted").line)
        raise


def _failure(image: str, words: Sequence[str], reason: str) -> BuildError:
    return BuildError(_unsigned(image, reason), f"sign it with: {shlex.join(words)}")


def _unsigned(image: str, reason: str) -> str:
    return f"{image} was pushed, but not signed: {reason}"


def _hint(command: Sequence[str]) -> str:
    return f"install {command[0]}, or name another command in image.sign"
