"""`lock` and `wheelhouse`: the packages that an image gets, before it is built."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from builder.arch import ARCHES, Arch, parse_arch
from builder.cli_options import cache, config_option, index_option, load, verbose_option, wheelhouse_option
from builder.config import Config, parse_base
from builder.errors import UsageError
from builder.progress import Progress

if TYPE_CHECKING:
    from builder import packages

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _arches(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> tuple[Arch, ...]:
    return tuple(dict.fromkeys(parse_arch(name) for name in names))


def _arch_option(default: str) -> Callable[[_Command], _Command]:
    return click.option(
        "--arch",
        "arches",
        multiple=True,
        metavar="|".join(ARCHES),
        callback=_arches,
        help=f"Only this architecture; may be given again. Default: {default}.",
    )


@click.command(short_help="Resolve the config's packages, Python's and Debian's, into config.lock.")
@config_option
@_arch_option("both")
@click.option("--upgrade", is_flag=True, help="Take the newest versions, whatever is locked now.")
@wheelhouse_option
@index_option
@verbose_option
def lock(
    config_path: Path,
    arches: tuple[Arch, ...],
    upgrade: bool,
    wheelhouse: Path | None,
    no_index: bool,
    verbose: bool,
) -> None:
    """Resolve the config's packages into config.lock, and print that file's path.

    \b
      dependencies: [numpy, "pandas>=2.2"]    in config.yaml, or
      dependencies: requirements.txt          the path of a requirements file

    The lock file lies beside the config and belongs under version control with it. It holds the version and
    the hash of every package, for both architectures and the base's Python; `build` installs exactly these,
    and fails when config and lock disagree. What is locked stays as it is until it no longer fits what the
    config asks for, or until --upgrade.

    With base: debian:SUITE the Debian packages are locked too: those of the base, of base_packages, and those
    that have the shared libraries of the Python packages.

    Python packages come as wheels. One that has none is built from source, confined, if the config names it
    with the Debian packages that its build needs:

    \b
      from_source: {jieba: []}

    Packages come from uv's own index settings, or from the config's python_pip_mirror_url. With no network:
    --wheelhouse DIR --no-index.
    """
    from builder import base_lock, packages
    from builder.options import Options

    progress = Progress(verbose=verbose)
    config = load(config_path, progress)
    inputs = _inputs(config, config_path, arches or tuple(ARCHES.values()), progress, with_base=True)
    _check_folder(wheelhouse, no_index)
    options = Options(
        config_path=config_path,
        arches=inputs.arches,
        output=Path(),
        cache=cache(),
        no_cache=upgrade,
        wheelhouse=wheelhouse,
        index=not no_index,
    )
    path = packages.lock_path(config_path)
    made = packages.lock(
        inputs,
        path,
        cache=cache(),
        progress=progress,
        wheelhouse=wheelhouse,
        index=not no_index,
        upgrade=upgrade,
        choose=partial(base_lock.choose, config, options, progress) if inputs.debian else None,
    )
    locked = {f"for Python {inputs.python_version}": made.pins} if inputs.requirements else {}
    debian = {arch: one.packages for arch, one in made.debian.items()}
    for what, found in (locked | ({f"of {config.base}": debian} if debian else {})).items():
        counts = ", ".join(f"{len(packages)} for {arch}" for arch, packages in sorted(found.items()))
        progress.note(f"packages locked {what}: {counts}")
    click.echo(path)


@click.command(short_help="Fill a folder with every locked Python package, to build with no index.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@config_option
@_arch_option("all that are locked")
@verbose_option
def wheelhouse(folder: Path, config_path: Path, arches: tuple[Arch, ...], verbose: bool) -> None:
    """Fill DIR with every Python package that config.lock names, and print how many files there are.

    Wheels for all locked architectures, and what is built from source as sdist and as wheel. Then, where
    there is no index:

    \b
      sandbox-build --wheelhouse DIR --no-index
      sandbox-build lock --wheelhouse DIR --no-index

    Debian's packages are not in it. Where no mirror of Debian is within reach, a debian: base takes the
    locked ones from --registry-cache NAME:TAG, if a build has filled that before, or from a base_mirror: in
    the config that is within reach, such as file:///srv/debian.

    What is there already stays; each file is checked against its hash and appears whole or not at all.
    """
    from builder import packages

    progress = Progress(verbose=verbose)
    config = load(config_path, progress)
    inputs = _inputs(config, config_path, arches, progress)
    locked = packages.read_lock(packages.lock_path(config_path), inputs)
    chosen = arches or packages.arches_of(locked)
    files = packages.fill_wheelhouse(locked, inputs, chosen, folder, cache=cache(), progress=progress)
    click.echo(f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")


def _inputs(
    config: Config,
    config_path: Path,
    arches: tuple[Arch, ...],
    progress: Progress,
    *,
    with_base: bool = False,
) -> packages.Inputs:
    from builder import packages
    from builder.bases import python_version

    version = python_version(parse_base(config.base), config.python_path, config.python_version)
    inputs = packages.read_inputs(config, config_path, arches, version, with_base=with_base)
    if inputs is None:
        raise UsageError(
            f"{config_path} asks for no Python packages",
            "dependencies: [numpy], or the path of a requirements file",
        )
    if inputs.found_file is not None:
        progress.note(f"the config has no dependencies: taken from {inputs.found_file}")
    return inputs


def _check_folder(wheelhouse: Path | None, no_index: bool) -> None:
    if no_index and wheelhouse is None:
        raise UsageError("--no-index alone leaves nowhere to take packages from", "add --wheelhouse DIR")
