"""Runs with a network: the container's name servers in the jail, and a network.allow that holds.

The world is one container on internal networks of Docker: a web server, a fake metadata service on
169.254.169.254, and a name server whose answers change.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from builder.tree.spec import TREE_PATH
from tests.conftest import result_of
from tests.serve.conftest import Server, Serving

WEB, METADATA = "11.22.33.7", "169.254.169.254"
ALLOW = (
    "enable_network: true\n"
    'network: {allow: ["web.test:8080", "meta.test:80", "flip.test:8080", "mixed.test:8080", "web.test:1"]}\n'
)
OPEN = "enable_network: true\n"

WORLD = """
import http.server, socket, struct, threading

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"page {self.path}".encode())

for port in (80, 8080):
    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Page)
    threading.Thread(target=server.serve_forever).start()

ANSWERS = {
    "web.test": ["11.22.33.7"],
    "meta.test": ["169.254.169.254"],
    "mixed.test": ["127.0.0.1", "169.254.169.254", "11.22.33.7"],
}
asked = 0
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("0.0.0.0", 53))
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

FETCH = """
import urllib.request
try:
    print(urllib.request.urlopen({url!r}, timeout=20).read().decode())
except OSError as error:
    print(type(error).__name__, getattr(error, "code", ""), error)
"""


@dataclass(frozen=True)
class World:
    """What there is beside the server."""

    container: str
    networks: tuple[str, str]

    def join(self, server: Server) -> None:
        """Has the server reach it."""
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


@pytest.fixture(scope="module")
def world(built: Callable[[str], str]) -> Iterator[World]:
    """Internal networks: whatever is done in them, nothing outside of this machine is asked."""
    name = f"sandbox-tests-{secrets.token_hex(4)}"
    networks = (f"{name}-web", f"{name}-meta")
    try:
        for network, subnet in zip(networks, ("11.22.33.0/24", "169.254.169.0/24"), strict=True):
            docker("network", "create", "--internal", f"--subnet={subnet}", network)
        where = (f"--name={name}", f"--network={networks[0]}", f"--ip={WEB}")
        python = ("--entrypoint=/usr/bin/python3.13", built(OPEN), "-I", "-B", "-u", "-c", WORLD)
        docker("run", "--detach", *where, *python)
        docker("network", "connect", f"--ip={METADATA}", networks[1], name)
        yield World(name, networks)
    finally:
        result_of(["docker", "rm", "--force", name], None, 60)
        result_of(["docker", "network", "rm", *networks], None, 60)


@pytest.fixture(scope="module")
def listed(serving_of: Callable[[str], Serving], world: World) -> Server:
    """A server with a network.allow."""
    server = serving_of(ALLOW)(f"--dns={WEB}")
    world.join(server)
    return server


def fetched(server: Server, url: str) -> str:
    """What code in the jail gets from `url`, by urllib and its environment."""
    data = server.run(FETCH.format(url=url))
    assert data["exit_code"] == 0, data
    return str(data["stdout"]).strip()


def test_a_listed_host_is_reached_by_the_environments_proxy(listed: Server) -> None:
    """urllib knows of nothing but HTTP_PROXY."""
    assert fetched(listed, "http://web.test:8080/a") == "page /a"


def test_a_listed_host_is_reached_by_connect_and_by_asyncio(listed: Server) -> None:
    """With a socket of the code's own, which may be non-blocking."""
    code = """
import asyncio, os, socket
proxy = os.environ["HTTPS_PROXY"].rpartition("//")[2].split(":")
request = b"CONNECT web.test:8080 HTTP/1.1\\r\\n\\r\\nGET /b HTTP/1.0\\r\\n\\r\\n"
with socket.create_connection((proxy[0], int(proxy[1]))) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(request)
    said = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    print(said.startswith(b"HTTP/1.1 200 "), said.endswith(b"page /b"))
async def main():
    reader, writer = await asyncio.open_connection(proxy[0], int(proxy[1]))
    writer.write(request)
    print((await reader.read()).endswith(b"page /b"))
asyncio.run(main())
"""
    data = listed.run(code)
    assert (data["stdout"], data["exit_code"]) == ("True True\nTrue\n", 0), data


def test_what_is_not_listed_is_refused_with_the_line_that_allows_it(listed: Server, world: World) -> None:
    """In the code's own error, and in the server's log; and no name server hears of it."""
    said = 'web.test:80 is not in network.allow; to allow it: network: {allow: ["web.test:80"]}'
    assert said in fetched(listed, "http://web.test/")
    assert '"egress_denied"' in listed.logs()
    fetched(listed, "http://secret.example.test:8080/")
    assert "secret.example.test" not in world.asked()
    assert "web.test" in world.asked()


