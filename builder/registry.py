"""The distribution API, with the credentials that Docker keeps: pushes archives, reads an image's config.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urljoin, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

import requests

from builder.archive import INDEX_TYPE, MANIFEST_TYPE, Archive, Descriptor, open_archive
from builder.credentials import Credentials, find_credentials
from builder.errors import RegistryError, UsageError
from builder.progress import Progress
from builder.reference import Reference, parse_reference

_TIMEOUT_S = (10, 120)
"""For a connection, and for each answer."""

_PAUSES_S = (0.5, 1.0, 2.0)
"""Before the second, third and fourth attempt at what may be a passing failure."""

_LONGEST_PAUSE_S = 30.0
"""However long a registry asks us to wait."""

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

_READABLE = (
    INDEX_TYPE,
    MANIFEST_TYPE,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "*/*",
)
"""What a manifest may be; and a config, whose type nobody agrees on."""

_T = TypeVar("_T")


def push(archives: Sequence[Path], reference: str, progress: Progress) -> str:
    """Pushes the images in `archives` as `reference`, which names its registry; returns the digest behind it.

    That is a single image's manifest, or an index over several, which are for different platforms. Blobs that
    the registry has are not sent again. The tag moves last: a push that fails leaves it where it was.
    RegistryError says what the registry refused; UsageError where `reference` names none.
    """
    target, registry = open_registry(reference)
    entries = []
    for path in archives:
        with open_archive(path) as archive:
            _push_blobs(registry, archive, progress)
            manifest, content = archive.descriptor, archive.manifest
            entries.append(manifest.to_json() | {"platform": archive.platform})
            if len(archives) > 1:
                registry.put_manifest(manifest.digest, manifest, content)
    if len(archives) > 1:
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
        content = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
        manifest = Descriptor.of(INDEX_TYPE, content)
    progress.detail(f"tag {target.tag}")
    registry.put_manifest(target.tag, manifest, content)
    return manifest.digest


def open_registry(reference: str) -> tuple[Reference, Registry]:
    """The registry that `reference` names, reached and let in: a long build need not end in a refused push.

    RegistryError where it does not answer or wants other credentials; UsageError where none is named.
    """
    target = parse_reference(reference)
    if target.host is None:
        raise UsageError(f"{reference}: which registry?", f"name it: HOST[:PORT]/{target}")
    registry = Registry(target, find_credentials(target.host))
    registry.check()
    return target, registry


def _push_blobs(registry: Registry, archive: Archive, progress: Progress) -> None:
    for number, blob in enumerate((archive.config, *archive.layers)):
        what = f"layer {number} of {len(archive.layers)}" if number else "config"
        progress.detail(f"{archive.platform['architecture']}: {what}: {blob.size / 1e6:.1f} MB")
        with archive.blob(blob) as content:
            registry.put_blob(blob, content)


class Registry:
    """One repository of one registry."""

    def __init__(self, target: Reference, credentials: Credentials | None) -> None:
        assert target.host is not None  # noqa: S101 - open_registry() has seen to it
        self._host = target.host
        self._repository = target.repository
        self._credentials = credentials
        # As Docker has it: without TLS on this machine alone.
        scheme = "http" if _is_loopback(target.host) else "https"
        self._base = f"{scheme}://{target.host}/v2/"
        self._session = requests.Session()
        self._authorization: str | None = None

    def check(self) -> None:
        """Reaches the registry, and learns how it wants to be asked before anything large is on its way."""
        self._retrying(lambda: self._call("GET", self._base, {200}))

    def put_blob(self, blob: Descriptor, content: IO[bytes]) -> None:
        """Uploads `content`, a seekable file, unless the registry has it."""
        blobs = f"{self._base}{self._repository}/blobs/"
        known = self._retrying(lambda: self._call("HEAD", f"{blobs}{blob.digest}", {200, 404}))
        if known.status_code == 200:
            return

        def upload() -> requests.Response:
            # Each attempt is an upload of its own: the registry may hold half of the one before.
            started = self._call("POST", f"{blobs}uploads/", {202})
            location = urljoin(started.url, started.headers.get("Location", ""))
            return self._call(
                *("PUT", location, {201}),
                params={"digest": blob.digest},
                headers={"Content-Type": "application/octet-stream"},
                body=content,
            )

        self._same_digest(blob, self._retrying(upload))

    def put_manifest(self, name: str, manifest: Descriptor, content: bytes) -> None:
        """Stores a manifest, or an index, under a tag or digest."""
        answer = self._retrying(
            lambda: self._call(
                *("PUT", f"{self._base}{self._repository}/manifests/{name}", {201}),
                headers={"Content-Type": manifest.media_type},
                body=content,
            )
        )
        self._same_digest(manifest, answer)

    def get_config(self, name: str, architecture: str) -> dict[str, Any]:
        """The config of the image behind a tag or digest; of several in an index the one for `architecture`.

        RegistryError where there is none, or where what comes is not what its digest says.
        """
        manifest = self._get_json(f"manifests/{name}", name)
        if "manifests" in manifest:
            fitting = [
                entry["digest"]
                for entry in manifest["manifests"]
                if entry.get("platform", {}).get("architecture") == architecture
            ]
            if not fitting:
                raise RegistryError(
                    f"{self._host}: {self._repository}: {name} has no image for {architecture}"
                )
            manifest = self._get_json(f"manifests/{fitting[0]}", fitting[0])
        digest = str(manifest["config"]["digest"])
        return self._get_json(f"blobs/{digest}", digest)

    def _get_json(self, path: str, name: str) -> dict[str, Any]:
        headers = {"Accept": ", ".join(_READABLE)}
        url = f"{self._base}{self._repository}/{path}"
        content = self._retrying(lambda: self._call("GET", url, {200}, headers=headers)).content
        if ":" in name and name != f"sha256:{hashlib.sha256(content).hexdigest()}":
            raise RegistryError(f"{self._host}: {path}: what it sent is not what its digest says")
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RegistryError(f"{self._host}: {path}: no image is there")
        return found

    def _same_digest(self, sent: Descriptor, answer: requests.Response) -> None:
        found = answer.headers.get("Docker-Content-Digest", sent.digest)
        if found != sent.digest:
            raise RegistryError(
                f"{self._host}: says that it stored {_printable(found)}, and was sent {sent.digest}",
                "something between here and there changes what is sent: do not use this image",
            )

    def _retrying(self, action: Callable[[], _T]) -> _T:
        """What `action` returns; again, after a pause, where its failure may pass."""
        for pause_s in _PAUSES_S:
            try:
                return action()
            except _PassingFailure as failure:
                time.sleep(max(pause_s, failure.wait_s))
        return action()

    def _call(
        self,
        method: str,
        url: str,
        expected: Collection[int],
        *,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | IO[bytes] | None = None,
    ) -> requests.Response:
        """One request, and one more where the registry wants to know who asks."""
        answer = self._send(method, url, params=params, headers=headers, data=body, auth=self._authorize)
        if answer.status_code == 401:
            self._authenticate(answer)
            answer = self._send(method, url, params=params, headers=headers, data=body, auth=self._authorize)
        if answer.status_code in expected:
            return answer
        raise self._refusal(answer)

    def _send(self, method: str, url: str, **options: Any) -> requests.Response:
        if (seek := getattr(options.get("data"), "seek", None)) is not None:
            seek(0)
        try:
            return self._session.request(method, url, timeout=_TIMEOUT_S, **options)
        except requests.exceptions.SSLError as error:
            raise RegistryError(
                f"{self._host}: no secure connection: {_reason(error)}",
                "a private certificate authority is named in REQUESTS_CA_BUNDLE",
            ) from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _PassingFailure(
                f"{self._host}: not reached: {_reason(error)}", "is the name right, and the registry running?"
            ) from error
        except requests.RequestException as error:
            raise RegistryError(f"{self._host}: {method} failed: {_reason(error)}") from error

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # A registry may have blobs uploaded to another host: our credentials are none of its business.
        if self._authorization and urlsplit(request.url or "").netloc == urlsplit(self._base).netloc:
            request.headers["Authorization"] = self._authorization
        return request

    def _authenticate(self, answer: requests.Response) -> None:
        """Makes what the challenge of a 401 asks for, for the requests to come."""
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        if kind.lower() == "bearer":
            self._authorization = f"Bearer {self._fetch_token(_challenge(rest))}"
        elif self._credentials is None or self._credentials.identity_token:
            raise self._refusal(answer)
        else:
            self._authorization = self._credentials.basic

    def _fetch_token(self, challenge: dict[str, str]) -> str:
        """An access token: https://distribution.github.io/distribution/spec/auth/token/"""
        realm = urlsplit(challenge.get("realm", ""))
        if realm.scheme != "https" and not (realm.scheme == "http" and _is_loopback(realm.netloc)):
            raise RegistryError(
                f"{self._host}: wants credentials sent to {_printable(realm.geturl())}, without encryption"
            )
        asked = {
            "service": challenge.get("service", ""),
            "scope": challenge.get("scope") or f"repository:{self._repository}:pull,push",
        }
        credentials = self._credentials
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.secret,
                "client_id": "sandbox-build",
            }
            answer = self._send("POST", realm.geturl(), data=asked | form, auth=_anonymous)
        else:
            headers = {"Authorization": credentials.basic} if credentials is not None else None
            answer = self._send("GET", realm.geturl(), params=asked, headers=headers, auth=_anonymous)
        if answer.status_code != 200:
            raise self._refusal(answer)
        try:
            found = answer.json()
            return str(found.get("token") or found["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise RegistryError(f"{self._host}: its token server gave no token") from error

    def _refusal(self, answer: requests.Response) -> RegistryError:
        """The error that says what `answer` means."""
        status, hint = answer.status_code, f"docker login {self._host}"
        if status == 401 and self._credentials is None:
            return RegistryError(
                f"{self._host}: asks for credentials, and Docker's config has none for it", hint
            )
        if status == 401:
            whose = f" of {self._credentials.user}" if self._credentials and self._credentials.user else ""
            return RegistryError(
                f"{self._host}: refuses the credentials{whose} that Docker's config has", hint
            )
        if status == 403:
            right = "read" if answer.request.method == "GET" else "push to"
            return RegistryError(
                f"{self._host}: no right to {right} {self._repository}{_details(answer)}",
                f"{hint}, as a user who may {right.replace('push to', 'push there')}",
            )
        where = f"{answer.request.method} {urlsplit(answer.url).path}"
        message = f"{self._host}: {where}: {status} {_printable(answer.reason or '')}{_details(answer)}"
        if status in _PASSING:
            wait = answer.headers.get("Retry-After", "")
            return _PassingFailure(message, "try again later", float(wait) if wait.isdecimal() else 0.0)
        return RegistryError(message)


class _PassingFailure(RegistryError):
    """A failure that may be over in a moment."""

    def __init__(self, message: str, hint: str | None = None, wait_s: float = 0.0) -> None:
        super().__init__(message, hint)
        self.wait_s = min(wait_s, _LONGEST_PAUSE_S)


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Adds no credentials: requests would take some from ~/.netrc."""
    return request


def _challenge(text: str) -> dict[str, str]:
    """The parameters of a WWW-Authenticate header."""
    return parse_keqv_list([part for part in parse_http_list(text) if "=" in part])


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _details(answer: requests.Response) -> str:
    """What the registry says about its refusal."""
    try:
        errors = answer.json()["errors"]
        said = "; ".join(f"{error['code']}: {error.get('message', '')}" for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f" ({_printable(said)})"


def _reason(error: BaseException) -> str:
    """The innermost cause: what requests and urllib3 wrap around it is about them."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return _printable(str(getattr(error, "strerror", None) or error))


def _printable(text: str) -> str:
    """A registry's text, fit for a terminal: one line, without control characters, not too long."""
    return "".join(char if char.isprintable() else "?" for char in text[:300])
