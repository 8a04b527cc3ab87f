"""More places: with the mounts that a control needs, with a scratch folder, and with a lock-down to break."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from builder.tree.spec import TREE_PATH
from tests.conftest import RESTRICTED, Bare, Container, Place, Result, interpreter, result_of

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
    """The runtime of an unpacked root, started as root with nothing between it and the test."""

    root: Path
    """A copy of this test's own: what is replaced in it is replaced for this test alone."""
    before_exec: Callable[[], None] | None = None
    """Done in the new process, already in the root, before the entrypoint is executed."""
    wrapper: tuple[str, ...] = ()
    """A command that takes the rest of the command line and executes it."""

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
        """Puts another file in the place of `path`; its content is shared with other copies of the root."""
        file = self.root / path
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)

    def command(self, *arguments: str) -> list[str]:
        entrypoint = [*interpreter(self.root), "-I", "-S", "-B", "/sandbox/entrypoint.pyc"]
        return [*self.wrapper, "chroot", str(self.root), *entrypoint, *arguments]

    def run(self, code: str, *, stdin: str | None = None, timeout_s: float = 60) -> Result:
        return result_of(self.command("-c", code), stdin, timeout_s)


@pytest.fixture
def level(request: pytest.FixtureRequest) -> str:
    """The privilege level that `jail` has: tests/conftest.py says which places there are."""
    return "landlock" if "restricted" in request.node.callspec.params.values() else "chroot"


@pytest.fixture(scope="session")
def mounted(root: Path) -> Place:
    """Outside, with /proc and an empty /tmp."""
    return Mounted(root)


@pytest.fixture(scope="session")
def writable(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Outside, in a copy of the root that an attack may spoil."""
    copy = tmp_path_factory.mktemp("writable") / "root"
    subprocess.run(["cp", "-a", str(root), str(copy)], check=True)
    return Mounted(copy)
