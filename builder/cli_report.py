"""`sandbox-build explain`: parses and prints; no logic."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from builder.arch import ARCHES, Arch, host_arch, parse_arch
from builder.cli_options import image_option, json_option, output_option, verbose_option


def _one_arch(_ctx: click.Context, _param: click.Parameter, name: str | None) -> Arch:
    return parse_arch(name) if name else host_arch()


@click.command(short_help="Say why a file, package or library is in an image, and how large it is.")
@image_option
@output_option
@click.option(
    "--arch",
    metavar="|".join(ARCHES),
    callback=_one_arch,
    help="Which of the images below --output. Default: this machine's.",
)
@json_option
@verbose_option
@click.argument("what", metavar="PATH|PACKAGE|LIB")
def explain(
    image: Path | None,
    output: Path,
    arch: Arch,
    as_json: bool,
    verbose: bool,  # noqa: ARG001 - read by main()
    what: str,
) -> None:
    """Say why something is in the jail of a built image: the chain from config.yaml to it, and its size.

    \b
      sandbox-build explain yaml                     a package, by its name or by what is imported
      sandbox-build explain libgfortran              a shared library, by its name or a part of it
      sandbox-build explain /usr/share/zoneinfo      a file or a folder of the jail
      sandbox-build explain scipy --json | jq '.[0].alone'

    A package's size is its own files'; beside it stands the size with all that nothing else needs, which is
    what the image gets smaller by without it.

    Exit codes: 0 told, 2 nothing in the jail is called so: the nearest names are told, where any is near.
    """
    from builder.explain import explain as find
    from builder.explain import lines
    from builder.report import load_report

    found = find(load_report(image or output / arch.name), what)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=1))
    else:
        for line in lines(found):
            click.echo(line)
