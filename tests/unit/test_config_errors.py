"""load_config on a wrong file or environment: what is said, where, and what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config import load_config
from tests.unit.conftest import Refused


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("MAX_WORKERS", "many", "a whole number is needed, not the text 'many'"),
        ("MAX_WORKERS", "2.5", "a whole number is needed, not the number 2.5"),
        ("MAX_REQUESTS", "0", "at least 1 is needed, not the number 0"),
        ("SANDBOX_PORT", "65536", "at most 65535 is needed, not the number 65536"),
        ("WORKER_TIMEOUT", "nan", "a finite number is needed, not the number nan"),
        ("WORKER_TIMEOUT", "-1", "more than 0 is needed, not the number -1"),
        ("DEBUG", "yes", "true or false is needed, not the text 'yes'"),
        ("ENABLE_NETWORK", "on", "true or false is needed, not the text 'on'"),
        ("PYTHON_PATH", "python3", "'python3' is not an absolute path"),
        ("PYTHON_LIB_PATH", "/a,b", "'b' is not an absolute path"),
        ("ALLOWED_SYSCALLS", "1,-2", "there is no system call -2"),
        ("PYTHON_DEPS_UPDATE_INTERVAL", "30", "'30' is not a duration"),
        ("HTTP_PROXY", "ftp://p.example", "this is not a URL that can be used here"),
        ("API_KEY", "\udcff", "text is needed, not bytes that are not UTF-8"),
    ],
)
def test_bad_variable_is_named(refused: Refused, variable: str, value: str, what: str) -> None:
    """An override that its key refuses is an error that names the variable, with a hint."""
    ((message, hint),) = refused("", {variable: value})
    assert message == f"{variable}: {what}"
    assert hint


def test_every_problem_at_once(refused: Refused) -> None:
    """Unknown and doubled keys, wrong types, values and variables arrive in one error, sorted by line."""
    problems = refused(
        """\
limits:
  memory: lots
  cpu_s: 0
