"""One real image for the whole test session, and the places in which its code can be run."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from builder import jailrun
from builder.arch import host_arch

# Before testcontainers is imported anywhere: its reaper is an image that would have to be pulled.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

REPOSITORY = Path(__file__).parents[1]
IMAGE = f"sandbox-tests/python:{os.getpid()}"


@dataclass(frozen=True)
class Result:
    """How a run ended. `exit_code` is a shell's: 128 + N for signal N."""

    exit_code: int
    stdout: str
    stderr: str


class Place(Protocol):
    """Somewhere code can be run by the image's interpreter."""

    def run(self, code: str, *, stdin: str | None = None, timeout_s: float = 60) -> Result: ...


def result_of(command: Sequence[str], stdin: str | None, timeout_s: float) -> Result:
    """Runs `command`, whose output is small."""
    done = subprocess.run(
        command,
        input=stdin.encode() if stdin is not None else None,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Result(code, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


@dataclass(frozen=True)
class Outside:
    """The control: the same interpreter in the same root file system, as root, with no lock-down at all."""

    root: Path

    def run(self, code: str, *, stdin: str | None = None, timeout_s: float = 60) -> Result:
        command = ["chroot", str(self.root), *interpreter(self.root), "-I", "-S", "-c", code]
        return result_of(command, stdin, timeout_s)


@dataclass(frozen=True)
class Bare:
    """`sandbox-build run`, as root on this machine."""

    image: Path

    def run(self, code: str, *, stdin: str | None = None, timeout_s: float = 60) -> Result:
        command = [sys.executable, "-m", "builder", "run", "--image", str(self.image), "-c", code]
        return result_of(command, stdin, timeout_s)


@dataclass(frozen=True)
class Container:
    """`docker run` with the options of one kind of platform."""

    image: str
    options: tuple[str, ...] = ()

    def run(self, code: str, *, stdin: str | None = None, timeout_s: float = 60) -> Result:
        interactive = ["--interactive"] if stdin is not None else []
        name = f"sandbox-tests-{secrets.token_hex(8)}"
        docker = ["docker", "run", "--rm", f"--name={name}", "--network=none", *interactive, *self.options]
        try:
            return result_of([*docker, self.image, "-c", code], stdin, timeout_s)
        except subprocess.TimeoutExpired:
            # The client has been killed, the container has not.
            result_of(["docker", "kill", name], None, 60)
            raise


RESTRICTED = ("--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only")
"""What Kubernetes' "restricted" Pod Security Standard leaves a container."""


def interpreter(root: Path) -> list[str]:
    """The image's interpreter, as a path in the image."""
    import json

    return [str(json.loads((root / "sandbox/runtime.json").read_bytes())["python"])]


def sandbox_build(*arguments: str, cwd: Path = REPOSITORY, env: dict[str, str] | None = None) -> Result:
    """Runs the command line as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "builder", *arguments],
        cwd=cwd,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the shipped config's image, built by the oci driver for this machine's architecture."""
    output = tmp_path_factory.mktemp("image")
    built = sandbox_build("--driver", "oci", "--output", str(output), "--tag", IMAGE)
    assert built.exit_code == 0, built.stderr
    return output / host_arch().name / "image.tar"


@pytest.fixture(scope="session")
def root(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's root, unpacked."""
    return jailrun.unpack(image, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def loaded_image(image: Path) -> Iterator[str]:
    """The same image, loaded into Docker Engine."""
    loaded = result_of(["docker", "load", "--input", str(image)], None, 120)
    assert loaded.exit_code == 0, loaded.stderr
    yield IMAGE
    result_of(["docker", "image", "rm", "--force", IMAGE], None, 60)


@pytest.fixture(scope="session")
def outside(root: Path) -> Place:
    """Where an attack must succeed, or at least reach the kernel."""
    return Outside(root)


@pytest.fixture(scope="session")
def bare(image: Path) -> Place:
    """The jail as `sandbox-build run` makes it."""
    return Bare(image)


@pytest.fixture(scope="session", params=["bare", "docker", "restricted"])
def jail(request: pytest.FixtureRequest) -> Place:
    """Where an attack must fail: on this machine, in a default container, in a "restricted" one."""
    if request.param == "bare":
        return Bare(request.getfixturevalue("image"))
    name = request.getfixturevalue("loaded_image")
    return Container(name, RESTRICTED if request.param == "restricted" else ())


@pytest.fixture(scope="session", autouse=True)
def _needs() -> None:
    """A missing tool fails the session: nothing is skipped."""
    missing = [tool for tool in ("docker", "unshare", "chroot", "mmdebstrap") if shutil.which(tool) is None]
    assert not missing, f"not installed: {missing}: run the tests with `make test`"