@pytest.mark.parametrize(
    "url",
    [
        f"http://{METADATA}/latest",
        "http://meta.test/latest",
        "http://[::ffff:169.254.169.254]/latest",
        "http://0xa9fea9fe/latest",
        "http://2852039166/latest",
        "http://169.254.169.254.:80/latest",
        "http://meta.test@169.254.169.254/latest",
    ],
)
def test_the_metadata_service_is_out_of_reach(listed: Server, url: str) -> None:
    """Though a listed name resolves to it, and the container itself reaches it: the control."""
    control = f"import urllib.request as u; print(u.urlopen('http://{METADATA}/latest').read())"
    assert "page /latest" in listed.python(control)
    answer = fetched(listed, url)
    assert answer.startswith(("HTTPError 403", "HTTPError 400")), answer


def test_a_name_that_changes_its_address_gains_nothing(listed: Server) -> None:
    """First the web server's, then loopback's: what is connected to is the address that was checked."""
    answers = [fetched(listed, "http://flip.test:8080/") for _ in range(4)]
    assert {answer[:13] for answer in answers} == {"page /", "HTTPError 403"}, answers
    assert fetched(listed, "http://mixed.test:8080/") == "page /"


@pytest.mark.parametrize("address", [WEB, METADATA, "127.0.0.1"])
@pytest.mark.parametrize("way", ["connect", "connect_ex", "fastopen"])
def test_a_direct_connection_ends_at_the_proxy(listed: Server, address: str, way: str) -> None:
    """Whatever address the code connects to; TCP Fast Open, which passes Landlock by, is denied."""
    port = 8194 if address == "127.0.0.1" else 80
    ways = {
        "connect": "s.connect(place); s.sendall(request)",
        "connect_ex": "s.setblocking(False); s.connect_ex(place); s.setblocking(True); s.sendall(request)",
        "fastopen": "s.sendto(request, 0x20000000, place)",
    }
    code = (
        f"import socket\ns = socket.socket()\nplace = ({address!r}, {port})\n"
        "request = b'GET /health HTTP/1.0\\r\\nHost: h\\r\\n\\r\\n'\n"
        f"try:\n    {ways[way]}\n    print(s.recv(1 << 16))\nexcept OSError as error:\n    print(error)\n"
    )
    assert "200 OK" in listed.python(code)
    said = listed.run(code)["stdout"]
    wanted = "Operation not permitted" if way == "fastopen" else "this is the proxy of the sandbox"
    assert wanted in said, said


@pytest.mark.parametrize(
    "code",
    [
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socket().bind(('', 0))",
        "socket.socket().listen()",
        "socket.socket().setsockopt(socket.IPPROTO_TCP, 31, b'tls')",
    ],
)
def test_nothing_but_a_tcp_client_is_to_be_had(listed: Server, code: str) -> None:
    """No UDP, MPTCP, local socket, server, and no socket made into another kind."""
    data = listed.run(f"import socket\ntry:\n    {code}\nexcept OSError as error:\n    print(error.errno)\n")
    assert data["stdout"] == "1\n", data


def test_a_killed_proxy_is_started_again(listed: Server) -> None:
    """At the same port; runs that were started before find it again."""
    kill = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    command = open(f"/proc/{pid}/cmdline").read()
    if "egress" in command:
        status = open(f"/proc/{pid}/status").read()
        print([line.split() for line in status.splitlines() if line.startswith(("Uid", "CapPrm", "NoNew"))])
        os.kill(int(pid), signal.SIGKILL)
"""
    uid, capabilities, no_new_privs = eval(listed.python(kill))
    assert uid[1] == uid[2] == "65534"
    assert int(capabilities[1], 16) == 0
    assert no_new_privs[1] == "1"
    assert fetched(listed, "http://web.test:8080/again") == "page /again"


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--user=65534:65534", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"),
        ("--read-only", f"--tmpfs={TREE_PATH}/run:size=64k,mode=755"),
    ],
    ids=["root", "landlock", "read-only"],
)
def test_the_containers_name_servers_and_hosts_are_the_jails(
    serving_of: Callable[[str], Serving], world: World, options: tuple[str, ...]
) -> None:
    """Not those of whoever built: names resolve in the jail as they do outside of it, the control."""
    server = serving_of(OPEN)(f"--dns={WEB}", "--add-host=hosted.test:192.0.2.9", *options)
    world.join(server)
    code = "import socket; print(*(socket.gethostbyname(name) for name in ('web.test', 'hosted.test')))"
    assert server.python(code) == f"{WEB} 192.0.2.9\n"
    data = server.run(code)
    assert data["stdout"] == f"{WEB} 192.0.2.9\n", data


def test_a_root_that_cannot_be_written_is_told_of(serving_of: Callable[[str], Serving]) -> None:
    """In the log, with the ways out; the server serves."""
    server = serving_of(OPEN)("--read-only")
    assert server.run("print(1)")["stdout"] == "1\n"
    logs = server.logs()
    assert "does not know the container's name servers" in logs
    assert f"{TREE_PATH}/run" in logs
