"""The command line itself: what a mistyped one, or half of one, is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from builder.arch import ARCHES, host_arch
from builder.archive import BuiltImage, write_archive
from builder.cli_options import cache
from builder.errors import UsageError
from builder.registry.trust import new_session
from tests.conftest import Result, sandbox_build

HOST = host_arch()
OTHER = next(arch for arch in ARCHES.values() if arch != HOST)


def refused(*arguments: str, exit_code: int = 2) -> str:
    """What is said on stderr."""
    done: Result = sandbox_build(*arguments)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    return done.stderr


def test_a_group_of_commands_alone_prints_its_help() -> None:
    """It is no error to look what there is."""
    said = refused("policy")
    assert said == sandbox_build("policy", "--help").stdout
    assert said.startswith("Usage: sandbox-build policy ")


def test_a_mistyped_command() -> None:
    """The nearest one is named, at the top as below; what is near to none has the help to go to."""
    for command in ("biuld", "lokc", "polisy"):
        assert f"error: No such command '{command}'. Did you mean '" in refused(command)
    assert refused("zzz") == (
        "error: No such command 'zzz'.\nhint: `sandbox-build --help` says what there is\n"
    )


@pytest.mark.parametrize("name", ["dist/amd65", "./nodir", "Nodir", "/none/image.tar"])
def test_a_path_that_is_not_there(name: str, tmp_path: Path) -> None:
    """The commonest mistake is to be in another folder: no registry is spoken of before the path is."""
    said = refused("inspect", name)
    assert said.startswith(f"error: {Path(name)}: there is no such file or folder\nhint: `sandbox-build` ")
    for arguments in (("compare", str(tmp_path), name), ("policy", "test", "--image", name)):
        (tmp_path / "image.tar").touch()
        assert f"error: {Path(name)}: there is no such file or folder\nhint: " in refused(*arguments)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("reg.example/Team/x:1", "repositories are in lower case: reg.example/team/x:1"),
        ("https://reg.example/x:1", "leave https:// out: [HOST[:PORT]/]REPOSITORY[:TAG]"),
    ],
)
def test_a_name_that_no_registry_has(name: str, hint: str) -> None:
    """Of a name with a registry's host it is said what is wrong with it, not that there is no such file."""
    said = f"error: {name!r} is not an image reference\nhint: {hint}\n"
    assert refused("inspect", name) == said
    assert refused("--push", name) == said


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    """To build again mends an archive that is damaged, not a file that never was one."""
    path = tmp_path / "README.md"
    path.write_text("text\n" * 999)
    for arguments in (("inspect", path), ("run", "--image", path), ("compare", path, path)):
        said = refused(*map(str, arguments), exit_code=1)
        assert said.startswith(f"error: {path}: not an image archive of ours")
        assert said.endswith("\nhint: name an image.tar that `sandbox-build` made\n")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers with any user number have it: said where it matters, and not at all where it does not."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    with pytest.raises(UsageError) as refused:
        cache()
    assert (refused.value.message, refused.value.hint) == (
        "this user has no home, where the cache would be",
        "set XDG_CACHE_HOME",
    )
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache() == Path("/somewhere/sandbox-build")
    assert new_session("localhost:5000").adapters.keys() == {"http://", "https://"}


def test_an_image_of_another_architecture_is_not_run(tmp_path: Path) -> None:
    """It is told before anything is unpacked or started, by `run` as by `trace`."""
    path = tmp_path / "image.tar"
    config = {"architecture": OTHER.name, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    write_archive(BuiltImage(json.dumps(config).encode(), ()), path, "sandbox-test:other")
    for command in ("run", "trace"):
        said = refused(command, "--image", str(path), "-c", "1")
        assert said.startswith(
            f"error: {path}: it is for {OTHER.name}, and this machine is {HOST.name}\nhint: {command} "
        )
