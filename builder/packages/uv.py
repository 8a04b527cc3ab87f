"""uv: resolves requirements for a platform that is not this machine's, and installs wheels for it.

It reads what indexes and wheels say of themselves; no code of any package is run by it here.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from builder.arch import Arch
from builder.command import run
from builder.errors import BuildError, ToolMissing
from builder.packages.index import Sources, to_toml
from builder.packages.tags import GLIBC, best
from builder.packages.uv_errors import Question, translated
from builder.progress import Progress
from builder.transfer import without_passwords


@dataclass(frozen=True)
class File:
    """A wheel or an sdist, where an index has it."""

    url: str = field(repr=False)
    sha256: str | None
    """None where the index does not say it."""
    is_wheel: bool
    size: int | None = None
    """In bytes; None where the index does not say it."""

    @property
    def filename(self) -> str:
        return unquote(urlsplit(self.url).path.rpartition("/")[2])


@dataclass(frozen=True)
class Found:
    """One package of a resolution. For a single architecture it has one file."""

    name: str
    version: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class Metadata:
    """What a package that uv must not build asks for."""

    name: str
    version: str | None
    """None: of every version."""
    requires: tuple[str, ...] = ()

    @property
    def table(self) -> dict[str, Any]:
        version = {} if self.version is None else {"version": self.version}
        return {"name": self.name, **version, "requires-dist": list(self.requires)}


@dataclass(frozen=True)
class Resolution:
    """What is to be resolved."""

    requirements: Sequence[str]
    python_version: str
    arch: Arch | None
    """None: every file of every platform."""
    constraints: Sequence[str] = ()
    preferred: Mapping[str, str] = field(default_factory=dict)
    """Package -> the version that is taken where it still fits."""
    sources: Sequence[Metadata] = ()
    """Packages of which the sdist is taken."""
    with_dependencies: bool = True
    refresh: bool = False
    """Asks the index anew, whatever uv has in its cache."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Package -> where it is asked for, for errors."""


def resolve(wanted: Resolution, sources: Sources, scratch: Path, progress: Progress) -> list[Found]:
    """The packages that `wanted` comes to, by name; BuildError with what is in the way, and a hint."""
    with tempfile.TemporaryDirectory(prefix="uv-", dir=scratch) as folder:
        work = Path(folder)
        (work / "requirements.in").write_text("".join(f"{line}\n" for line in wanted.requirements))
        constraints = work / "constraints.in"
        if wanted.constraints:
            constraints.write_text("".join(f"{line}\n" for line in wanted.constraints))
        output = work / "pylock.out.toml"
        if wanted.preferred:
            packages = [{"name": name, "version": v} for name, v in sorted(wanted.preferred.items())]
            output.write_text(to_toml({"lock-version": "1.0", "created-by": "-", "packages": packages}))
        arguments = [
            *("compile", "requirements.in", "--quiet", "-o", output.name),
            *(("--constraints", constraints.name) if wanted.constraints else ()),
            *("--format", "pylock.toml", "--python-version", wanted.python_version, "--no-header"),
            *("--only-binary", ":all:"),
            *(
                option
                for name in sorted({one.name for one in wanted.sources})
                for option in ("--no-binary", name)
            ),
            *(("--python-platform", platform(wanted.arch)) if wanted.arch else ("--universal",)),
            *(() if wanted.with_dependencies else ("--no-deps",)),
            *(("--refresh",) if wanted.refresh and sources.index else ()),
        ]
        settings = {"dependency-metadata": [one.table for one in wanted.sources]} if wanted.sources else {}
        arch = wanted.arch.name if wanted.arch else "any architecture"
        question = Question(wanted.python_version, arch, wanted.where, sources)
        _run(arguments, sources, settings, work, question, progress)
        data = tomllib.loads(output.read_text())
    found = [_found(package, work) for package in data.get("packages", [])]
    return (
        found if wanted.arch is None else [_chosen(one, wanted.python_version, wanted.arch) for one in found]
    )


def install(
    wheels: Mapping[Path, str], target: Path, python_version: str, arch: Arch, progress: Progress
) -> None:
    """Unpacks `wheels` into `target`, on the disk of `target`; there is neither network nor index for it.

    Each has the SHA-256 that it must have: uv looks, too.
    """
    with tempfile.TemporaryDirectory(prefix="uv-", dir=target.parent) as folder:
        work = Path(folder)
        (work / "wheels").mkdir()
        lines = []
        for wheel, digest in wheels.items():
            (work / "wheels" / wheel.name).symlink_to(wheel.absolute())
            name, version = wheel.name.split("-")[:2]
            lines.append(f"{name}=={version} --hash=sha256:{digest}\n")
        (work / "requirements.txt").write_text("".join(lines))
        sources = Sources(work / "wheels", index=False)
        arguments = [
            *("install", "--requirements", "requirements.txt", "--target", str(target.absolute())),
            *("--python-version", python_version, "--python-platform", platform(arch)),
            *("--no-deps", "--only-binary", ":all:", "--require-hashes"),
            # uv's cache is a folder that goes with `work`: what it links to is then the target's alone.
            *("--cache-dir", str(work / "cache"), "--link-mode", "hardlink"),
        ]
        question = Question(python_version, arch.name, {}, sources)
        _run(arguments, sources, {}, work, question, progress)


def platform(arch: Arch) -> str:
    """uv's name of the platform that images have."""
    return f"{arch.machine}-manylinux_2_{GLIBC}"


def _run(
    arguments: Sequence[str],
    sources: Sources,
    settings: Mapping[str, Any],
    work: Path,
    question: Question,
    progress: Progress,
) -> None:
    (work / "settings").mkdir()
    config = work / "settings" / "uv.toml"
    config.touch(0o600)
    config.write_text(to_toml({**sources.settings, **settings}))
    command = [
        *(_binary(), "pip", *arguments),
        # In place of whatever settings the machine, the user and a project have.
        *("--config-file", str(config), "--directory", str(work)),
        *("--python", sys.executable, "--no-python-downloads", "--no-progress", "--color", "never"),
        # What this machine trusts, a company's own authority included; uv brings a list of its own else.
        "--system-certs",
        *sources.options,
    ]
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(without_passwords(line))
        progress.detail(lines[-1])

    try:
        run(command, env=sources.environment, on_line=on_line, echo=progress.command)
    except BuildError:
        raise translated(lines, question) from None


def _binary() -> str:
    from uv import find_uv_bin

    try:
        return find_uv_bin()
    except FileNotFoundError:
        raise ToolMissing("uv's program is not installed", "pip install --force-reinstall uv") from None


def _found(package: Mapping[str, Any], folder: Path) -> Found:
    files = [_file(wheel, folder, is_wheel=True) for wheel in package.get("wheels", [])]
    if "sdist" in package:
        files.append(_file(package["sdist"], folder, is_wheel=False))
    return Found(package["name"], package["version"], tuple(files))


def _chosen(found: Found, python_version: str, arch: Arch) -> Found:
    """`found` with the one file that is taken: uv tells of all that could be used."""
    name = best([file.filename for file in found.files if file.is_wheel], python_version, arch)
    files = tuple(file for file in found.files if file.filename == name) or found.files[:1]
    return replace(found, files=files)


def _file(entry: Mapping[str, Any], folder: Path, *, is_wheel: bool) -> File:
    url = entry["url"] if "url" in entry else (folder / entry["path"]).as_uri()
    return File(url, entry.get("hashes", {}).get("sha256"), is_wheel, entry.get("size"))
