"""What a real build says of its own image: each file, why it is there, and how large all of it is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from builder.arch import host_arch
from builder.report import Report, Size, load_report
from builder.tree.spec import REPORT_PATH, TREE_PATH
from tests.conftest import Result, sandbox_build
from tests.fakeroot import elf
from tests.wheels import wheel

CONFIG = """\
base: debian:trixie
python_version: "3.13"
dependencies: [upper]
"""


@pytest.fixture(scope="module")
def report(root: Path) -> Report:
    """What the shipped config's image says of itself."""
    return load_report(root)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image of two packages, of which one needs a library of the base, and both reports."""
    folder = tmp_path_factory.mktemp("project")
    wheels = folder / "wheels"
    wheels.mkdir()
    wheel(wheels, "upper", files={"upper.py": b"import lower_things\n"}, requires=["Lower.Package"])
    native = elf(needed=["libbz2.so.1.0"])
    files = {"lower_things/__init__.py": b"", "lower_things/libnative.so": native}
    wheel(wheels, "lower_package", files=files)
    (folder / "config.yaml").write_text(CONFIG)
    offline = [f"--config={folder}/config.yaml", f"--wheelhouse={wheels}", "--no-index"]
    locked = sandbox_build("lock", *offline)
    assert locked.exit_code == 0, locked.stderr
    reports = [f"--report={folder}/report.html", f"--report={folder}/report.json"]
    built = sandbox_build("--driver=oci", f"--output={folder}/dist", *offline, *reports)
    assert built.exit_code == 0, built.stderr
    return folder


def explained(*arguments: str) -> Result:
    return sandbox_build("explain", *arguments)


def test_the_report_has_every_file_of_the_tree(root: Path, report: Report) -> None:
    """With its bytes, bytecode and our own files included; every link too."""
    tree = root / TREE_PATH[1:]
    found = {f"/{path.relative_to(tree)}": path for path in tree.rglob("*")}
    files = {
        name: path.stat().st_size for name, path in found.items() if path.is_file() and not path.is_symlink()
    }
    assert {name: length for name, (length, _) in report.files.items()} == files
    assert report.links == {name: str(path.readlink()) for name, path in found.items() if path.is_symlink()}
    assert report.raw["totals"] == {"files": len(files), "bytes": sum(files.values())}


def test_every_chain_of_the_shipped_image_ends_at_what_somebody_asked_for(report: Report) -> None:
    """Nothing came along without a reason that can be told."""
    for index, origin in enumerate(report.origins):
        last = report.chain(index)[-1]
        assert last.because is None
        assert last.text
        assert report.sizes[index].files, f"{origin.what} brought nothing"
    vague = [one.what for one in report.origins if one.text.startswith("of the base, beside")]
    assert vague == []


def test_the_report_costs_little(root: Path) -> None:
    """Less than 15 kB of the image, compressed."""
    assert len(gzip.compress((root / REPORT_PATH[1:]).read_bytes(), 6)) < 15_000


def test_a_library_is_explained_from_the_image(image: Path, report: Report) -> None:
    """Without a report beside it; a path through the base's links means the same file."""
    told = explained("libssl", f"--image={image}")
    assert told.exit_code == 0, told.stderr
    assert "needed by /usr/lib/python3.13/lib-dynload/_ssl." in told.stdout
    [one] = json.loads(
        explained("/lib/" + host_arch().triplet + "/libz.so.1", f"--image={image}", "--json").stdout
    )
    assert report.files[one["what"]][0] == one["bytes"]


@pytest.mark.parametrize("name", ["lower-package", "lower_things", "Lower_Package"])
def test_a_package_is_explained_from_the_config_on(project: Path, name: str) -> None:
    """Both names mean it; who requires it, and what it takes along."""
    [one] = json.loads(explained(name, f"--output={project}/dist", "--json").stdout)
    assert [what for what, _ in one["chain"]] == [one["what"], "upper 1.0"]
    assert one["chain"][0][1] == "required by upper 1.0"
    assert one["chain"][1][1] == "dependencies: upper in config.yaml"
    assert "libbz2.so.1.0" in one["needs"]
    [upper] = json.loads(explained("upper", f"--output={project}/dist", "--json").stdout)
    assert upper["alone"] == [one["what"]]
    assert upper["alone_bytes"] == upper["bytes"] + one["bytes"]


def test_nothing_is_called_so(project: Path) -> None:
    """Exit code 2, and the nearest name."""
    told = explained("lower-pakage", f"--output={project}/dist")
    assert told.exit_code == 2
    assert "hint: did you mean lower" in told.stderr
    assert told.stdout == ""


def test_the_reports_of_a_build(project: Path) -> None:
    """The page and the JSON say the same as the image, and what was proven of it."""
    inside = load_report(project / "dist" / host_arch().name / "image.tar")
    beside = load_report(project / "report.json")
    assert beside.files == inside.files
    assert sum(beside.sizes, Size()) == beside.total
    assert any("imports" in line for line in beside.proven)
    page = (project / "report.html").read_text()
    assert f"{inside.total.bytes:,} bytes" in page
    assert all(line in page for line in beside.proven)


def test_a_report_of_another_kind_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    """By its suffix."""
    told = sandbox_build(f"--report={tmp_path}/report.pdf", f"--output={tmp_path}/dist")
    assert told.exit_code == 2
    assert not (tmp_path / "dist").exists()
