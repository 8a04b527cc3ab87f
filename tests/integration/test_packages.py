"""Locking and installing wheels that the tests make, with a real uv, from a folder and from an index."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.arch import ARCHES, Arch
from builder.config import load_config
from builder.errors import BuildError, ConfigError, SandboxError
from builder.packages import (
    Inputs,
    Lock,
    Packages,
    fill_wheelhouse,
    lock,
    open_packages,
    read_inputs,
    read_lock,
)
from builder.progress import Progress
from tests.integration.wheelindex import Index, serving
from tests.wheels import Entry, sdist, wheel

QUIET = Progress(quiet=True)
AMD64, ARM64 = ARCHES["amd64"], ARCHES["arm64"]
LIVE = "cp313-cp313-manylinux_2_17_{}"


@dataclass
class Project:
    """A folder with a config.yaml, wheels and a cache."""

    folder: Path
    index: str | None = None
    arches: tuple[Arch, ...] = (AMD64, ARM64)

    @property
    def wheels(self) -> Path:
        return self.folder / "wheels"

    @property
    def lock_path(self) -> Path:
        return self.folder / "config.lock"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def inputs(self) -> Inputs:
        path = self.folder / "config.yaml"
        found = read_inputs(load_config(path, {})[0], path, self.arches, "3.13")
        assert found is not None
        return found

    def lock(self, *requirements: str, extra: str = "", upgrade: bool = False) -> Lock:
        url = f"python_pip_mirror_url: {self.index}\n" if self.index else ""
        (self.folder / "config.yaml").write_text(f"dependencies: {list(requirements)}\n{url}{extra}")
        made = lock(
            self.inputs(),
            self.lock_path,
            cache=self.cache,
            progress=QUIET,
            wheelhouse=None if self.index else self.wheels,
            index=self.index is not None,
            upgrade=upgrade,
        )
        assert read_lock(self.lock_path, self.inputs()) == made
        return made

    def open(self, made: Lock, arch: Arch = ARM64, *, cache: Path | None = None) -> Packages:
        return open_packages(
            *(made, arch),
            cache=cache or self.cache,
            progress=QUIET,
            wheelhouse=None if self.index else self.wheels,
            index=self.index is not None,
        )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose packages come from its folder of wheels alone."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    made = Project(tmp_path)
    made.wheels.mkdir()
    return made


@pytest.fixture
def indexed(project: Project) -> Iterator[tuple[Project, Index]]:
    """The same, with an index that wants a password."""
    with serving(Index(project.wheels, login=("user", "s3cret"))) as index:
        project.index = index.url
        yield project, index


def native(project: Project, name: str, version: str = "1.0") -> None:
    """A package with another wheel for each architecture, neither of them for this machine's Python."""
    for arch in ARCHES.values():
        wheel(
            project.wheels, name, version, {f"{name}.py": arch.name.encode()}, tag=LIVE.format(arch.machine)
        )


def listing(folder: Path) -> list[tuple[str, str, bytes]]:
    """Path, mode and content of everything in `folder`."""
    found = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((path.relative_to(folder).as_posix(), stat.filemode(path.lstat().st_mode), content))
    return found


def refusal(project: Project, *requirements: str, extra: str = "") -> SandboxError:
    """The error of a lock or of what is installed by it."""
    with pytest.raises(SandboxError) as caught:
        project.open(project.lock(*requirements, extra=extra))
    error = caught.value
    assert error.hint or (isinstance(error, ConfigError) and all(hint for _, hint in error.problems))
    return error


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


