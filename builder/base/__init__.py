"""Where the target's root filesystem comes from: debian.py, image.py, host.py behind one Protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from builder.base.debian import DebianBase
from builder.base.host import HostBase
from builder.base.image import ImageBase
from builder.base.rootfs import Base, Rootfs, assembler_command
from builder.config import Base as BaseName
from builder.progress import Progress

__all__ = ["Base", "Rootfs", "assembler_command", "open_base"]


def open_base(
    name: BaseName,
    *,
    mirror: str | None,
    cache: Path,
    refresh: bool,
    progress: Progress,
    packages: Sequence[str] = (),
) -> Base:
    """The base that config.yaml names; fetches nothing yet.

    `cache` is the folder for what is fetched, `refresh` passes over what is there from earlier builds,
    `packages` are Debian packages besides the interpreter's, `mirror` is where packages come from (None:
    where mmdebstrap takes them by default). ConfigError (exit 2) for a suite that bases.yaml does not have.
    """

    def debian() -> Base:
        return DebianBase(
            name.name, mirror=mirror, cache=cache, refresh=refresh, progress=progress, packages=packages
        )

    kinds: dict[str, Callable[[], Base]] = {
        "debian": debian,
        "image": lambda: ImageBase(name.name),
        "host": lambda: HostBase(progress),
    }
    return kinds[name.kind]()
