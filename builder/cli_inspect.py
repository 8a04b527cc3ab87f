"""`sandbox-build inspect`: parses and prints; no logic."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from builder.cli_options import existing, json_option, verbose_option
from builder.reference import names_registry


@click.command(short_help="Say what an image is and holds, and whether its provenance agrees.")
@json_option
@verbose_option
@click.argument("what", metavar="REF|DIR")
def inspect(what: str, as_json: bool, verbose: bool) -> None:  # noqa: ARG001 - main() reads verbose
    """Say what an image is and holds, what accompanies it, and whether its provenance agrees with it.

    \b
      sandbox-build inspect dist                     all that was built; dist/amd64 or an image.tar: one
      sandbox-build inspect registry.example/py:1    every platform behind a name in a registry
      sandbox-build inspect dist/amd64 --json | jq -r '.[0].debian[] | "\\(.name) \\(.version)"'

    Of an image that is here every file is read, and the tree digest computed anew. Of one in a registry only
    what is small is fetched, and its files are what the manifest says: a signature is not verified, which is
    the work of cosign or notation.

    Exit codes: 0 told, 1 it cannot be read: it is damaged, or the registry refuses or does not answer, 2 no
    image is called so, 4 what accompanies it does not agree with it.
    """
    from builder.inspection import inspect_local, inspect_remote, lines

    path = Path(what)
    if path.exists() or not names_registry(what):
        found = inspect_local(existing(path, "; an image in a registry is HOST[:PORT]/NAME:TAG"))
    else:
        found = inspect_remote(what)
    if as_json:
        images = [{**asdict(one), "agrees": all(check.holds for check in one.checks)} for one in found]
        click.echo(json.dumps(images, indent=1))
    else:
        for one in found:
            for line in lines(one):
                click.echo(line)
    sys.exit(0 if all(check.holds for one in found for check in one.checks) else 4)
