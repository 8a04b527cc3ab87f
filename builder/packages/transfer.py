"""Files, copied from where the index has them: no larger and no slower than can be."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from builder.errors import BuildError
from builder.packages.index import Sources, without_passwords
from builder.packages.uv import File

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60
_TRIES = 3
_LARGEST_BYTES = 4 << 30
"""Of a file whose size the index does not tell."""
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora and its kin
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)
"""Where distributions have all authorities that the machine trusts, in one file; else requests' own list."""
_STALL_S = 60
_STALL_BYTES = 64 << 10
"""So much must come in that time."""


class Transfer:
    """The way from an index to this machine."""

    def __init__(self, sources: Sources, stop: threading.Event) -> None:
        self._sources = sources
        self._stop = stop

    def fetch(self, file: File, target: Path, what: str) -> str:
        """Copies `file` into `target`; returns its SHA-256."""
        for left in reversed(range(_TRIES)):
            try:
                return self._once(file, target, what)
            except (requests.RequestException, HTTPError) as error:
                if left and not isinstance(error, requests.HTTPError):
                    continue
                reason = error.__cause__ or error.__context__ or error
                raise BuildError(
                    f"{what} cannot be fetched: {without_passwords(str(reason))}",
                    "is the network up? --wheelhouse DIR --no-index needs none",
                ) from None
        raise AssertionError

    def _once(self, file: File, target: Path, what: str) -> str:
        digest = hashlib.sha256()
        limit = _LARGEST_BYTES if file.size is None else file.size
        total = 0
        with target.open("wb") as copy:
            for chunk in self._chunks(file.url, what):
                total += len(chunk)
                if total > limit:
                    raise BuildError(
                        f"{what} is larger than {limit} bytes, which it may have at most",
                        "what the index sends is not what it announces: another index may be in order",
                    )
                digest.update(chunk)
                copy.write(chunk)
        return digest.hexdigest()

    def _chunks(self, url: str, what: str) -> Iterator[bytes]:
        parts = urlsplit(url)
        if parts.scheme == "file":
            with Path(unquote(parts.path)).open("rb") as source:
                while chunk := source.read(_CHUNK_BYTES):
                    yield chunk
            return
        auth = self._sources.credentials(url)
        with (
            self._session() as session,
            session.get(url, auth=auth, stream=True, timeout=_TIMEOUT_S) as response,
        ):
            response.raise_for_status()
            # What has come by now: to wait for a whole chunk would be to wait for ever, where it drips.
            read = getattr(response.raw, "read1", response.raw.read)
            since, came = time.monotonic(), 0
            while chunk := read(_CHUNK_BYTES):
                if self._stop.is_set():
                    raise BuildError("stopped")
                came += len(chunk)
                if time.monotonic() - since > _STALL_S:
                    if came < _STALL_BYTES:
                        raise BuildError(
                            f"{what} cannot be fetched: in {_STALL_S} s there came {came} bytes", "try again"
                        )
                    since, came = time.monotonic(), 0
                yield chunk

    def _session(self) -> requests.Session:
        session = requests.Session()
        retry = Retry(_TRIES, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        session.mount("http://", HTTPAdapter(max_retries=retry))
        # What uv trusts; requests has variables of its own, which come first.
        environ: Mapping[str, str] = self._sources.environ
        if not (environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")):
            system = next((path for path in _SYSTEM_BUNDLES if Path(path).is_file()), True)
            session.verify = environ.get("SSL_CERT_FILE") or system
        # As it comes: a gzip encoding on the way would be undone, and hashed undone.
        session.headers["Accept-Encoding"] = "identity"
        return session
