"""Debian packages as base: chosen by apt or by a lock, and unpacked, for any architecture, with no root."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.arch import Arch, host_arch
from builder.base import dpkg
from builder.base.deb import Deb
from builder.base.debian_package import DebianPackage, Selection
from builder.base.debs import Archives, Gone, fetch_debs
from builder.base.resolve import resolve
from builder.base.rootfs import CachedRootfs
from builder.base.unpack import Unpacker
from builder.bases import find_suite
from builder.errors import BuildError
from builder.layers import write_layer
from builder.progress import Progress
from builder.shelf import Shelf, cache_error, locked
from builder.whole_file import whole_file

MAX_AGE_S = 24 * 3600
"""Security updates of Debian are to be in an image within a day."""

_STARTED = time.time_ns()
_FORMAT = 3
"""Counts up when the same packages come to other files."""
_UNUSED_S = 3 * 24 * 3600
"""A root filesystem that no build has used for this long goes: it is made anew in seconds."""

_FOLDERS = {"dev": 0o755, "proc": 0o755, "tmp": 0o1777}
"""Where something is mounted when a program is run in it: they are there whatever the packages have."""


class DebianBase:
    """One suite of Debian, with `packages` besides the interpreter's.

    What apt chooses of them is taken for a day, or until `refresh`. For an architecture that is `pinned`,
    exactly these packages are taken, whatever is new; `snapshot` is where they come from once the mirror has
    other ones. The same packages are the same root filesystem, with the same identity.

    Safe with several builds at once: one fetches and the others wait, and an entry of the cache appears whole
    or not at all.
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
        pinned: Mapping[str, Selection] | None = None,
        snapshot: str | None = None,
    ) -> None:
        self._suite = find_suite(suite)
        self._packages = sorted({*self._suite.packages, *packages})
        self._mirror = mirror
        self._archives = Archives(mirror, snapshot)
        self._cache = cache
        self._refresh = refresh
        self._progress = progress
        self._pinned = pinned or {}

    def rootfs(self, arch: Arch) -> CachedRootfs:
        """The root filesystem for `arch`.

        BuildError where packages cannot be had; where they are not pinned, ToolMissing (exit 3) without
        mmdebstrap.
        """
        selection, age_s = self.select(arch)
        try:
            return self._made(arch, selection, age_s)
        except Gone:
            if age_s is None:
                raise
        # The mirror has been updated since the packages were chosen, and they had not been fetched yet.
        return self._made(arch, *self.select(arch, after_ns=time.time_ns()))

    def _made(self, arch: Arch, selection: Selection, age_s: float | None) -> CachedRootfs:
        hashes = json.dumps([_FORMAT, *(one.sha256 for one in selection.packages)])
        key = f"{self._suite.name}-{arch.name}-{hashlib.sha256(hashes.encode()).hexdigest()[:32]}"
        shelf = Shelf(self._cache, "debian", self._progress, unused_s=_UNUSED_S)
        entry = shelf.open(key, lambda work: self._fill(work, selection, self._what(arch)))
        return CachedRootfs(
            *(entry / "rootfs", entry / "rootfs.tar", key, age_s),
            packages=selection.packages,
            published=selection.published,
        )

    def build_rootfs(self) -> CachedRootfs:
        """The root filesystem for this machine's architecture."""
        return self.rootfs(host_arch())

    def select(self, arch: Arch, *, after_ns: int = 0) -> tuple[Selection, float | None]:
        """The packages for `arch`, and how long ago they were chosen; None: just now, or by a lock.

        Any that were chosen before `after_ns` will not do.
        """
        if arch.name in self._pinned:
            return self._pinned[arch.name], None
        facts = json.dumps([self._suite.name, arch.name, self._packages, self._mirror])
        folder = self._cache / "debian-packages"
        path = folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock"), f"asks for {self._what(arch)}", self._progress):
                if (known := self._known(path, after_ns)) is not None:
                    return known
                with self._progress.step(f"{self._what(arch)}: choosing packages"):
                    chosen = resolve(self._suite.name, self._packages, arch, self._mirror, self._progress)
                _store(path, chosen)
        except OSError as error:
            raise cache_error(error, folder) from None
        return chosen, None

    def _what(self, arch: Arch) -> str:
        return f"debian:{self._suite.name} for {arch.name}"

    def _known(self, path: Path, after_ns: int) -> tuple[Selection, float] | None:
        """What was chosen earlier, and how long ago, where that is not too long."""
        # What another part of this same build chose is new enough for --no-cache.
        oldest = _STARTED if self._refresh else time.time_ns() - MAX_AGE_S * 10**9
        try:
            known = json.loads(path.read_text())
            chosen = int(known["time_ns"])
            packages = tuple(DebianPackage.parse(line) for line in known["packages"])
            selection = Selection(packages, str(known["published"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        now = time.time_ns()
        return (selection, (now - chosen) / 1e9) if max(oldest, after_ns) <= chosen <= now else None

    def _fill(self, work: Path, selection: Selection, what: str) -> None:
        debs = fetch_debs(selection, self._archives, self._cache, self._progress, what)
        with self._progress.step(f"{what}: unpacking {len(debs)} packages"):
            unpack(dict(zip(selection.packages, debs, strict=True)), work / "rootfs", self._progress)
            write_layer(work / "rootfs", work / "rootfs.tar", epoch=0)
            (work / "packages.json").write_text(_as_json(selection))


def unpack(debs: Mapping[DebianPackage, Path], root: Path, progress: Progress) -> None:
    """Makes the new folder `root` of packages, with dpkg's database of them.

    BuildError for a .deb that is another package than it should be, is not in order, or has a part of that
    database.
    """
    unpacker = Unpacker(root)
    controls, lists = [], dict(dpkg.FORMAT)
    for folder, mode in _FOLDERS.items():
        unpacker.folder(folder, mode)
    # Before the packages: then none of them can have a link or a file in its place.
    info = unpacker.folder(dpkg.INFO)
    # Its links /bin, /lib and /lib64 into /usr come before whatever another package has in there.
    for package, path in sorted(debs.items(), key=lambda one: (one[0].name != "base-files", one[0])):
        progress.detail(f"{package.name} {package.version}")
        deb = Deb(path)
        says = tuple(deb.control[key] for key in ("Package", "Version", "Architecture"))
        if says != (package.name, package.version, package.architecture):
            raise BuildError(
                f"{package.name} {package.version}: the locked hash is that of {' '.join(says)}",
                "it was changed by hand: sandbox-build lock",
            )
        controls.append(deb.control)
        lists[dpkg.list_name(deb.control)] = dpkg.list_text(unpacker.unpack(deb))
    for name, text in lists.items():
        _write_new(info / name, text)
    _write_new(root / dpkg.STATUS, dpkg.status_text(controls))
    unpacker.finish()


def _write_new(path: Path, text: str) -> None:
    """Writes a file of dpkg's database; BuildError where a package has one, a link included, in its place."""
    try:
        with path.open("xb") as file:
            file.write(text.encode(errors="surrogateescape"))
            os.fchmod(file.fileno(), 0o644)
    except FileExistsError:
        raise BuildError(
            f"a package has a {path.name} of its own where dpkg keeps its database",
            "it is not as Debian makes them: leave it out of base_packages",
        ) from None


def _store(path: Path, selection: Selection) -> None:
    with whole_file(path, mode=0o600) as file:
        file.write(_as_json(selection, time_ns=time.time_ns()).encode())


def _as_json(selection: Selection, **more: int) -> str:
    lines = [str(one) for one in selection.packages]
    return json.dumps({"published": selection.published, "packages": lines, **more}, indent=1) + "\n"
