"""`libraries: auto`: shared libraries that a debian: base lacks are taken from Debian."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from builder.arch import Arch
from builder.config import Config, parse_base
from builder.debian_files import hint_for, packages_with
from builder.errors import LibrariesMissing, MissingLibrary, SandboxError
from builder.progress import Progress
from builder.whole_file import whole_file

_SUITE_TO_ASK = "trixie"
"""Whose packages a hint names for a base that is not made of Debian's: their names seldom change."""

_LOCK = "sandbox-build lock"


@dataclass
class Supplement:
    """The Debian packages that the base of one build gets besides, for the libraries in them.

    What an earlier build found is remembered in the cache, so that only the first one meets the lack. A base
    whose packages are locked gets none: what it lacks has to be locked.
    """

    config: Config
    arch: Arch
    packages_identity: str
    """Of the locked packages: others need other libraries."""
    cache: Path
    progress: Progress
    refresh: bool
    locked: bool = False
    packages: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.config.libraries == "auto" and not self.refresh and not self.locked:
            with suppress(OSError, ValueError):
                known = json.loads(self._memory.read_text())
                self.packages = tuple(name for name in known if isinstance(name, str))

    def add(self, error: LibrariesMissing) -> None:
        """Adds what has the missing libraries; raises `error` with a hint where that is not to be done."""
        base = parse_base(self.config.base)
        sonames = sorted({one.soname for one in error.missing if one.version is None})
        # A package that is there already does not have what it was taken for.
        taken = {*self.packages, *self.config.base_packages}
        found = {name: package for name, package in self._look_up(sonames).items() if package not in taken}
        whole = set(found) == {one.soname for one in error.missing}
        if base.kind != "debian" or self.config.libraries != "auto" or not whole:
            hint = hint_for(error.missing, base.kind, base.name, found, self.config.base_packages)
            raise LibrariesMissing(error.missing, error.base, hint) from None
        if self.locked:
            hint = f"{_LOCK}, for {', '.join(sorted(set(found.values())))} of Debian"
            raise LibrariesMissing(error.missing, error.base, hint) from None
        for soname in sonames:
            self.progress.note(f"{soname} comes from Debian's package {found[soname]}")
        self.packages = tuple(sorted({*self.packages, *found.values()}))
        self._remember()

    def line_for(self, soname: str) -> str | None:
        """What mends the lack of a library that no file's header names; None where nobody knows."""
        base = parse_base(self.config.base)
        found = self._look_up([soname])
        missing = [MissingLibrary(soname, ())]
        return hint_for(missing, base.kind, base.name, found, self.config.base_packages) if found else None

    def _look_up(self, sonames: Sequence[str]) -> dict[str, str]:
        """The Debian package of each of them that Debian has."""
        base = parse_base(self.config.base)
        suite = base.name if base.kind == "debian" else _SUITE_TO_ASK
        if not sonames:
            return {}
        try:
            return packages_with(
                *(sonames, suite, self.arch),
                mirror=self.config.base_mirror,
                cache=self.cache,
                progress=self.progress,
            )
        except SandboxError as error:
            self.progress.warn(f"which package has {', '.join(sonames)} was not found out: {error.message}")
            return {}

    @property
    def _memory(self) -> Path:
        config = self.config
        facts = (config.base, config.base_mirror, config.base_packages, config.python_lib_path)
        text = json.dumps([*facts, self.arch.name, self.packages_identity])
        return self.cache / "libraries" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def _remember(self) -> None:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self._memory, mode=0o600) as file:
            file.write(json.dumps(self.packages).encode())
