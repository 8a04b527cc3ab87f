"""Runs with a network.allow: what it lets through, and that nothing else leads out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.tree.spec import TREE_PATH
from tests.serve.conftest import Server, Serving
from tests.serve.watching import wait_for
from tests.serve.world import METADATA, WEB, World, docker, open_world

ALLOW = (
    "enable_network: true\n"
    'network: {allow: ["web.test:8080", "web.test:8443", "meta.test:80", "flip.test:8080", '
    '"mixed.test:8080"]}\n'
)

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


@pytest.fixture(scope="module")
def world(built: Callable[[str], str]) -> Iterator[World]:
    with open_world(built(ALLOW)) as made:
        yield made


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
    user = "1000" if request.node.callspec.params["listed"] == "landlock" else "65534"
    python = ("/usr/bin/python3.13", "-I", "-B", "-c", kill)
    for times in (1, 2):
        killed = docker("exec", f"--user={user}", listed.container, *python)
        uid, groups, permitted, bounding, no_new_privs = json.loads(killed)
        assert uid.split() == [user] * 4
        assert groups.split() in ([], ["1000"])
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
