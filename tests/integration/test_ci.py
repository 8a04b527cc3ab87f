"""What the CI templates run, run: in a repository with a config, with a registry, with a risky change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ci
from tests.conftest import REPOSITORY, Result


class Runner:
    """Runs a job's lines as a service does: in a shell, in the checkout, until one fails."""

    def __init__(self, checkout: Path, programs: Path, image: str) -> None:
        self.checkout = checkout
        programs.mkdir()
        # What pip would have installed.
        program = programs / "sandbox-build"
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" -m builder "$@"\n')
        program.chmod(0o755)
        self._env = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "IMAGE": image,
            "COMMIT": "0123456789abcdef0123456789abcdef01234567",
            "HOME": str(programs),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        }

    def run(self, *lines: str) -> Result:
        done = subprocess.run(
            ["bash", "-e", "-c", "\n".join(lines)],
            cwd=self.checkout,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def commit(self, *names: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        self._git("add", *(names or ("config.yaml", "config.lock")))
        self._git(*who, "commit", "--quiet", "--message=x")

    def _git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.checkout, check=True, env=self._env)


@pytest.fixture
def runner(tmp_path: Path, registry: str) -> Runner:
    """A repository whose config is the shipped one, locked."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    made = Runner(checkout, tmp_path / "programs", f"{registry}/team/image")
    (checkout / "config.yaml").write_text((REPOSITORY / "config.yaml").read_text())
    started = made.run("git init --quiet", "sandbox-build lock")
    assert started.exit_code == 0, started.stderr
    made.commit()
    return made


def test_main_and_merge_requests(runner: Runner) -> None:
    """The main branch pushes and is told what; a merge request that permits more fails, and only that one."""
    main, merge_request = (ci.ours(ci.gitlab(event)) for event in (ci.MAIN, ci.MERGE_REQUEST))
    pushed = runner.run(*main)
    assert pushed.exit_code == 0, pushed.stderr
    names = [line for line in pushed.stdout.splitlines() if "team/image:" in line]
    digests = {line.rpartition("@")[2] for line in names if "@sha256:" in line}
    # The commit's tag and `latest`: the image of each architecture, and the index over both.
    assert len([line for line in digests if len(line) == 71]) == 3
    assert "arm64" in pushed.stdout
    # The same commit's job once more pushes the same.
    again = runner.run(*main)
    assert (again.exit_code, "arm64" in again.stdout) == (0, True), again.stderr

    same = runner.run(*merge_request)
    assert same.exit_code == 0, same.stderr
    assert same.stdout.endswith("newly permitted: nothing\nno longer permitted: nothing\n")

    config = runner.checkout / "config.yaml"
    config.write_text(config.read_text().replace("groups: [", "groups: [memfd", 1))
    more = runner.run(*merge_request)
    assert (more.exit_code, "newly permitted: 2\n" in more.stdout) == (1, True), more.stdout + more.stderr
    # Merged without an image of its own: the commit's tag is another image's already.
    taken = runner.run(*main)
    assert taken.exit_code == 1
    assert "0123456789abcdef" in taken.stderr


def test_a_lock_that_was_never_committed(tmp_path: Path) -> None:
    """It would be another one on each machine; git itself says nothing of a file that it does not know."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    runner = Runner(checkout, tmp_path / "programs", "localhost:1/team/image")
    (checkout / "config.yaml").write_text("")
    assert runner.run("git init --quiet").exit_code == 0
    runner.commit("config.yaml")
    done = runner.run(*ci.ours(ci.github(ci.MAIN)))
    assert done.exit_code == 128
    assert "config.lock" in done.stderr
    assert not (checkout / "dist").exists()


def test_a_lock_of_another_config(runner: Runner) -> None:
    """A config that was changed without its lock ends the job before anything is built."""
    config = runner.checkout / "config.yaml"
    config.write_text(config.read_text() + "\nbase_packages: [libxml2]\n")
    runner.commit()
    done = runner.run(*ci.ours(ci.github(ci.MAIN)))
    assert done.exit_code == 1
    assert "+#: debian" in done.stdout
    assert not (runner.checkout / "dist").exists()
