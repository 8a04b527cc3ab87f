"""More places: with the mounts that a control needs, with a scratch folder, and with a lock-down to break."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.arch import host_arch
from builder.config import Config
from builder.plan import make_plan
from builder.seccomp.syscalls import number
from builder.tree.spec import INIT_PATH, TREE_PATH
from tests.conftest import RESTRICTED, Bare, Container, Outside, Place, Result, interpreter, result_of

pytest.register_assert_rewrite("tests.escape.attacks")

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_RDONLY, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 1, 0x1000, 0x4000, 0x40000, 2

# $0 is the root, the rest the command. Not chroot: in one, the kernel itself denies user namespaces.
_MOUNT = """
set -e
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount -t tmpfs tmpfs tmp
pivot_root . run
cd /
exec "$@"
"""


@dataclass(frozen=True)
class Mounted:
    """The control where an attack needs a /proc, a /tmp to write to, or processes of its own."""

    root: Path

    def run(self, code: str, *, stdin: str | None = None, timeout_s: float = 60) -> Result:
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        python = [*interpreter(self.root), "-I", "-S", "-c", code]
        return result_of([*namespaces, "sh", "-c", _MOUNT, str(self.root), *python], stdin, timeout_s)


@dataclass(frozen=True)
class Entrypoint:
    """The runtime of an unpacked root, started with nothing between it and the test."""

    root: Path
    """A copy of one test's own: what is replaced in it is replaced for that test alone."""
    python: str
    before_pivot: Callable[[], object] = lambda: None
    """Done by the new process in a mount namespace of its own, where paths are still the machine's."""
    before_exec: Callable[[], object] = lambda: None
    """Done by the new process in its root, as the last thing before it executes the interpreter."""
    script: str = "/sandbox/entrypoint.pyc"
    pass_fds: tuple[int, ...] = ()
    init: tuple[str, ...] = (INIT_PATH,)
    """What starts the interpreter; nothing: the test itself does."""

    @property
    def tree(self) -> Path:
        return self.root / TREE_PATH.lstrip("/")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "sandbox/runtime.json").read_bytes()))

    def set(self, **settings: Any) -> None:
        """Changes keys of runtime.json."""
        self.replace("sandbox/runtime.json", json.dumps(self.settings | settings).encode())

    def set_policy(self, **syscalls: Any) -> None:
        """The image as if it had been built with this `syscalls:` section, which show-config would show."""
        plan = make_plan(Config.model_validate({"syscalls": syscalls}), host_arch())
        keys = ("on_denied", "policy_instructions", "policy_sha256")
        self.set(**{key: plan.spec.runtime[key] for key in keys})
        self.replace("sandbox/policy.bpf", plan.policy_bpf)
        self.replace("sandbox/calls.json", json.dumps(plan.spec.calls).encode())

    def replace(self, path: str, content: bytes | None) -> None:
        """Puts another file in the place of the one at `path`, whose bytes other copies of the root share."""
        (self.root / path).unlink(missing_ok=True)
        if content is not None:
            (self.root / path).write_bytes(content)

    def command(self, *arguments: str) -> list[str]:
        """As the image has it; to be executed after `enter`."""
        return [*self.init, self.python, "-I", "-S", "-B", self.script, *arguments]

    def start(self, *arguments: str, **options: Any) -> Result:
        """Runs the entrypoint with `arguments`; `options` are subprocess.run's."""
        standard: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60}
        if "input" not in options:
            standard["stdin"] = subprocess.DEVNULL
        done = subprocess.run(
            self.command(*arguments), preexec_fn=self.enter, pass_fds=self.pass_fds, **standard | options
        )
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Result(code, (done.stdout or b"").decode(), (done.stderr or b"").decode())

    def begin(self, code: str) -> subprocess.Popen[bytes]:
        """Starts the entrypoint with pipes as stdin and stdout, and does not wait."""
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = self.command("-c", code)
        pipes |= {"stderr": subprocess.DEVNULL, "pass_fds": self.pass_fds}
        return subprocess.Popen(command, preexec_fn=self.enter, **pipes)

    def run(self, code: str, *, stdin: str | None = None, timeout_s: float = 60) -> Result:
        options: dict[str, Any] = {"timeout": timeout_s} | ({"input": stdin.encode()} if stdin else {})
        return self.start("-c", code, **options)

    def enter(self) -> None:
        """What the new process does first: it makes `root` its root as an engine does."""
        root = os.fsencode(self.root)
        _check(LIBC.unshare(CLONE_NEWNS))
        _check(LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
        self.before_pivot()
        _check(LIBC.mount(root, root, None, MS_BIND | MS_REC, None))
        os.chdir(root)
        _check(LIBC.syscall(number("pivot_root", host_arch()), b".", b"run"))
        _check(LIBC.umount2(b"/run", MNT_DETACH))
        os.chdir("/")
        self.before_exec()


def _check(failed: int) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


SCRATCH = f"--tmpfs={TREE_PATH}/tmp:size=64m,nr_inodes=4096"
"""What an operator gives a container so that its runs get a scratch folder; it belongs to who starts them."""


@pytest.fixture
def where(request: pytest.FixtureRequest) -> str:
    """The name of the place that `jail`, or `jail_with_scratch`, is."""
    parameters = request.node.callspec.params
    return str(parameters.get("jail") or parameters["jail_with_scratch"])


@pytest.fixture(scope="session", params=["bare", "docker", "restricted"])
def jail_with_scratch(request: pytest.FixtureRequest) -> Place:
    """The jails of `jail`, each with a scratch folder of 64 MiB and 4096 files."""
    if request.param == "bare":
        return Bare(request.getfixturevalue("image"))
    name = request.getfixturevalue("loaded_image")
    return Container(
        name, (*RESTRICTED, f"{SCRATCH},uid=1000") if request.param == "restricted" else (SCRATCH,)
    )


@pytest.fixture(scope="session")
def mounted(root: Path) -> Place:
    """Outside, with /proc and an empty /tmp."""
    return Mounted(root)


@pytest.fixture
def writable(root: Path, tmp_path: Path) -> Iterator[Place]:
    """Outside, in a copy of the root that an attack may spoil."""
    copy = tmp_path / "writable"
    subprocess.run(["cp", "-a", str(root), str(copy)], check=True)
    yield Outside(copy)
    shutil.rmtree(copy)


@pytest.fixture
def entrypoint(root: Path, tmp_path: Path) -> Iterator[Entrypoint]:
    """The runtime as root on this machine, in a root whose files a test may replace but not write to."""
    copy = tmp_path / "root"
    subprocess.run(["cp", "-al", str(root), str(copy)], check=True)
    yield Entrypoint(copy, interpreter(copy)[0])
    shutil.rmtree(copy)
