"""The size report for people: one HTML file that a browser shows with nothing else at hand; and as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from builder.errors import BuildError, UsageError, printable, room_hint
from builder.explain import human
from builder.report import Report
from builder.rules import image_layers
from builder.tree.layers import layers_of
from builder.tree.origin import report_text
from builder.whole_file import whole_file

_SCRIPTS = ("model.js", "page.js")

_TITLES = {
    "package": "Locked packages",
    "base-package": "Packages of the base",
    "python": "Python",
    "library": "Shared libraries",
    "listed": "Listed paths",
    "system": "System files",
    "supplied": "Written by sandbox-build",
}

_LARGEST_FILES = 50


def write_report(report: Report, path: Path) -> None:
    """Writes the report to a file *.html or *.json, whole or not at all. The same report, the same bytes.

    UsageError for another suffix, BuildError where it cannot be written.
    """
    writers = {".html": render_page, ".json": report_json}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise UsageError(
            f"--report {path}: no such kind of report", "name a file that ends in .html or .json"
        )
    content = writer(report).encode()
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        hint = room_hint(error) or "name a file in a folder that may be written"
        raise BuildError(f"--report {path}: not written: {error.strerror}", hint) from None


def report_json(report: Report) -> str:
    """report.json, with the sums that a program may want."""
    rows = [
        {
            "what": origin.what,
            "kind": origin.kind,
            "files": report.sizes[index].files,
            "bytes": report.sizes[index].bytes,
            "alone_bytes": report.size_of(report.alone(index)).bytes,
        }
        for index, origin in enumerate(report.origins)
    ]
    kinds = {kind: report.size_of(report.of_kind(kind)).bytes for kind in _TITLES}
    return report_text({**report.raw, "sums": {"origins": rows, "kinds": kinds}})


def render_page(report: Report) -> str:
    """The page: nothing in it is fetched from elsewhere, and no text of the report can become part of it."""
    folder = resources.files("images") / "report"
    style = (folder / "report.css").read_text(encoding="utf-8")
    scripts = [(folder / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    environment = Environment(
        loader=PackageLoader("images", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=printable(report.image or f"sandbox on {report.base}"),
        # Our own files, and JSON in which no "<" is left.
        style=Markup(style),  # noqa: S704
        style_hash=_hash(style),
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        script_hashes=[_hash(script) for script in scripts],
        data=Markup(page_data(report)),  # noqa: S704
        facts=_facts(report),
        total={
            "human": human(report.total.bytes),
            "exact": f"{report.total.bytes:,}",
            "files": f"{report.total.files:,}",
        },
        kinds=_kinds(report),
        tables=[_packages(report), _libraries(report), _files(report)],
        notes=[
            ("Layers, compressed", list(map(printable, _layer_lines(report)))),
            ("What was proven", list(map(printable, report.proven))),
            ("Warnings of the build", list(map(printable, report.warnings))),
        ],
    )


def _layer_lines(report: Report) -> list[str]:
    """What each layer weighs, and what another version of each locked package sends to a registry again."""
    sizes = dict(report.layers)
    lines = [f"{name}: {human(size)}" for name, size in report.layers]
    if not report.layers:
        return lines
    layers = image_layers()
    top = report.layers[-1][0]
    for origin, index in zip(report.origins, layers_of(report.origins, layers), strict=True):
        if origin.kind == "package" and (name := layers[index].name) in sizes:
            again = human(sizes[name] + sizes[top])
            lines.append(f"another version of {origin.what.split()[0]} sends {name} and {top} again: {again}")
    return lines


def page_data(report: Report) -> str:
    """What the page's script reads, as JSON that may stand inside <script>."""
    imports = {report.origin_of(one): one.imports for one in report.distributions}
    origins = [
        {
            "what": printable(origin.what),
            "kind": origin.kind,
            "because": origin.because,
            "text": printable(origin.text),
            "needs": origin.needs,
            "imports": list(map(printable, imports.get(index, ()))),
            "size": report.sizes[index].bytes,
            "alone": _alone(report, index),
        }
        for index, origin in enumerate(report.origins)
    ]
    files: dict[str, list[Any]] = {}
    for path, (length, origin) in report.files.items():
        folder, name = posixpath.split(path)
        files.setdefault(printable(folder), []).extend((printable(name), length, origin))
    data = {"kinds": list(_TITLES.items()), "origins": origins, "files": files}
    # ASCII alone, so that nothing depends on how the file is read, and no tag can begin.
    return json.dumps(data, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")


def _alone(report: Report, index: int) -> int | None:
    """Bytes with all that nothing else needs; None where that is nothing."""
    if report.origins[index].kind == "python":
        return None
    alone = report.alone(index)
    return report.size_of(alone).bytes if len(alone) > 1 else None


def _facts(report: Report) -> list[tuple[str, str]]:
    packages = [one for one in report.distributions if one.locked]
    facts = [
        ("Base", report.base),
        ("Python", f"{report.python['version']}"),
        ("Architecture", report.arch),
        ("Packages", str(len(packages or report.distributions))),
        ("Shared libraries", str(len(report.of_kind("library")))),
    ]
    return [(name, printable(value)) for name, value in facts if value != "0"]


def _kinds(report: Report) -> list[dict[str, Any]]:
    found, x = [], 0.0
    for kind, title in _TITLES.items():
        size = report.size_of(report.of_kind(kind))
        if size.files:
            share = size.bytes / (report.total.bytes or 1)
            width = round(1000 * share, 2)
            part = f"{100 * share:.1f}\u00a0%" if share >= 0.001 else "<\u00a00.1\u00a0%"
            about = {"human": human(size.bytes), "part": part}
            found.append({"kind": kind, "title": title, "x": round(x, 2), "width": width} | about)
            x += width
    return found


def _packages(report: Report) -> dict[str, Any]:
    rows = []
    for index in report.of_kind("package", "base-package", "listed"):
        size = report.sizes[index].bytes
        rows.append(_row(report, index, (size, report.size_of(report.alone(index)).bytes)))
    heads = ("Package", "Size", "With its own needs", "Why")
    return _table("Largest packages", heads, (2, 3), rows)


def _libraries(report: Report) -> dict[str, Any]:
    rows = []
    for index in report.of_kind("library"):
        if report.sizes[index].files:
            needers = len(report.needers(index))
            under = f"needed by {needers}" if needers else ""
            rows.append(_row(report, index, (report.sizes[index].bytes,), under))
    heads = ("Library", "Size", "Why")
    return _table("Largest shared libraries", heads, (2,), rows)


def _files(report: Report) -> dict[str, Any]:
    largest = sorted(report.files.items(), key=lambda item: (-item[1][0], item[0]))[:_LARGEST_FILES]
    rows = []
    for path, (length, index) in largest:
        folder, name = posixpath.split(path)
        more = {
            "name": printable(name),
            "under": printable(folder),
            "text": printable(report.origins[index].what),
        }
        rows.append(_row(report, index, (length,)) | more | {"href": quote(printable(path))})
    heads = ("File", "Size", "Of")
    return _table("Largest files", heads, (2,), rows)


def _table(
    title: str, heads: Iterable[str], numbers: Iterable[int], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    return {"title": title, "heads": tuple(heads), "numbers": tuple(numbers), "rows": rows}


def _row(report: Report, index: int, sizes: Iterable[int], under: str = "") -> dict[str, Any]:
    origin = report.origins[index]
    return {
        "kind": origin.kind,
        "href": f"{origin.kind}/{index}",
        "name": printable(origin.what),
        "under": under,
        "numbers": [{"human": human(size), "exact": f"{size:,}"} for size in sizes],
        "text": printable(origin.text),
    }


def _hash(text: str) -> str:
    """As a Content-Security-Policy names the text of a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
