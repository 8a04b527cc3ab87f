"""One repository of a registry: its blobs, manifests, tags and referrers, by the distribution API.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from builder.archive import INDEX_TYPE, MANIFEST_TYPE, Descriptor
from builder.credentials import find_credentials
from builder.errors import RegistryError, UsageError
from builder.reference import DIGEST, Reference, parse_reference
from builder.registry.client import Client
from builder.registry.failures import Answer, said

DOCKER_INDEX_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_ACCEPTED = {"Accept": ", ".join((INDEX_TYPE, MANIFEST_TYPE, DOCKER_INDEX_TYPE, DOCKER_MANIFEST_TYPE))}

_STORED = frozenset({200, 201, 202, 204})
"""201 by the specification; the others are what older registries say."""

_UPLOAD_GONE = frozenset({404, 416})
"""What a registry says of an upload that it has forgotten, or holds a part of: another may be begun."""

_PAGES = 100
"""Of a list of referrers."""

_TAGS = 20
"""So many are named to who asks for another."""


@dataclass(frozen=True)
class Manifest:
    """A manifest or an index, as the registry has it."""

    descriptor: Descriptor
    content: bytes
    parsed: dict[str, Any]
    etag: str | None = None
    """The registry's name for this very state of a tag."""


def open_registry(reference: str, *, read_only: bool = False) -> tuple[Reference, Repository]:
    """The repository that `reference` names, reached and let in: a long build need not end in a refused push.

    RegistryError where the registry does not answer, wants other credentials, or, unless `read_only`, lets
    nothing be pushed there; UsageError where none is named.
    """
    target, repository = reach(reference, read_only=read_only)
    if not read_only:
        repository.check_push()
    return target, repository


def reach(reference: str, *, read_only: bool = False) -> tuple[Reference, Repository]:
    """The same, without trying whether something may be pushed."""
    target = parse_reference(reference)
    if target.host is None:
        raise UsageError(f"{reference}: which registry?", f"name it: HOST[:PORT]/{target}")
    actions = "pull" if read_only else "pull,push"
    client = Client(target.host, target.repository, actions, find_credentials(target.host))
    client.reach()
    return target, Repository(client)


