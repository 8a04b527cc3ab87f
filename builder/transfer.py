"""Files, copied from wherever they are: no larger and no slower than can be."""

from __future__ import annotations

import hashlib
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from builder.errors import BuildError
from builder.retry import PASSING, retry_after_s

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = (10, 30)
"""For a connection, and for whatever comes next."""
_PAUSES_S = (1.0, 2.0, 4.0)
"""Before the second, third and fourth try at least; a server may ask for more."""
_LARGEST_BYTES = 4 << 30
"""Of a file whose size nobody tells."""
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora and its kin
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)
"""Where distributions have all authorities that the machine trusts, in one file; else requests' own list."""
_STALL_S = 60
_STALL_BYTES = 64 << 10
"""So much must come in that time."""


_LOCAL = ("file", "copy")
"""Schemes of files on this machine; apt has two."""
_GONE = (404, 410)
_PASSWORD = re.compile(r"(?<=://)[^/\s]*@")


class NotThere(BuildError):
    """There is no such file, where it was looked for."""


class Stalled(Exception):
    """Hardly anything comes."""


class Transfer:
    """The way from elsewhere to this machine.

    `credentials` says user and password for a URL, `hint` what to do where nothing comes; with `stop` set, no
    more is fetched.
    """

    def __init__(
        self,
        stop: threading.Event,
        *,
        hint: str,
        credentials: Callable[[str], tuple[str, str] | None] = lambda _: None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._stop = stop
        self._hint = hint
        self._credentials = credentials
        self._environ = environ

    def fetch(self, url: str, size: int | None, target: Path, what: str) -> str:
        """Copies the file at `url` into `target`; returns its SHA-256. NotThere where there is none.

        `size` in bytes, None where nobody says it. A connection that breaks is tried again, and a refusal
        that may pass.
        """
        for pause_s in (*_PAUSES_S, None):
            self._go_on()
            try:
                return self._once(url, size, target, what)
            except (requests.RequestException, HTTPError) as error:
                answer = error.response if isinstance(error, requests.HTTPError) else None
                if pause_s is not None and (answer is None or answer.status_code in PASSING):
                    self._stop.wait(max(pause_s, retry_after_s(answer.headers) if answer is not None else 0))
                    continue
                reason = error.__cause__ or error.__context__ or error
                kind = NotThere if answer is not None and answer.status_code in _GONE else BuildError
                raise kind(
                    f"{what} cannot be fetched: {without_passwords(str(reason))}", self._hint
                ) from None
        raise AssertionError

    def _once(self, url: str, size: int | None, target: Path, what: str) -> str:
        digest = hashlib.sha256()
        limit = _LARGEST_BYTES if size is None else size
        total = 0
        with target.open("wb") as copy:
            for chunk in self._chunks(url, what):
                total += len(chunk)
                if total > limit:
                    raise BuildError(
                        f"{what} is larger than {limit} bytes, which it may have at most",
                        "what is sent is not what was announced: it may be had from another place",
                    )
                digest.update(chunk)
                copy.write(chunk)
        return digest.hexdigest()

    def _chunks(self, url: str, what: str) -> Iterator[bytes]:
        parts = urlsplit(url)
        if parts.scheme in _LOCAL:
            yield from _local(Path(unquote(parts.path)), what)
            return
        auth = self._credentials(url)
        with (
            self._session() as session,
            session.get(url, auth=auth, stream=True, timeout=_TIMEOUT_S) as response,
        ):
            response.raise_for_status()
            try:
                yield from flowing(response, self._go_on)
            except Stalled as error:
                raise BuildError(f"{what} cannot be fetched: {error}", "try again") from None

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise BuildError("stopped")

    def _session(self) -> requests.Session:
        session = requests.Session()
        # What uv trusts; requests has variables of its own, which come first.
        environ = self._environ
        if not (environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")):
            system = next((path for path in _SYSTEM_BUNDLES if Path(path).is_file()), True)
            session.verify = environ.get("SSL_CERT_FILE") or system
        # As it comes: a gzip encoding on the way would be undone, and hashed undone.
        session.headers["Accept-Encoding"] = "identity"
        return session


def flowing(
    response: requests.Response, go_on: Callable[[], None], *, decode: bool = False
) -> Iterator[bytes]:
    """The body of an answer, as it comes; `go_on` raises where no more of it is wanted.

    As it is, or with `decode` without its content encoding. Stalled where it drips; errors of urllib3 where
    the connection breaks.
    """
    # What has come by now: to wait for a whole chunk would be to wait for ever, where it drips.
    read = getattr(response.raw, "read1", response.raw.read)
    since, came = math.inf, 0  # from the first chunk on: an answer may be long in coming
    while chunk := read(_CHUNK_BYTES, decode_content=decode):
        go_on()
        now = time.monotonic()
        if now - since > _STALL_S:
            if came < _STALL_BYTES:
                raise Stalled(f"in {_STALL_S} s there came {came} bytes")
            since, came = now, 0
        since = min(since, now)
        came += len(chunk)
        yield chunk


def without_passwords(text: str) -> str:
    """`text` as it may be shown: the credentials in URLs are stars."""
    return _PASSWORD.sub("***@", text)


def _local(path: Path, what: str) -> Iterator[bytes]:
    try:
        with path.open("rb") as source:
            while chunk := source.read(_CHUNK_BYTES):
                yield chunk
    except FileNotFoundError:
        raise NotThere(f"{what} cannot be fetched: {path} is not there") from None
    except OSError as error:
        raise BuildError(f"{what} cannot be fetched: {path}: {error.strerror}") from None
