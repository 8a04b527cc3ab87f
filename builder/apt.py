"""Debian's lists of packages: fetched by mmdebstrap, checked by apt with Debian's keys, and asked by apt."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.arch import Arch
from builder.command import run
from builder.errors import BuildError
from builder.mirror import open_mirror
from builder.progress import Progress

INSTALL = "apt-get install mmdebstrap"


@dataclass(frozen=True)
class Lists:
    """The lists of one suite for one architecture, in a root of apt's own."""

    root: Path
    progress: Progress

    @property
    def folder(self) -> Path:
        """Where the files are that apt fetched."""
        return self.root / "var/lib/apt/lists"

    def ask(self, *command: str) -> str:
        """What a command of apt prints that knows these lists, and nothing of this machine's packages."""
        # apt reads this variable before any other setting: the settings of this machine are not read at all.
        environment = dict(os.environ) | {"APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C.UTF-8"}
        return run(command, missing=INSTALL, env=environment, echo=self.progress.command)


@contextmanager
def open_lists(
    suite: str,
    arch: Arch,
    mirror: str | None,
    progress: Progress,
    *,
    options: Mapping[str, str] | None = None,
) -> Iterator[Lists]:
    """The lists of `suite`, freshly fetched; they are gone afterwards. Nothing is installed.

    `options` are settings of apt. ToolMissing (exit 3) without mmdebstrap; BuildError where a list cannot be
    had, or is not what Debian signed.
    """
    folder = Path(tempfile.mkdtemp(prefix="sandbox-build-"))
    root = folder / "root"
    try:
        with open_mirror(mirror) as opened:
            command = [
                "mmdebstrap",
                # Nothing is run of what is fetched, so neither root nor a user namespace is needed.
                *("--mode=chrootless", "--variant=custom", "--format=directory", "--skip=cleanup/apt"),
                f"--architectures={arch.name}",
                *(f"--aptopt={key} {json.dumps(value)}" for key, value in (options or {}).items()),
                *opened.options,
                *(suite, str(root)),
                *opened.arguments,
            ]
            try:
                # What it leaves behind where it is killed goes with our folder.
                environment = os.environ | {"TMPDIR": str(folder)}
                run(
                    command,
                    missing=INSTALL,
                    env=environment,
                    on_line=progress.detail,
                    echo=progress.command,
                )
            except BuildError as error:
                raise BuildError(
                    f"the lists of debian:{suite} for {arch.name} cannot be fetched: {error.message}",
                    f"is {opened.place} within reach? "
                    "If keys are missing: apt-get install debian-archive-keyring",
                ) from None
        (root / "apt.conf").write_text(_settings(root, arch))
        yield Lists(root, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settings(root: Path, arch: Arch) -> str:
    return "".join(
        f"{key} {json.dumps(value)};\n"
        for key, value in {
            "Dir": f"{root}/",
            "Dir::State::status": f"{root}/var/lib/dpkg/status",
            "APT::Architecture": arch.name,
            "APT::Architectures": arch.name,
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
        }.items()
    )


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The fields of each stanza of a control file (deb822(5)); a value of several lines keeps its breaks."""
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.split("\n"), ""]:
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif line[0] in " \t":
            fields[name] += f"\n{line}"
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()


def reason(error: BuildError) -> str:
    """apt's own first word on what went wrong."""
    lines: Sequence[str] = [line.removeprefix("  < ") for line in error.message.splitlines()]
    return next((line for line in lines if line.startswith(("E: ", "Err:"))), lines[0])
