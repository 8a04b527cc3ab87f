"""An inspected image, in lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from builder.errors import printable
from builder.inspection.facts import Check, Inspected
from builder.seccomp.snapshot import POLICY_LABEL

_WIDTH = 12
_MOST_LABEL = 100


def lines(image: Inspected) -> Iterator[str]:
    """The image's name and digest, and below what is known of it; a stranger's text moves no cursor."""
    name = image.name.partition("@")[0] if image.name else None
    yield printable(f"{name}@{image.digest}" if name else image.digest)
    for key, value in _rows(image):
        yield f"  {key:<{_WIDTH}}{printable(value)}".rstrip()


def _rows(image: Inspected) -> Iterator[tuple[str, str]]:
    yield "platform", image.platform
    yield "created", image.created or "not said"
    total = sum(layer.size for layer in image.layers)
    parts = ", ".join(f"{layer.name} {_size(layer.size)}" for layer in image.layers)
    yield "layers", f"{_size(total)} compressed: {parts}"
    if image.level is not None:
        yield "level", image.level
    if image.policy_digest is not None:
        yield "policy", image.policy_digest
    if image.tree_digest is not None:
        yield "tree", image.tree_digest
    if image.python is not None:
        yield "python", image.python
        yield "packages", _counted(f"{one.name} {one.version}".strip() for one in image.packages)
        yield "debian", f"{len(image.debian)} packages" + (", named by --json" if image.debian else "")
    yield "documents", _documents(image)
    if image.checks:
        yield from _told(image.checks)
    if image.signatures or image.others:
        yield "signatures", _counted(f"{one.name} {one.digest}" for one in image.signatures)
    for one in image.others:
        yield "attached", f"{one.name} {one.digest}"
    for key, value in sorted(image.labels.items()):
        if key != POLICY_LABEL:  # `sandbox-build policy` is the reader of it
            yield "label", f"{key}={value[:_MOST_LABEL]}{'...' if len(value) > _MOST_LABEL else ''}"


def _documents(image: Inspected) -> str:
    shown = ", ".join(one.name for one in image.documents)
    return f"{shown}; not there: {', '.join(image.missing)}" if shown and image.missing else shown or "none"


def _told(checks: Iterable[Check]) -> Iterator[tuple[str, str]]:
    agreed = [check.what for check in checks if check.found == check.said]
    unknown = [check.what for check in checks if check.found is None]
    if agreed:
        yield "agree", ", ".join(agreed)
    if unknown:
        yield "unchecked", ", ".join(unknown)
    for check in checks:
        if not check.holds:
            yield "DISAGREE", f"{check.what}: {check.said} is said, {check.found} is there"


def _counted(texts: Iterable[str]) -> str:
    found = list(texts)
    return f"{len(found)}: {', '.join(found)}" if found else "none"


def _size(length: int) -> str:
    """Decimal units, as registries and Docker show them."""
    if length < 1000:
        return f"{length} B"
    return f"{length / 1e3:.1f} kB" if length < 1_000_000 else f"{length / 1e6:.1f} MB"
