"""A finished image -> the documents about it: the same image, the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.archive import DAMAGE, open_archive
from builder.attest.bill import make_bill
from builder.attest.cyclonedx import render_cyclonedx
from builder.attest.documents import CYCLONEDX, PROVENANCE, SPDX, TREE, Document, to_bytes
from builder.attest.facts import BuildFacts
from builder.attest.manifest import manifest_of
from builder.attest.provenance import POLICY, Claims, render_provenance
from builder.attest.spdx import render_spdx
from builder.errors import BuildError
from builder.report import Report


@dataclass(frozen=True)
class Attestations:
    """The documents about one image."""

    documents: tuple[Document, ...]
    """In the order in which they are named in documents.DOCUMENTS."""
    tree_digest: str
    """SHA-256 of tree.json, in hexadecimal."""
    policy_digest: str
    """SHA-256 of /sandbox/policy.bpf, in hexadecimal."""


def attest(archive_path: Path, report: Report, facts: BuildFacts) -> Attestations:
    """The documents about the image in the archive, whose report.json is `report`.

    The archive's layers are read once. BuildError where it is damaged or was not written by sandbox-build.
    """
    with open_archive(archive_path) as archive:
        try:
            manifest = manifest_of(archive)
            created = str(archive.image_config["created"])
        except (*DAMAGE, OSError) as error:
            raise BuildError(f"{archive_path}: damaged: {error}", "build the image again") from None
        digest = archive.descriptor.digest
    policy = manifest.sha256(POLICY)
    bill = make_bill(report, manifest, facts, digest=digest, created=created)
    tree = TREE.of(manifest.content)
    boms = (CYCLONEDX.of(to_bytes(render_cyclonedx(bill))), SPDX.of(to_bytes(render_spdx(bill))))
    statement = render_provenance(
        facts,
        Claims(digest.removeprefix("sha256:"), policy, manifest.digest),
        arch=report.arch,
        os_release=report.os_release,
        made=boms,
    )
    documents = (tree, *boms, PROVENANCE.of(to_bytes(statement)))
    return Attestations(documents, tree_digest=manifest.digest, policy_digest=policy)
