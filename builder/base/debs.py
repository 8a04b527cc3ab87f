"""The .deb files of packages, by their hash: from the cache, the mirror, or an archive of Debian's past."""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import quote

from builder.at_once import at_once
from builder.base.debian_package import DebianPackage, Selection
from builder.errors import BuildError
from builder.files_by_hash import AT_ONCE, FilesByHash
from builder.mirror import Place, archives, place_of
from builder.progress import Progress
from builder.transfer import NotThere, Transfer

_TIMESTAMP = "%Y%m%dT%H%M%SZ"
_LATER_H = (0, 6, 24)
"""An archive of the past is asked for its state at the date of the Release file, and then for later ones: it
has what a mirror had only some time afterwards. Debian publishes every six hours, and its own archive answers
with the last state before the time that is asked for (https://snapshot.debian.org/)."""


class Gone(BuildError):
    """A version that no archive has any more."""


@dataclass(frozen=True)
class Archives:
    """Where packages may come from."""

    mirror: str | None = None
    """None: Debian's own."""
    snapshot: str | None = None
    """An archive of Debian's past, for what the mirror no longer has."""

    def urls(self, package: DebianPackage, published: str) -> Iterator[Place]:
        """Where a package may be, the likeliest place first."""
        path = quote(package.path)
        yield _below(archives(self.mirror)[package.archive], path)
        if self.snapshot is not None:
            then = datetime.strptime(published, _TIMESTAMP).replace(tzinfo=UTC)
            for hours in _LATER_H:
                stamp = (then + timedelta(hours=hours)).strftime(_TIMESTAMP)
                yield _below(place_of(self.snapshot), f"archive/{package.archive}/{stamp}/{path}")


def fetch_debs(
    selection: Selection, places: Archives, cache: Path, progress: Progress, what: str
) -> list[Path]:
    """The .deb of each package, in order: each has the hash that it must have.

    Gone where neither the mirror nor the archive of the past has a version; BuildError where a file cannot be
    had, or is another one.
    """
    kept = FilesByHash(cache, "debs", progress)
    found = {one.sha256: path for one in selection.packages if (path := kept.find(one.sha256)) is not None}
    lacking = {one.sha256: one for one in selection.packages if one.sha256 not in found}
    if lacking:
        stop = threading.Event()
        hint = f"is {archives(places.mirror)['debian'].url} within reach?"

        def fetch(one: DebianPackage) -> Path:
            return kept.fetch(
                *(one.sha256, posixpath.basename(one.path)),
                lambda target: _copy(one, list(places.urls(one, selection.published)), target, stop, hint),
            )

        work = {f"{one.name} {one.version}": partial(fetch, one) for one in lacking.values()}
        total = sum(one.size for one in lacking.values()) / 1e6
        with progress.step(f"{what}: fetching {len(lacking)} packages, {total:.1f} MB"):
            for _, path in at_once(work, stop, AT_ONCE, progress.detail):
                found[path.parent.name] = path
    return [found[one.sha256] for one in selection.packages]


def _copy(
    package: DebianPackage, places: Sequence[Place], target: Path, stop: threading.Event, hint: str
) -> str:
    """Copies the file from the first place that has it; returns its hash."""
    for place in places:
        way = Transfer(stop, hint=hint, credentials=lambda _, login=place.login: login)  # type: ignore[misc]
        with suppress(NotThere):
            return way.fetch(place.url, package.size, target, target.name)
    what = f"{package.name} {package.version} for {package.architecture}"
    lock = "take today's packages: sandbox-build lock"
    if len(places) > 1:
        raise Gone(f"{what}: neither the mirror nor base_snapshot has it", lock)
    raise Gone(
        f"{what}: the mirror no longer has it", f"name an archive of Debian's past: base_snapshot; or {lock}"
    )


def _below(place: Place, path: str) -> Place:
    return Place(f"{place.url.rstrip('/')}/{path}", place.login)
