"""Builds with packages as a user meets them, from the command line: locked, offline, proven, refused."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from builder.arch import host_arch
from tests.conftest import result_of, sandbox_build
from tests.fakeroot import elf
from tests.integration.projects import Project, fresh_cache
from tests.integration.test_build import entries
from tests.suite.shelf import QUICK
from tests.wheels import wheel

ARCH = host_arch().name
TAG = f"sandbox-tests/packages:{os.getpid()}"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with no wheels yet."""
    (tmp_path / "wheels").mkdir()
    return Project(tmp_path, tmp_path / "wheels")


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Locks


def test_a_lock_that_is_not_there_or_of_another_config(project: Project) -> None:
    """Exit code 2, and the command that mends it: both times `sandbox-build lock`, and nothing is built."""
    for name in ("first", "second"):
        wheel(project.wheels, name)
    project.write("dependencies: [first]")
    done = project.build()
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {project.folder}/config.lock: the packages are not locked yet\nhint: sandbox-build lock\n"
    )
    project.lock()
    project.write("dependencies: [second]")
    done = project.build()
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {project.folder}/config.lock: config and lock disagree: "
        "requirement second is not locked; requirement first is locked, but no longer asked for\n"
        "hint: sandbox-build lock\n"
    )
    assert not project.output.exists()


# Libraries


def test_the_hint_for_a_missing_library_mends_the_build(
    quick: Path, quick_wheels: Path, tmp_path: Path
) -> None:
    """`libraries: strict`: exit code 1, who needs what, and a line for config.yaml, with which it builds.

    From a wheelhouse alone, with no package in the cache, it is the very image that came from the index, with
    what `libraries: auto` took.
    """
    project = Project(tmp_path, quick_wheels, fresh_cache(tmp_path / "cache"))
    lines = (QUICK.read_text(), "libraries: strict")
    project.write(*lines)
    shutil.copy(QUICK.with_suffix(".lock"), project.folder / "config.lock")
    done = project.build()
    assert (done.exit_code, done.stdout) == (1, "")
    first, *missing, hint = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert first == "error: shared libraries that debian:trixie does not have:"
    assert len(missing) == 1
    assert missing[0].startswith("  /packages/")
    assert missing[0].endswith(" -> libstdc++.so.6 (not found)")
    assert hint == "hint: base_packages: [libstdc++6]"
    assert not project.output.exists()
    project.write(*lines, hint.removeprefix("hint: "))
    project.built()
    assert project.image.read_bytes() == (quick / ARCH / "image.tar").read_bytes()


def test_what_auto_takes_from_debian_is_told_once(project: Project) -> None:
    """By the lock, which holds it: a build starts with it."""
    wheel(
        project.wheels,
        "native",
        files={"native/__init__.py": b"", "native/c.so": elf(needed=["libstdc++.so.6"])},
    )
    project = Project(project.folder, project.wheels, fresh_cache(project.folder / "cache"))
    project.write("dependencies: [native]")
    locked, first, second = project.lock(), project.build(), project.build()
    assert (first.exit_code, second.exit_code) == (0, 0), first.stderr
    assert first.stdout == second.stdout
    told = "libstdc++.so.6 comes from Debian's package libstdc++6\n"
    assert [told in done.stderr for done in (locked, first, second)] == [True, False, False]
    assert ["nothing changed" in done.stderr for done in (first, second)] == [False, True]
    assert [done.stderr.count("building with driver oci") for done in (first, second)] == [1, 0]


# Both drivers, and what a failing import leaves


@pytest.fixture
def nothing_tagged(engine: docker.DockerClient) -> Iterator[docker.DockerClient]:
    yield engine
    result_of(["docker", "image", "rm", "--force", TAG], None, 60)


def test_packages_by_docker(
    project: Project, quick_wheels: Path, nothing_tagged: docker.DockerClient
) -> None:
    """The files are those that the oci driver makes; after a release that cannot be imported, all stays.

    The requirements lie where dify-sandbox has them.
    """
    for path in quick_wheels.glob("orjson*"):
        shutil.copy(path, project.wheels)
    good = {"fine.py": b"import orjson\n"}
    wheel(project.wheels, "fine", files=good, requires=["orjson"])
    project.write(f"image: {{repository: {TAG.partition(':')[0]}, tag: '{os.getpid()}'}}")
    (project.folder / "dependencies").mkdir()
    (project.folder / "dependencies" / "python-requirements.txt").write_text("# ours\nfine>=1\n")
    project.lock()
    by_oci = project.folder / "by-oci"
    project.built(output=by_oci)
    done = project.build(driver="docker")
    assert done.exit_code == 0, done.stderr
    found = f"  dependencies from {project.folder}/dependencies/python-requirements.txt\n"
    assert found in done.stderr
    assert project.imported() == {"fine", "orjson"}
    assert entries(project.image) == entries(by_oci / ARCH / "image.tar")

    before, tagged = contents(project.output), nothing_tagged.images.get(TAG).id
    wheel(project.wheels, "fine", "2.0", {"fine.py": b"import orjson, absent\n"}, requires=["orjson"])
    project.lock("--upgrade")
    done = project.build(driver="docker")
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr[done.stderr.index("error: ") :].splitlines() == [
        f"error: import fine (fine 2.0) fails in the finished jail of {ARCH}: "
        "ModuleNotFoundError: No module named 'absent'",
        "hint: add absent to dependencies, or the package that has it; "
        "or leave it out: verify: {skip: [fine]}",
    ]
    assert contents(project.output) == before
    assert nothing_tagged.images.get(TAG).id == tagged


# Afterwards


def test_what_is_said_of_a_finished_image(quick: Path, tmp_path: Path) -> None:
    """`check` of the image and of its config, `explain`, and the report of a build that had nothing to do."""
    image = f"--image={quick / ARCH / 'image.tar'}"
    checked = sandbox_build("check", image)
    assert checked.exit_code == 0, checked.stderr
    closed, proven, *_ = checked.stdout.splitlines()
    assert closed == f"every file of {ARCH} finds the shared libraries that it needs"
    assert proven.startswith("9 imports ")
    assert f" work in the jail of {ARCH}, level chroot" in proven
    config = tmp_path / "quick.yaml"
    config.write_text(f"{QUICK.read_text()}base_packages: [libstdc++6]\n")
    shutil.copy(QUICK.with_suffix(".lock"), tmp_path)
    of_config = sandbox_build("check", f"--config={config}")
    assert (of_config.exit_code, of_config.stdout) == (0, f"{closed}\n"), of_config.stderr
    explained = sandbox_build("explain", "yaml", image)
    assert explained.exit_code == 0, explained.stderr
    assert explained.stdout.startswith("PyYAML 6.")
    assert "dependencies: pyyaml in config.yaml" in explained.stdout
    page = tmp_path / "report.html"
    again = sandbox_build(
        *("--driver=oci", f"--config={QUICK}", f"--arch={ARCH}", f"--output={quick}", f"--report={page}")
    )
    assert again.exit_code == 0, again.stderr
    assert "nothing changed" in again.stderr
    assert "9 imports work in the jail" in page.read_text()
