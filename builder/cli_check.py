"""`sandbox-build check`: parses and prints; no logic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from builder.arch import Arch
from builder.cli_options import (
    arch_option,
    built_image,
    cache,
    image_option,
    index_option,
    json_option,
    load,
    output_option,
    verbose_option,
    wheelhouse_option,
)
from builder.errors import UsageError
from builder.output import ARCHIVE
from builder.progress import Progress


@click.command(short_help="Try again whether an image keeps its promises, without building.")
@image_option
@click.option(
    "--tree",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder of an unpacked image, in place of --image.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="A config, of which nothing is built: the shared libraries of its base and packages are checked.",
)
@arch_option
@output_option
@wheelhouse_option
@index_option
@json_option
@verbose_option
def check(
    image: Path | None,
    tree: Path | None,
    config_path: Path | None,
    arches: tuple[Arch, ...],
    output: Path,
    wheelhouse: Path | None,
    no_index: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Try whether an image keeps its promises: its shared libraries, imports and snippets.

    \b
      sandbox-build check                          the image below --output
      sandbox-build check --image IMAGE.tar        any other, for any architecture
      sandbox-build check --tree DIR               one that is unpacked
      sandbox-build check --config config.yaml     what would be built: shared libraries only, nothing is run

    Every file's shared libraries are looked for in the image itself. Then every module of every package is
    imported in its jail, under its own policy and limits, and `verify:` of the config it was built from is
    tried. What this machine cannot try is said.

    Exit codes: 0 all of it holds, 4 something does not: everything that failed is told.
    """
    from builder.check import Checked, check_image, image_root, raise_failures

    given = [name for name, path in (("--image", image), ("--tree", tree), ("--config", config_path)) if path]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are both given", "check one of them")
    progress = Progress(verbose=verbose)
    checked: Sequence[Checked]
    if config_path is not None:
        from builder import pipeline
        from builder.options import Options

        config = load(config_path, progress)
        options = Options(
            config_path=config_path,
            wheelhouse=wheelhouse,
            index=not no_index,
            arches=arches,
            output=output,
            cache=cache(),
        )
        checked = [
            Checked(str(config_path), arch, pipeline.closure_of(config, arch, options, progress))
            for arch in arches
        ]
    elif tree is not None:
        checked = [check_image(image_root(tree, tree), str(tree), progress)]
    else:
        from builder.jailrun import unpack

        paths = [image] if image else [output / arch.name / ARCHIVE for arch in arches]
        roots = [(unpack(built_image(path, output), cache()), path) for path in paths]
        checked = [check_image(image_root(root, path), str(path), progress) for root, path in roots]
    if as_json:
        click.echo(json.dumps([one.as_data() for one in checked], indent=1))
    raise_failures(checked)
    if not as_json:
        for one in checked:
            for line in one.lines():
                click.echo(line)
