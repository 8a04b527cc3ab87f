"""The policy as a text for people, against golden files.

After a change of images/python/seccomp.yaml, `make golden` writes the golden files anew: read their diff, it
is the change of the policy.
"""

from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.arch import ARCHES, Arch
from builder.cli import commands
from builder.seccomp import default_groups, describe, effective_policy

GOLDEN = Path(__file__).parent / "golden"

both_arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)


def golden(arch: Arch) -> Path:
    return GOLDEN / f"policy-{arch.name}.txt"


@both_arches
def test_the_default_policy_is_the_one_that_was_reviewed(arch: Arch) -> None:
    """The text of the default policy is the golden file, letter by letter."""
    assert describe(effective_policy(default_groups()), arch) == golden(arch).read_text()


def test_what_the_config_adds_and_takes_away_is_told() -> None:
    """The calls of syscalls.allow stand under that name with their conditions, those of deny in a line."""
    policy = effective_policy(["core"], allow=["mlock", "socketpair"], deny=["uname"])
    text = describe(policy, ARCHES["amd64"])
    assert "syscalls.allow: named in the config\n" in text
    assert f"  {'mlock':<24}named in the config\n" in text
    assert "when family == AF_UNIX and type & SOCK_TYPE_MASK == SOCK_STREAM and protocol == 0\n" in text
    assert "syscalls.deny took out: uname\n" in text
    assert "  uname " not in text


def test_a_call_that_the_architecture_lacks_is_not_told() -> None:
    """open is a call of amd64; arm64's text does not promise it."""
    policy = effective_policy(["core"])
    assert "  open  " in describe(policy, ARCHES["amd64"])
    assert "  open  " not in describe(policy, ARCHES["arm64"])


@both_arches
def test_the_command_line_shows_it(arch: Arch, tmp_path: Path) -> None:
    """`sandbox-build show-config --policy` prints the text for the config, and nothing else, on stdout."""
    config = tmp_path / "config.yaml"
    config.touch()
    arguments = ["show-config", "--config", str(config), "--policy", "--arch", arch.name]
    assert CliRunner().invoke(commands, arguments).stdout == golden(arch).read_text()
