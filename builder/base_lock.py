"""Which Debian packages a lock file gets: those of the base, and what the Python packages need besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from builder.arch import Arch
from builder.base import CachedRootfs, Gone, Selection
from builder.config import Config
from builder.errors import MissingLibrary
from builder.options import Options
from builder.packages import Lock
from builder.pipeline import complete_base
from builder.progress import Progress
from builder.side_by_side import side_by_side


def choose(
    config: Config, options: Options, progress: Progress, made: Lock, kept: Mapping[str, Selection]
) -> dict[str, Selection]:
    """The Debian packages for each architecture of `options`, for the Python packages of `made`.

    Those that are `kept` from an earlier lock, as long as they suffice and are to be had; else today's.
    """
    work = {arch.name: partial(_choose, config, arch, options, made, kept) for arch in options.arches}
    return dict(zip(work, side_by_side(work, progress), strict=True))


def _choose(
    config: Config,
    arch: Arch,
    options: Options,
    made: Lock,
    kept: Mapping[str, Selection],
    progress: Progress,
) -> Selection:
    what = f"{config.base} for {arch.name}"
    old = kept.get(arch.name)
    if old is not None:
        locked = replace(made, debian={arch.name: old})
        try:
            _, lacking = _complete(config, arch, options, locked, progress)
        except Gone as error:
            progress.note(f"{error.message}: today's packages are taken")
            old = None
        else:
            if not lacking:
                return old
            progress.note(f"{what}: what is locked lacks {_names(lacking)}")
    found, missing = _complete(config, arch, options, made, progress)
    if missing:
        progress.warn(f"{what} has no {_names(missing)}: a build says what mends that")
    # Today's packages are no remedy then.
    return old if old is not None and missing else found


def _complete(
    config: Config, arch: Arch, options: Options, locked: Lock, progress: Progress
) -> tuple[Selection, tuple[MissingLibrary, ...]]:
    rootfs, missing = complete_base(config, arch, options, locked, progress)
    assert isinstance(rootfs, CachedRootfs)  # noqa: S101 - a base of Debian packages has no other
    return Selection(rootfs.packages, rootfs.published), missing


def _names(missing: tuple[MissingLibrary, ...]) -> str:
    return ", ".join(sorted({one.soname for one in missing}))
