"""The options that several commands have, and what they come to."""

from __future__ import annotations

import os
from pathlib import Path

import click

from builder.arch import ARCHES, Arch, host_arch, parse_arch
from builder.archive import open_archive
from builder.config import Config, load_config
from builder.errors import UsageError
from builder.output import ARCHIVE
from builder.progress import Progress


def _arches(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> tuple[Arch, ...]:
    return tuple(dict.fromkeys(parse_arch(name) for name in names)) or (host_arch(),)


config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("config.yaml"),
    show_default=True,
    help="The config to read.",
)
arch_option = click.option(
    "--arch",
    "arches",
    multiple=True,
    metavar="|".join(ARCHES),
    callback=_arches,
    help="Architecture of the image; may be given again. Default: this machine's.",
)
output_option = click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("dist"),
    show_default=True,
    help="Folder for what is built: one folder an architecture.",
)
image_option = click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="An image.tar that was built. Default: this machine's architecture's below --output.",
)
wheelhouse_option = click.option(
    "--wheelhouse",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="A folder of wheels that is looked into besides the package index.",
)
index_option = click.option(
    "--no-index", is_flag=True, help="Take Python packages from --wheelhouse alone: no network for them."
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.001),
    metavar="SECONDS",
    help="Wall clock of one run. Default: the config's worker_timeout.",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show commands, output and tracebacks.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def load(path: Path, progress: Progress) -> Config:
    """The config at `path` with the environment's overrides; warnings go to `progress`."""
    config, warnings = load_config(path, os.environ)
    for warning in warnings:
        progress.warn(warning)
    return config


def cache() -> Path:
    """Where bases and unpacked images are kept: the XDG base directory specification's cache.

    UsageError where neither the environment nor the user database says where that is.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "sandbox-build"
    try:
        return Path.home() / ".cache/sandbox-build"
    except RuntimeError:
        raise UsageError("this user has no home, where the cache would be", "set XDG_CACHE_HOME") from None


def existing(path: Path, or_else: str = "") -> Path:
    """`path`, which an argument names; UsageError where nothing is there. `or_else` goes on with its hint."""
    if not path.exists():
        raise UsageError(
            f"{path}: there is no such file or folder", f"`sandbox-build` builds into dist/{or_else}"
        )
    return path


def own_image(image: Path | None, output: Path, hint: str) -> Path:
    """built_image(); UsageError with `hint` where it is for another architecture than this machine's."""
    path = built_image(image, output)
    with open_archive(path) as archive:
        architecture = archive.image_config.get("architecture")
    if architecture != host_arch().name:
        raise UsageError(
            f"{path}: it is for {architecture}, and this machine is {host_arch().name}",
            hint.format(arch=architecture),
        )
    return path


def built_image(image: Path | None, output: Path) -> Path:
    """The archive that --image names, or the one for this machine below --output; UsageError without it."""
    path = image or output / host_arch().name / ARCHIVE
    if not path.is_file():
        raise UsageError(f"{path}: no such image", "build one with `sandbox-build`, or name one with --image")
    return path
