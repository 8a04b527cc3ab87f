"""Packages from source: whatever their code tries, it is confined, and only a wheel comes out."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.arch import ARCHES, Arch, host_arch
from builder.config import load_config
from builder.errors import BuildError
from builder.packages import (
    Lock,
    Packages,
    fill_wheelhouse,
    lock,
    open_packages,
    read_inputs,
    read_lock,
    source,
)
from builder.progress import Progress
from tests.conftest import REPOSITORY, sandbox_build
from tests.wheels import sdist, wheel

QUIET = Progress(quiet=True)
OTHER = next(arch for arch in ARCHES.values() if arch != host_arch())

PROBE = """
import ctypes, json, os, socket, sys
def attempt(call):
    try:
        return str(call())
    except BaseException as error:
        return type(error).__name__
def connect():
    socket.create_connection(("127.0.0.1", PORT), 2)
    return "connected"
found = {
    "uids": [*os.getresuid(), *os.getresgid(), *os.getgroups()],
    "secret": attempt(lambda: open(SECRET).read()),
    "repository": os.path.exists(REPOSITORY),
    "roots": sorted(os.listdir("/")),
    "network": attempt(connect),
    "interfaces": [name for _, name in socket.if_nameindex()],
    # Asked for with arguments that can do no harm.
    "write /usr": attempt(lambda: os.utime("/usr")),
    "write sdist": attempt(lambda: os.utime("/tmp/in")),
    "unlink output": attempt(lambda: os.rmdir("/tmp/out")),
    "become root": attempt(lambda: os.setuid(0)),
    "leave": attempt(lambda: os.chroot("/")),
    "namespace": ctypes.CDLL(None).unshare(0x10000000),
    "environment": sorted(os.environ),
    "processes": sum(name.isdigit() for name in os.listdir("/proc")),
    "status": [
        line.split()[1]
        for line in open("/proc/self/status")
        if line.startswith(("CapEff", "CapPrm", "NoNewPrivs"))
    ],
    "devices": sorted(os.listdir("/dev")),
}
"""
SETUP = "\nfrom setuptools import setup\nsetup(name={name!r}, version='1.0', py_modules=[{name!r}]{more})\n"


class Workshop:
    """A project whose sdists lie in a folder beside what builds them."""

    def __init__(self, folder: Path, shelf: Path | None, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.shelf = folder / "shelf"
        if shelf is not None:
            shutil.copytree(shelf, self.shelf)

    def setup_py(self, name: str, *, before: str = "", more: str = "", **files: str) -> None:
        """An sdist with an old setup.py, and a module."""
        contents = {
            "setup.py": before + SETUP.format(name=name, more=more),
            f"{name}.py": "HERE = 1\n",
            **files,
        }
        sdist(self.shelf, name, files={path: text.encode() for path, text in contents.items()})

    def lock(self, name: str, *arches: Arch, debian: str = "", cache: Path | None = None) -> Lock:
        path = self.folder / "config.yaml"
        path.write_text(f"dependencies: [{name}]\nfrom_source: {{{name}: [{debian}]}}\n")
        inputs = read_inputs(load_config(path, {})[0], path, arches or (host_arch(),), "3.13")
        assert inputs is not None
        made = lock(
            *(inputs, self.folder / "config.lock"),
            cache=cache or self.cache,
            progress=QUIET,
            wheelhouse=self.shelf,
            index=False,
        )
        assert read_lock(self.folder / "config.lock", inputs) == made
        return made

    def open(self, made: Lock, arch: Arch | None = None) -> Packages:
        return open_packages(
            *(made, arch or host_arch()),
            cache=self.cache,
            progress=QUIET,
            wheelhouse=self.shelf,
            index=False,
        )

    def refusal(self, name: str, *arches: Arch) -> BuildError:
        with pytest.raises(BuildError) as caught:
            self.open(self.lock(name, *arches))
        return caught.value


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with setuptools and build, from the index; and a cache beside it, with Debian's packages."""
    folder = tmp_path_factory.mktemp("source")
    config = folder / "config.yaml"
    config.write_text("dependencies: [build, setuptools]\n")
    inputs = read_inputs(load_config(config, {})[0], config, tuple(ARCHES.values()), "3.13")
    assert inputs is not None
    options = {"cache": folder / "cache", "progress": QUIET}
    made = lock(inputs, folder / "config.lock", wheelhouse=None, index=True, **options)  # type: ignore[arg-type]
    fill_wheelhouse(made, inputs, inputs.arches, folder / "shelf", **options)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def workshop(tmp_path: Path, shelf: Path) -> Workshop:
    return Workshop(tmp_path, shelf / "shelf", shelf / "cache")


