"""Privilege levels: each where it can be had, never less than the config wants; a uid for each run."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder import entrance
from builder.arch import host_arch
from builder.main import main
from builder.tree.spec import TREE_PATH
from tests.conftest import RESTRICTED, Result, interpreter, result_of, sandbox_build

ORDINARY_UID = 54321
"""Nobody's on any machine that we know of; no account is needed."""
PROBE = "import os, sys; print('ran', *os.getresuid(), *os.getresgid(), *{*os.getgroups()} - {os.getgid()})"

# The image has no shell: its interpreter makes stdout the status descriptor, and becomes the entrypoint.
STATUS_ON_STDOUT = (
    "import os, sys; os.dup2(1, 9)\n"
    "options = '-I -S -B /sandbox/entrypoint.pyc --status-fd 9'.split()\n"
    "os.execv('/sandbox/init', ['/sandbox/init', sys.executable, *options, *sys.argv[1:]])\n"
)
ROOT_CAPABILITIES = ("SYS_CHROOT", "SETUID", "SETGID", "SETPCAP")


@dataclass(frozen=True)
class Run:
    """How a run ended, and what it said of the lock-down."""

    exit_code: int
    stdout: str
    stderr: str
    status: dict[str, Any]


def in_container(image: str, options: Sequence[str], *arguments: str, code: str = PROBE) -> Run:
    """Runs `code` in a container with `options`."""
    python = "/usr/bin/python3.13"
    command = ["docker", "run", "--rm", "--network=none", *options, f"--entrypoint={python}", image]
    done = result_of([*command, "-I", "-S", "-B", "-c", STATUS_ON_STDOUT, *arguments, "-c", code], None, 60)
    status, _, stdout = done.stdout.partition("\n")
    return Run(done.exit_code, stdout, done.stderr, json.loads(status or "{}"))


def bare_run(image: Path, *arguments: str) -> Run:
    """Runs PROBE by `sandbox-build run --status` as this user."""
    return with_status(sandbox_build("run", "--status", "--image", str(image), *arguments, "-c", PROBE))


def with_status(result: Result) -> Run:
    """The status is the last line of stderr."""
    *stderr, status = result.stderr.splitlines()
    return Run(result.exit_code, result.stdout, "\n".join(stderr), json.loads(status))


