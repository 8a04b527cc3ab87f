"""What is kept of packages: a wheelhouse, and the cache, whoever interrupts or shares it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.errors import BuildError
from builder.packages import (
    fill_wheelhouse,
    lock,
    open_packages,
    read_lock,
)
from tests.integration.wheelindex import Index
from tests.integration.wheelproject import ARM64, QUIET, Project, native
from tests.wheels import wheel


def test_a_filled_wheelhouse_is_all_that_is_needed(indexed: tuple[Project, Index]) -> None:
    """With an empty cache and the network cut, the same lock and the same packages come out of it."""
    project, index = indexed
    native(project, "native")
    wheel(project.wheels, "a", requires=["native"])
    made = project.lock("a")
    locked = project.lock_path.read_bytes()
    expected = [project.open(made, arch).tar.read_bytes() for arch in ARCHES.values()]
    shelf = project.folder / "shelf"
    files = fill_wheelhouse(
        made, project.inputs(), tuple(ARCHES.values()), shelf, cache=project.cache, progress=QUIET
    )
    assert {path.name for path in files} == {path.name for path in project.wheels.iterdir()}
    again = fill_wheelhouse(made, project.inputs(), (ARM64,), shelf, cache=project.cache, progress=QUIET)
    assert len(again) == 2
    asked = len(index.requests)
    shutil.rmtree(project.cache)
    shutil.rmtree(project.folder / "uv")
    project.lock_path.unlink()
    code = f"from tests.integration.test_packages_kept import offline; offline({str(project.folder)!r})"
    subprocess.run(["unshare", "--net", sys.executable, "-c", code], check=True)
    assert project.lock_path.read_bytes() == locked
    found = [
        open_packages(made, arch, cache=project.cache, progress=QUIET, wheelhouse=None, index=False)
        for arch in ARCHES.values()
    ]
    assert [packages.tar.read_bytes() for packages in found] == expected
    assert len(index.requests) == asked
    (shelf / files[0].name).write_bytes(b"other")
    with pytest.raises(BuildError, match="is there already, and is not the locked file"):
        fill_wheelhouse(made, project.inputs(), (ARM64,), shelf, cache=project.cache, progress=QUIET)


def offline(folder: str) -> None:
    """Locks and installs from the folder `shelf` of a project alone."""
    project = Project(Path(folder))
    options = {
        "cache": project.cache,
        "progress": QUIET,
        "wheelhouse": project.folder / "shelf",
        "index": False,
    }
    made = lock(project.inputs(), project.lock_path, **options)  # type: ignore[arg-type]
    for arch in ARCHES.values():
        open_packages(made, arch, **options)  # type: ignore[arg-type]


def opening(folder: str) -> None:
    """What another build does: it opens the packages of a project that is locked."""
    project = Project(Path(folder))
    print(project.open(read_lock(project.lock_path, project.inputs())).identity)


def test_two_builds_at_once(project: Project) -> None:
    """Both get the same entry, which is made once."""
    wheel(project.wheels, "a", files={f"f{number}.py": b"x" * 9999 for number in range(500)})
    project.lock("a")
    code = f"from tests.integration.test_packages_kept import opening; opening({str(project.folder)!r})"
    builds = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert len({build.communicate()[0] for build in builds}) == 1
    assert [build.returncode for build in builds] == [0, 0, 0]
    assert len([path for path in (project.cache / "packages").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_is_no_entry(project: Project, number: signal.Signals) -> None:
    """What it left is cleared away by the next build, and never used."""
    wheel(project.wheels, "a", files={f"d{n % 50}/f{n}.py": b"x" for n in range(1500)})
    made = project.lock("a")
    code = f"from tests.integration.test_packages_kept import opening; opening({str(project.folder)!r})"
    build = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, process_group=0)
    while not list(project.cache.glob("packages/new-*/packages/d1")):
        assert build.poll() is None
        time.sleep(0.002)
    os.killpg(build.pid, number)
    build.wait()
    left = [path.name for path in (project.cache / "packages").iterdir() if path.is_dir()]
    assert all(name.startswith("new-") for name in left)
    if number == signal.SIGINT:
        assert left == []
    opened = project.open(made)
    assert len(list(opened.directory.rglob("*.py"))) == 1500
    assert len([path for path in (project.cache / "packages").iterdir() if path.is_dir()]) == 1


def test_a_full_disk_and_a_cache_that_cannot_be_written(project: Project) -> None:
    """The errors name the cache, and say how to have another one."""
    content = hashlib.shake_256(b"").digest(3 << 20)  # not to be compressed
    wheel(project.wheels, "a", files={"a.bin": content})
    made = project.lock("a")
    small = project.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", small], check=True)
    try:
        with pytest.raises(BuildError) as caught:
            project.open(made, cache=small / "cache")
    finally:
        subprocess.run(["umount", small], check=True)
    assert "XDG_CACHE_HOME" in (caught.value.hint or "")
    assert "make room" in (caught.value.hint or "")
    blocked = project.folder / "blocked"
    blocked.write_text("a file")
    with pytest.raises(BuildError, match="Not a directory") as caught:
        project.open(made, cache=blocked)
    assert caught.value.hint == "XDG_CACHE_HOME names another folder for it"


def test_settings_around_do_not_count(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pyproject.toml, uv.toml files and variables that would break everything, or change what is taken."""
    wheel(project.wheels, "a")
    wheel(project.wheels, "a", "2.0a1")
    monkeypatch.chdir(project.folder)
    (project.folder / "settings" / "uv").mkdir(parents=True)
    (project.folder / "settings" / "uv" / "uv.toml").write_text('prerelease = "allow"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project.folder / "settings"))
    (project.folder / "uv.toml").write_text('index-url = "http://127.0.0.1:9/"\noffline = false\n')
    (project.folder / "pyproject.toml").write_text('[tool.uv]\nconstraint-dependencies = ["a<0"]\n')
    for name, value in {"UV_CONSTRAINT": "/gone", "UV_TARGET": "/gone", "UV_NO_VERIFY_HASHES": "1"}.items():
        monkeypatch.setenv(name, value)
    made = project.lock("a")
    assert made.pins["arm64"][0].version == "1.0"
    assert (project.open(made).directory / "a.py").is_file()
