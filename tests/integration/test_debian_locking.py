"""`sandbox-build lock` and what a build makes of it, with Debian's own packages for both architectures."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import IO

import pytest

from builder.arch import ARCHES
from builder.archive import open_archive
from tests.conftest import Result, sandbox_build
from tests.fakeroot import elf
from tests.integration.wheelproject import LIVE
from tests.wheels import wheel


class Project:
    """A folder with a config, whose Python packages come from its folder of wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "config.lock"
        (folder / "wheels").mkdir()

    def config(self, text: str) -> None:
        (self.folder / "config.yaml").write_text(text)

    def run(self, *arguments: str, code: int = 0) -> Result:
        options = [f"--config={self.folder / 'config.yaml'}", f"--wheelhouse={self.folder / 'wheels'}"]
        done = sandbox_build(*arguments, *options, "--no-index")
        assert done.exit_code == code, done.stderr
        return done

    def build(self, *arguments: str, code: int = 0) -> Result:
        return self.run("build", "--driver=oci", f"--output={self.folder / 'dist'}", *arguments, code=code)

    def locked(self, arch: str) -> dict[str, str]:
        """Package -> version."""
        lines = [line.split() for line in self.lock.read_text().splitlines()]
        return {line[3]: line[4] for line in lines if line[:3] == ["#:", "debian", arch]}


def names_in(layer: IO[bytes]) -> list[str]:
    with layer, tarfile.open(fileobj=layer, mode="r|") as tar:
        return [entry.name for entry in tar]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_base_alone_is_locked_and_built(project: Project) -> None:
    """For both architectures, with no Python packages; again it is the same file, and the same images.

    The database of packages stays out of the image.
    """
    project.config("base: debian:trixie")
    assert project.run("lock").stdout == f"{project.lock}\n"
    text = project.lock.read_text()
    for arch in ARCHES:
        assert {"python3.13-minimal", "libc6", "base-files"} <= project.locked(arch).keys()
    project.run("lock")
    assert project.lock.read_text() == text
    built = project.build(*(f"--arch={arch}" for arch in ARCHES))
    assert "days" not in built.stderr
    assert "h ago" not in built.stderr, "how old a locked package is does not matter"
    for arch in ARCHES:
        with open_archive(project.folder / "dist" / arch / "image.tar") as archive:
            names = [name for layer in archive.layers for name in names_in(archive.layer(layer))]
        assert any(name.endswith("usr/bin/python3.13") for name in names)
        assert not [name for name in names if "var/lib/dpkg" in name]


def test_what_is_locked_stays_until_it_is_no_longer_asked_for(project: Project) -> None:
    """Another base_packages is a disagreement; locking again mends it, and --arch locks one architecture."""
    project.config("base: debian:trixie")
    project.run("lock", "--arch=arm64")
    assert project.locked("amd64") == {}
    assert "not locked for amd64" in project.build("--arch=amd64", code=2).stderr
    project.config("base: debian:trixie\nbase_packages: [libgomp1]")
    told = project.build("--arch=arm64", code=2).stderr
    assert "config and lock disagree: base_package libgomp1 is not locked" in told
    assert "hint: sandbox-build lock" in told
    project.run("lock", "--arch=arm64")
    assert "libgomp1" in project.locked("arm64")
    project.config("base: debian:bookworm")
    assert "base debian:bookworm is not locked" in project.build("--arch=arm64", code=2).stderr


def test_the_packages_that_python_packages_need_are_locked(project: Project) -> None:
    """A build adds nothing: where the lock lacks a library, it says that locking mends it."""
    for arch in ARCHES.values():
        library = elf(needed=["libgomp.so.1"], machine=arch.elf_machine)
        files = {"fast/__init__.py": b"", "fast/core.so": library}
        wheel(project.folder / "wheels", "fast", files=files, tag=LIVE.format(arch.machine))
    project.config("base: debian:trixie\ndependencies: [fast]\nverify: {skip: [fast]}")
    project.run("lock")
    whole = project.lock.read_text()
    for name in ARCHES:
        assert "libgomp1" in project.locked(name)
    project.build("--arch=arm64")
    report = json.loads((project.folder / "dist/arm64/report.json").read_text())
    assert "libgomp" in json.dumps(report)
    project.lock.write_text("".join(line for line in whole.splitlines(True) if " libgomp1 " not in line))
    told = project.build("--arch=arm64", code=1).stderr
    assert "libgomp.so.1 (not found)" in told
    assert "hint: sandbox-build lock, for libgomp1 of Debian" in told
    project.run("lock")
    assert project.lock.read_text() == whole


def test_a_lock_without_debian_packages_is_taken_and_said(project: Project) -> None:
    """Such as one from before they were locked."""
    wheel(project.folder / "wheels", "pure")
    project.config("base: debian:trixie\ndependencies: [pure]")
    project.run("lock", "--arch=arm64")
    keys = ("#: debian", "#: base", "#: libraries")
    lines = project.lock.read_text().splitlines(True)
    project.lock.write_text("".join(line for line in lines if not line.startswith(keys)))
    built = project.build("--arch=arm64")
    assert built.stderr.count("config.lock has no Debian packages: today's are taken") == 1
