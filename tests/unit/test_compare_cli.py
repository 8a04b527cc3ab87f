"""`sandbox-build compare`: what it pairs, says and ends with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.cli import commands
from builder.compare import Difference, pairs
from builder.errors import UsageError
from tests.layered import Images, entry, tar_of


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path)


Dist = Callable[[str, dict[str, bytes]], Path]


@pytest.fixture
def dist(tmp_path: Path, images: Images) -> Dist:
    """Makes a folder dist with an image of one file for each architecture."""

    def make(name: str, contents: dict[str, bytes]) -> Path:
        for arch, content in contents.items():
            path = images.write(f"{name}-{arch}", {"one": tar_of([entry("f", content)])}, architecture=arch)
            (tmp_path / name / arch).mkdir(parents=True)
            path.rename(tmp_path / name / arch / "image.tar")
        return tmp_path / name

    return make


def test_what_is_paired(dist: Dist) -> None:
    """An archive, the folder that holds it, and dist pair by architecture."""
    one, other = (dist(name, {"amd64": b"1", "arm64": b"1"}) for name in ("one", "other"))
    archives = [(arch, one / arch / "image.tar", other / arch / "image.tar") for arch in ("amd64", "arm64")]
    assert list(pairs(one, other)) == archives
    assert list(pairs(one / "arm64", other)) == archives[1:]
    assert list(pairs(one, other / "amd64/image.tar")) == archives[:1]
    assert list(pairs(one / "arm64/image.tar", other / "arm64")) == archives[1:]


def test_what_has_no_pair(dist: Dist, tmp_path: Path) -> None:
    """An architecture that one side lacks, and a path where nothing is, are errors that say so."""
    one, other = dist("one", {"amd64": b"1", "arm64": b"1"}), dist("other", {"amd64": b"1"})
    with pytest.raises(UsageError, match=r"one has an image for arm64, and .*other has none"):
        list(pairs(one, other))
    with pytest.raises(UsageError, match=r"one/arm64 has an image for arm64, and .*other has none"):
        list(pairs(one / "arm64", other))
    with pytest.raises(UsageError, match="nothing: no image is there"):
        list(pairs(one, tmp_path / "nothing"))


def test_the_command(dist: Dist) -> None:
    """0 for the same, 1 for a difference of one architecture, and the text says which and what to send."""
    one, same, other = (
        dist(name, {"amd64": b"1", "arm64": content})
        for name, content in (("one", b"1\n"), ("same", b"1\n"), ("other", b"2\n"))
    )
    run = CliRunner().invoke(commands, ["compare", str(one), str(same)])
    assert run.exit_code == 0
    assert [line.split(": ")[:2] for line in run.stdout.splitlines()] == [
        ["amd64", "the same"],
        ["arm64", "the same"],
    ]
    run = CliRunner().invoke(commands, ["compare", str(one), str(other)])
    assert run.exit_code == 1
    lines = run.stdout.splitlines()
    assert lines[0].startswith("amd64: the same: sha256:")
    assert lines[1].startswith("arm64: sha256:")
    assert lines[2] == "  layer one"
    assert lines[3].startswith("    f content: 2 bytes, sha256:")
    assert lines[4] == '      line 1: "1" -> "2"'
    assert lines[5].startswith("  to send: 0.00 of 0.00 MB (manifest ")

    run = CliRunner().invoke(commands, ["compare", "--json", str(one), str(other)])
    data = json.loads(run.stdout)
    assert (run.exit_code, data["same"]) == (1, False)
    assert [(one["arch"], one["same"]) for one in data["images"]] == [("amd64", True), ("arm64", False)]
    (difference,) = data["images"][1]["differences"]
    assert Difference(**difference).why == 'line 1: "1" -> "2"'
    assert [one["what"] for one in data["images"][1]["sent"]] == ["manifest", "config", "layer one"]


def test_the_same_change_of_many_files(images: Images) -> None:
    """One line for what many files share; a name moves no terminal's cursor."""
    names = ["a\x1b[2J", *"bcde"]
    for name, mtime in (("x", 1), ("y", 2)):
        images.write(name, {"one": tar_of([entry(path, mtime=mtime) for path in names])})
    folder_ = str(images.folder)
    run = CliRunner().invoke(commands, ["compare", f"{folder_}/x.tar", f"{folder_}/y.tar"])
    assert run.stdout.splitlines()[2] == "    a\\x1b[2J, b, c and 2 more mtime: 1 -> 2"
