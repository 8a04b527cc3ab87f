"""Where `network.allow` lets a run connect to. Decides; resolves and connects nothing."""

import _socket

MAX_NAME = 253  # RFC 1035
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
DIGITS = frozenset("0123456789")
GRAMMAR = "it is HOST:PORT: a name, *.name, 192.0.2.7, 10.0.0.0/8, [2001:db8::7] or [fd00::/8]; a port, or *"

SPECIAL = (
    ("0.0.0.0/8", "an unspecified address"),
    ("10.0.0.0/8", "a private address"),
    ("100.64.0.0/10", "a private address"),
    ("127.0.0.0/8", "a loopback address"),
    ("168.63.129.16/32", "a cloud's metadata service"),
    ("169.254.0.0/16", "a link-local address, where clouds have their metadata"),
    ("172.16.0.0/12", "a private address"),
    ("192.0.0.0/24", "a reserved address"),
    ("192.0.2.0/24", "an address of documentation"),
    ("192.88.99.0/24", "a relay's address"),
    ("192.168.0.0/16", "a private address"),
    ("198.18.0.0/15", "a reserved address"),
    ("198.51.100.0/24", "an address of documentation"),
    ("203.0.113.0/24", "an address of documentation"),
    ("224.0.0.0/4", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("2001::/23", "a reserved address"),  # Teredo, ORCHID, and whatever IETF protocols come to use
    ("2002::/16", "a relay's address"),  # 6to4: whatever IPv4 address is in it
    ("2001:db8::/32", "an address of documentation"),
    ("3fff::/20", "an address of documentation"),
    ("fc00::/7", "a private address"),
    ("fe80::/10", "a link-local address"),
    ("ff00::/8", "a multicast address"),
    ("::1/128", "a loopback address"),
    ("::/128", "an unspecified address"),
    ("::/3", "a reserved address"),
    ("4000::/2", "a reserved address"),
    ("8000::/1", "a reserved address"),
)
"""IANA's special-purpose registries; of IPv6 all but global unicast (2000::/3). The first that fits."""

NAT64 = "64:ff9b::/96"
"""IPv6 that stands for the IPv4 address in its last four bytes, and is as special as that one."""


class Range:
    """Addresses of one family with the same first bits."""

    __slots__ = ("bits", "first", "size")

    def __init__(self, first: bytes, bits: int) -> None:
        self.first = int.from_bytes(first, "big")
        self.size = len(first)
        self.bits = bits

    def __contains__(self, address: bytes) -> bool:
        return len(address) == self.size and self._same(int.from_bytes(address, "big"))

    def within(self, other: "Range") -> bool:
        """Whether every address of this range is one of the other's."""
        return self.size == other.size and self.bits >= other.bits and other._same(self.first)

    def _same(self, address: int) -> bool:
        return (address ^ self.first) >> (self.size * 8 - self.bits) == 0


class Entry:
    """One line of `network.allow`."""

    __slots__ = ("name", "port", "range")

    def __init__(self, text: str) -> None:
        host, colon, port = text.rpartition(":")
        if not colon or not (port == "*" or _is_port(port)):
            raise ValueError(f"network.allow: {text!r} has no port; {GRAMMAR}")
        self.port = 0 if port == "*" else int(port)
        """0: any."""
        self.name = ""
        """Lower case; with `*.` in front it means every name below, as `*` every name."""
        bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
        self.range = parse_range(bare) if bare != host or ":" not in host else None
        if self.range is None:
            tail = host.removeprefix("*.")
            self.name = "*" if host == "*" else host[: len(host) - len(tail)] + (parse_name(tail) or "")
            if self.name in ("", "*."):
                raise ValueError(f"network.allow: {text!r} has no such host; {GRAMMAR}")

    def names(self, name: str, port: int) -> bool:
        """Whether a destination by name is meant; `name` as parse_name gives it."""
        if not self.name or self.port not in (0, port):
            return False
        return self.name in (name, "*") or (self.name[0] == "*" and name.endswith(self.name[1:]))

    def covers(self, address: bytes, port: int) -> bool:
        """Whether a destination by address is meant."""
        return self.range is not None and self.port in (0, port) and address in self.range


class Destinations:
    """What a whole `network.allow` lets through."""

    def __init__(self, allow: list[str]) -> None:
        """ValueError where a line of `allow` is not HOST:PORT."""
        self.entries = [Entry(text) for text in allow]

    def name_refusal(self, name: str, port: int) -> str:
        """Why nobody may connect to `name`, or even ask a name server for it; "" where one may."""
        if any(entry.names(name, port) for entry in self.entries):
            return ""
        return unlisted(name, port)

    def address_refusal(self, address: bytes, port: int, own: bool, name: str = "") -> str:
        """Why nobody may connect to `address`; "" where one may.

        `own`: it is one of this machine's own. `name`: it is what this listed name has resolved to.
        """
        covering = [entry.range for entry in self.entries if entry.covers(address, port)]
        if not covering and not name:
            return unlisted(show(address), port)
        kind, range_ = special(address)
        if own and kind != "a loopback address":
            # The sandbox's own API listens there: no range that happens to hold the address may open it.
            kind, range_ = "the sandbox's own address", Range(address, len(address) * 8)
        if not kind or any(one is not None and range_ is not None and one.within(range_) for one in covering):
            return ""
        place = f"{name}:{port} leads to {show(address)}" if name else f"{show(address)}:{port} is"
        return f"{place}, {kind}; {_allowing(show(address), port)}"


def unlisted(host: str, port: int) -> str:
    """The sentence for a destination that no line of network.allow means."""
    return f"{host}:{port} is not in network.allow; {_allowing(host, port)}"


def _allowing(host: str, port: int) -> str:
    return f'to allow it: network: {{allow: ["{host}:{port}"]}}'


def parse_host(text: str) -> "tuple[str, bytes]":
    """(name, b"") or ("", packed address) of a host as a URL or a request has it; ("", b"") where it is none.

    IPv6 may stand in brackets. What a C library would read as an address (127.1, 0x7f000001, 0177.0.0.1) is
    refused, not read: nobody writes it without intent.
    """
    bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    if ":" in bare or bare != text:
        return "", parse_address(bare) if ":" in bare else b""
    name = parse_name(text)
    return ("", parse_address(text)) if name is None else (name, b"")


def parse_name(text: str) -> str | None:
    """`text` in lower case, without the dot at its end; None where it is no name, but perhaps an address."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_NAME or not text.isascii():
        return None
    if not all(0 < len(label) < 64 and NAME_CHARACTERS.issuperset(label) for label in labels):
        return None
    last = labels[-1]
    # As browsers have it: a name whose last label is a number is an address, well written or not.
    if DIGITS.issuperset(last) or (last[:2] == "0x" and _is_hexadecimal(last[2:])):
        return None
    return name


def parse_address(text: str) -> bytes:
    """The four or sixteen bytes of an address, IPv4 in IPv6 (::ffff:0:0/96) as IPv4; b"" where it is none."""
    try:
        packed = _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)
    except (OSError, ValueError):
        return b""
    return packed[12:] if packed[:12] == bytes(10) + b"\xff\xff" else packed


def parse_range(text: str) -> Range | None:
    """The range of ADDRESS or ADDRESS/BITS; None where it is none, or has bits set behind the first BITS."""
    first, slash, bits = text.partition("/")
    address = parse_address(first)
    if not address or (":" in first) != (len(address) == 16):
        return None
    size = len(address) * 8
    if not slash:
        return Range(address, size)
    if not 0 < len(bits) < 4 or not DIGITS.issuperset(bits) or int(bits) > size:
        return None
    if int.from_bytes(address, "big") & ((1 << size - int(bits)) - 1):
        return None
    return Range(address, int(bits))


def special(address: bytes) -> "tuple[str, Range | None]":
    """What is special about an address, and the range that makes it so; ("", None) where nothing is."""
    if address in _NAT64:
        kind, _ = special(address[12:])
        return (kind, Range(address, 128)) if kind else ("", None)
    for range_, kind in _SPECIAL:
        if address in range_:
            return kind, range_
    return "", None


def show(address: bytes) -> str:
    """The address as text; IPv6 in brackets."""
    if len(address) == 4:
        return _socket.inet_ntop(_socket.AF_INET, address)
    return f"[{_socket.inet_ntop(_socket.AF_INET6, address)}]"


def parse_port(text: str) -> int:
    """The port that `text` is; 0 where it is none."""
    return int(text) if _is_port(text) else 0


def _is_port(text: str) -> bool:
    return 0 < len(text) < 6 and DIGITS.issuperset(text) and 0 < int(text) < 1 << 16


def _is_hexadecimal(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)


def _known(text: str) -> Range:
    found = parse_range(text)
    assert found is not None  # noqa: S101 - a table of this file
    return found


_SPECIAL = tuple((_known(text), kind) for text, kind in SPECIAL)
_NAT64 = _known(NAT64)
