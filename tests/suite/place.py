"""A copy of the image's root with more in its tree, under a policy of the tests' own; and a control."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from builder import jailrun
from builder.arch import host_arch
from builder.config import Config, load_config
from builder.plan import make_plan
from builder.status import Denied
from builder.tree.spec import SANDBOX_PATH, TREE_PATH

ROOMY = {
    "memory": "8GiB",
    "cpu_s": 3600,
    "file_size": "16GiB",
    "processes": 512,
    "open_files": 1024,
    "scratch": "1GiB",
}
"""Limits that no test meets by accident."""

UID = 10000
"""The uid of every run here, so that the tree can have links into the scratch folder."""

SCRATCH = f"/tmp/run-{UID}"

_CONTROL = """
import os, sys
os.chroot({tree!r})
os.chdir("/")
os.mkdir({scratch!r}, 0o700)
os.chown({scratch!r}, {uid}, {uid})
os.setgroups([])
os.setresgid({uid}, {uid}, {uid})
os.setresuid({uid}, {uid}, {uid})
os.environ.clear()
os.environ.update({env!r}, HOME={scratch!r}, TMPDIR={scratch!r})
sys.path[:] = {sys_path!r}
code, sys.argv = sys.argv[1], ["-", *sys.argv[2:]]
scope = {{"__name__": "__main__", "__builtins__": __builtins__}}
exec(compile(code, "main.py", "exec"), scope)
"""
"""What the runtime does, less what confines: chroot and uid, but no filter, no limit, no Landlock."""


@dataclass(frozen=True)
class Ended:
    """How a run ended, inside the jail or in its control."""

    exit_code: int
    stdout: str
    stderr: str
    denied: tuple[Denied, ...] = ()


@dataclass(frozen=True)
class Place:
    """A root whose tree and policy are this object's own."""

    root: Path

    @classmethod
    def copy(cls, root: Path, target: Path) -> Place:
        """`root` at `target`; files share their bytes until one is replaced."""
        subprocess.run(["cp", "-al", root, target], check=True)
        return cls(target)

    @property
    def tree(self) -> Path:
        return self.root / TREE_PATH.lstrip("/")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(json.loads((self.root / SANDBOX_PATH.lstrip("/") / "runtime.json").read_bytes()))

    def add(self, source: Path, jail_path: str) -> None:
        """Copies what is in the folder `source` into the tree, where the tree has no such file."""
        inside = self.tree / jail_path.lstrip("/")
        for folder, folders, names in os.walk(source):
            to = inside / Path(folder).relative_to(source)
            to.mkdir(parents=True, exist_ok=True)
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for name in (*names, *links):
                if not os.path.lexists(to / name):
                    shutil.copy2(Path(folder, name), to / name, follow_symlinks=False)

    def search(self, jail_path: str) -> None:
        """Makes the runs look for modules in `jail_path`, after all other places."""
        settings = self.settings
        settings["sys_path"].append(jail_path)
        self._replace("runtime.json", json.dumps(settings).encode())

    def govern(self, config: Config) -> None:
        """Makes policy and limits those of `config`."""
        plan = make_plan(config, host_arch())
        self._replace("policy.bpf", plan.policy_bpf)
        self._replace("calls.json", json.dumps(plan.spec.calls).encode())
        self._replace("runtime.json", json.dumps(self.settings | plan.spec.runtime).encode())

    def _replace(self, name: str, content: bytes) -> None:
        path = self.root / SANDBOX_PATH.lstrip("/") / name
        path.unlink()  # another root may share its bytes
        path.write_bytes(content)

    def run(self, code: str, *arguments: str, timeout_s: float = 600) -> Ended:
        """Runs `code` in the jail, as `sandbox-build run` does."""
        out, err = io.BytesIO(), io.BytesIO()
        outcome = self.outcome(code, *arguments, timeout_s=timeout_s, stdout=out, stderr=err)
        return Ended(outcome.exit_code, _text(out.getvalue()), _text(err.getvalue()), outcome.denied)

    def outcome(
        self,
        code: str,
        *arguments: str,
        timeout_s: float = 600,
        stdout: io.BytesIO | None = None,
        stderr: io.BytesIO | None = None,
        trace: bool = False,
    ) -> jailrun.Outcome:
        """The same, with all that is known of the run."""
        with tempfile.TemporaryFile() as program:
            program.write(code.encode())
            program.seek(0)
            return jailrun.run(
                self.root,
                arguments,
                code=program,
                stdin=subprocess.DEVNULL,
                timeout_s=timeout_s,
                stdout=stdout or io.BytesIO(),
                stderr=stderr or io.BytesIO(),
                trace=trace,
                uid=UID,
            )

    def control(self, code: str, *arguments: str, timeout_s: float = 600) -> Ended:
        """Runs `code` in the same tree, with the same mounts, as the same user, with nothing denied."""
        settings = self.settings
        lines = _CONTROL.format(**settings | {"uid": UID, "scratch": SCRATCH})
        python = [settings["python"], "-I", "-S", "-B", "-c", lines]
        enter = jailrun.enter_command(self.root, settings | {"network": True}, UID)
        try:
            done = subprocess.run(
                [*enter, *python, code, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            return Ended(jailrun.STOPPED_EXITS["timeout"], _text(late.stdout), _text(late.stderr))
        exit_code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Ended(exit_code, _text(done.stdout), _text(done.stderr))


def configured(content: Mapping[str, Any]) -> Config:
    """The config that `content`, as of config.yaml, comes to; every run has the one uid."""
    defaults = {"jail": {"uid_range": [UID, 3]}, "worker_timeout": 600}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(defaults | dict(content), file)
        file.flush()
        return load_config(Path(file.name), {})[0]


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
