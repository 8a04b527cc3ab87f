"""Where the target's root filesystem comes from: debian.py, image.py, host.py behind one Protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder.base.debian import DebianBase
from builder.base.debian_package import DebianPackage, Selection
from builder.base.debs import Gone
from builder.base.host import HostBase
from builder.base.image import ImageBase
from builder.base.rootfs import Base, CachedRootfs, Rootfs, assembler_command
from builder.config import Base as BaseName
from builder.progress import Progress

__all__ = [
    "Base",
    "CachedRootfs",
    "DebianPackage",
    "Gone",
    "Rootfs",
    "Selection",
    "assembler_command",
    "open_base",
]


def open_base(
    name: BaseName,
    *,
    mirror: str | None,
    cache: Path,
    refresh: bool,
    progress: Progress,
    packages: Sequence[str] = (),
    pinned: Mapping[str, Selection] | None = None,
    snapshot: str | None = None,
) -> Base:
    """The base that config.yaml names; fetches nothing yet.

    `cache` is the folder for what is fetched, `refresh` passes over what is there from earlier builds,
    `packages` are Debian packages besides the interpreter's, `mirror` is where packages come from (None:
    where mmdebstrap takes them by default). `pinned` has the exact packages of each architecture that is
    locked, and `snapshot` is where they come from once the mirror has other ones. ConfigError (exit 2) for a
    suite that bases.yaml does not have.
    """

    def debian() -> Base:
        return DebianBase(
            name.name,
            mirror=mirror,
            cache=cache,
            refresh=refresh,
            progress=progress,
            packages=packages,
            pinned=pinned,
            snapshot=snapshot,
        )

    kinds: dict[str, Callable[[], Base]] = {
        "debian": debian,
        "image": lambda: ImageBase(name.name),
        "host": lambda: HostBase(progress),
    }
    return kinds[name.kind]()
