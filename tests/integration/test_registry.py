"""Pushing to a real registry on loopback, and what can go wrong between here and there."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
import requests

from builder import registry as registry_module
from builder.archive import open_archive
from builder.errors import RegistryError, UsageError
from builder.progress import Progress
from builder.registry import push
from tests.integration.conftest import make_archive
from tests.integration.front import Fault, Front, serving
from tests.integration.servers import PASSWORD, USER, login

WriteConfig = Callable[[dict[str, object]], Path]

pytestmark = pytest.mark.usefixtures("docker_config")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again as often as ever, and pauses less."""
    monkeypatch.setattr(registry_module, "_PAUSES_S", (0.01, 0.02, 0.03))


def quiet() -> Progress:
    return Progress(quiet=True)


def skopeo(*arguments: str) -> str:
    return subprocess.run(["skopeo", *arguments], check=True, capture_output=True, text=True).stdout


def remote_manifest(host: str) -> str:
    """What the tag stands for."""
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/team/sandbox:v1")


def remote_digest(host: str) -> str:
    return f"sha256:{hashlib.sha256(remote_manifest(host).encode()).hexdigest()}"


def refusal(archive: Path, reference: str) -> RegistryError:
    with pytest.raises(RegistryError) as refused:
        push([archive], reference, quiet())
    return refused.value


# Against the registry itself


def test_skopeo_pulls_what_was_pushed(registry: str, archive: Path, tmp_path: Path) -> None:
    """The digest is the registry's, and a copy pulled back has the same config and layers, bit for bit."""
    digest = push([archive], f"{registry}/team/sandbox:v1", quiet())
    assert remote_digest(registry) == digest
    back = tmp_path / "back"
    skopeo(
        *("copy", "--src-tls-verify=false", "--override-arch=arm64"),
        *(f"docker://{registry}/team/sandbox:v1", f"dir:{back}"),
    )
    with open_archive(archive) as sent:
        assert (back / "manifest.json").read_bytes() == sent.manifest
        for blob in (sent.config, *sent.layers):
            assert (back / blob.digest.removeprefix("sha256:")).read_bytes() == sent.blob(blob).read()


def test_docker_pulls_what_was_pushed(registry: str, archive: Path, engine: docker.DockerClient) -> None:
    """Docker Engine pulls it for arm64, under the digest that push() gave and the image is the archive's."""
    digest = push([archive], f"{registry}/team/sandbox:v1", quiet())
    image = engine.images.pull(f"{registry}/team/sandbox", "v1", platform="linux/arm64")
    try:
        assert image.attrs["RepoDigests"] == [f"{registry}/team/sandbox@{digest}"]
        assert image.attrs["Architecture"] == "arm64"
        with open_archive(archive) as sent:
            assert image.id in {sent.config.digest, digest}  # the latter on containerd's store
    finally:
        engine.images.remove(f"{registry}/team/sandbox:v1")


def test_two_architectures(registry: str, archive: Path, tmp_path: Path, engine: docker.DockerClient) -> None:
    """Images of two architectures come under one tag, and each machine gets its own."""
    other = make_archive(tmp_path, "other", [b"for amd64"], architecture="amd64")
    digest = push([archive, other], f"{registry}/team/sandbox:v1", quiet())
    assert remote_digest(registry) == digest
    manifests = json.loads(remote_manifest(registry))["manifests"]
    digests = {manifest["platform"]["architecture"]: manifest["digest"] for manifest in manifests}
    for path, architecture in ((archive, "arm64"), (other, "amd64")):
        image = engine.images.pull(f"{registry}/team/sandbox", "v1", platform=f"linux/{architecture}")
        try:
            assert image.attrs["Architecture"] == architecture
            with open_archive(path) as sent:
                assert digests[architecture] == sent.descriptor.digest
                assert image.id in {sent.config.digest, digest}  # the latter on containerd's store
        finally:
            engine.images.remove(f"{registry}/team/sandbox:v1")


def test_no_half_index(front: Front, archive: Path, tmp_path: Path) -> None:
    """When one of two images cannot be pushed, the tag stays where it was."""
    other = make_archive(tmp_path, "other", [b"for amd64"], architecture="amd64")
    before = push([archive], f"{front.host}/team/sandbox:v1", quiet())
    with open_archive(other) as unsent:
        front.faults.append(Fault("PUT", f"/manifests/{unsent.descriptor.digest}", 400))
    with pytest.raises(RegistryError, match="400"):
        push([archive, other], f"{front.host}/team/sandbox:v1", quiet())
    assert remote_digest(front.host) == before


def test_blobs_are_sent_once(front: Front, archive: Path) -> None:
    """A second push sends the manifest alone: the registry has the blobs."""
    push([archive], f"{front.host}/team/sandbox:v1", quiet())
    assert front.requests("PUT", "/uploads/") == 3
    push([archive], f"{front.host}/team/sandbox:v2", quiet())
    assert front.requests("PUT", "/uploads/") == 3
    assert front.requests("PUT", "/manifests/") == 2


def test_no_registry(archive: Path) -> None:
    """A reference without a host is refused: which registry it means is for the user to say."""
    with pytest.raises(UsageError) as refused:
        push([archive], "team/sandbox:v1", quiet())
    assert refused.value.hint == "name it: HOST[:PORT]/team/sandbox:v1"


@pytest.mark.usefixtures("quick")
def test_unreachable(archive: Path) -> None:
    """A port where nobody listens is an error that says so."""
    with serving("127.0.0.1:1") as gone:
        host = gone.host
    error = refusal(archive, f"{host}/team/sandbox:v1")
    assert error.message == f"{host}: not reached: Connection refused"
    assert error.hint


