"""Which servers are believed to be a registry, and how they are reached: TLS, certificates, proxies."""

from __future__ import annotations

import ipaddress
import shutil
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import requests

from builder.errors import RegistryError
from builder.registry import open_image, trust
from builder.registry.trust import is_loopback
from tests.integration.front import Fault, Front, serving
from tests.integration.pushing import (
    WriteConfig,
    push_one,
    refusal,
)
from tests.integration.servers import HTPASSWD, Tls, login, running_registry

pytestmark = pytest.mark.usefixtures("docker_config")


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    """A certificate for 127.0.0.1, of an authority that nobody knows."""
    return Tls(tmp_path)


@pytest.fixture
def tls_registry(tmp_path: Path, tls: Tls, docker_config: WriteConfig) -> Iterator[str]:
    """A registry that speaks TLS alone and wants the credentials that Docker's config has for it."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: r, path: {tmp_path}/htpasswd}}}}\n"
    with running_registry(tmp_path, auth, tls) as host:
        docker_config(login(host))
        yield host


def test_unknown_authority(tls_registry: str, archive: Path) -> None:
    """A server that proves itself with a certificate of nobody's is not spoken to, on loopback neither."""
    error = refusal(archive, f"{tls_registry}/team/sandbox:v1")
    assert "no secure connection" in error.message
    assert "certificate verify failed" in error.message
    assert "REQUESTS_CA_BUNDLE" in str(error.hint)
    assert f"/etc/docker/certs.d/{tls_registry}/ca.crt" in str(error.hint)


def test_authority_in_the_environment(
    tls_registry: str, tls: Tls, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its authority in REQUESTS_CA_BUNDLE it is: TLS and a password, against the real thing."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls.authority))
    digest = push_one(archive, f"{tls_registry}/team/sandbox:v1")
    repository, name = open_image(f"{tls_registry}/team/sandbox:v1")
    assert repository.find_digest(name) == digest


def test_authority_that_is_not_there(
    tls_registry: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that is not where the environment says is named."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere"))
    assert f"invalid path: {tmp_path}/nowhere" in refusal(archive, f"{tls_registry}/team/sandbox:v1").message


def test_authority_in_dockers_folder(
    tls_registry: str, tls: Tls, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with the file that Docker wants, for this registry alone."""
    monkeypatch.setattr(trust, "CERTIFICATE_FOLDERS", (tmp_path / "certs.d",))
    folder = tmp_path / "certs.d" / tls_registry
    folder.mkdir(parents=True)
    shutil.copy(tls.authority, folder / "ca.crt")
    assert push_one(archive, f"{tls_registry}/team/sandbox:v1").startswith("sha256:")
    folder.rename(folder.with_name("127.0.0.1:1"))
    assert "certificate verify failed" in refusal(archive, f"{tls_registry}/team/sandbox:v2").message


def test_an_authority_vouches_for_its_registry_alone(
    tls_registry: str,
    front: Front,
    tls: Tls,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not for a host that the registry sends us to."""
    monkeypatch.setattr(trust, "CERTIFICATE_FOLDERS", (tmp_path / "certs.d",))
    folder = tmp_path / "certs.d" / front.host
    folder.mkdir(parents=True)
    shutil.copy(tls.authority, folder / "ca.crt")
    where = {"Location": f"https://{tls_registry}/v2/team/sandbox/blobs/uploads/"}
    front.faults.append(Fault("POST", "/uploads/", 202, headers=where))
    assert "certificate verify failed" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_a_certificate_of_ours(
    tmp_path: Path, tls: Tls, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that wants a client's certificate gets the one of Docker's folder."""
    monkeypatch.setattr(trust, "CERTIFICATE_FOLDERS", (tmp_path / "certs.d",))
    with running_registry(tmp_path, tls=tls, clients=True) as host:
        folder = tmp_path / "certs.d" / host
        folder.mkdir(parents=True)
        shutil.copy(tls.authority, folder / "ca.crt")
        with pytest.raises(RegistryError):
            push_one(archive, f"{host}/team/sandbox:v1")
        shutil.copy(tls.certificate, folder / "client.cert")
        shutil.copy(tls.key, folder / "client.key")
        assert push_one(archive, f"{host}/team/sandbox:v1").startswith("sha256:")


def test_a_file_that_is_no_certificate(
    tls_registry: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named."""
    monkeypatch.setattr(trust, "CERTIFICATE_FOLDERS", (tmp_path / "certs.d",))
    folder = tmp_path / "certs.d" / tls_registry
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_text("nothing")
    assert f"{folder / 'ca.crt'}: no certificate to use: " in refusal(archive, f"{tls_registry}/a:b").message


@pytest.mark.usefixtures("hasty")
def test_tls_elsewhere(archive: Path, registry: str, engine: docker.DockerClient) -> None:
    """An address that is not loopback is spoken to with TLS alone: no request reaches a server without."""
    (bridge,) = engine.networks.get("bridge").attrs["IPAM"]["Config"]
    with serving(registry, str(ipaddress.ip_network(bridge["Subnet"])[1])) as front:
        assert requests.get(f"http://{front.host}/v2/", timeout=5).status_code == 200
        error = refusal(archive, f"{front.host}/team/sandbox:v1")
        assert error.message == f"{front.host}: speaks no TLS"
        assert "on this machine alone" in str(error.hint)
        assert len(front.seen) == 1


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The first line of each connection to a proxy that the environment names, for every host."""
    heard: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            heard.append(self.rfile.readline())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        yield heard
        proxy.shutdown()


def test_this_machines_registry_is_not_asked_through_a_proxy(
    private_registry: str, archive: Path, docker_config: WriteConfig, proxied: list[bytes]
) -> None:
    """Credentials in the clear would leave the machine; Docker does not, either. Any other is."""
    docker_config(login(private_registry))
    push_one(archive, f"{private_registry}/team/sandbox:v1")
    assert proxied == []
    refusal(archive, "registry.invalid/team/sandbox:v1")
    assert set(proxied) == {b"CONNECT registry.invalid:443 HTTP/1.0\r\n"}


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
    assert is_loopback(host) is loopback