class Repository:
    """One repository of one registry. Several threads may use it at once."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __str__(self) -> str:
        return f"{self._client.host}/{self._client.repository}"

    @property
    def stopped(self) -> threading.Event:
        """Once it is set, every request that is under way, or about to be tried again, gives up."""
        return self._client.stopped

    # Blobs

    def check_push(self) -> None:
        """Begins an upload and takes it back: a registry says then whether something may be pushed."""
        started = self._client.retrying(self._begin_upload)
        with suppress(RegistryError):  # where it cannot be taken back it goes by itself
            self._client.call_once("DELETE", started, {200, 202, 204})

    def has_blob(self, blob: Descriptor) -> bool:
        """Whether the repository has it, so that it need not be sent."""
        url = self._client.url(f"blobs/{blob.digest}")
        answer = self._client.call("HEAD", url, {200, 404})
        if answer.status == 200:
            self._must_have(blob.digest, answer)
        return answer.status == 200

    def put_blob(self, blob: Descriptor, opened: Callable[[], AbstractContextManager[IO[bytes]]]) -> None:
        """Uploads what `opened` opens, from its beginning at each attempt."""

        def upload() -> Answer:
            # Each attempt is an upload of its own: the registry may hold half of the one before, or none.
            location = self._begin_upload()
            join = "&" if urlsplit(location).query else "?"
            url = f"{location}{join}{urlencode({'digest': blob.digest})}"
            headers = {"Content-Type": "application/octet-stream"}
            with opened() as content:
                return self._client.call_once(
                    *("PUT", url, _STORED), headers=headers, body=content, passing=_UPLOAD_GONE
                )

        self._must_have(blob.digest, self._client.retrying(upload))

    def get_blob(self, blob: Descriptor, limit_bytes: int) -> bytes:
        """A blob; RegistryError where it is larger than `limit_bytes`, or not what its digest says."""
        if blob.size > limit_bytes:
            raise RegistryError(f"{self}: {blob.digest} has {blob.size} bytes: that is too large")
        if (content := self.find_blob(blob.digest, blob.size)) is None:
            raise RegistryError(f"{self}: there is no {said(blob.digest)}")
        return content

    def find_blob(self, digest: str, limit_bytes: int) -> bytes | None:
        """The same; None where it is not there."""
        url = self._client.url(f"blobs/{digest}")
        answer = self._client.call("GET", url, {200, 404}, limit_bytes=limit_bytes)
        if answer.status == 404:
            return None
        self._must_be(digest, answer.content)
        return answer.content

    def _begin_upload(self) -> str:
        answer = self._client.call_once("POST", self._client.url("blobs/uploads/"), {202})
        if not (location := answer.headers.get("Location")):
            raise RegistryError(f"{self}: says nowhere to send a blob to")
        return answer.resolve(location)

    # Manifests and tags

    def put_manifest(
        self, name: str, manifest: Descriptor, content: bytes, conditions: Mapping[str, str] | None = None
    ) -> bool:
        """Stores a manifest, or an index, under a tag or digest.

        Returns whether the registry has put it on the list of its subject's referrers. `conditions` are
        headers: Conflict where they are not met, by registries that look at them.
        """
        url = self._client.url(f"manifests/{name}")
        headers = {"Content-Type": manifest.media_type, **(conditions or {})}
        expected = _STORED | {412} if conditions else _STORED
        answer = self._client.call("PUT", url, expected, headers=headers, body=content)
        if answer.status == 412:
            raise Conflict(f"{self}: {name} was changed by somebody else at the same time", "push again")
        self._must_have(manifest.digest, answer)
        return "OCI-Subject" in answer.headers

    def get_manifest(self, name: str) -> Manifest:
        """What is behind a tag or digest; NotThere where nothing is, RegistryError for another digest's."""
        if (found := self.find_manifest(name)) is None:
            raise self._absent(name)
        return found

    def find_manifest(self, name: str) -> Manifest | None:
        """The same; None where nothing is."""
        url = self._client.url(f"manifests/{name}")
        answer = self._client.call("GET", url, {200, 404}, headers=_ACCEPTED)
        if answer.status == 404:
            return None
        digest = name if ":" in name else answer.headers.get("Docker-Content-Digest")
        if digest is not None:
            self._must_be(digest, answer.content)
        parsed = self._object(answer.content, f"manifests/{name}")
        media_type = str(parsed.get("mediaType") or answer.headers.get("Content-Type", ""))
        return Manifest(
            Descriptor.of(media_type, answer.content), answer.content, parsed, answer.headers.get("ETag")
        )

    def _absent(self, name: str) -> NotThere:
        tags: list[Any] = []
        with suppress(RegistryError):  # it is about a hint alone
            answer = self._client.call("GET", self._client.url(f"tags/list?n={_TAGS}"), {200})
            found = self._object(answer.content, "tags/list").get("tags")
            tags = found if isinstance(found, list) else []
        kind, separator = ("image", "@") if ":" in name else ("tag", ":")
        shown = said(", ".join(map(str, tags)))
        return NotThere(
            f"{self}{separator}{name}: the registry has no such {kind}",
            f"it has {shown}" if shown else f"nothing was pushed to {self}, or you may not read it",
        )

    def find_digest(self, tag: str) -> str | None:
        """The digest that `tag` names; None where there is no such tag."""
        url = self._client.url(f"manifests/{tag}")
        answer = self._client.call("HEAD", url, {200, 404}, headers=_ACCEPTED)
        if answer.status == 404:
            return None
        if (digest := answer.headers.get("Docker-Content-Digest")) is not None:
            return said(digest)
        found = self.find_manifest(tag)
        return found.descriptor.digest if found is not None else None

    def find_referrers(self, digest: str) -> list[dict[str, Any]] | None:
        """The descriptors of what refers to `digest`; None where the registry keeps no list of them."""
        url = self._client.url(f"referrers/{digest}")
        found: list[dict[str, Any]] = []
        for _ in range(_PAGES):
            answer = self._client.call("GET", url, {200, 400, 404, 405})
            if answer.status != 200:
                return None
            found += entries_of(self._object(answer.content, f"referrers/{digest}"))
            if (following := _next_page(answer)) is None:
                return found
            url = following
        raise RegistryError(f"{self}: its list of what refers to {digest} has no end")

    def get_json(self, blob: Descriptor, limit_bytes: int) -> dict[str, Any]:
        """A blob that is a JSON object; errors as get_blob()'s."""
        return self._object(self.get_blob(blob, limit_bytes), f"blobs/{blob.digest}")

    def _object(self, content: bytes, path: str) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise RegistryError(f"{self}: {path}: no image is there")
        return found

    def _must_have(self, digest: str, answer: Answer) -> None:
        found = answer.headers.get("Docker-Content-Digest", digest)
        if found != digest:
            raise RegistryError(
                f"{self}: says that it has {said(found)}, where {digest} was meant",
                "something between here and there changes what is sent: do not use this image",
            )

    def _must_be(self, digest: str, content: bytes) -> None:
        algorithm, _, expected = digest.partition(":")
        if algorithm not in ("sha256", "sha512") or hashlib.new(algorithm, content).hexdigest() != expected:
            raise RegistryError(f"{self}: {said(digest)}: what it sent is not what its digest says")


class NotThere(RegistryError):
    """The registry answers, and has nothing that is called so."""

    exit_code = 2


class Conflict(RegistryError):
    """What was to be replaced had been replaced already."""


def entries_of(manifest: dict[str, Any], what: str = "manifests") -> list[dict[str, Any]]:
    """The descriptors in an index, or a manifest's `layers`; those alone that are whole."""
    entries = manifest.get(what)
    return [
        entry
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
        and DIGEST.fullmatch(str(entry.get("digest")))
        and isinstance(entry.get("mediaType"), str)
        and isinstance(entry.get("size"), int)
    ]


def _next_page(answer: Answer) -> str | None:
    """The URL in `Link: <...>; rel="next"` (RFC 8288)."""
    target, _, parameters = answer.headers.get("Link", "").partition(">")
    if not target.startswith("<") or 'rel="next"' not in parameters.replace(" ", ""):
        return None
    return answer.resolve(target[1:])
