"""The policy as a text for people, against golden files, and as data.

After a change of images/python/seccomp.yaml, `make golden` writes the golden files anew: read their diff, it
is the change of the policy.
"""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.arch import ARCHES, Arch
from builder.cli import commands
from builder.seccomp import Call, Request, describe, effective_policy

GOLDEN = Path(__file__).parent / "golden"
AMD64 = ARCHES["amd64"]

CONFIG = """\
enable_network: true
syscalls:
  groups:
    - numeric
  allow: [mlock, {ioctl: {when: ["request == 0x5410"]}}]
  deny: [uname, {madvise: {when: ["advice == 14"]}}]
  unsafe: [ptrace]
  on_denied: log
allowed_syscalls: [25]
"""

both_arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)


def golden(arch: Arch) -> Path:
    return GOLDEN / f"policy-{arch.name}.txt"


def show(config: Path, *options: str, **environ: str) -> str:
    arguments = ["policy", "show", "--config", str(config), *options]
    ran = CliRunner(env=environ).invoke(commands, arguments, catch_exceptions=False)
    assert ran.exit_code == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


@both_arches
def test_the_default_policy_is_the_one_that_was_reviewed(arch: Arch) -> None:
    """The text of the default policy is the golden file, letter by letter."""
    assert describe(effective_policy(Request(), arch), arch) == golden(arch).read_text()


def test_what_the_config_adds_and_takes_away_is_told() -> None:
    """The calls of syscalls.allow stand under their place with their conditions, those of deny in a line."""
    policy = effective_policy(
        Request(("core",), (Call("mlock"), Call("socketpair")), (Call("uname"),), replace=True), AMD64
    )
    text = describe(policy, AMD64, {"syscalls.allow[0]": "config.yaml:3"})
    assert (
        "\nsyscalls.allow[0] (config.yaml:3)\n  mlock                    149  named in the config\n" in text
    )
    assert "when family == AF_UNIX and type & SOCK_TYPE_MASK == SOCK_STREAM and protocol == 0\n" in text
    assert "syscalls.deny took out: uname\n" in text
    assert "  uname " not in text


def test_a_call_that_the_architecture_lacks_is_not_told() -> None:
    """open is a call of amd64; arm64's text does not promise it."""
    on = {arch: describe(effective_policy(Request(), arch), arch) for arch in ARCHES.values()}
    assert "  open  " in on[AMD64]
    assert "  open  " not in on[ARCHES["arm64"]]


def test_each_source_has_the_line_that_brought_it(config: Path) -> None:
    """Groups, calls and denials name their line of the config; what nobody asked for is the default."""
    text = show(config, "--arch", "amd64")
    for source, line in {
        "numeric: ": 4,
        "network: ": 1,
        "syscalls.allow[0]": 5,
        "syscalls.allow[1]": 5,
        "UNSAFE: syscalls.unsafe[0]": 7,
        "syscalls.deny took out: uname, madvise by argument": 6,
        "System calls on amd64: ": 8,
        "allowed_syscalls[0]": 9,
    }.items():
        (heading,) = (one for one in text.splitlines() if one.startswith(source))
        assert heading.endswith(f" ({config}:{line})"), heading
    assert "\nthreads: Code uses as many" in text
    assert next(one for one in text.splitlines() if one.startswith("threads: ")).endswith(" (default)")


def test_a_variable_is_named_in_place_of_a_line(config: Path) -> None:
    """What the environment overrides is said to come from there."""
    config.write_text("enable_network: false\n")
    text = show(config, ENABLE_NETWORK="true", ALLOWED_SYSCALLS="25,149")
    assert next(one for one in text.splitlines() if one.startswith("network: ")).endswith(" (ENABLE_NETWORK)")
    assert "\nallowed_syscalls[1] (ALLOWED_SYSCALLS)\n" in text


def test_what_is_dangerous_comes_first(config: Path) -> None:
    """The unsafe calls stand before every group, in the text and in the data."""
    text = show(config)
    assert text.index("UNSAFE: ") < text.index("\ncore: ")
    assert "  ptrace                   101  takes over another process\n" in text
    (data,) = json.loads(show(config, "--json", "--arch", "amd64"))
    assert [call["name"] for call in data["allowed"] if call["unsafe"]] == ["ptrace"]
    assert data["allowed"][0]["name"] == "ptrace"


def test_on_denied_is_told(config: Path) -> None:
    """The first line says what becomes of every other call."""
    said = {"errno": "gets EPERM", "kill": "ends its process", "log": "is let through"}
    for mode, words in said.items():
        config.write_text(f"syscalls: {{on_denied: {mode}}}\n")
        assert f"every other one {words}" in show(config).splitlines()[0]


def test_the_data_has_the_text(config: Path) -> None:
    """--json gives for each architecture every call with its number, its lines, and what brought it."""
    amd64, arm64 = json.loads(show(config, "--json", "--arch", "amd64", "--arch", "arm64"))
    assert (amd64["arch"], arm64["arch"]) == ("amd64", "arm64")
    assert amd64["digest"] != arm64["digest"]
    assert f"\npolicy.bpf: {arm64['digest']}\n" in show(config, "--arch", "arm64")
    calls = {call["name"]: call for call in arm64["allowed"]}
    assert calls["read"] == {
        "name": "read",
        "number": 63,
        "unsafe": False,
        "when": [],
        "from": [{"source": "core", "place": "default", "reason": "reads", "when": []}],
    }
    assert [one["source"] for one in calls["ioctl"]["from"]] == ["core", "syscalls.allow[1]"]
    assert "request == 0x5410" in calls["ioctl"]["when"]
    assert "open" not in calls
    assert amd64["denied"] == ["uname"]
    assert amd64["kill"]["bpf"] == "loads programs into the kernel"
    assert "ptrace" not in amd64["kill"]


@both_arches
def test_the_command_line_shows_it(arch: Arch, tmp_path: Path) -> None:
    """`policy show` prints the golden text, and besides only the digest and where each group came from."""
    config = tmp_path / "config.yaml"
    config.touch()
    head, digest, *rest = show(config, "--arch", arch.name).replace(" (default)\n", "\n").splitlines()
    assert digest.startswith("policy.bpf: sha256:")
    assert "\n".join([head, *rest]) + "\n" == golden(arch).read_text()
