"""Runs with a network: the container's name servers in the jail, and a network.allow that holds.

The world is one container on internal networks of Docker: a web server, a fake metadata service on
169.254.169.254, and a name server whose answers change.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.tree.spec import TREE_PATH
from tests.conftest import result_of
from tests.serve.conftest import START_S, Server, Serving
from tests.serve.watching import wait_for

WEB, METADATA = "11.22.33.7", "169.254.169.254"
ALLOW = (
    "enable_network: true\n"
    'network: {allow: ["web.test:8080", "web.test:8443", "meta.test:80", "flip.test:8080", '
    '"mixed.test:8080"]}\n'
)
OPEN = "enable_network: true\n"
LABEL = "sandbox-tests-world"

SCRATCH = f"{TREE_PATH}/tmp"
LEAST = ("SYS_CHROOT", "SETUID", "SETGID", "SETPCAP", "CHOWN")
WAYS = {
    "root": (),
    # The proxy's user is not the server's, which without CAP_KILL may not signal it.
    "least": (
        "--cap-drop=ALL",
        *(f"--cap-add={name}" for name in LEAST),
        "--read-only",
        f"--tmpfs={SCRATCH}",
    ),
    "namespaces": ("--cap-add=SYS_ADMIN",),
    "landlock": (
        *("--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"),
        f"--tmpfs={SCRATCH}:mode=700,uid=1000",
    ),
}
"""What the container is started with; what the server is then, is in test_the_ways_are_what_they_say."""

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

FETCH = """
import urllib.request
try:
    print(urllib.request.urlopen({url!r}, timeout=20).read().decode())
except OSError as error:
    print(type(error).__name__, getattr(error, "code", ""), error)
"""


UNSIGNED = """
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.set_ciphers("aNULL:@SECLEVEL=0")
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


@pytest.fixture(scope="module")
def world(built: Callable[[str], str]) -> Iterator[World]:
    """Internal networks: whatever is done in them, nothing outside of this machine is asked."""
    name = f"sandbox-tests-{secrets.token_hex(4)}"
    networks = (f"{name}-web", f"{name}-meta")
    made = World(name, networks)
    docker("network", "prune", "--force", f"--filter=label={LABEL}")  # of tests that were killed
    try:
        for network, subnet in zip(networks, ("11.22.33.0/24", "169.254.169.0/24"), strict=True):
            docker("network", "create", "--internal", f"--label={LABEL}", f"--subnet={subnet}", network)
        where = (f"--name={name}", f"--network={networks[0]}", f"--ip={WEB}")
        docker("run", "--detach", *where, *world_in(built(OPEN), "0.0.0.0"))  # noqa: S104
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


@pytest.fixture(scope="module", params=WAYS)
def listed(serving_of: Callable[[str], Serving], world: World, request: pytest.FixtureRequest) -> Server:
    """A server with a network.allow, started in each of WAYS."""
    server = serving_of(ALLOW)(f"--dns={WEB}", *WAYS[request.param])
    world.join(server)
    return server


def fetched(server: Server, url: str) -> str:
    """What code in the jail gets from `url`, by urllib and its environment."""
    data = server.run(FETCH.format(url=url))
    assert data["exit_code"] == 0, data
    return str(data["stdout"]).strip()


def test_the_ways_are_what_they_say(listed: Server, request: pytest.FixtureRequest) -> None:
    """Lent sockets work at each level, and out of a network namespace that is empty."""
    way = request.node.callspec.params["listed"]
    facts = listed.get("/v1/sandbox/info")[2]["data"]
    assert facts["level"] == ("landlock" if way == "landlock" else "chroot"), facts
    assert ("net" in facts["namespaces"]) is (way == "namespaces"), facts


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


def test_tls_goes_through_by_urllib_and_by_asyncio(listed: Server) -> None:
    """With the options that clients of databases and of HTTP set on their sockets."""
    code = """
import asyncio, os, socket, urllib.request
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
print(opener.open("https://web.test:8443/c", timeout=20).read())
proxy = os.environ["HTTPS_PROXY"].rpartition("//")[2].split(":")
async def main():
    reader, writer = await asyncio.open_connection(proxy[0], int(proxy[1]))
    one = writer.get_extra_info("socket")
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("NODELAY", "KEEPIDLE", "KEEPINTVL", "KEEPCNT", "QUICKACK", "USER_TIMEOUT"):
        one.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_" + option), 1)
    writer.write(b"CONNECT web.test:8443 HTTP/1.1\\r\\n\\r\\n")
    await reader.readuntil(b"\\r\\n\\r\\n")
    await writer.start_tls(context, server_hostname="web.test")
    writer.write(b"GET /d HTTP/1.0\\r\\n\\r\\n")
    print((await reader.read())[-7:])
asyncio.run(main())
"""
    data = listed.run(UNSIGNED + code)
    assert (data["stdout"], data["stderr"]) == ("b'page /c'\nb'page /d'\n", ""), data


