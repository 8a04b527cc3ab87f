"""Debian packages as base: extracted by mmdebstrap, for any architecture, with no root and no emulation."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.arch import Arch, host_arch
from builder.base.rootfs import CachedRootfs
from builder.bases import find_suite
from builder.command import run
from builder.errors import BuildError
from builder.layers import write_layer
from builder.mirror import Mirror, open_mirror
from builder.progress import Progress

MAX_AGE_S = 24 * 3600
"""Security updates of Debian are to be in an image within a day."""

_STARTED = time.time_ns()
_FORMAT = 1
"""Counts up when what lies in the cache is laid out in another way."""

_OF_THIS_MACHINE = ("etc/hostname", "etc/resolv.conf", "etc/apt", "var/cache", "var/lib/apt")
"""What mmdebstrap takes from the machine that it runs on, or leaves of the fetching: not the packages'."""

_UNKNOWN_PACKAGE = re.compile(r"E: Unable to locate package (\S+)")

_INSTALL = "apt-get install mmdebstrap"


class DebianBase:
    """One suite of Debian, with `packages` besides the interpreter's.

    Root filesystems are kept in the cache for a day, or fetched anew with `refresh`.

    Safe with several builds at once: one fetches and the others wait, an entry of the cache appears whole or
    not at all, and none that a living build uses is removed.
    """

    def __init__(
        self,
        suite: str,
        *,
        mirror: str | None,
        cache: Path,
        refresh: bool,
        progress: Progress,
        packages: Sequence[str] = (),
    ) -> None:
        self._suite = find_suite(suite)
        self._packages = sorted({*self._suite.packages, *packages})
        self._mirror = mirror
        self._cache = cache / "debian"
        self._refresh = refresh
        self._progress = progress

    def rootfs(self, arch: Arch) -> CachedRootfs:
        """The root filesystem for `arch`. ToolMissing (exit 3) without mmdebstrap, BuildError if it fails."""
        shelf = self._cache / self._key(arch)
        try:
            shelf.mkdir(parents=True, exist_ok=True)
            with self._lock(shelf / "lock"):
                entry = self._newest(shelf)
                age_s = None if entry is None else (time.time_ns() - int(entry.name)) / 1e9
                if entry is None:
                    entry = self._fetch(shelf, arch)
                _hold(entry)
                _remove_others(shelf, entry)
        except OSError as error:
            raise BuildError(
                f"cache {error.filename or shelf}: {error.strerror}",
                "XDG_CACHE_HOME names another folder for it",
            ) from None
        return CachedRootfs(entry / "rootfs", entry / "rootfs.tar", f"{shelf.name}/{entry.name}", age_s)

    def build_rootfs(self) -> CachedRootfs:
        """The root filesystem for this machine's architecture."""
        return self.rootfs(host_arch())

    def _key(self, arch: Arch) -> str:
        facts = json.dumps([_FORMAT, self._packages, self._mirror])
        return f"{self._suite.name}-{arch.name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"

    def _newest(self, shelf: Path) -> Path | None:
        """The entry to use, if one is young enough."""
        # What another part of this same build fetched is new enough for --no-cache.
        oldest = _STARTED if self._refresh else time.time_ns() - MAX_AGE_S * 10**9
        young = [entry for entry in _entries(shelf) if oldest <= int(entry.name) <= time.time_ns()]
        return max(young, key=lambda entry: int(entry.name), default=None)

    def _fetch(self, shelf: Path, arch: Arch) -> Path:
        what = f"debian:{self._suite.name} for {arch.name}"
        # Whoever made it holds no lock any more, so it is of a build that was killed.
        for leftover in shelf.glob("new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(dir=shelf, prefix="new-"))
        try:
            with self._progress.step(f"{what}: fetching packages"):
                self._run_mmdebstrap(work / "rootfs", arch, what)
                _clean(work / "rootfs")
                write_layer(work / "rootfs", work / "rootfs.tar", epoch=0)
            entry = shelf / str(time.time_ns())
            work.rename(entry)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        return entry

    def _run_mmdebstrap(self, target: Path, arch: Arch, what: str) -> None:
        with open_mirror(self._mirror) as mirror:
            self._run(target, arch, what, mirror)

    def _run(self, target: Path, arch: Arch, what: str, mirror: Mirror) -> None:
        command = [
            "mmdebstrap",
            # Nothing is run of what is fetched, so neither root nor a user namespace is needed.
            *("--mode=chrootless", "--variant=extract", "--format=directory"),
            f"--architectures={arch.name}",
            f"--include={','.join(self._packages)}",
            *mirror.options,
            *(self._suite.name, str(target)),
            *mirror.arguments,
        ]
        try:
            run(command, missing=_INSTALL, on_line=self._progress.detail, echo=self._progress.command)
        except BuildError as error:
            unknown = _UNKNOWN_PACKAGE.search(error.message)
            if unknown:
                message = f"{what}: Debian has no package {unknown[1]}"
                hint = f"look the name up: apt-cache search {unknown[1]}; base_packages has the names"
                raise BuildError(message, hint) from None
            hint = (
                f"is {mirror.place} within reach? If keys are missing: apt-get install debian-archive-keyring"
            )
            raise BuildError(f"{what} cannot be fetched: {error.message}", hint) from None

    @contextmanager
    def _lock(self, path: Path) -> Iterator[None]:
        """Holds the lock file, which one build at a time can."""
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress.note(f"waiting for another build that fetches {path.parent.name}")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _entries(shelf: Path) -> list[Path]:
    """The finished entries: each is named by the time when it was finished, in nanoseconds."""
    return [path for path in shelf.iterdir() if path.name.isdigit()]


def _hold(entry: Path) -> None:
    """Keeps others from removing the entry as long as this process lives."""
    descriptor = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def _remove_others(shelf: Path, entry: Path) -> None:
    """Removes the entries that no living build holds."""
    for other in _entries(shelf):
        if other == entry:
            continue
        descriptor = os.open(other, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Under another name first: half of an entry must not look like a whole one.
                gone = other.rename(shelf / f"new-{other.name}")
                shutil.rmtree(gone, ignore_errors=True)
        finally:
            os.close(descriptor)


def _clean(rootfs: Path) -> None:
    """Takes out devices and what is not the packages' own: the same packages, the same files."""
    for name in _OF_THIS_MACHINE:
        path = rootfs / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(rootfs / "dev", ignore_errors=True)
    (rootfs / "dev").mkdir()