def bind(source: Path, target: Path) -> None:
    """Puts `source` at `target`, for this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    target.mkdir()
    for result in (
        libc.unshare(0x20000),  # CLONE_NEWNS
        libc.mount(None, b"/", None, 1 << 18 | 16384, None),  # MS_PRIVATE, MS_REC
        libc.mount(bytes(source), bytes(target), None, 4096, None),  # MS_BIND
    ):
        assert result == 0, os.strerror(ctypes.get_errno())


def as_ordinary_user(folder: Path, *arguments: str) -> Result:
    """`sandbox-build ARGUMENTS` by a user without any privilege, whose home is `folder`.

    A fork, not an exec: this interpreter's packages need not be readable to others. What it starts of itself
    and of ours is put where that user can read it.
    """
    python = Path(sys.executable).resolve().relative_to(sys.base_prefix)
    entering = Path(shutil.copy(entrance.__file__.replace("entrance", "enter"), folder))
    entering.chmod(0o444)
    with (folder / "out").open("w+b") as out, (folder / "err").open("w+b") as err:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                bind(Path(sys.base_prefix), folder / "python")
                sys.executable, entrance._PROGRAM = str(folder / "python" / python), entering
                os.setgroups([])
                os.setresgid(*[ORDINARY_UID] * 3)
                os.setresuid(*[ORDINARY_UID] * 3)
                os.environ.update(HOME=str(folder), XDG_CACHE_HOME=str(folder / "cache"))
                os.chdir(folder)
                main(list(arguments))
            except SystemExit as stop:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(stop.code if isinstance(stop.code, int) else 99)
            finally:
                os._exit(98)
        _, wait_status = os.waitpid(child, 0)
        contents = []
        for file in (out, err):
            file.seek(0)
            contents.append(file.read().decode())
    return Result(os.waitstatus_to_exitcode(wait_status), *contents)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the ordinary user's, where it can be reached: pytest's own folders are root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, ORDINARY_UID, ORDINARY_UID)
        yield Path(folder)


@pytest.fixture(scope="module")
def image_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Path, str]]]:
    """Builds the image whose jail.level is the one given, and loads it: gives the archive and the name."""
    made: dict[str, tuple[Path, str]] = {}

    def make(level: str) -> tuple[Path, str]:
        if level not in made:
            folder = tmp_path_factory.mktemp(level)
            (folder / "config.yaml").write_text(f"jail: {{level: {level}}}\n")
            name = f"sandbox-tests/{level}:{os.getpid()}"
            options = ["--config", str(folder / "config.yaml"), "--output", str(folder), "--tag", name]
            built = sandbox_build("--driver", "oci", *options)
            assert built.exit_code == 0, built.stderr
            archive = folder / host_arch().name / "image.tar"
            loaded = result_of(["docker", "load", "--input", str(archive)], None, 120)
            assert loaded.exit_code == 0, loaded.stderr
            made[level] = archive, name
        return made[level]

    yield make
    for _, name in made.values():
        result_of(["docker", "image", "rm", "--force", name], None, 60)


def assert_chroot(run: Run) -> None:
    """`run` was chrooted, with a uid from the config's range, and no group of root's."""
    assert run.exit_code == 0, run.stderr
    assert run.status["level"] == "chroot"
    uid = run.status["uid"]
    assert 10000 <= uid < 60000
    assert run.stdout == f"ran {' '.join([str(uid)] * 6)}\n"


# Containers


@pytest.mark.parametrize(
    "options", [(), ("--user=0:1000",), ("--read-only",), ("--security-opt=no-new-privileges",)]
)
def test_root_in_a_container(options: Sequence[str], loaded_image: str) -> None:
    """Root in a default container, in a read-only one and without new privileges gets chroot."""
    assert_chroot(in_container(loaded_image, options))


@pytest.mark.parametrize("options", [RESTRICTED, ("--user=1000:1000",)], ids=["restricted", "user"])
def test_user_in_a_container(options: Sequence[str], loaded_image: str) -> None:
    """An ordinary user in a container gets Landlock, and stays who it is."""
    run = in_container(loaded_image, options)
    assert (run.exit_code, run.stdout) == (0, "ran 1000 1000 1000 1000 1000 1000\n")
    assert (run.status["level"], run.status["uid"], run.status["namespaces"]) == ("landlock", 1000, [])
    assert run.status["landlock_abi"] >= 1


def test_user_with_user_namespaces(loaded_image: str) -> None:
    """Where the engine lets an ordinary user make a user namespace, it is made, with chroot in it."""
    run = in_container(loaded_image, ("--user=1000:1000", "--security-opt=seccomp=unconfined"))
    assert_chroot(run)
    assert run.status["namespaces"] == ["net", "ipc", "uts"]


def test_chroot_required(image_with: Callable[[str], tuple[Path, str]]) -> None:
    """`jail.level: chroot` where only Landlock can be had: exit 213, and no line of the code is executed."""
    _, name = image_with("chroot")
    run = in_container(name, RESTRICTED)
    assert (run.exit_code, run.stdout, run.status) == (213, "", {"refused": 213})
    assert "requires chroot" in run.stderr
    assert "sandbox: hint: run the container as root" in run.stderr
    assert_chroot(in_container(name, ()))


def test_landlock_required(image_with: Callable[[str], tuple[Path, str]]) -> None:
    """`jail.level: landlock` gives Landlock to root too, who still becomes another user."""
    archive, name = image_with("landlock")
    for run in (in_container(name, ()), bare_run(archive)):
        assert (run.exit_code, run.status["level"]) == (0, "landlock"), run.stderr
        uid = run.status["uid"]
        assert run.stdout == f"ran {' '.join([str(uid)] * 6)}\n"
        assert 10000 <= uid < 60000


@pytest.mark.parametrize(
    "lacking",
    [ROOT_CAPABILITIES, *((name,) for name in ROOT_CAPABILITIES)],
    ids=lambda names: "+".join(names),
)
def test_root_without_capabilities(lacking: tuple[str, ...], loaded_image: str) -> None:
    """Root that cannot do all of what the lock-down takes is refused, and told what it lacks."""
    run = in_container(loaded_image, [f"--cap-drop={name}" for name in lacking])
    assert (run.exit_code, run.stdout, run.status) == (213, "", {"refused": 213})
    assert f"without the capabilities {', '.join(lacking)}\n" in run.stderr


# This machine


def test_root_on_this_machine(image: Path) -> None:
    """Root on this machine gets chroot, every namespace that the config wants, and a scratch of its own."""
    run = bare_run(image)
    assert_chroot(run)
    assert run.status["namespaces"] == ["net", "ipc", "uts"]
    assert run.status["scratch"] == f"/tmp/run-{run.status['uid']}"


def test_ordinary_user(image: Path, home: Path) -> None:
    """A user without any privilege gets chroot by way of user namespaces, from an image in its own cache."""
    shutil.copyfile(image, home / "image.tar")
    (home / "image.tar").chmod(0o444)
    code = f"{PROBE}\nfor p in ('/proc/self', '/sandbox', '/root'): print(os.path.exists(p))\n"
    result = as_ordinary_user(home, "run", "--status", "--image", "image.tar", "-c", code)
    run = with_status(result)
    assert run.exit_code == 0, run.stderr
    assert run.status["level"] == "chroot"
    assert run.stdout.split() == ["ran", *[str(run.status["uid"])] * 6, *["False"] * 3]
    root = next((home / "cache/sandbox-build/roots").iterdir())
    assert root.stat().st_uid == ORDINARY_UID


def test_ordinary_user_cannot_write_the_tree(image: Path, home: Path) -> None:
    """The tree is owned by the user who runs, and yet nothing in it can be written, nor its modes changed."""
    shutil.copyfile(image, home / "image.tar")
    (home / "image.tar").chmod(0o444)
    attempts = ("open('/x', 'w')", "os.mkdir('/usr/x')", "os.chmod('/usr', 0o777)", "os.rmdir('/dev')")
    code = (
        f"import os\nfor attempt in {attempts}:\n"
        "    try: eval(attempt); print('done')\n"
        "    except OSError as error: print(error.errno)\n"
    )
    result = as_ordinary_user(home, "run", "--image", "image.tar", "-c", code)
    assert (result.exit_code, result.stderr) == (0, "")
    assert set(result.stdout.split()) <= {"1", "13", "30"}  # EPERM, EACCES, EROFS
    assert len(result.stdout.split()) == 4


# User ids


def test_uid_given(loaded_image: str) -> None:
    """--uid is the uid of the run, also where it is none of the config's range."""
    run = in_container(loaded_image, (), "--uid", "777")
    assert (run.stdout, run.status["uid"]) == ("ran 777 777 777 777 777 777\n", 777)


