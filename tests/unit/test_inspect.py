"""What is told of a finished image, and that what accompanies it is compared with what is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder.attest import attest
from builder.errors import BuildError, UsageError
from builder.inspection import inspect_local, lines
from builder.report import Report
from tests.attested import FACTS, REPORT, make_image
from tests.conftest import sandbox_build
from tests.reports import HOSTILE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder dist/amd64 with an image and its documents."""
    made = tmp_path / "dist/amd64"
    made.mkdir(parents=True)
    archive = make_image(made)
    for one in attest(archive, Report(REPORT), FACTS).documents:
        (made / one.name).write_bytes(one.content)
    return made


def test_what_is_told_of_an_image(folder: Path) -> None:
    """By the archive, the folder of its architecture, and the folder of all of them."""
    (found,) = inspect_local(folder)
    assert [found] == inspect_local(folder.parent) == inspect_local(folder / "image.tar")
    assert (found.name, found.platform, found.created) == (
        "example.org/team/app:1",
        "linux/amd64",
        "2024-02-03T04:05:06Z",
    )
    assert (found.level, found.python) == ("chroot", "3.13.5")
    assert [layer.name for layer in found.layers] == ["config"]
    assert {one.name for one in found.packages} == {"PyYAML", "learn", "scipy", "joblib"}
    assert [(one.name, one.version) for one in found.debian] == [
        ("libc6", "2.41-12"),
        ("libssl3t64", "3.5.1-1+deb13u1"),
    ]
    assert [one.name for one in found.documents] == [
        "tree.json",
        "sbom.cdx.json",
        "sbom.spdx.json",
        "provenance.json",
    ]
    assert {check.what: check.found == check.said for check in found.checks} == {
        "tree.json": True,
        "image": True,
        "policy": True,
        "tree": True,
        "sbom.cdx.json": True,
        "sbom.spdx.json": True,
    }


@pytest.mark.parametrize("name", ["tree.json", "sbom.cdx.json", "sbom.spdx.json"])
def test_a_document_that_was_changed_does_not_agree(folder: Path, name: str) -> None:
    """Every byte of it counts."""
    path = folder / name
    path.write_bytes(path.read_bytes() + b"\n")
    (found,) = inspect_local(folder)
    assert [check.what for check in found.checks if not check.holds] == [name]
    assert any(line.startswith(f"  DISAGREE    {name}: ") for line in lines(found))


def test_another_image_beside_the_documents_does_not_agree(folder: Path, tmp_path: Path) -> None:
    """One file of the tree is another: image and tree are, and the policy is the same."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(make_image(other, {"/opt/app/a.py": b"evil"}), folder / "image.tar")
    (found,) = inspect_local(folder)
    assert {check.what for check in found.checks if not check.holds} == {"tree.json", "image", "tree"}
    shutil.rmtree(other)
    other.mkdir()
    shutil.copyfile(
        make_image(other, labels={"sandbox-build.policy.digest": "sha256:0"}), folder / "image.tar"
    )
    (found,) = inspect_local(folder)
    assert {check.what for check in found.checks if not check.holds} == {"policy's label", "image"}


def test_an_image_without_documents_is_told_of_all_the_same(folder: Path) -> None:
    """What is not there cannot disagree; the tree digest is the files' own."""
    digest = inspect_local(folder)[0].tree_digest
    for path in folder.glob("*.json"):
        path.unlink()
    (found,) = inspect_local(folder)
    assert (found.tree_digest, found.checks, found.documents) == (digest, (), ())
    assert "  documents   none" in list(lines(found))


def test_the_command_prints_lines_or_json_and_fails_where_something_disagrees(folder: Path) -> None:
    """0, and 4 as for everything that does not do what it promises."""
    done = sandbox_build("inspect", str(folder))
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("example.org/team/app:1@sha256:")
    assert "\n  debian      2 packages, named by --json\n" in done.stdout
    (folder / "sbom.cdx.json").write_text("{}")
    done = sandbox_build("inspect", str(folder.parent), "--json")
    assert done.exit_code == 4
    (image,) = json.loads(done.stdout)
    assert (image["agrees"], image["debian"][0]["name"]) == (False, "libc6")


def test_a_stranger_s_text_moves_no_cursor(folder: Path) -> None:
    """Labels and names of an image that somebody else made."""
    shutil.rmtree(folder / "root")
    make_image(folder, labels={f"x{HOSTILE}": HOSTILE})
    (found,) = inspect_local(folder)
    assert all(line.isprintable() for line in lines(found))


def test_what_is_no_image_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """An empty folder, a file that is no archive, a name that is neither here nor a registry's."""
    with pytest.raises(UsageError, match="no image is there"):
        inspect_local(tmp_path)
    (tmp_path / "image.tar").write_bytes(b"no tar")
    with pytest.raises(BuildError, match="not an image archive of ours"):
        inspect_local(tmp_path)
    done = sandbox_build("inspect", "nowhere")
    assert done.exit_code == 2
    assert "hint: " in done.stderr


def test_a_provenance_of_another_kind_is_an_error(folder: Path) -> None:
    """It says nothing that could be compared."""
    (folder / "provenance.json").write_text('{"_type": "https://in-toto.io/Statement/v0.1"}')
    with pytest.raises(BuildError, match=r"image\.tar: provenance\.json is not one of sandbox-build"):
        inspect_local(folder)
