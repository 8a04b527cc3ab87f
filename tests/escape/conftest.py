"""More places: with the mounts that a control needs, with a scratch folder, and with a lock-down to break."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.tree.spec import TREE_PATH
from tests.conftest import RESTRICTED, Bare, Container, Outside, Place, Result, interpreter, result_of

pytest.register_assert_rewrite("tests.escape.attacks")

# $0 is the root, the rest the command.
_MOUNT = """
set -e
mount -t proc proc "$0/proc"
mount -t tmpfs tmpfs "$0/tmp"
exec chroot "$0" "$@"
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
    before_chroot: Callable[[], object] = lambda: None
    before_exec: Callable[[], object] = lambda: None
    """Both are done by the new process, as root, before it executes the interpreter."""
    script: str = "/sandbox/entrypoint.pyc"
    pass_fds: tuple[int, ...] = ()

    @property
    def tree(self) -> Path:
        return self.root / TREE_PATH.lstrip("/")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "sandbox/runtime.json").read_bytes()))

    def set(self, **settings: Any) -> None:
        """Changes keys of runtime.json."""
        self.replace("sandbox/runtime.json", json.dumps(self.settings | settings).encode())

    def replace(self, path: str, content: bytes | None) -> None:
        """Puts another file in the place of the one at `path`, whose bytes other copies of the root share."""
        (self.root / path).unlink(missing_ok=True)
        if content is not None:
            (self.root / path).write_bytes(content)

    def start(self, *arguments: str, **options: Any) -> Result:
        """Runs the entrypoint with `arguments`; `options` are subprocess.run's."""
        standard: dict[str, Any] = {} if "input" in options else {"stdin": subprocess.DEVNULL}
        standard |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        done = subprocess.run(
            [*interpreter(self.root), "-I", "-S", "-B", self.script, *arguments],
            preexec_fn=self._enter,
            pass_fds=self.pass_fds,
            check=False,
            **{"timeout": 60} | standard | options,
        )
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Result(code, (done.stdout or b"").decode(), (done.stderr or b"").decode())

    def run(self, code: str, *, stdin: str | None = None, timeout_s: float = 60) -> Result:
        options: dict[str, Any] = {"timeout": timeout_s} | ({"input": stdin.encode()} if stdin else {})
        return self.start("-c", code, **options)

    def _enter(self) -> None:
        self.before_chroot()
        os.chroot(self.root)
        os.chdir("/")
        self.before_exec()


SCRATCH = f"--tmpfs={TREE_PATH}/tmp:size=64m,nr_inodes=4096"
"""What an operator gives a container so that its runs get a scratch folder; it belongs to who starts them."""


@pytest.fixture
def where(request: pytest.FixtureRequest) -> str:
    """The name of the place that `jail`, or `jail_with_scratch`, is."""
    return str(next(iter(request.node.callspec.params.values())))


@pytest.fixture(scope="session", params=["bare", "docker", "restricted"])
def jail_with_scratch(request: pytest.FixtureRequest) -> Place:
    """The jails of `jail`, each with a scratch folder of 64 MiB and 4096 files."""
    if request.param == "bare":
        return Bare(request.getfixturevalue("image"))
    name = request.getfixturevalue("loaded_image")
    return Container(name, (*RESTRICTED, f"{SCRATCH},uid=1000") if request.param == "restricted" else (SCRATCH,))


@pytest.fixture(scope="session")
def mounted(root: Path) -> Place:
    """Outside, with /proc and an empty /tmp."""
    return Mounted(root)


@pytest.fixture(scope="session")
def writable(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Outside, in a copy of the root that an attack may spoil."""
    copy = tmp_path_factory.mktemp("writable") / "root"
    subprocess.run(["cp", "-a", str(root), str(copy)], check=True)
    return Outside(copy)


@pytest.fixture
def entrypoint(root: Path, tmp_path: Path) -> Iterator[Entrypoint]:
    """The runtime as root on this machine, in a root whose files a test may replace but not write to."""
    copy = tmp_path / "root"
    subprocess.run(["cp", "-al", str(root), str(copy)], check=True)
    yield Entrypoint(copy)
    shutil.rmtree(copy)
