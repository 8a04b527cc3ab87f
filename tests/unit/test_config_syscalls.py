"""What load_config says of system calls that cannot be allowed or denied: the line, and what mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config import load_config
from builder.errors import ConfigError
from tests.unit.conftest import Refused


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        (
            "syscalls: {allow: [OPENAT]}",
            "syscalls.allow[0]: 'OPENAT' is not the name of a system call",
            "did you mean openat?",
        ),
        (
            "syscalls: {deny: [{Ioctl: {when: [fd == 1]}}]}",
            "syscalls.deny[0]: 'Ioctl' is not the name of a system call",
            "did you mean ioctl?",
        ),
        (
            "syscalls: {allow: ['-5']}",
            "syscalls.allow[0]: '-5' is a number",
            "numbers differ between architectures",
        ),
        (
            "allowed_syscalls: ['56']",
            "allowed_syscalls[0]: '56' is a number in quotes",
            "take the quotes off",
        ),
        (
            "allowed_syscalls: [Read]",
            "allowed_syscalls[0]: 'Read' is not the name of a system call",
            "did you mean read?",
        ),
        (
            "syscalls: {allow: [{ioctl: {when: []}}]}",
            "syscalls.allow[0]: ioctl: `when` is empty",
            "write a condition, or the name alone",
        ),
        (
            "syscalls: {allow: [{ioctl: {when: fd == 1}}]}",
            "syscalls.allow[0]: ioctl: `when` is a list of conditions",
            "put [ and ] around it",
        ),
        (
            "syscalls: {allow: [{ioctl: {when: [5]}}]}",
            "syscalls.allow[0]: ioctl: 5 in `when` is not a condition",
            "write {NAME: {when: [CONDITION, ...]}}",
        ),
        *(
            (f"syscalls: {{allow: [{entry}]}}", f"syscalls.allow[0]: {what}", "write {NAME: {when:")
            for entry, what in (
                ("{ioctl: }", "ioctl has no conditions in `when`"),
                ("{ioctl: [fd == 1]}", "ioctl has no conditions in `when`"),
                ("{ioctl: {when: [fd == 1], why: not}}", "ioctl has no conditions in `when`"),
                ("{ioctl: , when: [fd == 1]}", "a call with conditions is one name with `when` below it"),
                ("{}", "a call with conditions is one name with `when` below it"),
            )
        ),
        (
            "syscalls: {unsafe: [{ptrace: {when: [arg0 == 0]}}]}",
            "syscalls.unsafe[0]: {'ptrace': {'when': ['arg0 == 0']}} is not the name of a system call",
            "write the lower-case name",
        ),
        (
            "syscalls: {on_denied: eperm}",
            "syscalls.on_denied: one of 'errno', 'kill' or 'log' is needed, not the text 'eperm'",
            "What a denied call comes to",
        ),
        (
            "allowed_syscalls_arch: x86",
            "allowed_syscalls_arch: one of 'amd64' or 'arm64' is needed, not the text 'x86'",
            "The architecture whose numbers",
        ),
    ],
)
def test_a_wrong_form_says_what_is_needed(refused: Refused, text: str, what: str, hint: str) -> None:
    """Upper case, numbers in quotes, conditions in the wrong place: each has a hint that mends it."""
    ((message, given_hint),) = refused(text)
    assert message == f"config.yaml:1: {what}"
    assert str(given_hint).startswith(hint)


def test_calls_that_cannot_be_allowed(tmp_path: Path) -> None:
    """What the policy refuses is told with its line, together with everything else that is wrong."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "syscalls:\n  groups: [netwrk]\n  allow:\n    - mbnd\n    - ptrace\n    - ioctl:\n        when:\n"
        "          - request == 1\n          - requst == 1\nport: 1\n"
    )
    with pytest.raises(ConfigError) as failure:
        load_config(path, {})
    said = [message.removeprefix(f"{path}:") for message, _ in failure.value.problems]
    assert said == [
        '2: syscalls.groups[0]: no group named "netwrk"',
        '4: syscalls.allow[0]: no system call named "mbnd" on amd64 or arm64',
        '5: syscalls.allow[1]: "ptrace" cannot be allowed',
        '9: syscalls.allow[2].ioctl.when[1]: ioctl has no argument "requst"',
        "10: port: there is no such key",
    ]
    assert failure.value.problems[1][1] == 'did you mean "mbind"?'


