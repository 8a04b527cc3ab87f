"""An image in an output folder, read whole: its tree digest is computed anew."""

from __future__ import annotations

from pathlib import Path

from builder.archive import DAMAGE, open_archive
from builder.attest import DOCUMENTS, manifest_of
from builder.attest.provenance import POLICY
from builder.errors import BuildError
from builder.inspection.facts import KEPT, Inspected, Parts, told
from builder.output import archives_at

_MOST_BYTES = 256 << 20
"""Of a document."""


def inspect_local(path: Path) -> list[Inspected]:
    """Each image at `path`: an image.tar, a folder dist/ARCH, or a folder dist.

    UsageError where there is none, BuildError for a damaged one.
    """
    return [_inspect(archive) for archive in archives_at(path).values()]


def _inspect(path: Path) -> Inspected:
    with open_archive(path) as archive:
        try:
            manifest = manifest_of(archive, keep=KEPT)
            policy = manifest.entries.get(POLICY)
            return told(
                Parts(
                    name=archive.name,
                    manifest=archive.descriptor,
                    layers=archive.layers,
                    config=archive.image_config,
                    files=manifest.kept,
                    documents=_documents(path.parent),
                    policy_digest=policy.sha256 if policy else None,
                    tree_digest=manifest.digest,
                )
            )
        except (*DAMAGE, OSError, AttributeError, RecursionError) as error:
            raise BuildError(f"{path}: damaged: {error}", "build the image again") from None
        except BuildError as error:
            raise BuildError(f"{path}: {error.message}", error.hint) from None


def _documents(folder: Path) -> dict[str, bytes]:
    """Those that lie beside the archive."""
    found = {}
    for kind in DOCUMENTS:
        path = folder / kind.name
        if path.is_file():
            if path.stat().st_size > _MOST_BYTES:
                raise BuildError(f"{kind.name} is larger than {_MOST_BYTES} bytes")
            found[kind.name] = path.read_bytes()
    return found
