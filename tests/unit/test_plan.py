"""runtime.json, as far as a config decides it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.arch import ARCHES
from builder.config import load_config
from builder.plan import make_plan
from tests.unit.conftest import Refused

LISTED = "enable_network: true\nnetwork: {allow: ['api.example.com:443']}\n"


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What runtime.json says for the text of a config.yaml."""
    monkeypatch.chdir(tmp_path)

    def of(text: str, environ: Mapping[str, str] | None = None, tag: str | None = None) -> dict[str, Any]:
        Path("config.yaml").write_text(text)
        config, _ = load_config(Path("config.yaml"), environ or {})
        return make_plan(config, ARCHES["amd64"], tag=tag).spec.runtime

    return of


def test_what_a_server_goes_by(facts: Any) -> None:
    """Every key has its place; the defaults are config.yaml's."""
    assert facts("")["serve"] == {
        "port": 8194,
        "debug": True,
        "insecure": False,
        "key_sha256": "",
        "max_workers": 4,
        "max_requests": 50,
        "max_body_bytes": 32 << 20,
        "grace_s": 8,
        "preload": False,
        "spares": 4,
        "fresh": False,
        "warm": [],
        "env_allow": [],
    }
    text = """\
app: {port: 80, debug: false, insecure: true, max_body: 1MiB, grace_s: 0.5, spares: 0}
max_workers: 7
max_requests: 8
enable_preload: true
fresh: true
warm: [json, os.path]
jail: {env_allow: [LANG]}
"""
    assert facts(text)["serve"] == {
        "port": 80,
        "debug": False,
        "insecure": True,
        "key_sha256": "",
        "max_workers": 7,
        "max_requests": 8,
        "max_body_bytes": 1 << 20,
        "grace_s": 0.5,
        "preload": True,
        "spares": 0,
        "fresh": True,
        "warm": ["json", "os.path"],
        "env_allow": ["LANG"],
    }


@pytest.mark.parametrize("key", ["dify-sandbox", "s3cret", "ключ"])
def test_an_image_has_no_key(facts: Any, key: str) -> None:
    """Only its digest, wherever the key was given."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    for made in (facts(f"app: {{key: '{key}'}}"), facts("", {"API_KEY": key})):
        assert made["serve"]["key_sha256"] == digest
        assert key not in repr({**made, "serve": {**made["serve"], "key_sha256": ""}, "image": ""})


def test_the_image_knows_its_name(facts: Any) -> None:
    assert facts("image: {repository: a/b, tag: '7'}")["image"] == "a/b:7"
    assert facts("", tag="reg.example:5000/c:8")["image"] == "sandbox-python:latest"  # by any name


def test_an_empty_list_is_no_list(facts: Any) -> None:
    """Where nothing is listed, a run reaches what the container does."""
    for text in ("", "enable_network: true", "enable_network: true\nnetwork: {allow: []}"):
        assert facts(text)["network_allow"] is None


def test_a_list_of_destinations(facts: Any) -> None:
    made = facts(LISTED)
    assert (made["network"], made["network_allow"]) == (True, ["api.example.com:443"])
    assert made["upstream_proxy"] is None
    # Its sockets are made outside: it has a network namespace of its own, as with the network off.
    assert made["namespaces"] == facts("")["namespaces"] == ["net", "ipc", "uts"]
    assert facts("enable_network: true")["namespaces"] == ["ipc", "uts"]


def test_with_a_list_the_proxy_is_the_proxys(facts: Any) -> None:
    """A run is told of ours, which goes by way of the config's."""
    proxy = "proxy: {https: 'proxy.example:3128'}\n"
    made = facts(LISTED + proxy)
    assert made["upstream_proxy"] == "http://proxy.example:3128"
    assert not {"HTTP_PROXY", "HTTPS_PROXY"} & made["env"].keys()
    without = facts("enable_network: true\n" + proxy)
    assert without["upstream_proxy"] is None
    assert without["env"]["HTTPS_PROXY"] == "proxy.example:3128"


@pytest.mark.parametrize(
    ("text", "environ", "where"),
    [
        ("network: {allow: ['a:1']}", {}, "config.yaml:1: network.allow: the network is off"),
        (LISTED, {"ENABLE_NETWORK": "0"}, "config.yaml:2: network.allow: the network is off"),
        (LISTED + "proxy: {http: 'https://p:1'}", {}, "config.yaml:3: proxy.http: this proxy cannot be used"),
        (LISTED, {"SOCKS5_PROXY": "socks5://p:1"}, "SOCKS5_PROXY: this proxy cannot be used"),
        (
            LISTED + "proxy: {http: 'p:1'}",
            {"HTTPS_PROXY": "http://p:2"},
            "HTTPS_PROXY: this is another proxy than proxy.http",
        ),
    ],
)
def test_what_does_not_go_with_a_list(
    refused: Refused, text: str, environ: Mapping[str, str], where: str
) -> None:
    """Is told at its place, in the file or in the environment."""
    ((message, hint),) = refused(text, environ)
    assert message.startswith(where)
    assert hint


def test_a_list_is_checked_whatever_else_is_wrong(refused: Refused) -> None:
    """One entry that is none, and a base that is none: both are told, and nothing that follows from them."""
    problems = refused("base: debian\nnetwork: {allow: ['a:1', b]}\n")
    assert [message.partition(": ")[2][:24] for message, _ in problems] == [
        "base: 'debian' names no ",
        "network.allow[1]: 'b' ha",
    ]


def test_the_proof_tries_what_is_warm(tmp_path: Path) -> None:
    """report.json promises it, beside verify."""
    path = tmp_path / "c.yaml"
    path.write_text("warm: [json]\nverify: {imports: [ssl]}\n")
    promises = make_plan(load_config(path, {})[0], ARCHES["amd64"]).spec.promises
    assert (promises["warm"], promises["imports"]) == (["json"], ["ssl"])
