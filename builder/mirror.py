"""A mirror of Debian's archive as mmdebstrap takes it: its password is neither shown nor an argument."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit


@dataclass(frozen=True)
class Mirror:
    """What goes on mmdebstrap's command line."""

    options: tuple[str, ...]
    arguments: tuple[str, ...]
    """Behind the suite and the target."""
    place: str
    """What to call it in a message."""


@contextmanager
def open_mirror(url: str | None) -> Iterator[Mirror]:
    """The mirror at `url`; None is mmdebstrap's own choice.

    User and password of a URL go to apt in a file (apt_auth.conf(5)), which is gone afterwards: the arguments
    of a process are for everybody to read.
    """
    parts = urlsplit(url or "")
    if url is None or parts.hostname is None or not parts.username:
        place = f"the mirror {url}" if url else "Debian's mirror"
        yield Mirror((), (url,) if url else (), place)
        return
    host = parts.netloc.rpartition("@")[2]
    bare = urlunsplit(parts._replace(netloc=host))
    with tempfile.NamedTemporaryFile("w", prefix="sandbox-build-") as file:  # mode 0600
        login, password = unquote(parts.username), unquote(parts.password or "")
        # With its scheme: apt gives a password to http only where that is asked for.
        file.write(f"machine {parts.scheme}://{host} login {login} password {password}\n")
        file.flush()
        yield Mirror((f'--aptopt=Dir::Etc::netrc "{file.name}"',), (bare,), f"the mirror {bare}")