def probe(workshop: Workshop, tmp_path: Path, name: str) -> None:
    """An sdist whose setup.py tries everything, and keeps what it found in its module."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    keep = f"open('{name}.py', 'w').write('FOUND = ' + repr(json.dumps(found)))\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        facts = f"SECRET, REPOSITORY, PORT = {str(secret)!r}, {str(REPOSITORY)!r}, {port}\n"
        workshop.setup_py(name, before=facts + PROBE + keep)
        # The control: outside, all of this can be had.
        command = [sys.executable, "-c", facts + PROBE + "print(json.dumps(found))"]
        outside = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=tmp_path).stdout)
    assert (outside["secret"], outside["network"], outside["repository"]) == ("secret", "connected", True)


def found_by(packages: Packages, name: str) -> dict[str, object]:
    scope: dict[str, str] = {}
    exec((packages.directory / f"{name}.py").read_text(), scope)
    found: dict[str, object] = json.loads(scope["FOUND"])
    return found


CONFINED = {
    "uids": [65534] * 6,
    "secret": "FileNotFoundError",
    "repository": False,
    "interfaces": ["lo"],
    "write /usr": "OSError",
    "write sdist": "OSError",
    "unlink output": "PermissionError",
    "become root": "PermissionError",
    "leave": "PermissionError",
    "namespace": -1,
    "devices": ["full", "null", "random", "urandom", "zero"],
    "status": ["0000000000000000", "0000000000000000", "1"],
}


def test_a_build_sees_nothing_of_this_machine(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, no network, no process, no variable, no right to write or to become anybody else."""
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    probe(workshop, tmp_path, "probe")
    found = found_by(workshop.open(workshop.lock("probe")), "probe")
    assert {key: found[key] for key in CONFINED} == CONFINED
    assert found["network"] in ("OSError", "ConnectionRefusedError")
    assert not {"work", "srv-of-host"} & set(found["roots"])  # type: ignore[call-overload]
    assert "SECRET_TOKEN" not in found["environment"]  # type: ignore[operator]
    assert int(str(found["processes"])) < 8


def test_an_ordinary_user_builds_from_source(workshop: Workshop, tmp_path: Path) -> None:
    """As confined as by root: one user namespace inside another."""
    probe(workshop, tmp_path, "plain")
    places = (str(tmp_path), str(workshop.cache))
    code = f"from tests.integration.test_packages_source import by_user; by_user(*{places!r})"
    user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    subprocess.run([*user, sys.executable, "-c", code], check=True)
    found = found_by(workshop.open(workshop.lock("plain")), "plain")
    # Of the groups that we have it can give up none; there is no root in there; /tmp is the same user's.
    assert set(found["uids"]) == {65534}  # type: ignore[call-overload]
    expected = CONFINED | {
        "uids": found["uids"],
        "become root": "OSError",
        "unlink output": "NotADirectoryError",
    }
    assert {key: found[key] for key in CONFINED} == expected


def by_user(folder: str, cache: str) -> None:
    """Locks `plain` as somebody who is not root."""
    assert os.geteuid() == 1000
    locking(folder, cache, "plain")


def locking(folder: str, cache: str, name: str) -> None:
    """Locks a package of a workshop, in a process of its own."""
    Workshop(Path(folder), None, Path(cache)).lock(name)


def test_what_a_built_package_asks_for_is_locked(workshop: Workshop) -> None:
    """Its metadata is known once it is built; another version of it may ask for something else."""
    wheel(workshop.shelf, "needed")
    workshop.setup_py("asks", more=", install_requires=['needed; python_version > \"3\"']")
    made = workshop.lock("asks", *ARCHES.values())
    for arch in ARCHES.values():
        assert [pin.name for pin in made.pins[arch.name]] == ["asks", "needed"]
        assert (workshop.open(made, arch).directory / "asks.py").is_file()
    assert len(made.pins["arm64"][0].hashes) == 2


def test_a_build_is_the_same_in_another_cache(workshop: Workshop, tmp_path: Path) -> None:
    """The same lock, to the byte: sdist and wheel have the same hashes."""
    workshop.setup_py("again", more=", description='x'")
    workshop.lock("again")
    first = (workshop.folder / "config.lock").read_bytes()
    (workshop.folder / "config.lock").unlink()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "debian").symlink_to(workshop.cache / "debian")
    workshop.lock("again", cache=tmp_path / "cache")
    assert (workshop.folder / "config.lock").read_bytes() == first


BACKEND = """
import zipfile
def get_requires_for_build_wheel(settings=None):
    return ["helper>=1"]
def build_wheel(folder, settings=None, metadata=None):
    import helper
    NAME
"""
HONEST = """
    name = "own-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as archive:
        for path in ("own.py", "own-1.0.dist-info/METADATA", "own-1.0.dist-info/WHEEL"):
            archive.writestr(path, "Metadata-Version: 2.1\\nName: own\\nVersion: 1.0\\nWheel-Version: 1.0\\n")
    return name
"""


