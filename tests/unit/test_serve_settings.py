"""What a server goes by: which source has the last word, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.failure import USAGE, Refused
from runtime.image import MAX_BYTES, read_file
from runtime.settings import (
    DECIDED_AT_BUILD,
    FROM_ENVIRONMENT,
    IN_FILE,
    Settings,
    read_settings,
)
from tests.unit.served import KEYED, Image, environ, mounted, runtime_json

PAGE = Path(__file__).parents[2] / "docs/serve-operations.md"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def image() -> Image:
    return runtime_json


def settings_of(image: dict[str, Any], variables: Mapping[str, str]) -> Settings:
    return read_settings(image, environ(variables), read_file)


def refusal(image: dict[str, Any], variables: Mapping[str, str]) -> Refused:
    with pytest.raises(Refused) as caught:
        settings_of(image, variables)
    assert caught.value.code == USAGE
    return caught.value


# Where a setting comes from


def test_what_the_image_says_is_the_default(image: Image) -> None:
    built = image("max_workers: 3\nmax_requests: 7\nworker_timeout: 4\nenable_preload: true\nfresh: true\n")
    found = settings_of(built, KEYED)
    assert (found.port, found.max_workers, found.max_requests, found.timeout_s) == (8194, 3, 7, 4)
    assert (found.debug, found.insecure, found.preload, found.fresh) == (True, False, True, True)
    assert (found.grace_s, found.max_body_bytes, found.env_allow) == (8, 32 << 20, [])
    assert found.image is built
    assert found.warnings == []


def test_the_environment_overrides_the_image(image: Image) -> None:
    variables = {
        "MAX_WORKERS": "9",
        "MAX_REQUESTS": " 90\n",
        "WORKER_TIMEOUT": "2.5",
        "GRACE": "30",
        "DEBUG": "F",
        "SANDBOX_PORT": "81",
    }
    found = settings_of(image(""), KEYED | variables)
    assert (found.max_workers, found.max_requests, found.timeout_s) == (9, 90, 2.5)
    assert (found.grace_s, found.debug, found.port) == (30, False, 81)


def test_port_is_what_the_platform_says(image: Image) -> None:
    """Cloud Run and the like set PORT, whatever else is set."""
    assert settings_of(image(""), KEYED | {"PORT": "8080", "SANDBOX_PORT": "81"}).port == 8080


def test_an_empty_variable_is_one_that_is_not_set(image: Image) -> None:
    """As in a compose file that passes on what is not there."""
    names = ("PORT", "MAX_WORKERS", "DEBUG", "GRACE", "SANDBOX_SETTINGS", "API_KEY_FILE", "ENABLE_NETWORK")
    found = settings_of(image(""), KEYED | dict.fromkeys(names, ""))
    assert (found.port, found.max_workers, found.debug, found.warnings) == (8194, 4, True, [])


def test_the_mounted_file_has_the_last_word(image: Image, tmp_path: Path) -> None:
    content = {"max_workers": 2, "max_requests": 20, "worker_timeout": 1.5, "grace": 4, "debug": False}
    path = mounted(tmp_path, b"\n" + json.dumps(content).encode() + b"\n")
    found = settings_of(image(""), KEYED | {"SANDBOX_SETTINGS": path, "MAX_WORKERS": "9", "DEBUG": "1"})
    assert (found.max_workers, found.max_requests, found.timeout_s) == (2, 20, 1.5)
    assert (found.grace_s, found.debug) == (4, False)


def test_a_service_link_of_kubernetes_is_no_port(image: Image) -> None:
    """A service named sandbox has SANDBOX_PORT set in every pod of its namespace."""
    found = settings_of(image(""), KEYED | {"SANDBOX_PORT": "tcp://192.0.2.7:8194"})
    assert found.port == 8194
    (warning,) = found.warnings
    assert warning.startswith("SANDBOX_PORT has no effect: Kubernetes")


# The key


def test_whose_key_counts(image: Image, tmp_path: Path) -> None:
    """That of API_KEY_FILE before that of SANDBOX_SETTINGS, that before API_KEY, that before the image's."""
    built = image("app: {key: of-the-image}\n")
    assert built["serve"]["key_sha256"] == sha256("of-the-image")
    (tmp_path / "key").write_bytes(b"of-the-file\r\n")
    variables: dict[str, str] = {}
    assert settings_of(built, variables).key_digest == sha256("of-the-image")
    variables["API_KEY"] = "of-the-environment"
    assert settings_of(built, variables).key_digest == sha256("of-the-environment")
    variables["SANDBOX_SETTINGS"] = mounted(tmp_path, {"key": "of-the-settings"})
    assert settings_of(built, variables).key_digest == sha256("of-the-settings")
    variables["API_KEY_FILE"] = str(tmp_path / "key")
    assert settings_of(built, variables).key_digest == sha256("of-the-file")


