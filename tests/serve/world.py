"""The world of the tests of networks: one container on internal networks of Docker.

A web server, a fake metadata service on 169.254.169.254, and a name server whose answers change.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.conftest import result_of
from tests.serve.conftest import START_S, Server

WEB, METADATA = "11.22.33.7", "169.254.169.254"
LABEL = "sandbox-tests-world"

WORLD = """
import http.server, socket, ssl, struct, sys, threading

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"page {self.path}".encode())

unsigned = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # needs no certificate
unsigned.maximum_version = ssl.TLSVersion.TLSv1_2
unsigned.set_ciphers("aNULL:@SECLEVEL=0")
for port in (80, 8080, 8443):
    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Page)
    if port == 8443:
        server.socket = unsigned.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever).start()

ANSWERS = {
    "web.test": ["11.22.33.7"],
    "meta.test": ["169.254.169.254"],
    "mixed.test": ["127.0.0.1", "169.254.169.254", "11.22.33.7"],
}
asked = 0
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    query, peer = names.recvfrom(512)
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    name, kind = ".".join(labels), query[at + 2]
    print("asked", name, flush=True)
    found = ANSWERS.get(name, [])
    if name == "flip.test":
        asked += kind == 1
        found = ["11.22.33.7" if asked % 2 else "127.0.0.1"]
    found = found if kind == 1 else []
    records = b"".join(
        b"\\xc0\\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(one) for one in found
    )
    head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(found), 0, 0)
    names.sendto(head + query[12 : at + 5] + records, peer)
"""


@dataclass(frozen=True)
class World:
    """What there is beside the server."""

    container: str
    networks: tuple[str, str]
    joined: list[str] = field(default_factory=list)

    def join(self, server: Server) -> None:
        """Has the server reach it."""
        self.joined.append(server.container)
        for network in self.networks:
            docker("network", "connect", network, server.container)

    def asked(self) -> list[str]:
        """The names that its name server was asked for."""
        lines = result_of(["docker", "logs", self.container], None, 60).stdout.splitlines()
        return [line.removeprefix("asked ") for line in lines if line.startswith("asked ")]


def docker(*arguments: str) -> str:
    done = result_of(["docker", *arguments], None, 60)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@contextmanager
def open_world(image: str) -> Iterator[World]:
    """Internal networks: whatever is done in them, nothing outside of this machine is asked."""
    name = f"sandbox-tests-{secrets.token_hex(4)}"
    networks = (f"{name}-web", f"{name}-meta")
    made = World(name, networks)
    docker("network", "prune", "--force", f"--filter=label={LABEL}")  # of tests that were killed
    try:
        for network, subnet in zip(networks, ("11.22.33.0/24", "169.254.169.0/24"), strict=True):
            docker("network", "create", "--internal", f"--label={LABEL}", f"--subnet={subnet}", network)
        where = (f"--name={name}", f"--network={networks[0]}", f"--ip={WEB}")
        docker("run", "--detach", *where, *world_in(image, "0.0.0.0"))
        wait_until_ready(name)
        docker("network", "connect", f"--ip={METADATA}", networks[1], name)
        yield made
    finally:
        result_of(["docker", "rm", "--force", name], None, 60)
        for server in made.joined:  # they end later
            for network in networks:
                result_of(["docker", "network", "disconnect", "--force", network, server], None, 60)
        docker("network", "rm", *networks)


def world_in(image: str, address: str) -> tuple[str, ...]:
    """Docker's arguments for a container that is the world; its name server answers at `address`."""
    return ("--entrypoint=/usr/bin/python3.13", image, "-I", "-B", "-u", "-c", WORLD, address)


def wait_until_ready(container: str) -> None:
    """Returns when a container with the WORLD in it answers."""
    ends = time.monotonic() + START_S
    while "ready" not in docker("logs", container):
        assert time.monotonic() < ends
        time.sleep(0.05)
