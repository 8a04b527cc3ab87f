"""What a distribution's own files say: which files are its, and what it requires."""

from __future__ import annotations

import csv
import posixpath
import re

from builder.tree.distributions import normalized
from builder.tree.root import Root, is_below

_MOST_BYTES = 64 << 20
"""The RECORD of half a million files is as large; beyond it nobody meant well."""

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
_EXTRA = re.compile(r"\bextra\s*[=!]=")


def recorded_files(root: Root, path: str) -> list[str] | None:
    """The jail paths that the RECORD in the dist-info folder `path` names; None where there is none to read.

    What it claims outside the folder of packages that it lies in is not the distribution's to claim.
    """
    site = posixpath.dirname(path)
    text = _text(root, f"{path}/RECORD")
    if text is None:
        return None
    try:
        rows = [row[0] for row in csv.reader(text.splitlines()) if row]
    except csv.Error:
        return None
    paths = (posixpath.normpath(posixpath.join(site, name)) for name in rows)
    return [one for one in paths if is_below(one, site)]


def required_names(root: Root, path: str) -> tuple[list[str], list[str]]:
    """The normalized names that the distribution at `path` requires: always, and only with an extra of it.

    Other conditions are not looked at: what they rule out was not installed. Knows dist-info and egg-info.
    """
    always: dict[str, None] = {}
    extra: dict[str, None] = {}
    for requirement, optional in _requirements(root, path):
        if match := _NAME.match(requirement):
            (extra if optional else always)[normalized(match[1])] = None
    return list(always), [name for name in extra if name not in always]


def _requirements(root: Root, path: str) -> list[tuple[str, bool]]:
    """(requirement, whether only with an extra), as written."""
    found = []
    for name in (f"{path}/METADATA", f"{path}/PKG-INFO", path):
        text = _text(root, name)
        if text is None:
            continue
        for line in text.split("\n"):
            if line.strip("\r") == "":
                break  # The description follows. A line of spaces is part of a licence.
            key, _, value = line.partition(":")
            if key.lower() == "requires-dist":
                found.append((value, _EXTRA.search(value) is not None))
        break
    section = ""
    for line in (_text(root, f"{path}/requires.txt") or "").splitlines():
        if line.startswith("["):
            # [EXTRA], [EXTRA:CONDITION] or [:CONDITION]
            section = line.strip("[] ").partition(":")[0]
        else:
            found.append((line, bool(section)))
    return found


def _text(root: Root, jail_path: str) -> str | None:
    real = root.real(jail_path)
    if real is None or not root.host(real).is_file():
        return None
    if root.host(real).stat().st_size > _MOST_BYTES:
        return None
    return root.host(real).read_text(encoding="utf-8", errors="surrogateescape")
