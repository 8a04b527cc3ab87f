"""Blobs on their way to a registry: several at once, each sent only where it is not there, and counted."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from builder.archive import DAMAGE, Descriptor
from builder.at_once import at_once
from builder.errors import BuildError
from builder.registry.client import Stopped
from builder.registry.repository import Repository

_AT_ONCE = 4


@dataclass(frozen=True)
class Blob:
    """A blob that a push needs."""

    descriptor: Descriptor
    lane: str
    """Whose line of the progress it belongs to: an architecture's name."""
    opened: Callable[[], AbstractContextManager[IO[bytes]]]
    """Opens its content, a seekable file: in each thread, and for each attempt, on its own."""
    where: str
    """What an error about reading it names."""


@dataclass(frozen=True)
class Transferred:
    """How many bytes of blobs were sent, and how many were there already."""

    sent_bytes: int
    skipped_bytes: int


def send_blobs(
    repository: Repository, blobs: Sequence[Blob], tell: Callable[[str, str], None]
) -> Transferred:
    """Uploads those of `blobs` that the repository does not have; one that comes twice is sent once.

    `tell` gets a lane and where it is. The first failure ends the others' uploads, and is raised: BuildError
    where a blob cannot be read, RegistryError where it is not taken.
    """
    unique = list({blob.descriptor.digest: blob for blob in reversed(blobs)}.values())[::-1]
    asked = {blob: partial(repository.has_blob, blob.descriptor) for blob in unique}
    there = dict(at_once(asked, repository.stopped, _AT_ONCE))
    missing = [blob for blob in unique if not there[blob]]
    tally = _Tally(missing, tell)
    sending = {blob: partial(_send, repository, blob, tally) for blob in missing}
    for _ in at_once(sending, repository.stopped, _AT_ONCE):
        pass
    sent = sum(blob.descriptor.size for blob in missing)
    return Transferred(sent, sum(blob.descriptor.size for blob in unique) - sent)


def _send(repository: Repository, blob: Blob, tally: _Tally) -> None:
    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with blob.opened() as content:
            yield _Counted(content, blob, tally, repository)  # type: ignore[misc]

    repository.put_blob(blob.descriptor, opened)
    tally.hear(blob, blob.descriptor.size)


class _Tally:
    """How far each lane is."""

    def __init__(self, blobs: Sequence[Blob], tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._sent: dict[str, dict[str, int]] = {}
        self._total: dict[str, int] = {}
        self._told: dict[str, str] = {}
        for blob in blobs:
            self._total[blob.lane] = self._total.get(blob.lane, 0) + blob.descriptor.size
            self._sent.setdefault(blob.lane, {})[blob.descriptor.digest] = 0

    def hear(self, blob: Blob, sent_bytes: int) -> None:
        """So much of `blob` is sent: less than before when it is sent again."""
        with self._lock:
            self._sent[blob.lane][blob.descriptor.digest] = sent_bytes
            total = self._total[blob.lane]
            sent = sum(self._sent[blob.lane].values())
            # Fifty times in all, however large: some who look on want lines that stay.
            part = 50 * sent // max(total, 1)
            text = f"{part * total / 50e6:.1f} of {total / 1e6:.1f} MB"
            if text != self._told.get(blob.lane):
                self._told[blob.lane] = text
                self._tell(blob.lane, text)


class _Counted(io.RawIOBase):
    """A blob as a request's body: counted as it is read, at its end as soon as another upload has failed."""

    def __init__(self, content: IO[bytes], blob: Blob, tally: _Tally, repository: Repository) -> None:
        self._content = content
        self._blob = blob
        self._tally = tally
        self._repository = repository

    def __len__(self) -> int:
        return self._blob.descriptor.size

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._content.seek(offset, whence)

    def tell(self) -> int:
        return self._content.tell()

    def readinto(self, buffer: Any) -> int:
        if self._repository.stopped.is_set():
            raise Stopped
        with readable(self._blob.where):
            data = self._content.read(len(buffer))
        buffer[: len(data)] = data
        self._tally.hear(self._blob, self._content.tell())
        return len(data)


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Makes an error of ours of what reading a file, or an archive, may raise."""
    try:
        yield
    except (OSError, *DAMAGE) as error:
        # Not an OSError any more: on its way to a registry it would pass for one of the network.
        reason = getattr(error, "strerror", None) or error
        raise BuildError(f"{where}: cannot be read: {reason}", "build the image again") from error
