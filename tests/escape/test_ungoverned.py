"""What Landlock and user namespaces do not confine by themselves, and other steps of the lock-down do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.dockerfile import entrypoint
from tests.conftest import RESTRICTED, Container, interpreter, result_of

CHANGES = """
import errno, json, os
def attempt(call, *args):
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
print(json.dumps([
    attempt(os.chmod, "/data/file", 0o640),
    attempt(os.utime, "/data/file", (1, 1)),
    attempt(os.truncate, "/data/file", 0),
]))
"""


def test_no_file_outside_the_tree_is_changed(loaded_image: str, root: Path, tmp_path: Path) -> None:
    """At level landlock the run's user owns a file of the container, and can change nothing of it."""
    file = tmp_path / "file"
    file.write_text("content")
    os.chown(file, 1000, 1000)
    tmp_path.chmod(0o755)
    options = (*RESTRICTED, f"--volume={tmp_path}:/data")
    inside = Container(loaded_image, options).run(CHANGES)
    assert json.loads(inside.stdout) == ["EPERM"] * 3
    assert file.read_text() == "content"
    command = [*interpreter(root), "-I", "-S", "-c", CHANGES]
    docker = ["docker", "run", "--rm", "--network=none", *options, f"--entrypoint={command[0]}"]
    outside = result_of([*docker, loaded_image, *command[1:]], None, 60)
    assert json.loads(outside.stdout) == ["done"] * 3
    assert file.read_text() == ""


@pytest.fixture
def container(loaded_image: str, root: Path) -> Iterator[str]:
    """A container of an ordinary user who may make user namespaces, in which runs can be started."""
    command = [*interpreter(root), "-I", "-S", "-c", "import time; time.sleep(120)"]
    options = ["--user=1000:1000", "--security-opt=seccomp=unconfined", "--network=none", "--detach", "--rm"]
    started = result_of(
        ["docker", "run", *options, f"--entrypoint={command[0]}", loaded_image, *command[1:]], None, 60
    )
    assert started.exit_code == 0, started.stderr
    yield started.stdout.strip()
    result_of(["docker", "rm", "--force", started.stdout.strip()], None, 60)


ABORT = "import ctypes; print(ctypes.CDLL(None, use_errno=True).tgkill({pid}, {pid}, 6), ctypes.get_errno())"


@pytest.mark.parametrize("confined", [False, True])
def test_runs_of_one_kernel_uid_do_not_abort_each_other(confined: bool, container: str, root: Path) -> None:
    """In user namespaces all runs are one uid to the kernel: Landlock keeps their signals apart (ABI 6)."""
    python = interpreter(root)[0]
    jail = ["docker", "exec", container, *entrypoint(python), "-c"]
    with subprocess.Popen(
        [*jail, "import os, time; print(os.getpid(), flush=True); time.sleep(3)"],
        stdout=subprocess.PIPE,
        text=True,
    ) as victim:
        assert victim.stdout is not None
        pid = victim.stdout.readline().strip()
        attacker = jail if confined else ["docker", "exec", container, python, "-I", "-S", "-c"]
        attack = result_of([*attacker, ABORT.format(pid=pid)], None, 60)
        victim.wait(timeout=60)
    if confined and _landlock_abi() >= 6:
        assert (attack.stdout, victim.returncode) == ("-1 1\n", 0)
    else:
        assert (attack.stdout, victim.returncode) == ("0 0\n", 134)


def _landlock_abi() -> int:
    """LANDLOCK_CREATE_RULESET_VERSION of landlock_create_ruleset(2), whose number is 444 everywhere."""
    import ctypes

    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))