def test_only_the_key_is_known(image: Image) -> None:
    found = settings_of(image(""), KEYED)
    assert found.knows("of-the-environment")
    for other in ("", "of-the-environmen", "of-the-environment ", "Of-the-environment", "\ud800", "é", "\0"):
        assert not found.knows(other)


def test_a_key_is_bytes(image: Image) -> None:
    """Whatever a header can carry: text of any script, and bytes that are no text."""
    for key in ("schlüssel-鍵", b"\xff\xfe-key".decode("utf-8", "surrogateescape")):
        found = settings_of(image(""), {"API_KEY": f" {key}\n"})
        assert found.knows(key)
        assert not found.knows("key")


def test_nothing_of_the_key_is_kept(image: Image, tmp_path: Path) -> None:
    """Neither in the settings nor in the environment that a reload reads again."""
    variables = environ(KEYED | {"SANDBOX_SETTINGS": mounted(tmp_path, {"key": "of-the-settings"})})
    found = read_settings(image(""), variables, read_file)
    assert b"API_KEY" not in variables
    for key in ("of-the-environment", "of-the-settings"):
        assert key not in repr(vars(found))
        assert key.encode() not in repr(variables).encode()
    assert found.knows("of-the-settings")


@pytest.mark.parametrize("variables", [{}, {"API_KEY": ""}, {"API_KEY": " \n"}])
def test_no_key_is_refused(image: Image, variables: dict[str, str]) -> None:
    """And the hint has both ways out."""
    refused = refusal(image(""), variables)
    assert str(refused) == "there is no API key"
    assert "API_KEY" in refused.hint
    assert "app: {insecure: true}" in refused.hint


@pytest.mark.parametrize("config", ["", "app: {key: dify-sandbox}\n"])
def test_the_default_key_is_refused(image: Image, config: str, tmp_path: Path) -> None:
    """Wherever it stands."""
    places: list[dict[str, str]] = [
        {"API_KEY": "dify-sandbox"},
        {"API_KEY": "dify-sandbox\n"},
        {"SANDBOX_SETTINGS": mounted(tmp_path, {"key": "dify-sandbox"})},
    ]
    for variables in [*places, *([{}] if config else [])]:
        refused = refusal(image(config), variables)
        assert str(refused) == "the API key is the one that everybody knows: dify-sandbox"
        assert "API_KEY" in refused.hint
        assert "app: {insecure: true}" in refused.hint
    assert settings_of(image(config), KEYED).knows("of-the-environment")


def test_insecure_has_it_both_ways_and_says_so(image: Image) -> None:
    built = image("app: {insecure: true}\n")
    found = settings_of(built, {})
    assert found.knows("")
    assert found.knows("whatever")
    assert found.warnings == ["there is no API key (app.insecure): whoever reaches the port may run code"]
    known = settings_of(built, {"API_KEY": "dify-sandbox"})
    assert known.knows("dify-sandbox")
    assert not known.knows("")
    assert known.warnings == ["everybody knows the API key (app.insecure): dify-sandbox"]
    assert settings_of(built, KEYED).warnings == []