def test_a_client_that_binds_is_not_told_of(listed: Server) -> None:
    """urllib3 does so in each import, to learn whether there is IPv6; and nothing is bound."""
    code = """
import socket
with socket.socket(socket.AF_INET6) as one:
    before = one.getsockname()
    one.bind(("::1", 0))
    print(one.getsockname() == before)
    try:
        one.listen()
    except OSError as error:
        print(error.errno)
"""
    data = listed.run(code)
    assert data["stdout"] == "True\n1\n", data
    assert [one["call"] for one in data["denied"]] == ["listen"], data


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
        "socket.socket().listen()",
        "socket.socket().setsockopt(socket.IPPROTO_TCP, 31, b'tls')",
        "socket.socket().setsockopt(socket.IPPROTO_TCP, 30, 1)",
        "socket.socket().setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 8)",
        "socket.socket().setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)",
    ],
)
def test_nothing_but_a_tcp_client_is_to_be_had(listed: Server, code: str) -> None:
    """No UDP, MPTCP, local socket, server, and no socket made into another kind."""
    data = listed.run(f"import socket\ntry:\n    {code}\nexcept OSError as error:\n    print(error.errno)\n")
    assert data["stdout"] == "1\n", data


def test_a_killed_proxy_is_started_again(listed: Server, request: pytest.FixtureRequest) -> None:
    """At the same port, more than once; and it has no privilege at all."""
    kill = """
import json, os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    command = open(f"/proc/{pid}/cmdline").read().split("\\0")
    if "/sandbox/runtime/egress.pyc" in command:
        status = open(f"/proc/{pid}/status").read()
        fields = dict(line.split(":\\t", 1) for line in status.splitlines())
        print(json.dumps([fields[name] for name in ("Uid", "Groups", "CapPrm", "CapBnd", "NoNewPrivs")]))
        os.kill(int(pid), signal.SIGKILL)
"""
    way = request.node.callspec.params["listed"]
    python = ("/usr/bin/python3.13", "-I", "-B", "-c", kill)
    for times in (1, 2):
        killed = docker("exec", "--privileged", "--user=0", listed.container, *python)
        uid, groups, permitted, bounding, no_new_privs = json.loads(killed)
        assert uid.split() == ["1000" if way == "landlock" else "65534"] * 4
        assert groups.split() == (["1000"] if way == "landlock" else [])
        assert (int(permitted, 16), int(bounding, 16), no_new_privs) == (0, 0, "1")
        assert fetched(listed, "http://web.test:8080/again") == "page /again"
        wait_for(listed, "egress_ended", times)


LENDS = {"args": [{"index": 1, "value": 0x40182103, "op": "SCMP_CMP_EQ"}], "names": ["ioctl"]}
LISTENS = {
    "args": [{"index": 1, "value": 8, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}],
    "names": ["seccomp"],
}


@pytest.mark.parametrize(
    ("lacks", "said"),
    [(LENDS, "network.allow opens nothing: Linux 5.14 does"), (LISTENS, "needs Linux 5.7 (and not gVisor)")],
    ids=["lends", "listens"],
)
def test_a_kernel_that_is_too_old_is_told_of(
    serving_of: Callable[[str], Serving], tmp_path: Path, lacks: dict[str, object], said: str
) -> None:
    """The server does not serve, and /health says what it lacks. The kernel is this one, less one request."""
    rule = {**lacks, "action": "SCMP_ACT_ERRNO", "errnoRet": 22}
    (tmp_path / "profile.json").write_text(
        json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    )
    server = serving_of(ALLOW)(f"--security-opt=seccomp={tmp_path}/profile.json", wait=False)
    wait_for(server, "self-test failed")
    status, _, body = server.request("GET", "/health")
    assert status == 503
    assert said in body.decode()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"),
        ("--read-only", f"--tmpfs={TREE_PATH}/run:size=64k,mode=755"),
    ],
    ids=["root", "landlock", "read-only"],
)
@pytest.mark.parametrize("server_of_names", [WEB, "127.0.0.53"])
def test_the_containers_name_servers_and_hosts_are_the_jails(
    serving_of: Callable[[str], Serving],
    world: World,
    built: Callable[[str], str],
    options: tuple[str, ...],
    server_of_names: str,
) -> None:
    """Not those of whoever built: names resolve in the jail as they do outside of it, the control."""
    server = serving_of(OPEN)(f"--dns={server_of_names}", "--add-host=hosted.test:192.0.2.9", *options)
    beside = f"{server.container}-names"
    if server_of_names == WEB:
        world.join(server)
    else:  # one on the container's own loopback
        network = f"--network=container:{server.container}"
        docker("run", "--detach", f"--name={beside}", network, *world_in(built(OPEN), server_of_names))
        wait_until_ready(beside)
    try:
        code = "import socket; print(*(socket.gethostbyname(name) for name in ('web.test', 'hosted.test')))"
        assert server.python(code) == f"{WEB} 192.0.2.9\n"
        data = server.run(f"{code}\nprint(open('/etc/resolv.conf').read())")
        assert data["stdout"].startswith(f"{WEB} 192.0.2.9\n"), data
        assert f"nameserver {server_of_names}\n" in data["stdout"], data
    finally:
        result_of(["docker", "rm", "--force", beside], None, 60)


def test_a_root_that_cannot_be_written_is_told_of(serving_of: Callable[[str], Serving]) -> None:
    """In the log, with the ways out; the server serves."""
    server = serving_of(OPEN)("--read-only")
    assert server.run("print(1)")["stdout"] == "1\n"
    logs = server.logs()
    assert "does not know the container's name servers" in logs
    assert f"{TREE_PATH}/run" in logs
