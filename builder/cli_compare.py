"""`sandbox-build compare`: parses and prints; no logic."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import click

from builder.cli_options import existing, json_option, verbose_option
from builder.compare import Compared, Difference
from builder.errors import printable

_MOST_SHOWN = 50
"""Lines of one layer; --json has all of them."""
_MOST_ALIKE = 3
"""Files that are named where more differ in the same way."""


@click.command(short_help="Say in what two images differ, and why; exit 1 if in anything.")
@json_option
@verbose_option
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def compare(before: Path, after: Path, as_json: bool, verbose: bool) -> None:  # noqa: ARG001 - main() reads verbose
    """Say whether two images are the same, and where they are not, which file differs and why.

    Each is an image.tar, a folder dist/ARCH, or a folder dist, of which every architecture is compared:

    \b
      sandbox-build --arch amd64 --output again && sandbox-build compare dist/amd64 again/amd64
      sandbox-build compare dist old

    The last line of each says what a registry that has BEFORE would be sent for AFTER.

    Exit codes: 0 the same, 1 something differs, 2 usage. A damaged image is an error, and 1 too.
    """
    from builder.compare import compare as compare_images
    from builder.compare import pairs

    found = [compare_images(arch, one, other) for arch, one, other in pairs(*map(existing, (before, after)))]
    if as_json:
        images = [{**asdict(one), "same": one.same} for one in found]
        click.echo(
            json.dumps({"same": all(one.same for one in found), "images": images}, default=str, indent=1)
        )
    else:
        for one in found:
            for line in _told(one):
                click.echo(line)
    sys.exit(0 if all(one.same for one in found) else 1)


def _told(compared: Compared) -> Iterator[str]:
    if compared.same:
        yield f"{compared.arch}: the same: {compared.after.digest}"
        return
    yield f"{compared.arch}: {compared.before.digest} differs from {compared.after.digest}"
    for where, group in groupby(compared.differences, key=lambda one: one.where):
        yield f"  {printable(where)}"
        lines = list(_lines(list(group)))
        yield from (f"    {printable(line)}" for line in lines[:_MOST_SHOWN])
        if len(lines) > _MOST_SHOWN:
            yield f"    and {len(lines) - _MOST_SHOWN} more lines: --json has all"
    sent = ", ".join(f"{one.what} {one.size / 1e6:.2f} MB" for one in compared.sent)
    size = sum(one.size for one in compared.sent)
    yield f"  to send: {size / 1e6:.2f} of {compared.total_bytes / 1e6:.2f} MB ({printable(sent)})"


def _lines(differences: Sequence[Difference]) -> Iterator[str]:
    """What differs in one layer, or in the config: the same change of many files in one line."""
    alike: dict[tuple[str | None, ...], list[str]] = {}
    for one in differences:
        alike.setdefault((one.what, one.before, one.after, one.why), []).append(one.path)
    for (what, before, after, reason), paths in alike.items():
        more = f" and {len(paths) - _MOST_ALIKE} more" if len(paths) > _MOST_ALIKE else ""
        about = " ".join(part for part in (", ".join(paths[:_MOST_ALIKE]) + more, what) if part)
        values = ["nothing" if value is None else value for value in (before, after)]
        yield about if before is None and after is None else f"{about}: {values[0]} -> {values[1]}"
        if reason:
            yield f"  {reason}"
