"""What network.allow lists, as the proxy reads it: names, addresses, and what is asked of it. Pure."""

from __future__ import annotations

import ipaddress
import random

import pytest

from builder.serve_values import destination
from runtime.destinations import Destinations, parse_host, show, special
from runtime.proxy_protocol import Refusal, parse

# --- Names and addresses


@pytest.mark.parametrize(
    ("text", "name"),
    [("EXAMPLE.org", "example.org"), ("a.example.org.", "a.example.org"), ("xn--bcher-kva.example", None)],
)
def test_a_name_is_lower_case_and_without_its_last_dot(text: str, name: str | None) -> None:
    """So that one line of network.allow means one name, however it is written."""
    assert parse_host(text) == (name or text, b"")


@pytest.mark.parametrize(
    "text",
    [
        *("0x7f000001", "0X7F.1", "127.1", "2130706433", "0177.0.0.1", "1.2.3", "256.1.1.1", "a.0x1", "a.7"),
        *("", ".", "a..b", "a b", "bücher.example", "a\0b", "a%00", "a/b", "a@b", "[1.2.3.4]", "[a.org]"),
        *("fe80::1%eth0", "[::1", "::1]", ":::", "1::2::3", "x" * 64, "x." * 127 + "xx"),
    ],
)
def test_what_only_looks_like_a_host_is_none(text: str) -> None:
    """What a C library reads as an address is neither a name nor read as one."""
    assert parse_host(text) == ("", b"")


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "0:0:0:0:0:FFFF:7f00:1"]
)
def test_an_ipv4_address_in_ipv6_is_that_address(text: str) -> None:
    """However it is written, it is looked at as what the kernel connects to."""
    assert parse_host(text) == ("", bytes((127, 0, 0, 1)))


def test_whatever_is_not_global_is_special() -> None:
    """The standard library's own tables, on both sides of each of our borders and on random addresses."""
    numbers = random.Random(5)
    samples = [ipaddress.ip_address(numbers.randbytes(4)) for _ in range(20_000)]
    samples += [
        ipaddress.ip_address(bytes([numbers.choice(FIRST)]) + numbers.randbytes(15)) for _ in range(20_000)
    ]
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
        "2001:db8::/32",
    ):
        network = ipaddress.ip_network(text)
        samples += [network[0], network[-1]]
        assert special(network[0].packed)[0], text
        assert special(network[-1].packed)[0], text
    missed = [
        one for one in samples if (not one.is_global or one.is_multicast) and not special(one.packed)[0]
    ]
    assert missed == []
    for text in ("8.8.8.8", "172.15.255.255", "172.32.0.0", "100.63.255.255", "2606:4700::1111"):
        assert special(ipaddress.ip_address(text).packed) == ("", None), text


FIRST = (0x00, 0x20, 0x26, 0x2A, 0x3F, 0x40, 0xFC, 0xFD, 0xFE, 0xFF)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("64:ff9b::a9fe:a9fe", "a link-local address, where clouds have their metadata"),
        ("64:ff9b::7f00:1", "a loopback address"),
        ("2002:7f00:1::", "a relay's address"),
        ("::127.0.0.1", "a reserved address"),
        ("2001:0:5ef5:79fd::1", "a reserved address"),
        ("168.63.129.16", "a cloud's metadata service"),
        ("fd00:ec2::254", "a private address"),
        ("64:ff9b::808:808", ""),
    ],
)
def test_an_address_that_stands_for_another_is_as_special(text: str, kind: str) -> None:
    """NAT64, 6to4, Teredo, and IPv4 in IPv6."""
    assert special(ipaddress.ip_address(text).packed)[0] == kind


LISTED = [
    *("example.org:443", "*.example.org:*", "10.0.0.0/8:5432", "127.0.0.1:8080", "[fd00::/8]:443"),
    *("0.0.0.0/0:80", "192.0.2.9:22", "[2606:4700::]:443"),
]


@pytest.mark.parametrize("line", LISTED)
def test_what_the_config_takes_the_proxy_takes(line: str) -> None:
    """One grammar on both sides of the build."""
    assert Destinations([destination(line)]).entries


@pytest.mark.parametrize(
    "line",
    [
        *(
            "example.org",
            "example.org:0",
            "example.org:65536",
            "10.0.0.1/8:1",
            "::1:443",
            "a:x",
            "*.:4",
            "a*b:3",
        ),
        *("127.1:80", "fd00::/8:443", "0x7f000001:3", ":4", "[a.org]:1", "[::ffff:1.2.3.4/104]:1", "a:1:2"),
    ],
)
def test_a_line_that_is_none_is_refused(line: str) -> None:
    """It would allow something else than what whoever wrote it meant."""
    with pytest.raises(ValueError, match=r"network\.allow"):
        Destinations([line])


@pytest.mark.parametrize(
    ("name", "port", "passes"),
    [
        ("example.org", 443, True),
        ("example.org", 80, False),
        ("a.example.org", 1, True),
        ("a.b.example.org", 65535, True),
        ("notexample.org", 443, False),
        ("example.org.evil.net", 443, False),
    ],
)
def test_names(name: str, port: int, passes: bool) -> None:
    """A name is itself, a star what is below it, and neither is a part of a label."""
    assert (Destinations(LISTED).name_refusal(name, port) == "") is passes


