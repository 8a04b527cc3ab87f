"""The assembler as a folder that any Python of the right version can run, with nothing installed."""

from __future__ import annotations

import shutil
from pathlib import Path

_MAIN = '''\
"""Assembles the jail tree: python3 -I -S assembler --help."""

import sys

if sys.version_info < (3, 11):
    sys.exit("error: the assembler needs Python 3.11 or later, and this is %d.%d" % sys.version_info[:2])

from builder.tree.__main__ import main

sys.exit(main())
'''

_BUILDER = ("__init__.py", "arch.py", "errors.py", "whole_file.py")


def write_bundle(destination: Path) -> None:
    """Makes the folder `destination`: builder/tree/ and what it imports.

    Run as `python3 -I -S DESTINATION --root ... `. The same version of us, the same files.
    """
    builder = Path(__file__).parents[1]
    destination.mkdir(parents=True)
    (destination / "__main__.py").write_text(_MAIN)
    (destination / "builder").mkdir()
    for name in _BUILDER:
        shutil.copyfile(builder / name, destination / "builder" / name)
    tree = builder / "tree"
    for path in sorted(tree.rglob("*.py")):
        copy = destination / "builder" / "tree" / path.relative_to(tree)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
