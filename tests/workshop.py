"""A base, a runtime and a policy in a folder, to be assembled in the test's own process or by the bundle."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

from builder.tree.assemble import Report, assemble
from builder.tree.spec import TREE_PATH, TreeSpec
from tests.fakeroot import elf, python_root, spec


class Workshop:
    """A base, a runtime and a policy; assembles into folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = python_root(folder / "base")
        self.runtime = folder / "runtime"
        self.runtime.mkdir()
        (self.runtime / "__init__.py").write_text("")
        (self.runtime / "jail.py").write_text("def lock():\n    pass\n")
        (self.runtime / "entrypoint.py").write_text("print('entry')\n")
        (self.runtime / "supervisor.py").write_text("print('supervise')\n")
        (self.runtime / "_syscall.abi3.so").write_bytes(elf())
        (self.runtime / "init").write_bytes(elf())
        self.policy = folder / "policy.bpf"
        self.policy.write_bytes(b"\6\0\0\0\0\0\0\0")
        self.out = folder / "out"

    def assemble(self, plan: TreeSpec | None = None, out: Path | None = None) -> Report:
        return assemble(
            plan or spec(),
            root=self.root.directory,
            runtime=self.runtime,
            policy=self.policy,
            out=out or self.out,
        )

    @property
    def image(self) -> Path:
        return self.out / "root"

    @property
    def tree(self) -> Path:
        return self.image / TREE_PATH[1:]


def entries(folder: Path) -> Iterator[Path]:
    """Everything below a folder, no link followed."""
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(here, name)


def shape(folder: Path) -> dict[str, tuple[int, float, bytes | str]]:
    """Mode, time and content of everything below a folder."""
    result = {}
    for path in entries(folder):
        status = path.lstat()
        content: bytes | str = b""
        if path.is_symlink():
            content = os.readlink(path)  # noqa: PTH115
        elif path.is_file():
            content = path.read_bytes()
        result[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime, content)
    return result


def run_bundle(shop: Workshop, *through: str, **changes: Path) -> subprocess.CompletedProcess[str]:
    """Runs the bundled assembler , with no package on its path, by way of another program if need be."""
    arguments = {
        "root": shop.root.directory,
        "spec": shop.folder / "spec.json",
        "runtime": shop.runtime,
        "policy": shop.policy,
        "out": shop.out,
    } | changes
    options = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    command = [*through, sys.executable, "-I", "-S", "-B", str(shop.folder / "assembler"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def load(pyc: Path) -> CodeType:
    """The code in a .pyc file, behind the 16 bytes of its header."""
    code = marshal.loads(pyc.read_bytes()[16:])
    assert isinstance(code, CodeType)
    return code