@pytest.mark.parametrize(
    ("address", "port", "own", "name", "passes"),
    [
        ("10.1.2.3", 5432, False, "", True),
        ("10.1.2.3", 443, False, "", False),
        ("10.1.2.3", 5432, False, "example.org", True),
        ("10.1.2.3", 443, False, "example.org", False),
        ("8.8.8.8", 443, False, "example.org", True),
        ("8.8.8.8", 443, False, "", False),
        ("8.8.8.8", 80, False, "", True),
        ("10.1.2.3", 80, False, "", False),
        ("169.254.169.254", 80, False, "", False),
        ("127.0.0.1", 8080, True, "", True),
        ("127.0.0.2", 8080, True, "", False),
        ("10.1.2.3", 5432, True, "", False),
        ("192.0.2.9", 22, True, "", True),
        ("8.8.8.8", 443, True, "example.org", False),
    ],
)
def test_addresses(address: str, port: int, own: bool, name: str, passes: bool) -> None:
    """A special one must be named, or its range, by something that lies within it: 0.0.0.0/0 names none."""
    packed = ipaddress.ip_address(address).packed
    refusal = Destinations(LISTED).address_refusal(packed, port, own, name)
    assert (refusal == "") is passes, refusal


def test_a_refusal_says_the_line_that_would_allow_it() -> None:
    """And that line does."""
    packed = ipaddress.ip_address("fe80::7").packed
    refusal = Destinations(["example.org:443"]).address_refusal(packed, 443, False, "example.org")
    said = "example.org:443 leads to [fe80::7], a link-local address; to allow it: network: {allow: "
    assert refusal == said + '["[fe80::7]:443"]}'
    assert Destinations(["[fe80::7]:443"]).address_refusal(packed, 443, False, "example.org") == ""


def test_an_address_is_shown_as_a_line_of_the_config_has_it() -> None:
    """IPv6 in brackets."""
    assert show(ipaddress.ip_address("2001:db8::7").packed) == "[2001:db8::7]"
    assert show(bytes((192, 0, 2, 7))) == "192.0.2.7"


# --- Requests


def test_an_absolute_request_is_made_one_for_its_server() -> None:
    """The path alone, the host of the URL, and nothing that was meant for the proxy."""
    head = (
        b"POST http://Example.org:8080/a?b=%20#c HTTP/1.1\r\nHost: other.example\r\nX: 1\r\n"
        b"Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nConnection: keep-alive\r\n\r\n"
    )
    wanted = parse(head)
    assert (wanted.name, wanted.port) == ("example.org", 8080)
    said = b"POST /a?b=%20 HTTP/1.1\r\nHost: example.org:8080\r\nX: 1\r\nConnection: close\r\n\r\n"
    assert wanted.forward == said


@pytest.mark.parametrize(
    "line",
    [
        *("GET / HTTP/1.1", "GET * HTTP/1.1", "GET https://example.org/ HTTP/1.1", "GET ftp://a/ HTTP/1.1"),
        *("GET http://u:p@example.org/ HTTP/1.1", "GET http://example.org@127.0.0.1/ HTTP/1.1"),
        *("GET http:///x HTTP/1.1", "GET http://0x7f000001/ HTTP/1.1", "GET http://127.1/ HTTP/1.1"),
        *("CONNECT example.org HTTP/1.1", "CONNECT example.org:0 HTTP/1.1", "CONNECT :443 HTTP/1.1"),
        *("CONNECT u@example.org:443 HTTP/1.1", "CONNECT example.org:443 HTTP/2", "CONNECT  a:1 HTTP/1.1"),
        *(
            "nonsense",
            "CONNECT example.org:443",
            "CONNECT a.org:443 HTTP/1.1\r\n folded: 1",
            "G@T http://a/ HTTP/1.1",
        ),
        *(
            "CONNECT a.org:443 HTTP/1.1\nX: 1",
            "GET http://a.org/ HTTP/1.1\r\nX: 1\nY: 2",
            "GET http://a.org/ HTTP/1.1\r\nX: 1\rY: 2",
            "CONNECT a.org:443 HTTP/1.1\r\nX\0: 1",
            "CONNECT a.org:443 HTTP/1.1\r\nX",
        ),
    ],
)
def test_a_request_that_is_not_clear_is_refused(line: str) -> None:
    """Before anything is looked up or connected."""
    with pytest.raises(Refusal) as refused:
        parse(line.encode() + b"\r\n\r\n")
    assert refused.value.status == 400
    assert refused.value.answer.startswith(b"HTTP/1.1 400 ")


def test_a_user_in_an_address_is_told_of() -> None:
    """Rather than that there is no host: what stands before the @ looks like one."""
    with pytest.raises(Refusal, match="a user name in the address"):
        parse(b"GET http://example.org@127.0.0.1/ HTTP/1.1\r\n\r\n")