def test_tls_elsewhere(archive: Path, registry: str, engine: docker.DockerClient) -> None:
    """An address that is not loopback is spoken to with TLS alone: no request reaches a server without."""
    (bridge,) = engine.networks.get("bridge").attrs["IPAM"]["Config"]
    with serving(registry, str(ipaddress.ip_network(bridge["Subnet"])[1])) as front:
        assert requests.get(f"http://{front.host}/v2/", timeout=5).status_code == 200
        assert "no secure connection" in refusal(archive, f"{front.host}/team/sandbox:v1").message
        assert len(front.seen) == 1


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True), ("127.9.9.9", True)),
        *(("[::1]:5000", True), ("reg.example", False), ("10.0.0.1:5000", False), ("[::2]", False)),
        *(("localhost.reg.example", False), ("127.0.0.1.reg.example", False)),
    ],
)
def test_plain_http(host: str, loopback: bool) -> None:
    """Only names and addresses of this machine may be spoken to without TLS."""
    assert registry_module._is_loopback(host) is loopback


# Credentials


def test_credentials_from_docker_config(
    private_registry: str, archive: Path, docker_config: WriteConfig
) -> None:
    """What `docker login` left behind opens the registry."""
    config = docker_config(login(private_registry))
    digest = push([archive], f"{private_registry}/team/sandbox:v1", quiet())
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
    assert push([archive], f"{private_registry}/team/sandbox:v1", quiet()).startswith("sha256:")


def test_missing_helper(private_registry: str, archive: Path, docker_config: WriteConfig) -> None:
    """A helper that is not installed is named."""
    docker_config({"credHelpers": {private_registry: "absent"}})
    error = refusal(archive, f"{private_registry}/team/sandbox:v1")
    assert "docker-credential-absent" in error.message


def test_broken_config(private_registry: str, archive: Path, docker_config: WriteConfig) -> None:
    """A config file whose entry is no credential is an error, not a traceback."""
    docker_config({"auths": {private_registry: {"auth": "!"}}})
    assert "Docker's credentials cannot be read" in refusal(archive, f"{private_registry}/a:b").message


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
    push([archive], f"{front.host}/team/sandbox:v1", quiet())
    sent = [(path.split("?")[0], headers.get("Authorization", "")) for _, path, headers in front.seen]
    assert {path for path, authorization in sent if authorization.startswith("Basic")} == {"/token"}
    assert {authorization for path, authorization in sent if path != "/token"} == {"", "Bearer opened"}
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
    push([archive], f"{front.host}/team/sandbox:v1", quiet())
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


# A registry with a bad day


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/v2/", 503),
        Fault("HEAD", "/blobs/", 502),
        Fault("POST", "/uploads/", 500, times=2),
        Fault("PUT", "/uploads/", 504),
        Fault("PUT", "/uploads/", None, times=3),
        Fault("PUT", "/manifests/", 429, times=3),
        Fault("PUT", "/manifests/", None),
    ],
    ids=lambda fault: f"{fault.method} {fault.path} {fault.status or 'cut'}",
)
def test_passing_failures(front: Front, archive: Path, fault: Fault) -> None:
    """A failure that passes within four attempts is not the user's business, and the image arrives whole."""
    front.faults.append(fault)
    digest = push([archive], f"{front.host}/team/sandbox:v1", quiet())
    assert fault.times == 0
    assert remote_digest(front.upstream) == digest


def test_registry_names_its_pause(front: Front, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that says how long to wait is waited for."""
    monkeypatch.setattr(registry_module, "_PAUSES_S", (0.0, 0.0, 0.0))
    front.faults.append(Fault("PUT", "/manifests/", 429, headers={"Retry-After": "1"}))
    started = time.monotonic()
    push([archive], f"{front.host}/team/sandbox:v1", quiet())
    assert time.monotonic() - started >= 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("path", ["/uploads/", "/manifests/"])
def test_lasting_failures(front: Front, archive: Path, path: str) -> None:
    """One that lasts ends the push after four attempts, names the status, and leaves the tag where it was."""
    before = push([archive], f"{front.upstream}/team/sandbox:v1", quiet())
    other = make_archive(archive.parent, "other", [b"another image"])
    front.faults.append(Fault("PUT", path, 503, times=100))
    error = refusal(other, f"{front.host}/team/sandbox:v1")
    assert "503" in error.message
    assert front.requests("PUT", path) == 4
    assert remote_digest(front.upstream) == before


def test_no_right(front: Front, archive: Path) -> None:
    """403 says what may not be pushed to, in the registry's words, less what a terminal would obey."""
    body = json.dumps({"errors": [{"code": "DENIED", "message": "not \x1b[31myours"}]}).encode()
    front.faults.append(Fault("POST", "/uploads/", 403, body=body))
    error = refusal(archive, f"{front.host}/team/sandbox:v1")
    assert error.message == f"{front.host}: no right to push to team/sandbox (DENIED: not ?[31myours)"
    assert error.hint


@pytest.mark.parametrize("path", ["/uploads/", "/manifests/"])
def test_lying_digest(front: Front, archive: Path, path: str) -> None:
    """A registry that claims to have stored something else is not believed."""
    front.faults.append(Fault("PUT", path, 201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64}))
    assert "says that it stored sha256:000" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_refused_blob(front: Front, archive: Path) -> None:
    """A refusal that will not pass is not tried again."""
    body = json.dumps({"errors": [{"code": "DIGEST_INVALID", "message": "digest did not match"}]}).encode()
    front.faults.append(Fault("PUT", "/uploads/", 400, body=body))
    error = refusal(archive, f"{front.host}/team/sandbox:v1")
    assert "400 Bad Request (DIGEST_INVALID: digest did not match)" in error.message
    assert front.requests("PUT", "/uploads/") == 1
