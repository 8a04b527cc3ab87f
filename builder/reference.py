"""Image references: HOST/REPOSITORY:TAG, read by Docker's own rules."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.errors import UsageError

# The grammar of the distribution project's reference package, less digests: what is built has none yet.
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


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
    """The reference `text`, with `latest` for a missing tag; UsageError where it is none.

    The first component is a host where it has a dot or a colon, or is `localhost`.
    """
    host: str | None
    host, slash, rest = text.partition("/")
    if not slash or not ({".", ":"} & set(host) or host == "localhost"):
        host, rest = None, text
    repository, colon, tag = rest.partition(":")
    if not colon:
        tag = "latest"
    for part, pattern, what in (
        (host, _HOST, "host"),
        (repository, _REPOSITORY, "repository"),
        (tag, _TAG, "tag"),
    ):
        if part is not None and not pattern.fullmatch(part):
            upper = repository != repository.lower()
            raise UsageError(
                f"image reference {text!r}: {part!r} is not a {what}",
                "repositories are in lower case" if upper else "[HOST[:PORT]/]REPOSITORY[:TAG]",
            )
    return Reference(host, repository, tag)
