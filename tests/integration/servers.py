"""Servers that tests talk to: a registry, and a way to Docker Engine that can be cut."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
import trustme

USER, PASSWORD = "pusher", "correct horse"

# PASSWORD's bcrypt hash, which Debian's docker-registry wants and Python's standard library cannot make.
HTPASSWD = f"{USER}:$2b$04$Qf3ItKwvpXiRgWgRAI0iGeo8XTR.jARNEjMq57Tyjfo0tjGVtrIjm\n"


class Tls:
    """A certificate authority of a test's own, with a certificate for 127.0.0.1; files in `folder`."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.authority = folder / "authority.pem"
        self.certificate = folder / "certificate.pem"
        self.key = folder / "key.pem"
        authority.cert_pem.write_to_path(self.authority)
        issued.private_key_pem.write_to_path(self.key)
        issued.cert_chain_pems[0].write_to_path(self.certificate)


@contextmanager
def running_registry(
    folder: Path, auth: str = "", tls: Tls | None = None, *, clients: bool = False
) -> Iterator[str]:
    """A registry with an empty store; gives its HOST:PORT. `clients`: these need a certificate too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    secure = ""
    if tls is not None:
        wanted = f", clientcas: [{tls.authority}]" if clients else ""
        secure = f", tls: {{certificate: {tls.certificate}, key: {tls.key}{wanted}}}"
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'store'}}}}}\n"
        f"http: {{addr: '{host}'{secure}}}\n{auth}"
    )

    def is_up() -> bool:
        if clients:
            socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), timeout=5).close()
            return True
        scheme = "https" if tls else "http"
        verify = str(tls.authority) if tls else True
        return requests.get(f"{scheme}://{host}/v2/", timeout=5, verify=verify).status_code in (200, 401)

    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        try:
            wait_for(is_up)
            yield host
        finally:
            process.terminate()
            process.wait()


def wait_for(happened: Callable[[], bool], seconds: float = 20) -> None:
    """Returns once `happened` is true; fails when it is not in time."""
    end = time.monotonic() + seconds
    while True:
        try:
            if happened():
                return
        except (requests.ConnectionError, ConnectionRefusedError):
            pass
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def login(host: str, user: str = USER, password: str = PASSWORD) -> dict[str, object]:
    """What `docker login` writes into Docker's config file."""
    return {"auths": {host: {"auth": b64encode(f"{user}:{password}".encode()).decode()}}}


class Relay:
    """A socket that leads to Docker Engine, until it is cut: for clients, the engine is gone then."""

    def __init__(self, path: Path, target: str) -> None:
        self.path = path
        self._target = target
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends every connection, and takes no more."""
        self.path.unlink(missing_ok=True)
        for end in (self._listener, *self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
