"""Credentials, tokens and certificates of a real registry: where they come from, and who gets to see them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from builder.archive import open_archive
from builder.registry.client import Client
from builder.registry.trust import origin
from tests.integration.front import Fault, Front, serving
from tests.integration.pushing import (
    WriteConfig,
    push_one,
    refusal,
    remote_digest,
    skopeo,
)
from tests.integration.servers import PASSWORD, USER, login

pytestmark = pytest.mark.usefixtures("docker_config")


def test_credentials_from_docker_config(
    private_registry: str, archive: Path, docker_config: WriteConfig
) -> None:
    """What `docker login` left behind opens the registry."""
    config = docker_config(login(private_registry))
    digest = push_one(archive, f"{private_registry}/team/sandbox:v1")
    found = skopeo(
        *("inspect", "--raw", "--tls-verify=false", "--authfile", str(config / "config.json")),
        f"docker://{private_registry}/team/sandbox@{digest}",
    )
    with open_archive(archive) as sent:
        assert found.encode().rstrip() == sent.manifest


def test_credentials_from_helper(
    private_registry: str,
    archive: Path,
    docker_config: WriteConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So does what a credential helper answers for the host."""
    helper = tmp_path / "docker-credential-vault"
    answer = json.dumps({"ServerURL": private_registry, "Username": USER, "Secret": PASSWORD})
    helper.write_text(
        f'#!/bin/sh\nread host\n[ "$1 $host" = "get {private_registry}" ] && echo {shlex.quote(answer)}\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    docker_config({"credHelpers": {private_registry: "vault"}})
    assert push_one(archive, f"{private_registry}/team/sandbox:v1").startswith("sha256:")


def test_credentials_from_store(
    private_registry: str,
    archive: Path,
    docker_config: WriteConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what the store answers that Docker keeps everything in; a host that it does not know has none."""
    helper = tmp_path / "docker-credential-shelf"
    helper.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"known = {{{private_registry!r}: {{'Username': {USER!r}, 'Secret': {PASSWORD!r}}}}}\n"
        "found = known.get(sys.stdin.read().strip())\n"
        "print(json.dumps(found) if found else 'credentials not found in native keychain')\n"
        "sys.exit(0 if found else 1)\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    docker_config({"credsStore": "shelf"})
    assert push_one(archive, f"{private_registry}/team/sandbox:v1").startswith("sha256:")
    with serving(private_registry) as front:
        assert "Docker's config has none" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_missing_helper(private_registry: str, archive: Path, docker_config: WriteConfig) -> None:
    """A helper that is not installed is named."""
    docker_config({"credHelpers": {private_registry: "absent"}})
    error = refusal(archive, f"{private_registry}/team/sandbox:v1")
    assert "docker-credential-absent" in error.message


def test_broken_config(private_registry: str, archive: Path, docker_config: WriteConfig) -> None:
    """A config file whose entry is no credential is an error, not a traceback."""
    docker_config({"auths": {private_registry: {"auth": "!"}}})
    assert "Docker's credentials cannot be read" in refusal(archive, f"{private_registry}/a:b").message


@pytest.mark.parametrize("content", ["{bad", "[]", ""])
def test_a_config_that_docker_cannot_read(
    content: str, private_registry: str, archive: Path, docker_config: WriteConfig
) -> None:
    """It is not taken for one without credentials: the file is named, and where it is wrong."""
    path = docker_config({}) / "config.json"
    path.write_text(content)
    error = refusal(archive, f"{private_registry}/a:b")
    assert error.message.startswith(f"{private_registry}: Docker's credentials cannot be read: {path}: ")
    assert error.hint == f"mend {path}"


def test_no_credentials(private_registry: str, archive: Path) -> None:
    """Without credentials the error says what to type."""
    error = refusal(archive, f"{private_registry}/team/sandbox:v1")
    assert "asks for credentials" in error.message
    assert error.hint == f"docker login {private_registry}"


def test_wrong_credentials(private_registry: str, archive: Path, docker_config: WriteConfig) -> None:
    """A wrong password is told apart from none, and is not shown."""
    docker_config(login(private_registry, password="wrong horse"))
    error = refusal(archive, f"{private_registry}/team/sandbox:v1")
    assert f"refuses the credentials of {USER}" in error.message
    assert error.hint == f"docker login {private_registry}"
    assert "wrong horse" not in f"{error.message}{error.hint}"


def test_bearer_token(front: Front, archive: Path, docker_config: WriteConfig) -> None:
    """A token server gets user and password; the registry gets the token alone."""
    front.token_user = (USER, PASSWORD)
    docker_config(login(front.host))
    push_one(archive, f"{front.host}/team/sandbox:v1")
    sent = [(path.split("?")[0], headers.get("Authorization", "")) for _, path, headers in front.seen]
    assert {path for path, authorization in sent if authorization.startswith("Basic")} == {"/token"}
    assert {authorization for path, authorization in sent if path != "/token"} == {"", "Bearer opened-0"}
    assert any("scope=repository%3Ateam%2Fsandbox%3Apull%2Cpush" in path for _, path, _ in front.seen)


def test_refused_token(front: Front, archive: Path, docker_config: WriteConfig) -> None:
    """A token server that refuses is an error about credentials."""
    front.token_user = (USER, PASSWORD)
    docker_config(login(front.host, password="wrong horse"))
    assert "refuses the credentials" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_netrc_is_not_read(
    front: Front, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials come from Docker's config alone: nothing of ~/.netrc goes to a registry."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    push_one(archive, f"{front.host}/team/sandbox:v1")
    assert not any("Authorization" in headers for _, _, headers in front.seen)


def test_credentials_stay_with_their_host(
    private_registry: str, archive: Path, docker_config: WriteConfig
) -> None:
    """A registry that has blobs uploaded to another host gets them there, without our credentials."""
    with serving(private_registry) as front, serving(private_registry) as elsewhere:
        front.uploads_to = elsewhere
        docker_config(login(front.host))
        error = refusal(archive, f"{front.host}/team/sandbox:v1")
        assert elsewhere.requests("PUT", "/uploads/") >= 1
        assert not any("Authorization" in headers for _, _, headers in elsewhere.seen)
        assert "refuses the credentials" in error.message


def test_redirects_get_no_token(
    registry: str, front: Front, archive: Path, docker_config: WriteConfig
) -> None:
    """Nor does a host that an upload is redirected to; the blobs arrive there whole."""
    with serving(registry) as elsewhere:
        front.token_user = (USER, PASSWORD)
        front.redirects_to = elsewhere
        docker_config(login(front.host))
        digest = push_one(archive, f"{front.host}/team/sandbox:v1")
        assert elsewhere.requests("PUT", "/uploads/") == 3
        assert not any("Authorization" in headers for _, _, headers in elsewhere.seen)
    assert remote_digest(registry) == digest


@pytest.mark.parametrize(("method", "status"), [("POST", 202), ("PUT", 307)])
def test_no_way_without_encryption(front: Front, archive: Path, method: str, status: int) -> None:
    """A registry that has blobs sent in the clear over the network is not obeyed, wherever it says so."""
    front.faults.append(Fault(method, "/uploads/", status, headers={"Location": "http://192.0.2.1/upload"}))
    error = refusal(archive, f"{front.host}/team/sandbox:v1")
    assert "says to go on at http://192.0.2.1/upload" in error.message
    assert error.message.endswith(", without encryption")


@pytest.mark.parametrize("where", ["http://[/upload", "http://[::1/", "ftp://127.0.0.1/x", "//192.0.2.1/x"])
def test_nowhere_to_go(front: Front, archive: Path, where: str) -> None:
    """What is no URL, or one that we do not speak, is a registry's error and not ours."""
    front.faults.append(Fault("POST", "/uploads/", 202, headers={"Location": where}))
    assert "says to go on at" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_no_token_without_encryption(front: Front, archive: Path, docker_config: WriteConfig) -> None:
    """Nor does a token server get a password so."""
    docker_config(login(front.host))
    challenge = {"WWW-Authenticate": 'Bearer realm="http://192.0.2.1/token",service="x"'}
    front.faults.append(Fault("GET", "/v2/", 401, headers=challenge))
    error = refusal(archive, f"{front.host}/team/sandbox:v1")
    assert "wants credentials sent to http://192.0.2.1/token" in error.message


def test_a_token_expires(front: Front, archive: Path, docker_config: WriteConfig) -> None:
    """In the middle of a push another is fetched, by one of the threads, and the push goes on."""
    front.token_user = (USER, PASSWORD)
    front.token_requests = 4
    docker_config(login(front.host))
    digest = push_one(archive, f"{front.host}/team/sandbox:v1")
    assert remote_digest(front.upstream) == digest
    assert len(front.tokens) >= 3
    assert front.requests("GET", "/token") == len(front.tokens)


def test_credentials_expire(front: Front, archive: Path, docker_config: WriteConfig) -> None:
    """Where no other is given the push ends, and nothing has the tag."""
    front.token_user = (USER, PASSWORD)
    front.token_requests = 4
    docker_config(login(front.host))

    def expire() -> None:
        front.token_user = (USER, "another")

    front.meanwhile.append(("PUT", "/uploads/", expire))
    error = refusal(archive, f"{front.host}/team/sandbox:v1")
    assert f"refuses the credentials of {USER}" in error.message
    assert front.requests("PUT", "/manifests/v1") == 0


def test_a_refused_token_is_asked_for_once(front: Front, archive: Path, docker_config: WriteConfig) -> None:
    """A registry that wants no token that its server gives is not asked for ever."""
    front.token_user = (USER, PASSWORD)
    front.token_requests = 0
    docker_config(login(front.host))
    refusal(archive, f"{front.host}/team/sandbox:v1")
    assert front.requests("GET", "/token") == 1


@pytest.mark.parametrize(
    ("url", "same"),
    [
        *(("https://reg.example/v2/x", True), ("https://REG.example/token", True)),
        *(("http://reg.example/v2/", False), ("https://reg.example:8443/v2/", False)),
        *(("https://reg.example.evil/v2/", False), ("https://reg.example@evil/v2/", False)),
    ],
)
def test_who_gets_credentials(url: str, same: bool) -> None:
    """The registry by its scheme, host and port, and nobody else."""
    assert (origin(url) == origin("https://reg.example/v2/")) is same


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("docker.io", "registry-1.docker.io"),
        ("index.docker.io", "registry-1.docker.io"),
        ("reg.example:5000", "reg.example:5000"),
    ],
)
def test_dockers_own_registry_has_another_name(host: str, server: str) -> None:
    """What everybody calls docker.io listens elsewhere."""
    assert Client(host, "team/sandbox", "pull", None).url("tags/list") == (
        f"https://{server}/v2/team/sandbox/tags/list"
    )
