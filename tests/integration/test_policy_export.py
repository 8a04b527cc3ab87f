"""`sandbox-build policy export`: the image runs under the exported profile alone, and needs what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.arch import host_arch
from tests.conftest import RESTRICTED, Result, result_of, sandbox_build


def export(*arguments: str) -> str:
    """The result of a command that says nothing on stderr."""
    done = sandbox_build("policy", "export", *arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


CODE = """
import os, threading
threads = [threading.Thread(target=len, args=("",)) for _ in range(4)]
[one.start() for one in threads], [one.join() for one in threads]
try:
    os.chroot("/")
except PermissionError:
    print("ran", os.getpid() > 0)
"""


def under(profile: dict[str, Any], image: str, folder: Path, *options: str, code: str = CODE) -> Result:
    """`docker run` of `image` under `profile`."""
    path = folder / "profile.json"
    path.write_text(json.dumps(profile))
    name = f"sandbox-policy-{folder.name}"
    command = ["docker", "run", "--rm", f"--name={name}", "--network=none", *options]
    try:
        return result_of([*command, f"--security-opt=seccomp={path}", image, "-c", code], None, 60)
    finally:
        result_of(["docker", "rm", "--force", name], None, 60)


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    """What `policy export` writes for the shipped config."""
    return dict(json.loads(export()))


def without(profile: dict[str, Any], *names: str) -> dict[str, Any]:
    """The profile without these calls."""
    rules = []
    for rule in profile["syscalls"]:
        left = [name for name in rule["names"] if name not in names]
        if left:
            rules.append(rule | {"names": left})
    return profile | {"syscalls": rules}


PLACES = {
    "root": (),
    "root, no new privileges": ("--security-opt=no-new-privileges",),
    "restricted": RESTRICTED,
    "with CAP_SYS_ADMIN": ("--cap-add=SYS_ADMIN",),
}


@pytest.mark.parametrize("place", PLACES)
def test_docker_runs_the_image_under_the_profile(
    place: str, profile: dict[str, Any], loaded_image: str, tmp_path: Path
) -> None:
    """The engine's init, the lock-down and the code run under nothing but the exported profile."""
    ran = under(profile, loaded_image, tmp_path, *PLACES[place])
    assert (ran.exit_code, ran.stdout) == (0, "ran True\n"), ran.stderr


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("chroot", 215),
        ("prlimit64", 212),
        ("seccomp", 220),
        ("setresuid", 216),
        ("landlock_restrict_self", 219),
    ],
)
def test_a_profile_that_lacks_a_set_up_call_makes_the_runtime_refuse(
    call: str, code: int, profile: dict[str, Any], loaded_image: str, tmp_path: Path
) -> None:
    """The control: the profile is in force, and what is under `lockdown` is there because it must be."""
    ran = under(without(profile, call), loaded_image, tmp_path)
    assert (ran.exit_code, ran.stdout) == (code, ""), ran.stderr


@pytest.mark.parametrize("call", ["capset", "setgid", "setgroups", "execve"])
def test_a_profile_that_lacks_one_of_the_engines_calls_starts_nothing(
    call: str, profile: dict[str, Any], loaded_image: str, tmp_path: Path
) -> None:
    """The control for `engine`: without the call the container does not start."""
    ran = under(without(profile, call), loaded_image, tmp_path)
    assert ran.exit_code in (1, 125, 126, 127)
    assert ran.stdout == ""


def test_a_refusal_is_told_under_the_profile(
    profile: dict[str, Any], loaded_image: str, tmp_path: Path
) -> None:
    """The codes 208 to 223, which the code may not end with, are the runtime's to end with under it."""
    ran = under(profile, loaded_image, tmp_path, "--cap-drop=SYS_CHROOT")
    assert ran.exit_code == 213
    assert "SYS_CHROOT" in ran.stderr


def test_landlock_works_under_the_profile(profile: dict[str, Any], loaded_image: str, tmp_path: Path) -> None:
    """Where no user namespace is to be had, the other level has the calls that it needs."""
    ran = under(without(profile, "unshare"), loaded_image, tmp_path, *RESTRICTED)
    assert (ran.exit_code, ran.stdout) == (0, "ran True\n"), ran.stderr


def test_a_denied_call_stays_denied_under_the_profile(
    profile: dict[str, Any], loaded_image: str, tmp_path: Path
) -> None:
    """The code has no more under it than without: its own filter is there too."""
    ran = under(
        profile, loaded_image, tmp_path, code="import os\ntry: os.kill(1, 0)\nexcept OSError: print('no')"
    )
    assert (ran.exit_code, ran.stdout) == (0, "no\n")


def test_export_for_kubernetes_and_for_people(tmp_path: Path) -> None:
    """Each form goes to stdout alone, for the architecture that is asked for, with the image's name."""
    config = tmp_path / "config.yaml"
    config.write_text("image: {repository: localhost:5000/team/sandbox-of-ours}\n")
    resource = export("--format", "spo", "--arch", "arm64", "--config", str(config))
    assert "kind: SeccompProfile\nmetadata:\n  name: sandbox-of-ours\n" in resource
    assert "- SCMP_ARCH_AARCH64\n" in resource
    assert export("--format", "pfc").startswith(f"# The policy for {host_arch().name}.")