@pytest.mark.parametrize("config", ["", "app: {insecure: true}\n", "app: {key: of-the-image}\n"])
@pytest.mark.parametrize("content", [b"", b" \n", b"a\nb", b"a\0b", b"a\x7fb"])
def test_a_key_file_without_a_usable_key_is_refused(
    image: Image, config: str, content: bytes, tmp_path: Path
) -> None:
    """Who mounts one wants a key: no other one takes its place, and none at all does not either."""
    path = mounted(tmp_path, content)
    refused = refusal(image(config), KEYED | {"API_KEY_FILE": path})
    what = "has a control character, which no header can carry" if content.strip() else "is empty"
    assert str(refused) == f"API_KEY_FILE: {path}: the key {what}"


@pytest.mark.parametrize("given", ["", " ", "a\nb", 1, None, ["k"], {"k": 1}, True])
def test_a_wrong_key_in_the_mounted_file_is_refused(image: Image, given: Any, tmp_path: Path) -> None:
    built = image("app: {insecure: true}\n")
    refused = refusal(built, KEYED | {"SANDBOX_SETTINGS": mounted(tmp_path, {"key": given})})
    assert str(refused).startswith("SANDBOX_SETTINGS: key")
    assert ";" not in str(refused)


def test_what_is_refused_says_nothing_of_a_key(image: Image, tmp_path: Path) -> None:
    path = mounted(tmp_path, {"keys": "a-secret", "key": "a-secret\n1", "debug": "never"})
    refused = refusal(image(""), {"API_KEY": "a-secret\n2", "SANDBOX_SETTINGS": path})
    assert "API_KEY: the key has a control character" in str(refused)
    assert "SANDBOX_SETTINGS: key: the key has a control character" in str(refused)
    assert "there is no such setting" in str(refused)
    assert "a-secret" not in str(refused) + refused.hint


# What is wrong

BAD = {
    "PORT": ("0", "65536", "8o80", "-1", "1.0", "²", "http", "tcp://192.0.2.7:80", "1" * 5000),
    "SANDBOX_PORT": ("0", "udp://192.0.2.7:80"),
    "MAX_WORKERS": ("0", "-4", "4.5", "many", "10001", "٤", "4_0"),
    "MAX_REQUESTS": ("0", "none"),
    "WORKER_TIMEOUT": ("0", "-1", "5s", "nan", "inf", "1e9", "1_0", "٤", "0x5"),
    "GRACE": ("-0.1", "nan", "3601"),
    "DEBUG": ("yes", "2", "on", "tRUE"),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_bad_value_is_refused(image: Image, name: str, value: str) -> None:
    """The message has the variable, the value, cut short, and what it must be."""
    refused = refusal(image(""), KEYED | {name: value})
    assert str(refused).startswith(f"{name}: {value[:40]!a} is not ")
    assert ";" not in str(refused)


@pytest.mark.parametrize(
    ("text", "flag"), [("1", True), ("t", True), ("TRUE", True), ("0", False), ("False", False)]
)
def test_a_flag_is_read_as_dify_reads_it(image: Image, text: str, flag: bool) -> None:
    assert settings_of(image(""), KEYED | {"DEBUG": text}).debug is flag


def test_all_that_is_wrong_is_said_at_once(image: Image, tmp_path: Path) -> None:
    path = mounted(tmp_path, {"max_requests": "x", "max_worker": 3, "worker_timeout": None, "debug": True})
    refused = refusal(image(""), {"PORT": "x", "GRACE": "x", "SANDBOX_SETTINGS": path})
    assert str(refused).split("; ") == [
        "PORT: 'x' is not a port, 1 to 65535",
        "GRACE: 'x' is not a number of seconds from 0 to 3600",
        "SANDBOX_SETTINGS: max_requests: 'x' is not a number from 1 to 1000000",
        "SANDBOX_SETTINGS: max_worker: there is no such setting: there are max_workers, max_requests, "
        "worker_timeout, grace, debug, key",
        "SANDBOX_SETTINGS: worker_timeout: 'None' is not a number of seconds from 0.001 to 86400",
        "there is no API key",
    ]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"4", b'"a"', b"null", b"NaN", b'{"grace": NaN}', b"{} x", b"\xff", b"[" * 100_000],
)
def test_a_mounted_file_that_is_no_object_is_refused(image: Image, content: bytes, tmp_path: Path) -> None:
    path = mounted(tmp_path, content)
    refused = refusal(image(""), KEYED | {"SANDBOX_SETTINGS": path})
    assert str(refused) == f"SANDBOX_SETTINGS: {path} is not an object in JSON"


