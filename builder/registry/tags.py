"""Tags that several write: read, changed, written, and looked at again."""

from __future__ import annotations

from collections.abc import Callable

from builder.archive import Descriptor
from builder.errors import RegistryError
from builder.registry.repository import Conflict, Manifest, Repository

_ATTEMPTS = 5


def rewrite(
    repository: Repository, tag: str, media_type: str, change: Callable[[Manifest | None, bool], bytes | None]
) -> None:
    """Replaces what `tag` names by what `change` makes of it, until `change` wants nothing more.

    `change` gets what is there, None for nothing, and whether we have written before; it returns what is to
    be there, or None where that is so. A registry that looks at If-Match refuses who writes over something
    that he has not read (RFC 9110, 13.1); with any other each reads again what he wrote, and writes again
    what is gone. RegistryError where that has no end.
    """
    written = False
    for _ in range(_ATTEMPTS):
        found = repository.find_manifest(tag)
        content = change(found, written)
        if content is None:
            return
        try:
            repository.put_manifest(tag, Descriptor.of(media_type, content), content, _only_if(found))
            written = True
        except Conflict:
            continue
    raise RegistryError(f"{repository}: the tag {tag} is written by others all the time", "try again later")


def _only_if(found: Manifest | None) -> dict[str, str]:
    """The headers by which nothing but `found` is replaced."""
    if found is None:
        return {"If-None-Match": "*"}
    return {"If-Match": found.etag} if found.etag is not None else {}
