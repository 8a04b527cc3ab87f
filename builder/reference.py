"""Image references: the grammar of all of them, and HOST/REPOSITORY:TAG read by Docker's own rules."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.errors import UsageError

# The grammar of the distribution project's package `reference`.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # as long as the DNS has them
_IPV6 = r"\[(?:[0-9A-Fa-f.]*:){2}[0-9A-Fa-f:.]*\]"
# A first part is a registry only where it cannot be a folder: it has a dot or a port, or is localhost.
_HOST = rf"localhost|{_LABEL}(?:\.{_LABEL})+|{_LABEL}(?=:)|{_IPV6}"
_REPOSITORY = rf"{_COMPONENT}(?:/{_COMPONENT})*"
NAME = re.compile(rf"(?:(?P<host>(?:{_HOST})(?::(?P<port>\d{{1,5}}))?)/)?(?P<repository>{_REPOSITORY})")
"""An image's name, with its registry before it or without."""
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
MAX_LENGTH = 255
_MAX_PORT = 65535
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True)
class Reference:
    """The name of an image."""

    host: str | None
    """The registry's HOST or HOST:PORT; None where the reference names none."""
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """The reference without its tag."""
        return f"{self.host}/{self.repository}" if self.host else self.repository

    @property
    def full_name(self) -> str:
        """The reference as container engines store it, with the host and folder that Docker supplies."""
        # Here, not above: the SDK takes 80 ms to import, and a parser should not.
        from docker.auth import INDEX_NAME

        if self.host is not None:
            return str(self)
        folder = "" if "/" in self.repository else "library/"
        return f"{INDEX_NAME}/{folder}{self}"

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """The reference `text`, with `latest` for a missing tag; UsageError where it is none, or has a digest."""
    # A colon before the last slash belongs to the registry's port.
    folder, slash, last = text.rpartition("/")
    last, colon, tag = last.partition(":")
    whole = f"{folder}{slash}{last}"
    name = NAME.fullmatch(whole)
    if name is None or not _has_host(name) or len(text) > MAX_LENGTH or (colon and not TAG.fullmatch(tag)):
        hint = "[HOST[:PORT]/]REPOSITORY[:TAG]"
        if "://" in text:
            hint = f"leave {text.partition('://')[0]}:// out: {hint}"
        elif name is None and NAME.fullmatch(whole.lower()):
            hint = f"repositories are in lower case: {whole.lower()}{colon}{tag}"
        raise UsageError(f"{text!r} is not an image reference", hint)
    return Reference(name["host"], name["repository"], tag or "latest")


def names_registry(text: str) -> bool:
    """Whether Docker would take the first part of `text` for a registry: it is neither a folder nor an ID."""
    first, slash, _ = text.partition("/")
    return bool(slash) and not text.startswith(".") and (first == "localhost" or "." in first or ":" in first)


def _has_host(name: re.Match[str]) -> bool:
    """Whether the registry that Docker would see in `name`, if it sees one, can be one."""
    first, slash, _ = name.string.partition("/")
    if name["host"] is None:
        return not (slash and "." in first)
    return int(name["port"] or 0) <= _MAX_PORT