def own_backend(workshop: Workshop, name: str, build: str) -> None:
    files = {
        "pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.replace("    NAME", build).encode(),
    }
    wheel(workshop.shelf, "helper")
    sdist(workshop.shelf, name, files=files)


def test_what_a_backend_asks_for_is_locked_too(workshop: Workshop) -> None:
    """And what it builds is looked at as any other wheel: this one has no RECORD."""
    own_backend(workshop, "own", HONEST)
    made = workshop.lock("own")
    assert [pin.name for pin in made.sources["own"].tools[host_arch().name]][1] == "helper"
    with pytest.raises(BuildError, match="it has no RECORD"):
        workshop.open(made)


@pytest.mark.parametrize("name", ["../../evil-1.0-py3-none-any.whl", "other-1.0-py3-none-any.whl", "x.txt"])
def test_a_build_that_gives_something_else_is_refused(workshop: Workshop, name: str) -> None:
    own_backend(
        workshop,
        "own",
        f"\n    name = {name!r}\n    open(folder + '/' + name.split('/')[-1], 'w')\n    return name\n",
    )
    error = workshop.refusal("own")
    assert "own 1.0" in error.message
    assert error.hint
    assert not list(workshop.cache.parent.rglob("evil*"))


def test_a_build_that_fails_or_hangs(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has its last lines, and says what is mostly missing; nothing of it goes on."""
    workshop.setup_py("fails", before="raise OSError('no compiler here')")
    error = workshop.refusal("fails")
    assert error.message.startswith("fails 1.0 cannot be built from source: it failed")
    assert "no compiler here" in error.message
    assert "from_source: {fails: [gcc, libc6-dev, libpython3-dev]}" in (error.hint or "")
    monkeypatch.setattr(source, "TIMEOUT_S", 2)
    workshop.setup_py("hangs", before="import time; time.sleep(987)")
    assert "it took longer than 2 s" in workshop.refusal("hangs").message
    assert not running("hangs-1.0.tar.gz")


def test_a_build_ends_with_the_one_who_started_it(workshop: Workshop) -> None:
    """However that one ends."""
    workshop.setup_py("endless", before="import time; time.sleep(987)")
    places = (str(workshop.folder), str(workshop.cache), "endless")
    code = f"from tests.integration.test_packages_source import locking; locking(*{places!r})"
    build = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_until(lambda: running("/tmp/in/endless-1.0.tar.gz"))
    build.kill()
    build.wait()
    wait_until(lambda: not running("endless-1.0.tar.gz"))


def running(text: str) -> list[str]:
    """The processes that have `text` in their command line."""
    done = subprocess.run(["pgrep", "-f", text], capture_output=True, text=True, check=False)
    return done.stdout.split()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_wheel_for_one_architecture_is_not_taken_for_another(workshop: Workshop) -> None:
    """It is refused when locking, with a hint: a wheel from there, put into the folder, mends it."""
    pretends = "__import__('setuptools').Distribution.has_ext_modules = lambda self: True\n"
    workshop.setup_py("native", before=pretends)
    error = workshop.refusal("native", *ARCHES.values())
    assert f"which is not for Python 3.13 on {OTHER.name}" in error.message
    assert f"sandbox-build wheelhouse DIR --arch {OTHER.name}" in (error.hint or "")
    made = workshop.lock("native")
    assert (workshop.open(made).directory / "native.py").is_file()
    wheel(workshop.shelf, "native", files={"native.py": b"there"}, tag=f"cp313-cp313-linux_{OTHER.machine}")
    made = workshop.lock("native", *ARCHES.values())
    assert made.pins["amd64"] != made.pins["arm64"]
    assert (workshop.open(made, OTHER).directory / "native.py").read_text() == "there"
    assert (workshop.open(made).directory / "native.py").read_text() == "HERE = 1\n"


def test_jieba(tmp_path: Path, shelf: Path) -> None:
    """The real thing from the index, by command line: old, pure, without a wheel. Built once for both."""
    (tmp_path / "config.yaml").write_text("dependencies: [jieba==0.42.1]\nfrom_source: {jieba: []}\n")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sandbox-build").symlink_to(shelf / "cache")
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
    locked = sandbox_build("lock", cwd=tmp_path, env=env)
    assert (locked.exit_code, locked.stdout) == (0, "config.lock\n"), locked.stderr
    text = (tmp_path / "config.lock").read_text()
    assert "jieba==0.42.1 \\\n" in text
    assert "055ca12f62674fafed09427f176506079bc135638a14e23e25be909131928db2" in text
    filled = sandbox_build("wheelhouse", "shelf", cwd=tmp_path, env=env)
    assert filled.exit_code == 0, filled.stderr
    names = sorted(path.name for path in (tmp_path / "shelf").glob("jieba*"))
    assert names == ["jieba-0.42.1-py3-none-any.whl", "jieba-0.42.1.tar.gz"]