@pytest.mark.parametrize("uid", ["0", "-1", "x", "", "4294967296"])
def test_uid_wrong(uid: str, loaded_image: str) -> None:
    """--uid 0 and what is no uid are refused as a wrong call."""
    run = in_container(loaded_image, (), "--uid", uid)
    assert (run.exit_code, run.stdout) == (208, "")
    assert "--uid wants a number above 0" in run.stderr


def test_uid_differs(image: Path, loaded_image: str) -> None:
    """Runs at the same time have different uids: in containers, and on this machine."""
    code = f"import time; {PROBE}; sys.stdout.flush(); time.sleep(3)"
    commands = (
        ["docker", "run", "--rm", "--network=none", loaded_image, "-c", code],
        [sys.executable, "-m", "builder", "run", "--image", str(image), "-c", code],
    )
    for command in commands:
        with contextlib.ExitStack() as stack:
            runs = [
                stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
                for _ in range(3)
            ]
            started = time.monotonic()
            lines = [run.stdout.readline() for run in runs if run.stdout]
            assert time.monotonic() - started < 3, "the runs were not at the same time"
        assert all(line.startswith("ran ") for line in lines)
        assert len(set(lines)) == 3


def test_uid_owns_the_tree(root: Path, tmp_path: Path) -> None:
    """A tree that belongs to the run's own uid is refused: 216, and no line of the code is executed."""
    copy = tmp_path / "root"
    shutil.copytree(root, copy, symlinks=True)
    os.chown(f"{copy}{TREE_PATH}", ORDINARY_UID, ORDINARY_UID)
    entrypoint = [*interpreter(root), "-I", "-S", "-B", "/sandbox/entrypoint.pyc"]
    for uid, exit_code, stdout in ((ORDINARY_UID, 216, ""), (ORDINARY_UID + 1, 0, "ran")):
        run = result_of(["chroot", str(copy), *entrypoint, "--uid", str(uid), "-c", PROBE], None, 30)
        assert (run.exit_code, run.stdout[:3]) == (exit_code, stdout), run.stderr
        assert ("the tree can be written" in run.stderr) == (exit_code == 216)


def test_status_of_nothing(loaded_image: str) -> None:
    """A run that is refused for its arguments says so on the status descriptor too."""
    run = in_container(loaded_image, (), "--code-fd", "77")
    assert (run.exit_code, run.status) == (208, {"refused": 208})
