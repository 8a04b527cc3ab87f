"""Runs in the confined place, under Debian's interpreter: says what a build needs, or builds a wheel.

    inside.py requires|wheel SDIST OUTPUT

`requires` writes the requirements that the build backend has besides those of pyproject.toml, as JSON;
`wheel` writes the wheel's file name, a line feed, and the wheel. PyPA's `build` does the work.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import tarfile
from pathlib import Path

_WORK = Path("/tmp/work")  # noqa: S108 - a tmpfs that is the build's own


def main(what: str, sdist: str, output: str) -> None:
    builder = importlib.import_module("build").ProjectBuilder(_unpack(Path(sdist)))
    if what == "requires":
        content = json.dumps(sorted(builder.get_requires_for_build("wheel"))).encode()
    else:
        wheel = Path(builder.build("wheel", str(_WORK / "dist")))
        content = wheel.name.encode() + b"\n" + wheel.read_bytes()
    Path(output).write_bytes(content)


def _unpack(sdist: Path) -> Path:
    """The folder of the sdist's project."""
    folder = _WORK / "source"
    if sdist.suffix == ".zip":
        shutil.unpack_archive(sdist, folder)
    else:
        with tarfile.open(sdist) as archive:
            # Python 3.11.2 of Debian 12 has no filters.
            if hasattr(tarfile, "tar_filter"):
                archive.extractall(folder, filter="tar")
            else:
                archive.extractall(folder)  # noqa: S202 - nothing can be written but what is the build's own
    (project,) = (path for path in folder.iterdir() if path.is_dir())
    return project


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        # What the backend has to say stands above already.
        sys.exit(f"{type(error).__name__}: {error}")