worker_timeot: 3
max_workers: four
app: {port: 99999}
max_workers: 4
jail: {namespaces: [net, pid]}
""",
        {"DEBUG": "perhaps"},
    )
    assert [message for message, _ in problems] == [
        "config.yaml:2: limits.memory: 'lots' is not a size",
        "config.yaml:3: limits.cpu_s: at least 1 is needed, not the number 0",
        "config.yaml:4: worker_timeot: there is no such key",
        "config.yaml:5: max_workers: a whole number is needed, not the text 'four'",
        "config.yaml:6: app.port: at most 65535 is needed, not the number 99999",
        "config.yaml:7: max_workers: this key is given twice",
        "config.yaml:8: jail.namespaces[1]: one of 'net', 'ipc' or 'uts' is needed, not the text 'pid'",
        "DEBUG: true or false is needed, not the text 'perhaps'",
    ]
    assert all(hint for _, hint in problems)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("worker_timeot: 1", "did you mean worker_timeout? Allowed here: base, "),
        ("Max-Workers: 1", "did you mean max_workers? "),
        ("memory: 1GiB", "did you mean limits.memory? "),
        ("app: {prot: 1}", "did you mean port? Allowed in app: port, debug, key, insecure, "),
        ("network: {alow: []}", "did you mean allow? Allowed in network: allow"),
        ("limits: {memory_bytes: 1}", "did you mean memory? Allowed in limits: memory, cpu_s, file_size, "),
        ("zzzzzzzz: 1", "Allowed here: base, "),
        ("zzzzzzzz:", "Allowed here: base, "),
    ],
)
def test_unknown_key_says_what_was_meant(refused: Refused, text: str, meant: str) -> None:
    """An unknown key gets the nearest one that exists, wherever it stands, and all that are allowed."""
    ((message, hint),) = refused(text)
    assert message.endswith(": there is no such key")
    assert str(hint).startswith(meant)


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("app: 5", "app: keys with values are needed, not the number 5", "The HTTP service"),
        (
            "max_workers: '5'",
            "max_workers: a whole number is needed, not the text '5'",
            "take the quotes off",
        ),
        ("max_workers: true", "max_workers: a whole number is needed, not true", "Runs at once"),
        ("max_workers: 5.0", "max_workers: a whole number is needed, not the number 5.0", "Runs at once"),
        (
            "enable_network: 1",
            "enable_network: true or false is needed, not the number 1",
            "Allows the network",
        ),
        ("worker_timeout: true", "worker_timeout: a number is needed, not true", "Seconds of wall clock"),
        ("worker_timeout: .inf", "worker_timeout: a finite number is needed, not the number inf", "Seconds"),
        (
            "python_lib_path: /usr/lib",
            "python_lib_path: a list is needed, not the text '/usr/lib'",
            "Exactly",
        ),
        ("python_lib_path: [[]]", "python_lib_path[0]: text is needed, not a list", "Exactly"),
        ("python_lib_path: {a: b}", "python_lib_path: a list is needed, not keys with values", "Exactly"),
        ("image: {tag: 1.10}", "image.tag: text is needed, not the number 1.1", "put it in quotes"),
        ("image: {labels: [a]}", "image.labels: keys with values are needed, not a list", "Labels"),
        ("image: {labels: {a: 1}}", "image.labels.a: text is needed, not the number 1", "put it in quotes"),
        ("image: {labels: {a:}}", "image.labels.a: text is needed, not nothing", "Labels"),
        ("image: {labels: {'a b': c}}", "image.labels['a b']: 'a b' is not the key of a label", "letters"),
        ("jail: {env: {1A: b}}", "jail.env.1A: '1A' is not the name of a variable", "letters"),
        (
            "jail: {level: vm}",
            "jail.level: one of 'any', 'chroot' or 'landlock' is needed, not the text 'vm'",
            "The",
        ),
        (
            "limits: {memory: 1MiB}",
            "limits.memory: at least 16777216 is needed, not the number 1048576",
            "Address",
        ),
        ("limits: {memory: true}", "limits.memory: True is not a size", "a number of bytes"),
        ("limits: {open_files: 3}", "limits.open_files: at least 16 is needed, not the number 3", "Open"),
        (
            "syscalls: {allow: [56]}",
            "syscalls.allow[0]: 56 is a number",
            "numbers differ between architectures",
        ),
        (
            "syscalls: {groups: [Net]}",
            "syscalls.groups[0]: 'Net' is not the name of a group",
            "a name out of",
        ),
    ],
)
def test_wrong_value_says_what_is_needed(refused: Refused, text: str, what: str, hint: str) -> None:
    """A wrong type or value is told with its key, what is needed, what was there, and a hint."""
    ((message, given_hint),) = refused(text)
    assert message == f"config.yaml:1: {what}"
    assert str(given_hint).startswith(hint)


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [
        ("app: {port: %d}", 1, 65535),
        ("max_workers: %d", 1, 10_000),
        ("max_requests: %d", 1, 1_000_000),
        ("limits: {memory: %d}", 16 << 20, (1 << 50) - 1),
        ("limits: {cpu_s: %d}", 1, 86400),
        ("limits: {file_size: %d}", 0, (1 << 50) - 1),
        ("limits: {processes: %d}", 1, 4194304),
        ("limits: {open_files: %d}", 16, 1048576),
        ("limits: {output: %d}", 0, (1 << 50) - 1),
        ("limits: {scratch: %d}", 0, (1 << 50) - 1),
        ("worker_timeout: %d", 1, 86400),
        ("allowed_syscalls: [%d]", 0, 1023),
    ],
)
def test_ranges(refused: Refused, key: str, least: int, most: int) -> None:
    """Each number is taken at both ends of its range and refused right beyond them."""
    for number in (least, most):
        Path("config.yaml").write_text(key % number)
        load_config(Path("config.yaml"), {})
    for number in (least - 1, most + 1):
        assert len(refused(key % number)) == 1


def test_messages_are_short_and_printable(refused: Refused) -> None:
    """Hostile text comes back cut and escaped: no control sequence reaches the terminal."""
    ((message, _),) = refused('base: "\\e[31m' + "x" * 5000 + '"')
    assert message.isprintable()
    assert len(message) < 200


@pytest.mark.parametrize(
    "text",
    ["app: {key: 12345678}", "proxy: {http: 12345678}", "proxy: {http: 'ftp://user:12345678@p.example'}"],
)
def test_secrets_stay_out_of_messages(refused: Refused, text: str) -> None:
    """What stands where a key or a password belongs is not shown, even when it is wrong."""
    ((message, hint),) = refused(text)
    assert "12345678" not in f"{message}{hint}"
