"""Locks, from wheels that the tests make: resolved for both architectures, and held to their hashes."""

from __future__ import annotations

import shutil

import pytest

from builder.arch import ARCHES
from builder.errors import BuildError
from builder.packages import (
    lock,
    open_packages,
)
from builder.progress import Progress
from tests.integration.wheelindex import Index
from tests.integration.wheelproject import AMD64, ARM64, LIVE, Project, native, refusal
from tests.wheels import sdist, wheel


def test_both_architectures_are_locked_and_installed(project: Project) -> None:
    """Each gets its own wheel and its own dependencies, on a machine that can run only one of them."""
    native(project, "native")
    wheel(project.wheels, "top", requires=["native", 'arm_only; platform_machine == "aarch64"'])
    wheel(project.wheels, "arm_only")
    made = project.lock("top")
    assert [pin.name for pin in made.pins["amd64"]] == ["native", "top"]
    assert [pin.name for pin in made.pins["arm64"]] == ["arm-only", "native", "top"]
    for arch in ARCHES.values():
        opened = project.open(made, arch)
        assert (opened.directory / "native.py").read_text() == arch.name
        assert (opened.directory / "arm_only.py").exists() == (arch == ARM64)
        assert opened.tar.stat().st_size > 0


def test_a_lock_is_the_same_bytes_and_keeps_what_is_locked(project: Project) -> None:
    """A newer version is taken with --upgrade, or when the config asks for it."""
    wheel(project.wheels, "a", "1.0")
    project.lock("a")
    first = project.lock_path.read_bytes()
    wheel(project.wheels, "a", "2.0")
    wheel(project.wheels, "b")
    project.lock("a")
    assert project.lock_path.read_bytes() == first
    assert [pin.version for pin in project.lock("a", "b").pins["arm64"]] == ["1.0", "1.0"]
    assert project.lock("a>1").pins["arm64"][0].version == "2.0"
    project.lock("a<2")
    assert project.lock("a", upgrade=True).pins["arm64"][0].version == "2.0"
    assert str(project.folder) not in project.lock_path.read_text()


def test_a_new_architecture_gets_what_the_other_one_has(project: Project) -> None:
    """As far as it can; what differs between the two stays so."""
    wheel(project.wheels, "a", "1.0")
    native(project, "x", "1.0")
    wheel(project.wheels, "x", "2.0", tag=LIVE.format("x86_64"))
    project.arches = (AMD64,)
    project.lock("a", "x")
    wheel(project.wheels, "a", "2.0")
    project.arches = (AMD64, ARM64)
    for _ in range(2):
        made = project.lock("a", "x")
        assert [pin.version for pin in made.pins["amd64"]] == ["1.0", "2.0"]
        assert [pin.version for pin in made.pins["arm64"]] == ["1.0", "1.0"]
        native(project, "x", "2.0")


def test_errors_of_resolution(project: Project) -> None:
    """Each in one line, with where it is asked for and a hint."""
    wheel(project.wheels, "a", requires=["b<2"])
    wheel(project.wheels, "b", "1.0")
    wheel(project.wheels, "b", "2.0")
    wheel(project.wheels, "half", tag=LIVE.format("x86_64"))
    sdist(project.wheels, "src", files={"setup.py": b"raise SystemExit('executed')"})
    gone = refusal(project, "a", "gone")
    assert f"gone: no wheel of it in {project.wheels} ({project.folder}/config.yaml:1" in gone.message
    assert refusal(project, "b==9").message.startswith("b==9: no such version")
    half = refusal(project, "half")
    assert half.message.startswith("half==1.0: no wheel for Python 3.13 on arm64")
    assert "from_source: {half: []}" in (half.hint or "")
    source = refusal(project, "src")
    assert source.message.startswith("src==1.0: there is no wheel, only source")
    assert "from_source: {src: []}" in (source.hint or "")
    conflict = refusal(project, "a", "b>1")
    assert conflict.message.startswith("the requirements contradict each other (Python 3.13, amd64)")
    assert "b<2" in conflict.message
    assert (
        "from_source: b is needed by nothing"
        in refusal(project, "half; platform_machine == 'x86_64'", extra="from_source: {b: []}\n").message
    )
    assert not project.lock_path.exists()


def test_an_index_with_a_password(indexed: tuple[Project, Index], capfd: pytest.CaptureFixture[str]) -> None:
    """It works throughout; the password is in no file and in nothing that is shown, even with --verbose."""
    project, index = indexed
    native(project, "native")
    verbose = Progress(verbose=True)
    (project.folder / "config.yaml").write_text(
        f"dependencies: [native]\npython_pip_mirror_url: {index.url}\n"
    )
    options = {"cache": project.cache, "progress": verbose, "wheelhouse": None, "index": True}
    made = lock(project.inputs(), project.lock_path, **options)  # type: ignore[arg-type]
    opened = open_packages(made, ARM64, **options)  # type: ignore[arg-type]
    assert (opened.directory / "native.py").read_text() == "arm64"
    shown = capfd.readouterr()
    assert "> " in shown.err
    assert "s3cret" not in shown.err + shown.out + project.lock_path.read_text()
    index.login = ("user", "other")
    project.index = f"http://user:s3cret@127.0.0.1:{index.port}/simple"
    shutil.rmtree(project.folder / "uv")
    error = refusal(project, "native", "a")
    assert "wants a user and a password" in error.message
    assert "s3cret" not in f"{error.message} {error.hint}"


def test_an_index_that_cannot_be_reached(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    project.index = "http://user:s3cret@127.0.0.1:9/simple"
    error = refusal(project, "a")
    assert error.message.startswith("the package index cannot be reached: ")
    assert "Connection refused" in error.message
    assert "--no-index" in (error.hint or "")
    assert "s3cret" not in error.message


@pytest.mark.parametrize("hashes", [True, False])
def test_a_file_that_was_replaced_is_refused(indexed: tuple[Project, Index], hashes: bool) -> None:
    """Whether the index tells hashes or not."""
    project, index = indexed
    index.hashes = hashes
    wheel(project.wheels, "a", files={"a.py": b"1"})
    made = project.lock("a")
    shutil.rmtree(project.cache)
    wheel(project.wheels, "a", files={"a.py": b"2"})
    shutil.rmtree(project.folder / "uv")
    with pytest.raises(BuildError, match="no file with the locked hash any more") as caught:
        project.open(made)
    assert caught.value.hint


def test_a_file_that_is_damaged_on_its_way_is_refused(indexed: tuple[Project, Index]) -> None:
    """The index tells the right hash, and sends something else."""
    project, index = indexed
    path = wheel(project.wheels, "a")
    made = project.lock("a")
    right = path.read_bytes()
    shutil.rmtree(project.cache)
    index.sends = right[:-1]
    with pytest.raises(BuildError, match=r"but .* is locked") as caught:
        project.open(made)
    assert "damaged on its way" in (caught.value.hint or "")
    assert not [path for path in (project.cache / "wheels").iterdir() if path.suffix != ".lock"]


def test_a_file_of_the_folder_that_was_replaced_is_refused(project: Project) -> None:
    path = wheel(project.wheels, "a")
    made = project.lock("a")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BuildError, match="has not the hash of the wheel that is locked"):
        project.open(made)
    path.unlink()
    with pytest.raises(BuildError, match=r"has no a 1\.0 with the locked hash") as caught:
        project.open(made)
    assert caught.value.hint == f"fill it where there is a network: sandbox-build wheelhouse {project.wheels}"
