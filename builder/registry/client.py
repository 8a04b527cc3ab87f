"""Requests to one registry: over TLS, as somebody, bounded, and again where a failure may pass."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import IO, TypeVar

import requests
import urllib3

from builder.credentials import Credentials
from builder.errors import RegistryError
from builder.registry.auth import Authorization
from builder.registry.failures import Answer, PassingFailure, reason_of, refusal, said
from builder.registry.trust import is_loopback, is_safe, new_session
from builder.transfer import Stalled, flowing

MANIFEST_BYTES = 4 << 20
"""What a manifest, an index or a refusal may have: the limit that registries have for what they take."""

_TIMEOUT_S = (10, 120)
"""For a connection, and for each answer."""

_PAUSES_S = (0.5, 1.0, 2.0)
"""Before the second, third and fourth attempt at what may be a passing failure."""

_CUT = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)
"""A connection that was not made, or not until the end."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""What OpenSSL calls an answer that is plain HTTP."""

_REDIRECTS = 5

_T = TypeVar("_T")


class Stopped(Exception):
    """A request was given up, because another failed."""


class NoTls(RegistryError):
    """The registry speaks plain HTTP where it was asked with https."""


class Client:
    """One registry, as one user. Several threads may ask at once; all give up when `stopped` is set."""

    def __init__(self, host: str, repository: str, actions: str, credentials: Credentials | None) -> None:
        self.host = host
        self.repository = repository
        self.stopped = threading.Event()
        self._server = _server(host)
        self.base = f"https://{self._server}/v2/"
        self._sessions = threading.local()
        self._authorization = Authorization(host, repository, actions, credentials, self._send)

    def reach(self) -> None:
        """Finds out that the registry answers, and how it wants to be asked.

        As Docker has it, without TLS on this machine alone, and there only where it does not speak it.
        """
        if is_loopback(self._server) and not self._speaks_tls():
            self.base = f"http://{self._server}/v2/"
        self.call("GET", self.base, {200})

    def url(self, path: str) -> str:
        """The URL of what lies in the repository."""
        return f"{self.base}{self.repository}/{path}"

    def retrying(self, action: Callable[[], _T]) -> _T:
        """What `action` returns; again, after a pause, where its failure may pass."""
        for pause_s in _PAUSES_S:
            try:
                return action()
            except PassingFailure as failure:
                if self.stopped.wait(max(pause_s, failure.wait_s)):
                    raise Stopped from failure
        return action()

    def call(
        self,
        method: str,
        url: str,
        expected: Collection[int],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit_bytes: int = MANIFEST_BYTES,
    ) -> Answer:
        """call_once(), as often as it takes."""
        return self.retrying(
            lambda: self.call_once(method, url, expected, headers=headers, body=body, limit_bytes=limit_bytes)
        )

    def call_once(
        self,
        method: str,
        url: str,
        expected: Collection[int],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] | None = None,
        limit_bytes: int = MANIFEST_BYTES,
        passing: Collection[int] = (),
    ) -> Answer:
        """One request, and one more where the registry wants to know who asks, or no longer knows.

        RegistryError for a status that is not `expected`: PassingFailure where it is one of `passing` or may
        pass by its nature. RegistryError too for an answer of more than `limit_bytes`.
        """
        answer = self._ask(method, url, headers or {}, body, limit_bytes)
        if answer.status == 401:
            self._authorization.renew(answer)
            answer = self._ask(method, url, headers or {}, body, limit_bytes)
        if answer.status in expected:
            return answer
        error = refusal(answer, self.host, self.repository, self._authorization.credentials)
        raise PassingFailure(error.message, error.hint) if answer.status in passing else error

    def _speaks_tls(self) -> bool:
        try:
            self._send("GET", self.base, headers={})
        except (NoTls, PassingFailure):
            return False
        except RegistryError:
            pass  # one that nobody vouches for is not asked without TLS instead: the next request says why
        return True

    def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | IO[bytes] | None,
        limit_bytes: int,
    ) -> Answer:
        """One request, wherever the registry sends it: to every host only what it may know."""
        reading = method in ("GET", "HEAD")
        for _ in range(_REDIRECTS):
            if not is_safe(url):
                raise RegistryError(
                    f"{self.host}: says to go on at {said(url)}, without encryption",
                    "a proxy before the registry must tell it that it is asked with https: X-Forwarded-Proto",
                )
            known = self._authorization.header(url, self.base)
            proof = {"Authorization": known} if known is not None else {}
            answer = self._send(method, url, headers={**headers, **proof}, body=body, limit_bytes=limit_bytes)
            # With 301, 302 and 303 a write would become a read.
            followed = {307, 308} | ({301, 302, 303} if reading else set())
            if answer.status not in followed or "Location" not in answer.headers:
                return answer
            url = answer.resolve(answer.headers["Location"])
        raise RegistryError(f"{self.host}: {answer.where}: it sends us from one place to the next")

    def _send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | IO[bytes] | None = None,
        limit_bytes: int = MANIFEST_BYTES,
    ) -> Answer:
        """One request to one place."""
        if (seek := getattr(body, "seek", None)) is not None:
            seek(0)
        # Compressed, an answer's size would be unknown until it is there.
        sent = {"Accept-Encoding": "identity", **headers}
        with (
            self._told(method),
            self._session().request(
                *(method, url),
                data=body,
                headers=sent,
                auth=_unchanged,
                timeout=_TIMEOUT_S,
                stream=True,
            ) as answer,
        ):
            return Answer(
                method=method,
                url=url,
                status=answer.status_code,
                reason=answer.reason or "",
                headers=answer.headers,
                content=self._read(answer, limit_bytes),
                authorization=headers.get("Authorization"),
                sent_bytes=len(body) if isinstance(body, Sized) else None,
            )

    def _read(self, answer: requests.Response, limit_bytes: int) -> bytes:
        content = bytearray()
        for chunk in flowing(answer, self._go_on, decode=True):
            content += chunk
            if len(content) > limit_bytes:
                raise RegistryError(f"{self.host}: sends more than {limit_bytes} bytes of {said(answer.url)}")
        return bytes(content)

    def _go_on(self) -> None:
        if self.stopped.is_set():
            raise Stopped

    @contextmanager
    def _told(self, method: str) -> Iterator[None]:
        """Makes errors of ours of those of requests."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            if getattr(_innermost(error), "reason", "") in _NO_TLS:
                raise NoTls(
                    f"{self.host}: speaks no TLS",
                    "without it a registry may be on this machine alone: give it a certificate",
                ) from error
            lasting = isinstance(_innermost(error), ssl.SSLCertVerificationError)
            # Any other may be a connection that was cut.
            raise (RegistryError if lasting else PassingFailure)(
                f"{self.host}: no secure connection: {reason_of(error)}",
                "a private certificate authority is named in REQUESTS_CA_BUNDLE, or is in "
                f"/etc/docker/certs.d/{self.host}/ca.crt",
            ) from error
        except Stalled as error:
            raise RegistryError(f"{self.host}: {method}: {error}", "try again later") from None
        except _CUT as error:
            raise PassingFailure(
                f"{self.host}: not reached: {reason_of(error)}",
                "is the name right, and the registry running?",
            ) from error
        except OSError as error:  # all others of requests; REQUESTS_CA_BUNDLE names no file
            raise RegistryError(f"{self.host}: {method} failed: {reason_of(error)}") from error

    def _session(self) -> requests.Session:
        """This thread's own: a session is not made for several."""
        if not hasattr(self._sessions, "one"):
            self._sessions.one = new_session(self.host)
        session: requests.Session = self._sessions.one
        return session


def _server(host: str) -> str:
    """Where the registry called `host` listens: Docker's own is the one that has another name."""
    # Here, not above: the SDK takes 80 ms to import.
    from docker.auth import INDEX_NAME

    return f"registry-1.{INDEX_NAME}" if host in (INDEX_NAME, f"index.{INDEX_NAME}") else host


def _innermost(error: BaseException) -> BaseException:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Adds no credentials: requests would take some from ~/.netrc."""
    return request