@pytest.mark.parametrize("content", [True, 4.5, "4.0", [4], {}, None, 0, -1, 1e300])
def test_a_bad_value_in_the_mounted_file_is_refused(image: Image, content: Any, tmp_path: Path) -> None:
    path = mounted(tmp_path, {"max_workers": content})
    assert str(refusal(image(""), KEYED | {"SANDBOX_SETTINGS": path})).startswith(
        "SANDBOX_SETTINGS: max_workers: "
    )


@pytest.mark.parametrize("variable", ["SANDBOX_SETTINGS", "API_KEY_FILE"])
def test_a_file_that_cannot_be_read_is_refused(image: Image, variable: str, tmp_path: Path) -> None:
    """Also where the environment has a key: what is named is meant."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for path, why in (
        (tmp_path / "nothing", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        assert str(refusal(image(""), KEYED | {variable: str(path)})) == f"{variable}: {path}: {why}"
        if variable == "API_KEY_FILE":  # then the missing key is no second problem
            assert str(refusal(image(""), {variable: str(path)})) == f"{variable}: {path}: {why}"
    assert str(refusal(image(""), KEYED | {variable: str(large)})) == f"{variable}: {large} is too large"


# What is set in vain


@pytest.mark.parametrize("name", DECIDED_AT_BUILD)
def test_what_was_decided_at_build_is_warned_of(image: Image, name: str) -> None:
    found = settings_of(image(""), KEYED | {name: "true"})
    assert found.warnings == [f"{name} has no effect: config.yaml decides it, when the image is built"]


def test_what_is_as_built_is_not_warned_of(image: Image) -> None:
    """dify's own compose file sets these; so does a cluster's proxy, which runs may get."""
    built = image("enable_network: true\njail: {env_keep: [HTTP_PROXY]}\n")
    variables = {
        "ENABLE_NETWORK": "true",
        "ENABLE_PRELOAD": "0",
        "PYTHON_PATH": "/usr/bin/python3.13",
        "HTTP_PROXY": "http://user:secret@proxy.example:3128",
        "PIP_MIRROR_URL": "",
    }
    assert settings_of(built, KEYED | variables).warnings == []
    assert len(settings_of(image("enable_preload: true\n"), KEYED | variables).warnings) == 3


def test_a_warning_does_not_repeat_a_value(image: Image) -> None:
    found = settings_of(image(""), KEYED | {"HTTPS_PROXY": "http://user:secret@proxy.example:3128"})
    assert "secret" not in repr(found.warnings)


def test_a_run_that_may_take_longer_than_the_grace_time_is_warned_of(image: Image) -> None:
    assert settings_of(image(""), KEYED | {"WORKER_TIMEOUT": "15", "GRACE": "15"}).warnings == []
    assert settings_of(image(""), KEYED | {"WORKER_TIMEOUT": "15"}).warnings == [
        "a run may take 15 s, but has 8 s to end when the service is stopped (GRACE)"
    ]


def test_every_setting_is_documented() -> None:
    """With its name in the environment and that in the file; and nothing that there is not."""
    page = PAGE.read_text()
    rows = [line.split("|")[1:3] for line in page.splitlines() if re.match(r"\| `[A-Z]", line)]
    variables, names = ({name for row in rows for name in re.findall(r"`(\w+)`", row[at])} for at in (0, 1))
    assert variables == {*FROM_ENVIRONMENT, "API_KEY", "API_KEY_FILE", "SANDBOX_SETTINGS"}
    assert names == {*IN_FILE, "key"}
    for name in DECIDED_AT_BUILD:
        assert f"`{name}`" in page
