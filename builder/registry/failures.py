"""What a registry's refusal means, in the registry's own words; and which of them may be over in a moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from builder.credentials import Credentials
from builder.errors import RegistryError, printable
from builder.retry import PASSING, retry_after_s

_SAID_CHARS = 300


class PassingFailure(RegistryError):
    """A failure that may be over in a moment: the same may be tried again after `wait_s` seconds."""

    def __init__(self, message: str, hint: str | None = None, wait_s: float = 0.0) -> None:
        super().__init__(message, hint)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Answer:
    """An answer to a request, whole."""

    method: str
    url: str
    """The one that answered, behind redirects."""
    status: int
    reason: str
    headers: Mapping[str, str]
    """Their names are in any case."""
    content: bytes
    authorization: str | None
    """What the request proved itself with."""
    sent_bytes: int | None = None
    """The length of the request's body."""

    @property
    def where(self) -> str:
        """The request, as an error names it."""
        return f"{self.method} {urlsplit(self.url).path}"

    def resolve(self, location: str) -> str:
        """The URL that `location`, in one of the headers, means; RegistryError where it is none."""
        try:
            return urlsplit(urljoin(self.url, location)).geturl()
        except ValueError as error:
            raise RegistryError(
                f"{self.where}: it says to go on at {said(location)}: that is no URL"
            ) from error


def refusal(answer: Answer, host: str, repository: str, credentials: Credentials | None) -> RegistryError:
    """The error that says what `answer` means, and what mends it."""
    status, login = answer.status, f"docker login {host}"
    if status == 401 and credentials is None:
        return RegistryError(f"{host}: asks for credentials, and Docker's config has none for it", login)
    if status == 401:
        whose = f" of {credentials.user}" if credentials is not None and credentials.user else ""
        return RegistryError(f"{host}: refuses the credentials{whose} that Docker's config has", login)
    if status == 403:
        reading = answer.method in ("GET", "HEAD")
        right, who = ("read", "read") if reading else ("push to", "push there")
        return RegistryError(
            f"{host}: no right to {right} {repository}{_details(answer.content)}",
            f"{login}, as a user who may {who}",
        )
    message = f"{host}: {answer.where}: {status} {said(answer.reason)}{_details(answer.content)}"
    if status == 413:
        size = f" of {answer.sent_bytes} bytes" if answer.sent_bytes else ""
        return RegistryError(message, f"a proxy before the registry must let bodies{size} through")
    if status in PASSING:
        return PassingFailure(message, "try again later", retry_after_s(answer.headers))
    return RegistryError(message)


def said(text: str) -> str:
    """A registry's text, fit for a line of ours: no control characters, not too long."""
    return printable(text[:_SAID_CHARS])


def reason_of(error: BaseException) -> str:
    """The innermost cause: what requests and urllib3 wrap around it is about them."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return said(str(getattr(error, "strerror", None) or error))


def _details(content: bytes) -> str:
    """What the registry says about its refusal."""
    try:
        errors = json.loads(content)["errors"]
        text = "; ".join(f"{error['code']}: {error.get('message', '')}" for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f" ({said(text)})"
