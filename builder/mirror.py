"""A mirror of Debian's archive, for mmdebstrap and for us: its password is neither shown nor an argument."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

_DEFAULT = {
    "debian": "http://deb.debian.org/debian",
    "debian-security": "http://security.debian.org/debian-security",
}
"""Where mmdebstrap takes the packages of each archive by default."""


@dataclass(frozen=True)
class Mirror:
    """What goes on mmdebstrap's command line."""

    options: tuple[str, ...]
    arguments: tuple[str, ...]
    """Behind the suite and the target."""
    place: str
    """What to call it in a message."""


@dataclass(frozen=True)
class Place:
    """A URL, apart from its user and password."""

    url: str
    login: tuple[str, str] | None = None


@contextmanager
def open_mirror(url: str | None) -> Iterator[Mirror]:
    """The mirror at `url`; None is mmdebstrap's own choice.

    User and password of a URL go to apt in a file (apt_auth.conf(5)), which is gone afterwards: the arguments
    of a process are for everybody to read.
    """
    place = place_of(url) if url else None
    if place is None or place.login is None:
        yield Mirror((), (url,) if url else (), f"the mirror {url}" if url else "Debian's mirror")
        return
    parts = urlsplit(place.url)
    with tempfile.NamedTemporaryFile("w", prefix="sandbox-build-") as file:  # mode 0600
        login, password = place.login
        # With its scheme: apt gives a password to http only where that is asked for.
        file.write(f"machine {parts.scheme}://{parts.netloc} login {login} password {password}\n")
        file.flush()
        options = (f'--aptopt=Dir::Etc::netrc "{file.name}"',)
        yield Mirror(options, (place.url,), f"the mirror {place.url}")


def place_of(url: str) -> Place:
    """A URL as it may be shown, and its login; of a line of sources.list(5), the URL in it."""
    url = next(iter(re.findall(r"\S+://\S+", url)), url)
    parts = urlsplit(url)
    if parts.hostname is None or not parts.username:
        return Place(url)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return Place(bare, (unquote(parts.username), unquote(parts.password or "")))


def archives(url: str | None) -> Mapping[str, Place]:
    """Where each of Debian's archives is, debian and debian-security: one mirror has both."""
    return {name: place_of(url or default) for name, default in _DEFAULT.items()}
