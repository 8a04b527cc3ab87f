"""What every driver takes and gives, and what it makes of the assembler's output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from builder.arch import Arch
from builder.errors import BuildError, ConfigError, LibrariesMissing, MissingLibrary, SandboxError
from builder.progress import Progress

__all__ = ["AssemblerOutput", "BuildJob", "Driver"]


@dataclass(frozen=True)
class BuildJob:
    """One image of one architecture."""

    arch: Arch
    context: Path
    """The context directory, complete, with its Dockerfile."""
    scratch: Path
    """An empty folder for what is made on the way, results included; the caller's to delete."""
    rootfs: Path | None = None
    """The target's root filesystem, for a driver that reads it itself; None for a base of kind `image`."""
    packages: Path | None = None
    """The locked packages, for a driver that reads the folder itself."""
    bytecode: Path | None = None
    """A cache of bytecode, for a driver that can use one of this machine."""
    assembler_command: tuple[str, ...] = ()
    """The base's interpreter for this machine, with its options, as this machine can start it."""
    no_cache: bool = False


class Driver(Protocol):
    """A way of building images."""

    @property
    def name(self) -> str: ...

    def build(self, job: BuildJob, progress: Progress) -> Path:
        """A folder in job.scratch with the image's files: a folder for each layer.

        Whatever stops it, nothing is left behind but files in job.scratch.
        """
        ...

    def publish(self, archive: Path, progress: Progress) -> None:
        """Gives the finished image in `archive` its name, where this driver's users look for images."""
        ...


# The step in which BuildKit asks its store, or a registry, for the image after FROM; and why it has none.
_METADATA_STEP = re.compile(r"#(\d+) \[internal\] load metadata for (\S+)")
_STEP_FAILED = re.compile(r"#(\d+) ERROR: (.+)")

# BuildKit's plain progress has "#STEP SECONDS " before what a step prints.
_BUILDKIT_PREFIX = re.compile(r"#\d+ (?:\d+\.\d+ )?")
_MISSING = "missing: "
"""Before the JSON of a library that the assembler did not find."""
_EXIT_CODE = re.compile(r"exit code:? (\d+)")


class AssemblerOutput:
    """Listens to a build's lines: shows the assembler's progress and warnings, and knows why it failed."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lines: list[str] = []
        self._bases: dict[str, str] = {}
        self._failed_steps: dict[str, str] = {}

    def __call__(self, line: str) -> None:
        if step := _METADATA_STEP.match(line):
            self._bases[step[1]] = step[2]
        elif failed := _STEP_FAILED.match(line):
            self._failed_steps[failed[1]] = failed[2]
        line = _BUILDKIT_PREFIX.sub("", line, count=1)
        self._lines.append(line)
        if line.startswith("warning: "):
            self._progress.warn(line.removeprefix("warning: "))
        elif line:
            self._progress.detail(line.removeprefix("progress: "))

    def failure(self, error: BuildError) -> SandboxError:
        """The assembler's own words where it had some, else `error`, which is the command's failure.

        The assembler's exit code 2 says that the config is wrong. Docker's own exit code is another: BuildKit
        prints the assembler's.
        """
        missing = [
            json.loads(line.removeprefix(_MISSING)) for line in self._lines if line.startswith(_MISSING)
        ]
        if missing:
            base = missing[0]["base"]
            return LibrariesMissing(
                [
                    MissingLibrary(one["soname"], tuple(one["chain"]), one["version"], tuple(one["places"]))
                    for one in missing
                ],
                base,
            )
        problems = list(_problems(self._lines))
        if not problems:
            return self._missing_base() or error
        code = next(filter(None, map(_EXIT_CODE.search, [*self._lines, error.message])), None)
        if code is not None and code[1] == "2":
            return ConfigError(problems)
        return BuildError("\n".join(message for message, _ in problems), problems[-1][1])

    def _missing_base(self) -> BuildError | None:
        """Why the image after FROM is not to be had, where that is what failed."""
        for step, reason in self._failed_steps.items():
            if step in self._bases:
                return BuildError(
                    f"base {self._bases[step]} is not to be had: {reason}",
                    "check its name and tag; `docker login` where its registry wants to know who asks",
                )
        return None


def _problems(lines: Iterable[str]) -> Iterable[tuple[str, str | None]]:
    """The (message, hint) pairs of `error:` lines and the `hint:` lines that follow them."""
    message = None
    for line in lines:
        if line.startswith("error: "):
            if message is not None:
                yield message, None
            message = line.removeprefix("error: ")
        elif line.startswith("hint: ") and message is not None:
            yield message, line.removeprefix("hint: ")
            message = None
    if message is not None:
        yield message, None
