"""report.json is read wherever it lies: sizes, reasons, and what goes with what."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from builder.archive import BuiltImage, write_archive
from builder.errors import BuildError, UsageError
from builder.layers import write_layer
from builder.report import Report, Size, load_report
from builder.tree.origin import report_text
from tests.reports import ORIGINS, raw


@pytest.fixture
def report() -> Report:
    return Report(raw())


def index(report: Report, what: str) -> int:
    return [one.what for one in report.origins].index(what)


def test_sizes_by_origin_folder_and_kind(report: Report) -> None:
    """Bytecode counts with its source; sums are sums of files."""
    assert report.files["/packages/scipy/__pycache__/__init__.cpython-313.pyc"] == (200, 5)
    assert report.sizes[5] == Size(4, 6000)
    assert report.size(report.below("/packages/scipy")) == Size(3, 1000)
    assert report.size_of(report.of_kind("library")) == Size(4, 3700)
    assert report.origins[report.of_kind("library")[0]].what == "libc.so.6"
    assert report.total == sum(report.sizes, Size())


def test_what_goes_with_a_package(report: Report) -> None:
    """All that nothing else needs, in turn; what the interpreter needs too stays."""
    alone = {report.origins[one].what for one in report.alone(index(report, "learn 1.7"))}
    assert alone == {"learn 1.7", "scipy 1.16", "joblib 1.5", "libgfortran.so.5", "libquadmath.so.0"}
    assert report.alone(index(report, "libquadmath.so.0")) == [9]
    direct = [one | {"because": None} if one["what"] == "scipy 1.16" else one for one in ORIGINS]
    alone = {report.origins[one].what for one in Report(raw(origins=direct)).alone(4)}
    assert alone == {"learn 1.7", "joblib 1.5"}


def test_a_circle_in_a_report_ends(report: Report) -> None:
    """A file that somebody made up must not hang us."""
    origins = [one | {"because": 6} if one["what"] == "scipy 1.16" else one for one in ORIGINS]
    origins[6] = origins[6] | {"because": 5}
    assert [one.what for one in Report(raw(origins=origins)).chain(5)] == ["scipy 1.16", "joblib 1.5"]
    circle = Report(raw(links={"/": [["a", "b"], ["b", "a"], ["c", "../../c"]]}))
    assert circle.resolve("/a/x") == "/a/x"
    assert circle.resolve("/c") == "/c"
    assert report.resolve("/lib/x86_64-linux-gnu/../x86_64-linux-gnu/libgfortran.so.5").endswith(".so.5.0.0")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"format": 2}, "not one that this sandbox-build reads"),
        ({"origins": [ORIGINS[0] | {"needs": [99]}, *ORIGINS[1:]]}, "damaged"),
        ({"origins": [ORIGINS[0] | {"because": -1}, *ORIGINS[1:]]}, "damaged"),
        ({"origins": [ORIGINS[0] | {"kind": "evil"}, *ORIGINS[1:]]}, "damaged"),
        ({"origins": [{"what": 1}]}, "damaged"),
        ({"files": {"/etc": [["passwd", -1, 0]]}}, "damaged"),
        ({"files": {"/etc": [["passwd", 1, 12]]}}, "damaged"),
        ({"files": {"/etc": [["passwd"]]}}, "damaged"),
        ({"files": ["/etc"]}, "damaged"),
        ({"links": {"/": [["a"]]}}, "damaged"),
        ({"python": {}}, "damaged"),
    ],
)
def test_a_report_that_is_none(changes: dict[str, Any], word: str) -> None:
    """One error with a hint, whatever is wrong with it."""
    with pytest.raises(BuildError, match=word) as failure:
        Report(raw(**changes))
    assert failure.value.hint


def test_a_report_is_found_wherever_it_lies(tmp_path: Path) -> None:
    """In an archive's uppermost layer, an unpacked root, an output folder, or by itself."""
    layers = []
    for number, base in enumerate(("below", "above", None)):
        root = tmp_path / str(number)
        (root / "sandbox").mkdir(parents=True)
        (root / "sandbox" / "other").touch()
        if base is not None:
            (root / "sandbox" / "report.json").write_text(report_text(raw(base=base)))
        write_layer(root, tmp_path / f"{number}.tar", epoch=0)
        layers.append(tmp_path / f"{number}.tar")
    digests = [f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}" for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests}}
    output = tmp_path / "dist"
    output.mkdir()
    archive = output / "image.tar"
    write_archive(BuiltImage(json.dumps(config).encode(), tuple(layers)), archive, "a:b")
    assert load_report(archive).base == "above"
    assert load_report(output).base == "above"
    assert load_report(tmp_path / "0").base == "below"
    (output / "report.json").write_text(report_text(raw(base="beside")))
    assert load_report(output).base == "beside"
    assert load_report(output / "report.json").base == "beside"


def test_an_image_without_a_report(tmp_path: Path) -> None:
    """Of an older version, of another tool, half of one, none at all: each its own error with a hint."""
    (tmp_path / "root").mkdir()
    write_layer(tmp_path / "root", tmp_path / "layer.tar", epoch=0)
    digest = f"sha256:{hashlib.sha256((tmp_path / 'layer.tar').read_bytes()).hexdigest()}"
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest]}}
    image = BuiltImage(json.dumps(config).encode(), (tmp_path / "layer.tar",))
    write_archive(image, tmp_path / "image.tar", "a:b")
    with tarfile.open(tmp_path / "other.tar", "w"):
        pass
    (tmp_path / "half.json").write_text('{"format": 1')
    for name, kind, word in (
        ("image.tar", BuildError, "older sandbox-build"),
        ("other.tar", BuildError, "not an image archive of ours"),
        ("half.json", BuildError, "damaged"),
        ("root", UsageError, "no report.json"),
        ("nothing", UsageError, "no such file"),
    ):
        with pytest.raises(kind, match=word) as failure:
            load_report(tmp_path / name)
        assert failure.value.hint
        assert str(tmp_path / name) in failure.value.message
