"""`origins`, `files`, `links` and `totals` of report.json: their shapes, and how they are written."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.tree.bytecode import cache_path

KINDS = ("python", "package", "base-package", "library", "listed", "system", "supplied")

LOADER = "loader"
"""What the origin of the dynamic loader is called."""


@dataclass(frozen=True)
class Origin:
    """Something that brought files into the tree."""

    what: str
    kind: str
    """One of KINDS."""
    because: int | None
    """The origin that brought this one; None for what config.yaml or a rule asks for itself."""
    text: str
    """Why, in words; where another origin brought it, that one's name is in it."""
    needs: tuple[int, ...] = ()
    """The origins that this one cannot work without: what it requires, the libraries that its files load."""


@dataclass(frozen=True)
class Origins:
    """Every origin, and for each file that the tree may hold the index of its own."""

    origins: tuple[Origin, ...]
    file_origin: Mapping[str, int]
    """By jail path; bytecode has its source's, whether or not there is any."""

    def to_report(self, tree: Path) -> dict[str, Any]:
        """`origins`, `files`, `links` and `totals` of report.json, of a finished tree in the folder `tree`.

        `files` has for each folder [name, bytes, origin] of its files, with a fourth member for a source
        whose bytecode lies in __pycache__: that file's bytes. `links` has [name, what it says].
        """
        sizes, links = _walk(tree)
        compiled = {path: cache_path(path) for path in sizes if path.endswith(".py")}
        merged = {bytecode for bytecode in compiled.values() if bytecode in sizes}
        files: dict[str, list[list[Any]]] = {}
        for path in sorted(sizes.keys() - merged):
            folder, name = posixpath.split(path)
            entry = [name, sizes[path], self.file_origin[path]]
            if (bytecode := compiled.get(path)) in merged:
                entry.append(sizes[bytecode])
            files.setdefault(folder, []).append(entry)
        return {
            "origins": [_to_json(origin) for origin in self.origins],
            "files": dict(sorted(files.items())),
            "links": {folder: sorted(links[folder]) for folder in sorted(links)},
            "totals": {"files": len(sizes), "bytes": sum(sizes.values())},
        }


def report_text(report: Mapping[str, Any]) -> str:
    """report.json: one origin, one folder a line. The same report, the same bytes."""
    parts = []
    for key in sorted(report):
        value = report[key]
        if key in ("files", "links"):
            lines = ",\n".join(f"{_compact(folder)}:{_compact(entries)}" for folder, entries in value.items())
            shown = f"{{\n{lines}\n}}"
        elif isinstance(value, list) and value:
            shown = "[\n" + ",\n".join(map(_compact, value)) + "\n]"
        else:
            shown = _compact(value)
        parts.append(f"{_compact(key)}:{shown}")
    return "{" + ",\n".join(parts) + "}\n"


def _walk(tree: Path) -> tuple[dict[str, int], dict[str, list[list[str]]]]:
    """The bytes of every file below the folder `tree`, by jail path; the links of each folder."""
    sizes: dict[str, int] = {}
    links: dict[str, list[list[str]]] = {}
    pending = ["/"]
    while pending:
        folder = pending.pop()
        with os.scandir(f"{tree}{folder}") as entries:
            for entry in entries:
                path = posixpath.join(folder, entry.name)
                if entry.is_symlink():
                    links.setdefault(folder, []).append([entry.name, os.readlink(entry.path)])  # noqa: PTH115
                elif entry.is_dir():
                    pending.append(path)
                else:
                    sizes[path] = entry.stat().st_size
    return sizes, links


def _to_json(origin: Origin) -> dict[str, Any]:
    shown = {"what": origin.what, "kind": origin.kind, "because": origin.because, "text": origin.text}
    return shown | ({"needs": list(origin.needs)} if origin.needs else {})


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
