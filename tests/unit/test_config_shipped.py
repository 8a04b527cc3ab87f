"""The config.yaml that ships, and the JSON schema that editors get: both must say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from builder.config import ENVIRONMENT, Config, key_names, load_config, schema

SHIPPED = Path(__file__).parents[2] / "config.yaml"


def uncommented() -> str:
    """The shipped file with the # taken off each `#key: value`; prose has a blank after its #."""
    return re.sub(r"^( *)#( {2,})?([a-z0-9_]+:(?: |$))", r"\1\2\3", SHIPPED.read_text(), flags=re.M)


def test_shipped_config_is_the_default() -> None:
    """The file that ships loads without a warning and says what the code's defaults are."""
    assert load_config(SHIPPED, {}) == (Config(), [])


def test_commented_keys_show_their_defaults(tmp_path: Path) -> None:
    """Taking every # off changes nothing: the commented keys stand with their true defaults."""
    path = tmp_path / "config.yaml"
    path.write_text(uncommented())
    assert load_config(path, {}) == (Config(), [])


def test_every_key_is_explained() -> None:
    """Each key of the schema stands in the shipped file, in its section, and none that does not exist."""
    found = []
    for key, value in yaml.safe_load(uncommented()).items():
        inner = value if isinstance(value, dict) else {}
        found += [f"{key}.{name}" for name in inner] or [key]
    assert sorted(found) == sorted(key_names())


def test_every_variable_is_named() -> None:
    """Each environment override stands in brackets in the shipped file."""
    named = re.findall(r"\[([A-Z0-9_]+)(?:\]|, parted by commas\])", SHIPPED.read_text())
    assert sorted(named) == sorted([*ENVIRONMENT, "TZ"])


def test_shipped_file_teaches_briefly() -> None:
    """Lines fit a terminal and the whole file four screens."""
    lines = SHIPPED.read_text().splitlines()
    assert max(map(len, lines)) <= 110
    assert len(lines) <= 140


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def sections(part: Any) -> list[dict[str, Any]]:
    return [part, *part["$defs"].values()]


def test_schema_describes_every_key() -> None:
    """An editor can explain each key and mark each unknown one."""
    for section in sections(schema()):
        assert section["additionalProperties"] is False
        assert section["description"]
        for key, value in section["properties"].items():
            assert value["description"], key


def test_schema_has_config_yamls_own_names() -> None:
    """The schema names keys as config.yaml spells them, not as the code does."""
    (limits,) = [part for part in sections(schema()) if part.get("title") == "Limits"]
    names = "memory cpu_s file_size processes open_files output scratch"
    assert list(limits["properties"]) == names.split()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "limits: {memory: 64M, output: 5}",
        "allowed_syscalls:\napp:\nbase:\n",
        "allowed_syscalls: [1, read]\nallowed_syscalls_arch: arm64",
        "syscalls: {groups: [exec], allow: [tee, {fcntl: {when: [fd == 7, fd == 8]}}], unsafe: [bpf]}",
        "syscalls: {deny: [{mmap: {when: [prot == 1]}}], replace: true, groups: [core], on_denied: log}",
        "python_deps_update_interval: 30m",
        "proxy: {socks5: '', http: '', https: ''}",
        "jail: {uid_range: [1000, 5], namespaces: [net], env: {A: b}}",
        "worker_timeout: 1.5",
        "app: {max_body: 1MiB, spares: 0, grace_s: 1}\nwarm: [os.path]\njail: {env_allow: [PATH]}",
        "enable_network: true\nnetwork: {allow: ['*:443']}",
        SHIPPED.read_text(),
        uncommented(),
    ],
)
def test_schema_takes_what_loads(validator: Any, tmp_path: Path, text: str) -> None:
    """What load_config takes has no red line in an editor."""
    (tmp_path / "c.yaml").write_text(text)
    load_config(tmp_path / "c.yaml", {})
    validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "limts: {}",
        "limits: {memry: 1}",
        "app: 5",
        "app: {port: 0}",
        "app: {port: '5'}",
        "jail: {level: vm}",
        "jail: {uid_range: [1]}",
        "jail: {namespaces: [pid]}",
        "python_lib_path: /usr",
        "image: {labels: {a: 1}}",
        "enable_network: 1",
        "network: ['*:443']",
        "warm: numpy",
        "app: {grace_s: -1}",
        "allowed_syscalls_arch: x86",
        "syscalls: {on_denied: eperm}",
        "syscalls: {replace: 1}",
        "syscalls: {unsafe: [{ptrace: {when: [arg0 == 0]}}]}",
        "syscalls: {allow: [5]}",
        "syscalls: {allow: [{ioctl: [fd == 7]}]}",
        "syscalls: {allow: [{ioctl: {wen: [fd == 7]}}]}",
        "syscalls: {deny: [{ioctl: {when: []}}]}",
        "syscalls: {deny: [{ioctl: {when: fd == 7}}]}",
        "syscalls: {deny: [{ioctl: {when: [fd == 7]}, tee: {when: [arg0 == 7]}}]}",
    ],
)
def test_schema_refuses_what_does_not_load(validator: Any, text: str) -> None:
    """A misspelled key, a wrong type and a value out of range are marked in an editor."""
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(yaml.safe_load(text))
