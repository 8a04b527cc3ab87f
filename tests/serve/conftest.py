"""A server of the image in a real container, and what talks to it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.arch import host_arch
from tests.conftest import REPOSITORY, result_of, sandbox_build

KEY = "key-of-the-tests"
PORT = 8194
START_S = 30
"""What a container may take to answer, on a machine that does other things too."""

Answer = tuple[int, Mapping[str, str], Any]


@dataclass(frozen=True)
class Server:
    """A container that serves."""

    container: str
    host: str
    port: int
    key: str = KEY

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request on a connection of its own: status, headers by lower-case name, body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def post(
        self, path: str, content: Any, headers: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> Answer:
        """Posts JSON with the key; the answer's JSON, or None where it has no body."""
        known = {"Content-Type": "application/json", "X-Api-Key": self.key, **(headers or {})}
        status, got, body = self.request("POST", path, json.dumps(content).encode(), known, timeout_s)
        return status, got, json.loads(body) if body else None

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Gets JSON with the key."""
        status, got, body = self.request("GET", path, None, {"X-Api-Key": self.key, **(headers or {})})
        return status, got, json.loads(body) if body else None

    def run(self, code: str, timeout_s: float = 60, **fields: Any) -> dict[str, Any]:
        """Runs `code`, which the server must be able to; the answer's data."""
        content = {"language": "python3", "code": code, **fields}
        status, _, answer = self.post("/v1/sandbox/run", content, timeout_s=timeout_s)
        assert (status, answer["code"]) == (200, 0), answer
        data: dict[str, Any] = answer["data"]
        return data

    def logs(self) -> str:
        """What it has written to stderr and stdout so far."""
        logged = result_of(["docker", "logs", self.container], None, 60)
        return logged.stdout + logged.stderr

    def execute(self, *command: str) -> str:
        """What a command in the container, as root, prints: there is no shell in it."""
        done = result_of(["docker", "exec", "--user=0", self.container, *command], None, 60)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        """What Python, as root in the container and outside of any jail, prints."""
        return self.execute("/usr/bin/python3.13", "-I", "-B", "-c", code)

    def wait_until_healthy(self) -> None:
        """Returns when /health says ok."""
        ends = time.monotonic() + START_S
        while True:
            try:
                if self.request("GET", "/health", timeout_s=5)[0] == 200:
                    return
            except OSError:
                pass
            assert time.monotonic() < ends, self.logs()
            time.sleep(0.05)


@dataclass(frozen=True)
class Serving:
    """Starts servers of one image, and removes them."""

    image: str
    started: list[str]

    def __call__(self, *options: str, wait: bool = True, **environment: str) -> Server:
        """A new server. `options` are docker's; API_KEY is KEY unless `environment` says otherwise."""
        name = f"sandbox-tests-{secrets.token_hex(8)}"
        variables = {"API_KEY": KEY, **environment}
        command: Sequence[str] = [
            *("docker", "run", "--detach", f"--name={name}", f"--publish=127.0.0.1::{PORT}"),
            *(f"--env={key}={value}" for key, value in variables.items()),
            *(*options, self.image, "serve"),
        ]
        done = result_of(command, None, 60)
        assert done.exit_code == 0, done.stderr
        self.started.append(name)
        published = result_of(["docker", "port", name, f"{PORT}/tcp"], None, 60).stdout.strip()
        host, _, port = published.splitlines()[0].rpartition(":") if published else ("", "", "0")
        server = Server(name, host, int(port), variables["API_KEY"])
        if wait:
            server.wait_until_healthy()
        return server

    def remove(self) -> None:
        """Removes every container that was started."""
        if self.started:
            result_of(["docker", "rm", "--force", "--volumes", *self.started], None, 120)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Builds and loads the image of a config, given as text; its name. The same text is built once."""
    names: dict[str, str] = {}

    def build(config: str) -> str:
        if config not in names:
            folder: Path = tmp_path_factory.mktemp("config")
            (folder / "config.yaml").write_text(config)
            name = f"sandbox-tests/serve-{len(names)}:{os.getpid()}"
            arguments = ("--driver", "oci", "--output", str(folder / "dist"), "--tag", name)
            done = sandbox_build("--config", str(folder / "config.yaml"), *arguments, cwd=REPOSITORY)
            assert done.exit_code == 0, done.stderr
            archive = folder / "dist" / host_arch().name / "image.tar"
            subprocess.run(["docker", "load", "--input", str(archive)], check=True, capture_output=True)
            names[config] = name
        return names[config]

    yield build
    if names:
        result_of(["docker", "image", "rm", "--force", *names.values()], None, 60)


@pytest.fixture(scope="module")
def serving(loaded_image: str) -> Iterator[Serving]:
    """Starts servers of the shipped config's image."""
    starter = Serving(loaded_image, [])
    yield starter
    starter.remove()


@pytest.fixture(scope="module")
def server(serving: Serving) -> Server:
    """One that every test of a module shares."""
    return serving()


@pytest.fixture(scope="module")
def serving_of(built: Callable[[str], str]) -> Iterator[Callable[[str], Serving]]:
    """Starts servers of the image of a config, given as text."""
    started: list[str] = []
    yield lambda config: Serving(built(config), started)
    Serving("", started).remove()
