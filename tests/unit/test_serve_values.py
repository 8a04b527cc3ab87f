"""The grammar of what config.yaml says for a server: destinations, and variables that a request may set."""

from __future__ import annotations

import ipaddress

import pytest
from pydantic_core import PydanticCustomError

from builder import serve_values as values
from runtime.destinations import Destinations


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("api.example.com:443", "api.example.com:443"),
        ("API.Example.com.:443", "api.example.com:443"),
        ("*.example.com:*", "*.example.com:*"),
        ("*:443", "*:443"),
        ("db:5432", "db:5432"),
        ("my_service.a-b:1", "my_service.a-b:1"),
        ("xn--bcher-kva.example:65535", "xn--bcher-kva.example:65535"),
        ("192.0.2.7:80", "192.0.2.7:80"),
        ("10.0.0.0/8:*", "10.0.0.0/8:*"),
        ("0.0.0.0/0:443", "0.0.0.0/0:443"),
        ("[2001:DB8:0::7]:443", "[2001:db8::7]:443"),
        ("[fd00::/8]:443", "[fd00::/8]:443"),
        ("[::]:1", "[::]:1"),
    ],
)
def test_a_destination(text: str, meant: str) -> None:
    """Comes out in one form, which comes out as itself; the runtime reads it, too."""
    assert values.destination(text) == meant
    assert values.destination(meant) == meant
    Destinations([meant])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has no port"),
        ("example.com", "has no port"),
        (":443", "has no port"),
        ("[::1]", "has no port"),
        ("example.com:", "has no port that there is"),
        ("example.com:0", "has no port that there is"),
        ("example.com:65536", "has no port that there is"),
        ("example.com:080", "has no port that there is"),
        ("example.com:http", "has no port that there is"),
        ("example.com:-1", "has no port that there is"),
        ("example.com:²", "has no port that there is"),
        ("https://example.com:443", "is a URL"),
        ("user@example.com:443", "is a URL"),
        ("::1:443", "is no host"),
        ("2001:db8::7:443", "is no host"),
        ("[::1:443", "is no host"),
        ("[fe80::1%eth0]:443", "is no host"),
        ("[192.0.2.7]:443", "is no address"),
        ("[::ffff:192.0.2.7]:443", "is an IPv4 address in another form"),
        ("[::ffff:10.0.0.0/104]:443", "is an IPv4 address in another form"),
        ("[2001:db8::7/32]:443", "has bits behind its range"),
        ("10.1.2.3/8:443", "has bits behind its range"),
        ("10.0.0.0/255.0.0.0:443", "is no address"),
        ("10.0.0.0/08:443", "is no address"),
        ("10.0.0.0/33:443", "is no address"),
        ("10.0.0.0/:443", "is no address"),
        ("example.com/8:443", "is no address"),
        ("127.1:443", "is no address"),
        ("010.0.0.1:443", "is no address"),
        ("2130706433:443", "is no address"),
        ("0x7f000001:443", "is no host"),
        ("a.0x7f:443", "is no host"),
        ("a.7:443", "is no host"),
        ("bücher.example:443", "is no host"),
        ("exam ple.com:443", "is no host"),
        ("a..b:443", "is no host"),
        ("-a.b:443", "is no host"),
        ("*.*.b:443", "is no host"),
        ("a.*.b:443", "is no host"),
        ("*.:443", "is no host"),
        ("**:443", "is no host"),
        ("a\0b:443", "is no host"),
        (f"{'a' * 64}.b:443", "is no host"),
        (f"{'a.' * 127}b:443", "is no host"),
    ],
)
def test_no_destination(text: str, what: str) -> None:
    """Whatever could be read in two ways, or as an address by a C library alone, is refused, with a hint."""
    with pytest.raises(PydanticCustomError, match=what) as caught:
        values.destination(text)
    assert (caught.value.context or {})["hint"]


def test_the_hint_is_the_right_form() -> None:
    """Where what is meant can be told, the hint says it."""
    for text, hint in (
        ("10.1.2.3/8:443", "did you mean 10.0.0.0/8?"),
        ("[::ffff:192.0.2.7]:443", "write it as one: 192.0.2.7"),
    ):
        with pytest.raises(PydanticCustomError) as caught:
            values.destination(text)
        assert (caught.value.context or {})["hint"] == hint


def test_every_address_comes_out_as_it_is() -> None:
    """Python's own reader of addresses is the control."""
    for number in (0, 1, 1 << 24, (1 << 32) - 1):
        text = str(ipaddress.IPv4Address(number))
        assert values.destination(f"{text}:1") == f"{text}:1"
        found = values.destination(f"[{ipaddress.IPv6Address(number << 90).exploded}]:1")
        assert found == f"[{ipaddress.IPv6Address(number << 90)}]:1"


@pytest.mark.parametrize("name", ["LANG", "PATH", "HOME", "ld_preload", "MY_LD_X", "TZ"])
def test_a_request_may_set(name: str) -> None:
    assert values.requested_variable(name) == name


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_", "PYTHONPATH", "PYTHONHASHSEED", "GLIBC_TUNABLES"]
)
def test_a_request_may_not_set(name: str) -> None:
    """What the loader and the interpreter read before a request is there."""
    with pytest.raises(PydanticCustomError, match="is read when a process starts"):
        values.requested_variable(name)


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "A\n", "é"])
def test_no_variable(name: str) -> None:
    with pytest.raises(PydanticCustomError, match="is not the name of a variable"):
        values.requested_variable(name)


def test_unique() -> None:
    """The first that stands there twice is named."""
    assert values.unique(("a", "b")) == ("a", "b")
    with pytest.raises(PydanticCustomError, match="'b' stands there twice"):
        values.unique(("a", "b", "b", "a"))
