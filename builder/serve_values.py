"""The grammar of what config.yaml says for a server, as config_values.py has that of the other values."""

from __future__ import annotations

import ipaddress
import re

from builder.config_values import shown, variable_name, wrong

_HOST_HINT = "HOST:PORT; a host is a name, *.NAME, 192.0.2.7, 10.0.0.0/8, [2001:db8::7] or [fd00::/8]"
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MOST_NAME = 253  # RFC 1035

_BEFORE_THE_REQUEST = re.compile(r"LD_.*|PYTHON.*|GLIBC_TUNABLES")
"""Variables that the dynamic loader, the C library and the interpreter read as a process starts."""


def destination(text: str) -> str:
    """HOST:PORT that a run may connect to: lower case, addresses in their usual form."""
    host, colon, port = text.rpartition(":")
    if "://" in text or "@" in text:
        raise wrong(f"{shown(text)} is a URL", f"the host and the port alone: {_HOST_HINT}")
    if not colon or not host or text.endswith("]"):
        raise wrong(f"{shown(text)} has no port", f"{_HOST_HINT}; a port is a number, or * for any")
    if port != "*" and not (_PORT.fullmatch(port) and int(port) <= 65535):
        raise wrong(f"{shown(text)} has no port that there is", "a number from 1 to 65535, or * for any")
    return f"{_host(host)}:{port}"


def _host(host: str) -> str:
    if host.startswith("["):
        return _version_6(host)
    if ":" in host:
        raise wrong(f"{shown(host)} is no host", f"an IPv6 address stands in brackets. {_HOST_HINT}")
    if "/" in host or re.fullmatch(r"[0-9.]+", host):
        return _address(host, ipaddress.IPv4Network, ipaddress.IPv4Address)
    return "*" if host == "*" else _name(host)


def _version_6(host: str) -> str:
    if not host.endswith("]") or "%" in host:
        raise wrong(f"{shown(host)} is no host", f"{_HOST_HINT}; without a zone")
    found = _address(host[1:-1], ipaddress.IPv6Network, ipaddress.IPv6Address)
    mapped = ipaddress.IPv6Address(found.partition("/")[0]).ipv4_mapped
    if mapped is not None:
        raise wrong(f"{shown(host)} is an IPv4 address in another form", f"write it as one: {mapped}")
    return f"[{found}]"


def _address(
    text: str,
    network: type[ipaddress.IPv4Network | ipaddress.IPv6Network],
    address: type[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> str:
    try:
        if "/" not in text:
            return str(address(text))
        meant = network(text, strict=False)
        # 10.0.0.0/255.0.0.0 is read as well: one form is enough to review.
        if text.partition("/")[2] != str(meant.prefixlen):
            raise ValueError
    except ValueError:
        raise wrong(f"{shown(text)} is no address and no range of addresses", _HOST_HINT) from None
    if str(meant.network_address) != str(address(text.partition("/")[0])):
        raise wrong(f"{shown(text)} has bits behind its range", f"did you mean {meant}?")
    return str(meant)


def _name(host: str) -> str:
    name = host.lower().removesuffix(".").removeprefix("*.")
    labels = name.split(".")
    if not name.isascii():
        raise wrong(f"{shown(host)} is no host", "write the name as name servers have it: xn--...")
    # A C library reads 0x7f.1 as an address: nothing that ends in a number is a name (RFC 1123, 2.1).
    if len(name) > _MOST_NAME or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        raise wrong(f"{shown(host)} is no host", _HOST_HINT)
    return f"*.{name}" if host.startswith("*.") else name


def is_http_proxy(text: str) -> bool:
    """Whether the proxy `text` is asked for connections by HTTP, without TLS."""
    return "://" not in text or text.startswith("http://")


def requested_variable(text: str) -> str:
    """The name of a variable that a request may set: it has an effect once a run is locked down."""
    if _BEFORE_THE_REQUEST.fullmatch(variable_name(text)):
        raise wrong(
            f"{text} is read when a process starts, which for a run is before its request is there",
            "set it for all runs, in jail: {env: ...}",
        )
    return text


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """`values` as they are, when none stands there twice."""
    twice = [value for at, value in enumerate(values) if value in values[:at]]
    if twice:
        raise wrong(f"{shown(twice[0])} stands there twice", "take one of the two out")
    return values
