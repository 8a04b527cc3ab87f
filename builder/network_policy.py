"""Where the NetworkPolicy of a deployment lets pods connect to: the config's words as ranges of addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import urlsplit

import yaml

from builder.config import Config
from builder.errors import printable

_Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class WayOut:
    """What pods may connect to besides name servers."""

    why: str
    blocks: tuple[tuple[str, tuple[str, ...]], ...]
    """Ranges of addresses, each with those within it that are left out."""
    ports: tuple[int, ...]
    """TCP ports; empty: all."""


@cache
def _addresses(kind: str) -> tuple[_Network, ...]:
    text = (resources.files("images") / "deploy" / "addresses.yaml").read_text(encoding="utf-8")
    return tuple(map(ip_network, yaml.safe_load(text)[kind]))


def ways_out(config: Config) -> tuple[list[WayOut], list[tuple[str, str]]]:
    """What runs with network need, and what is left out of it: (message, hint) pairs.

    Metadata services of clouds are in no way out. Private addresses are in one where the config names them.
    """
    if not config.enable_network:
        return [], []
    if not config.network.allow:
        return [_public("network.allow is not set: every public address.", 0), *_proxies(config)], []
    found: list[WayOut] = []
    left_out: list[tuple[str, str]] = []
    names: dict[int, list[str]] = {}
    for destination in config.network.allow:
        host, _, text = destination.rpartition(":")
        port = 0 if text == "*" else int(text)
        block = _block(host.strip("[]"))
        if block is None:
            names.setdefault(port, []).append(host)
        elif any(_within(block, one) for one in _addresses("metadata")):
            left_out.append(
                (
                    f"network.allow: {destination} is a metadata service: no rule is written for it",
                    "take it out of config.yaml, or add it to the NetworkPolicy by hand",
                )
            )
        else:
            found.append(_way(f"network.allow: {destination}", [block], _addresses("metadata"), port))
    for port, hosts in sorted(names.items()):
        why = f"network.allow: {', '.join(hosts)}. A rule has no names: the sandbox's own proxy has."
        found.append(_public(why, port))
    return [*found, *_proxies(config)], left_out


def _proxies(config: Config) -> Iterator[WayOut]:
    """The ways to the config's proxies, which are often on private addresses."""
    proxy = config.proxy
    for url in dict.fromkeys(url for url in (proxy.socks5, proxy.http, proxy.https) if url):
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or {"https": 443, "socks5": 1080, "socks5h": 1080}.get(parts.scheme, 80)
        block = _block(parts.hostname or "")
        # A name's address is not known here: it may be any.
        blocks = [block] if block else [ip_network("0.0.0.0/0"), ip_network("::/0")]
        yield _way(f"proxy: {parts.hostname}:{port}", blocks, _addresses("metadata"), port)


def _public(why: str, port: int) -> WayOut:
    everything = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    return _way(why, everything, (*_addresses("metadata"), *_addresses("private")), port)


def _way(why: str, blocks: Iterable[_Network], besides: Sequence[_Network], port: int) -> WayOut:
    return WayOut(
        why=printable(why),  # a line of a comment, whatever a host is called
        blocks=tuple(
            (str(block), tuple(str(one) for one in besides if _within(one, block))) for block in blocks
        ),
        ports=(port,) if port else (),
    )


def _block(host: str) -> _Network | None:
    try:
        return ip_network(host)
    except ValueError:
        return None


def _within(inner: _Network, outer: _Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)
