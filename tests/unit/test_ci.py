"""The CI templates are what their services take, and run the commands that the README shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from builder import __version__
from builder.cli import commands
from tests import ci

EVENTS = (ci.MERGE_REQUEST, ci.MAIN)


def valid(schema: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("schema", "path", "broken"),
    [
        ("vendor.github-workflows", ci.GITHUB, ("runs-on:", "runs-in:")),
        ("vendor.gitlab-ci", ci.GITLAB, ("extends: .sandbox-build", "extends: {}")),
    ],
)
def test_schema(schema: str, path: Path, broken: tuple[str, str], tmp_path: Path) -> None:
    """Each is valid by its service's own schema, which one with a mistake is not."""
    done = valid(schema, path)
    assert done.returncode == 0, done.stdout
    mistaken = tmp_path / path.name
    mistaken.write_text(path.read_text().replace(*broken))
    assert valid(schema, mistaken).returncode == 1


@pytest.mark.parametrize("event", EVENTS)
def test_the_commands_are_the_readmes(event: str) -> None:
    """Both services run the same commands in the same order: those that the README shows."""
    assert ci.ours(ci.gitlab(event)) == ci.ours(ci.github(event)) == ci.readme(event)


@pytest.mark.parametrize("event", EVENTS)
def test_the_command_line_has_them(event: str) -> None:
    """Each of our commands parses, with every option and argument that it is given."""
    lines = [line for line in ci.readme(event) if line.startswith("sandbox-build")]
    assert len(lines) >= 4
    for line in lines:
        parse(ci.words(line)[1:])
        with pytest.raises(click.UsageError):
            parse([*ci.words(line)[1:], "--no-such-option"])


def parse(arguments: list[str]) -> None:
    """Parses as the program does, without running anything; click.UsageError for what it does not have."""
    command: click.Command = commands
    context = None
    name = "sandbox-build"
    while True:
        context = command.make_context(name, list(arguments), parent=context)
        if not isinstance(command, click.Group):
            return
        found, sub, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        assert sub is not None
        name, command, arguments = found, sub, rest


@pytest.mark.parametrize("path", [ci.GITHUB, ci.GITLAB])
def test_the_version_is_this_one(path: Path) -> None:
    """What pip installs is named with its version, which is the one that these commands are of."""
    assert f"SANDBOX_BUILD: sandbox-build=={__version__} " in path.read_text()


@pytest.mark.parametrize("path", [ci.GITHUB, ci.GITLAB])
def test_no_privilege(path: Path) -> None:
    """Neither emulation nor a daemon, and no secret stands in a command line."""
    lines = [line.partition("#")[0] for line in path.read_text().splitlines()]
    text = "\n".join(lines).lower()
    for unwanted in ("qemu", "binfmt", "privileged: ", "dind", "buildx", "--password "):
        assert unwanted not in text
    assert "--password-stdin" in text