def test_the_same_lock_comes_to_the_same_bytes(project: Project) -> None:
    """In another cache, at another time, under another umask, from another order of wheels."""
    native(project, "native")
    wheel(
        project.wheels,
        "a",
        files={"a.py": Entry(b"x", 0o100600), "run": Entry(b"", 0o104711), "a,b.txt": b""},
        scripts={"tool": "a:main"},
    )
    made = project.lock("a", "native")
    first = project.open(made)
    old = os.umask(0o077)
    try:
        second = project.open(made, cache=project.folder / "other")
    finally:
        os.umask(old)
    assert listing(first.directory) == listing(second.directory)
    assert first.tar.read_bytes() == second.tar.read_bytes()
    assert first.identity == second.identity
    modes = {name: mode for name, mode, _ in listing(first.directory)}
    assert modes["a.py"] == "-rw-r--r--"
    assert modes["run"] == "-rwxr-xr-x"
    names = set(modes)
    assert not any(name.startswith(("bin", ".")) for name in names)
    assert {name for name in names if name.startswith("a-1.0.dist-info/")} == {
        f"a-1.0.dist-info/{name}"
        for name in ("INSTALLER", "METADATA", "RECORD", "REQUESTED", "WHEEL", "entry_points.txt")
    }
    record = (first.directory / "a-1.0.dist-info/RECORD").read_text().splitlines()
    assert record == [*sorted(record[:-1]), "a-1.0.dist-info/RECORD,,"]
    assert '"a,b.txt",sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0' in record
    assert all(path.stat().st_nlink == 1 for path in first.directory.rglob("*") if path.is_file())


def test_nothing_of_a_package_runs(project: Project) -> None:
    """What Python would run at its start is not even there."""
    mark = project.folder / "ran"
    code = f"import os; open({str(mark)!r}, 'w')\n".encode()
    names = ("a.pth", "sitecustomize.py", "usercustomize.py", "a.py", "a-1.0.data/scripts/x")
    wheel(project.wheels, "a", files=dict.fromkeys(names, code), scripts={"y": "a:b"})
    opened = project.open(project.lock("a"))
    assert not mark.exists()
    assert [path.name for path in opened.directory.iterdir() if path.is_file()] == ["a.py"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.py": b"", "../evil.py": b""}, "its entry '../evil.py' leads out"),
        ({"a.py": b"", "link": Entry(b"/etc/passwd", stat.S_IFLNK | 0o777)}, "its entry 'link' is a symlink"),
    ],
)
def test_a_hostile_wheel_leaves_nothing(
    project: Project, files: dict[str, bytes | Entry], message: str
) -> None:
    """The wheels themselves are looked at in tests/unit; here the cache is."""
    wheel(project.wheels, "a", files=files)
    assert message in refusal(project, "a").message
    assert not [path for path in (project.cache / "packages").iterdir() if path.suffix != ".lock"]
    assert not list(project.folder.rglob("evil*"))


def test_what_uv_does_by_itself_with_a_hostile_wheel(tmp_path: Path) -> None:
    """It writes nothing outside of the target either: ours is not the only guard."""
    from builder.packages import uv

    inside = tmp_path / "deep" / "target"
    inside.mkdir(parents=True)
    files: dict[str, bytes | Entry] = {
        "../out1": b"",
        "../../out2": b"",
        f"{tmp_path}/out3": b"",
        "a-1.0.data/data/../../../out4": b"",
        "link": Entry(str(tmp_path).encode(), stat.S_IFLNK | 0o777),
        "suid": Entry(b"", 0o106777),
    }
    path = wheel(tmp_path, "a", files=files)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    uv.install({path: digest}, inside, "3.13", ARM64, QUIET)
    assert not list(tmp_path.rglob("out*"))
    assert not (inside / "link").is_symlink()
    assert (inside / "suid").stat().st_mode & 0o7022 == 0


def test_two_packages_that_have_the_same_file_are_refused(project: Project) -> None:
    wheel(project.wheels, "a", files={"x.py": b"a"})
    wheel(project.wheels, "b", files={"x.py": b"b"})
    assert (
        "a-1.0-py3-none-any.whl and b-1.0-py3-none-any.whl both have 'x.py'"
        in refusal(project, "a", "b").message
    )


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
    code = f"from tests.integration.test_packages import offline; offline({str(project.folder)!r})"
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
    code = f"from tests.integration.test_packages import opening; opening({str(project.folder)!r})"
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
    code = f"from tests.integration.test_packages import opening; opening({str(project.folder)!r})"
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