def test_an_unknown_name_hides_nothing_and_is_told_once(refused: Refused) -> None:
    """Conditions of a call that does not exist are not told besides; those of others are."""
    problems = refused("syscalls: {allow: [{ioctk: {when: [x == 1]}}, {ioctl: {when: [x == 1]}}]}")
    assert [message for message, _ in problems] == [
        'config.yaml:1: syscalls.allow[0]: no system call named "ioctk" on amd64 or arm64',
        'config.yaml:1: syscalls.allow[1].ioctl.when[0]: ioctl has no argument "x"',
    ]


def test_the_network_is_off_for_the_file_and_the_environment(refused: Refused) -> None:
    """What opens the network beside enable_network: false is told, whichever of the two has each."""
    text = "enable_network: true\nsyscalls:\n  groups: [network]\n  allow: [socket]\n"
    Path("config.yaml").write_text(text)
    load_config(Path("config.yaml"), {})
    assert [message for message, _ in refused(text, {"ENABLE_NETWORK": "false"})] == [
        "config.yaml:3: syscalls.groups[0]: the network is off, and this group would open it",
        'config.yaml:4: syscalls.allow[0]: the network is off, and "socket" would open it',
    ]
    problems = refused("syscalls: {groups: [network]}")
    assert all("enable_network: true" in str(hint) for _, hint in problems)
    Path("config.yaml").write_text("syscalls: {groups: [network]}")
    load_config(Path("config.yaml"), {"ENABLE_NETWORK": "1"})


def test_a_bad_name_in_a_variable_is_told_with_the_variable(refused: Refused) -> None:
    """ALLOWED_SYSCALLS takes the place of the file's list, good or bad."""
    problems = refused("allowed_syscalls: [1]", {"ALLOWED_SYSCALLS": "read,reed"})
    assert problems == [
        ('ALLOWED_SYSCALLS: no system call named "reed" on amd64 or arm64', 'did you mean "read"?')
    ]


def test_a_base_is_checked_beside_bad_calls(refused: Refused) -> None:
    """A wrong form in one key leaves the others' meaning checked."""
    problems = refused("enable_network: 1\nbase: debian:trixi\nsyscalls: {allow: [mbnd]}\n")
    assert [message.split(": ")[1] for message, _ in problems] == [
        "enable_network",
        "base",
        "syscalls.allow[0]",
    ]


def test_too_many_conditions_are_refused(refused: Refused) -> None:
    """One `when` takes a thousand conditions and no more; none is cut off."""
    for count in (1000, 1001):
        lines = ", ".join(f"fd == {number}" for number in range(count))
        Path("config.yaml").write_text(
            f"syscalls: {{allow: [{{mbind: {{when: [{lines}]}}}}]}}".replace("fd", "arg0")
        )
        if count == 1000:
            load_config(Path("config.yaml"), {})
    ((message, hint),) = refused(Path("config.yaml").read_text())
    assert message == (
        "config.yaml:1: syscalls.allow[0].mbind.when: 1001 conditions, and at most 1000 are taken"
    )
    assert hint


def test_a_deny_that_explodes_is_refused_with_its_line(refused: Refused) -> None:
    """What a filter has no room to say is told when the config is read, not when the image is built."""
    lines = [
        f"arg0 & 0xffffffffffffffff == {value * 0x9E3779B97F4A7C15 % (1 << 64)}" for value in range(1, 9)
    ]
    ((message, _),) = refused(f"syscalls:\n  deny:\n    - mmap: {{when: [{', '.join(lines)}]}}\n")
    assert message.startswith("config.yaml:3: syscalls.deny[0]: more than 256 conditions would be needed")
